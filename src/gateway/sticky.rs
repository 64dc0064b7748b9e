//! A client stays with its backend by a cookie that names it, signed, so that no client chooses for itself.

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use http::{HeaderMap, HeaderValue, header};

use crate::config::http::Sticky;

/// Bytes of the signature that are kept: 128 bits.
const SIGNATURE_BYTES: usize = 16;
/// A longer cookie is none of ours.
const VALUE_BYTES_MAX: usize = 512;

/// The backend that a request's cookie names, if its signature is ours.
pub fn backend(sticky: &Sticky, pool: &str, headers: &HeaderMap) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes);
    // What others have put there may be no text.
    let pairs =
        cookies.flat_map(|line| line.split(|byte| *byte == b';')).filter_map(|pair| std::str::from_utf8(pair).ok());
    let mut values = pairs.filter_map(|pair| pair.trim().split_once('=')).filter(|(name, _)| *name == sticky.cookie);
    values.find_map(|(_, value)| open(sticky, pool, value))
}

fn open(sticky: &Sticky, pool: &str, value: &str) -> Option<String> {
    if value.len() > VALUE_BYTES_MAX {
        return None;
    }
    let bytes = BASE64.decode(value).ok()?;
    let (signature, name) = bytes.split_at_checked(SIGNATURE_BYTES)?;
    let name = std::str::from_utf8(name).ok()?;
    aws_lc_rs::constant_time::verify_slices_are_equal(signature, &sign(sticky, pool, name)).ok()?;
    Some(name.to_owned())
}

/// The Set-Cookie that keeps a client with this backend.
pub fn cookie(sticky: &Sticky, pool: &str, backend: &str) -> Option<HeaderValue> {
    let signature = sign(sticky, pool, backend);
    let value = BASE64.encode([&signature, backend.as_bytes()].concat());
    let max_age = sticky.max_age.map_or(String::new(), |age| format!("; Max-Age={}", age.as_secs()));
    let secure = if sticky.secure { "; Secure" } else { "" };
    format!("{}={value}; Path=/; HttpOnly; SameSite=Lax{max_age}{secure}", sticky.cookie).try_into().ok()
}

/// Over pool and backend: a name that two pools have is no way from one to the other.
fn sign(sticky: &Sticky, pool: &str, backend: &str) -> [u8; SIGNATURE_BYTES] {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &sticky.secret);
    let mut context = hmac::Context::with_key(&key);
    [pool.as_bytes(), &[0], backend.as_bytes()].iter().for_each(|part| context.update(part));
    let mut signature = [0; SIGNATURE_BYTES];
    signature.copy_from_slice(&context.sign().as_ref()[..SIGNATURE_BYTES]);
    signature
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sticky(secret: &[u8]) -> Sticky {
        {
            let (secret, secret_file) = (secret.into(), Default::default());
            Sticky { cookie: "evener".to_owned(), secret, secret_file, max_age: None, secure: true }
        }
    }

    fn headers(cookie: &str) -> HeaderMap {
        [(header::COOKIE, cookie.parse().expect("a header"))].into_iter().collect()
    }

    #[test]
    fn a_cookie_of_ours_names_its_backend_among_others() {
        let ours = sticky(b"0123456789abcdef");
        let set = cookie(&ours, "api", "b2").expect("a header");
        let pair = set.to_str().expect("text").split(';').next().expect("a pair");
        assert_eq!(backend(&ours, "api", &headers(&format!("a=b; {pair};c=d"))).as_deref(), Some("b2"));
        let odd = [b"a=caf\xe9; ", pair.as_bytes()].concat();
        let odd = [(header::COOKIE, HeaderValue::from_bytes(&odd).expect("a header"))].into_iter().collect();
        assert_eq!(backend(&ours, "api", &odd).as_deref(), Some("b2"));
    }

    #[test]
    fn a_cookie_that_was_not_signed_for_this_pool_by_this_secret_names_nobody() {
        let ours = sticky(b"0123456789abcdef");
        let set = cookie(&ours, "api", "b2").expect("a header");
        let pair = set.to_str().expect("text").split(';').next().expect("a pair");
        assert_eq!(backend(&ours, "other", &headers(pair)), None);
        assert_eq!(backend(&sticky(b"another secret of 16 bytes"), "api", &headers(pair)), None);
        for forged in ["evener=", "evener=YjI", "evener=%%%", "evener=AAAAAAAAAAAAAAAAAAAAAGIy"] {
            assert_eq!(backend(&ours, "api", &headers(forged)), None, "{forged}");
        }
    }
}
