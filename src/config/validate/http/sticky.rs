//! `sticky`: the cookie that keeps a client with its backend.

use std::path::PathBuf;
use std::sync::Arc;

use toml::de::DeValue;

use crate::config::http::Sticky;
use crate::config::named_file::read_file;
use crate::config::raw::{Fault, Reader, boolean, fault, text};

use super::super::never;
use super::FILE_BYTES_MAX;

/// Shorter secrets can be guessed.
const SECRET_BYTES_MIN: usize = 16;
/// The name of a cookie, in bytes.
const COOKIE_BYTES_MAX: usize = 64;
const COOKIE: &str = "evener";

/// Where the listener has TLS, the cookie is for TLS unless the file says something else.
pub(super) fn read(r: &mut Reader, over_tls: bool) -> Option<Sticky> {
    r.take("sticky")?;
    r.table("sticky", |r| {
        r.hints(&[("secret", "write the secret into a file, and its path into `secret_file`")]);
        let secret = r.required("secret_file", secret, "secret_file = \"/etc/evener/sticky\"");
        let cookie = r.or("cookie", cookie, COOKIE.to_owned());
        let max_age = r.or("max_age", never, None);
        let secure = r.or("secure", boolean, over_tls);
        let (secret_file, secret) = secret?;
        Some(Sticky { cookie, secret_file, secret, max_age, secure })
    })
}

fn secret(value: &DeValue) -> Result<(PathBuf, Arc<[u8]>), Fault> {
    let (path, bytes, _) = read_file(value, FILE_BYTES_MAX)?;
    let secret = bytes.trim_ascii_end();
    if secret.len() < SECRET_BYTES_MIN {
        return Err(fault(format!("the secret has at least {SECRET_BYTES_MIN} bytes"), "too short")
            .help("make one: `head -c 32 /dev/urandom | base64 > FILE`"));
    }
    Ok((path, secret.into()))
}

/// A token (RFC 6265, 4.1.1).
fn cookie(value: &DeValue) -> Result<String, Fault> {
    let name = text(value)?;
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    if !(1..=COOKIE_BYTES_MAX).contains(&name.len()) || !name.bytes().all(is_word) {
        let help = format!("use 1 to {COOKIE_BYTES_MAX} letters, digits, `-`, `_` and `.`");
        return Err(fault("not the name of a cookie", "not a name").help(help));
    }
    Ok(name.to_owned())
}
