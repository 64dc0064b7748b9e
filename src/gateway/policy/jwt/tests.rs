//! Tokens as issuers make them, as another library makes them, and as attackers do.

mod remembered;

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::http::keys;

const SECRET: &[u8] = b"a secret of thirty-two bytes, or";
/// RFC 7515, appendix A.1: also the example of RFC 7519, 3.1. It expired in 2011, at 1300819380.
const RFC_HS256: &str = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
const RFC_HS256_KEY: &str = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow";
/// RFC 7515, appendix A.2.
const RFC_RS256: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const RFC_RS256_KEY: &str = r#"{"keys":[{"kty":"RSA","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ","e":"AQAB"}]}"#;
/// RFC 7515, appendix A.3.
const RFC_ES256: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const RFC_ES256_KEY: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
/// RFC 7515, appendix A.5.
const RFC_NONE: &str = "eyJhbGciOiJub25lIn0.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.";
/// Keys that OpenSSL made.
const OPENSSL_RSA: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAoutK4pdcXGYxXGbyUIeO
PU3D+pyAqWJ6cuFI3LLtXeZeZspKKFHcX2+hByBqpGm2fYFg705iRA/b3JQoZLLu
O8rQxEx/+8a5LfVcvXbavAplTyHUY11ii9jHdm6HaeQwhMU+ZIF5p/5ts0aplB17
LbyFJMD3/FRgkb2nnAmZKDjVkvGPN5uWpDqZVZ3WmOqK30PJbbrHCCWWTsjbKNFj
nERIGdSclW5SatnpHNYMD7cIoiZaqMlaKS9BHab1jCtLCU+TNOBWHuzESzgiBWo0
7LKHnXHbED6PuqimeyODvnpUas+0J6mFhcOOtzC7gcW5P62AThuf2QivTECVXtsX
hwIDAQAB
-----END PUBLIC KEY-----
";
const OPENSSL_ED: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAqXHF0/IcDmCAinl8wiHYpYe3/3uiJZC4P/ubAvntFtY=
-----END PUBLIC KEY-----
";
const NOW: u64 = 1_800_000_000;

fn table(keys: KeySet, algorithms: &[Algorithm]) -> Jwt {
    Jwt {
        name: "main".into(),
        issuer: None,
        audience: Vec::new(),
        algorithms: algorithms.to_vec(),
        keys: KeySource::Fixed { path: "keys".into(), keys },
        leeway: Duration::ZERO,
        require: Vec::new(),
        claims_to_headers: Vec::new(),
    }
}

fn hs256() -> Jwt {
    table(keys::secret(SECRET).unwrap(), &[Algorithm::HS256])
}

fn at(jwt: &Jwt, token: &str, seconds: u64) -> Result<Arc<Verified>, Failure> {
    Tokens::new(&Arc::new(jwt.clone()), None).check(token.as_bytes(), Duration::from_secs(seconds))
}

fn check(jwt: &Jwt, token: &str) -> Result<Arc<Verified>, Failure> {
    at(jwt, token, NOW)
}

fn why<T: std::fmt::Debug>(result: Result<T, Failure>) -> String {
    match result.unwrap_err() {
        Failure::Invalid(why) => why.into_owned(),
        Failure::Insufficient(why) => format!("insufficient: {why}"),
        Failure::Absent => "absent".into(),
    }
}

/// Header and claims as they are given, signed with the secret.
fn signed(header: &str, claims: &str) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, SECRET);
    let tag = aws_lc_rs::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(tag))
}

fn token(claims: &Value) -> String {
    signed(r#"{"alg":"HS256"}"#, &claims.to_string())
}

/// Claims that count, with these beside them.
fn with(claims: Value) -> String {
    let mut all = json!({ "exp": NOW + 60 });
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    token(&all)
}

#[test]
fn the_examples_of_the_standards_count_until_they_expire() {
    let secret = keys::secret(&URL_SAFE_NO_PAD.decode(RFC_HS256_KEY).unwrap()).unwrap();
    let examples = [
        (RFC_HS256, table(secret, &[Algorithm::HS256])),
        (RFC_RS256, table(keys::parse_jwks(RFC_RS256_KEY.as_bytes()).unwrap(), &[Algorithm::RS256])),
        (RFC_ES256, table(keys::parse_jwks(RFC_ES256_KEY.as_bytes()).unwrap(), &[Algorithm::ES256])),
    ];
    for (token, mut jwt) in examples {
        jwt.issuer = Some("joe".into());
        assert_eq!(at(&jwt, token, 1_300_819_379).unwrap().consumer, None);
        assert_eq!(why(at(&jwt, token, 1_300_819_380)), "the token has expired");
        jwt.leeway = Duration::from_secs(60);
        assert!(at(&jwt, token, 1_300_819_439).is_ok());
        assert!(at(&jwt, token, 1_300_819_440).is_err());
        jwt.require = vec![("http://example.com/is_root".into(), vec!["true".into()])];
        assert!(at(&jwt, token, 0).is_ok());
        jwt.issuer = Some("Joe".into());
        assert!(why(at(&jwt, token, 0)).contains("iss"));
    }
}

#[test]
fn every_algorithm_counts_where_the_file_names_it_and_nowhere_else() {
    let claims = json!({ "exp": NOW + 1, "sub": "anna" });
    let make = |algorithm, key: &EncodingKey| jsonwebtoken::encode(&Header::new(algorithm), &claims, key).unwrap();
    let pair = |algorithm| rcgen::KeyPair::generate_for(algorithm).unwrap();
    let (p256, p384) = (pair(&rcgen::PKCS_ECDSA_P256_SHA256), pair(&rcgen::PKCS_ECDSA_P384_SHA384));
    let (ed, rsa) = (pair(&rcgen::PKCS_ED25519), pair(&rcgen::PKCS_RSA_SHA256));
    let public = keys::parse_jwks([&p256, &p384, &ed, &rsa].map(rcgen::KeyPair::public_key_pem).concat().as_bytes());
    let (public, secret) = (public.unwrap(), keys::secret(SECRET).unwrap());
    let all: Vec<Algorithm> = keys::ALGORITHMS.iter().map(|name| name.parse().unwrap()).collect();
    for algorithm in &all {
        let (set, key) = match algorithm {
            algorithm if keys::is_of_secrets(*algorithm) => (&secret, EncodingKey::from_secret(SECRET)),
            Algorithm::ES256 => (&public, EncodingKey::from_ec_der(p256.serialized_der())),
            Algorithm::ES384 => (&public, EncodingKey::from_ec_der(p384.serialized_der())),
            Algorithm::EdDSA => (&public, EncodingKey::from_ed_der(ed.serialized_der())),
            _ => (&public, EncodingKey::from_rsa_pem(rsa.serialize_pem().as_bytes()).unwrap()),
        };
        let token = make(*algorithm, &key);
        let verified = check(&table(set.clone(), &[*algorithm]), &token).unwrap();
        assert_eq!(verified.consumer.as_deref(), Some("anna"), "{algorithm:?}");
        let others: Vec<Algorithm> = all.iter().copied().filter(|other| other != algorithm).collect();
        assert!(why(check(&table(set.clone(), &others), &token)).contains("alg"), "{algorithm:?}");
    }
}

#[test]
fn tokens_of_openssl_count() {
    // openssl dgst -sign, of OpenSSL 3: nothing of it is made by the library that verifies it.
    let examples = [
        (
            Algorithm::RS512,
            OPENSSL_RSA,
            "eyJhbGciOiJSUzUxMiJ9.eyJzdWIiOiJhbm5hIiwiZXhwIjoxODAwMDAwMDYwfQ.PUspTBtc04gW5dazE4wDJU1yQFHzllrrkvNposNqeathUmElNNDYAzGQ-WEn57u-q3gTGoZlhgOCyN4JfgDYWv0d-FbKAXn6n9kKHUyJHj6uN-k5B_65zwzcK_SA5ckdaDJByn3IiPmsgz0rFc_USw4n0klyCq4Z4EyzyUVa24lcONPPIuumPx5DelQ_dHR-Boi2XI9TrFx2a5kh64-ZxWIp-jrU3RqGkW9OSUXbeIz2cf_vldUEArIIz_D4gAeQyVp8NDJa6yVM2sEhRvICqIL9EbF2DDynevZ8DQHjXnlkzrd4BQElF_wpqLlJpnP5uVu5M8o7QnuKb_DCJ2rrkg",
        ),
        (
            Algorithm::PS256,
            OPENSSL_RSA,
            "eyJhbGciOiJQUzI1NiJ9.eyJzdWIiOiJhbm5hIiwiZXhwIjoxODAwMDAwMDYwfQ.I8o41CTHJALdhaO1ZTMqT3qvpid8vJ3r9aVdcBdGD1Mg0DDlMA4xhSLrgiw6keGKFCAwBobBa9LfNwkwW4mszpotWXvR-G7zzSbDsy7rSuT8RaDfyqvt5nJDa04UFyv_yO0cYPF87SB3qAuHMpjpvE5t6V0t9npl6VdtNvEmtAAW2n8r1gWlHqQLSorauL_PcD8PpXY-50XnIBaU-yIwzgOdxa3u1LjeISPkjXJ4XKLRid_2FTcVEpomzzeqHTO1QeErCoXWpREgXcnGUuz24GHdcDHYSmeBhN97WBv3QLxPH-Jm68S3CRhkNd2-8ljAtgjilj3m3OeSGbS925R-cw",
        ),
        (
            Algorithm::EdDSA,
            OPENSSL_ED,
            "eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhbm5hIiwiZXhwIjoxODAwMDAwMDYwfQ.IlkoxRk3HmwDVVwjSFNhZFMMcSivHikQR31WsNkDkl2_ry7lqZcqaQDHID5ZvzY4v-zl3f5VgYKr74rHfXRuDA",
        ),
    ];
    for (algorithm, pem, token) in examples {
        let jwt = table(keys::parse_jwks(pem.as_bytes()).unwrap(), &[algorithm]);
        assert_eq!(check(&jwt, token).unwrap().consumer.as_deref(), Some("anna"), "{algorithm:?}");
    }
}

#[test]
fn a_public_key_is_never_a_secret_and_none_is_no_algorithm() {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let (pem, raw) = (pair.public_key_pem(), rcgen::PublicKeyData::der_bytes(&pair).to_vec());
    let set = keys::parse_jwks(pem.as_bytes()).unwrap();
    let mut jwt = table(set, &[Algorithm::EdDSA]);
    let claims = json!({ "exp": NOW + 60 });
    for secret in [pem.as_bytes(), pem.trim_end().as_bytes(), &raw] {
        let header = Header::new(jsonwebtoken::Algorithm::HS256);
        let forged = jsonwebtoken::encode(&header, &claims, &EncodingKey::from_secret(secret)).unwrap();
        jwt.algorithms = vec![Algorithm::EdDSA];
        assert!(why(check(&jwt, &forged)).contains("alg"));
        // Not even by a configuration that cannot be.
        jwt.algorithms = vec![Algorithm::EdDSA, Algorithm::HS256];
        assert!(why(check(&jwt, &forged)).contains("no key"));
    }
    assert!(why(at(&hs256(), RFC_NONE, 0)).contains("alg"));
    for name in ["none", "None", "NONE", "nOnE", "", "hs256", "HS256 ", "HS1"] {
        let header = json!({ "alg": name }).to_string();
        let part = URL_SAFE_NO_PAD.encode(&header);
        let claims = URL_SAFE_NO_PAD.encode(claims.to_string());
        assert!(why(check(&hs256(), &format!("{part}.{claims}."))).contains("alg"), "{name}");
        assert!(
            why(check(&hs256(), &signed(&header, &json!({ "exp": NOW + 60 }).to_string()))).contains("alg"),
            "{name}"
        );
    }
}

#[test]
fn a_token_that_is_not_well_formed_does_not_count() {
    let good = with(json!({}));
    assert!(check(&hs256(), &good).is_ok());
    let (message, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let bad = [
        String::new(),
        ".".into(),
        "..".into(),
        "...".into(),
        message.into(),
        format!("{message}."),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}.{signature}"),
        format!("{good}="),
        format!("{good} "),
        format!("{good}A"),
        good[..good.len() - 1].into(),
        format!("{header}=.{claims}.{signature}"),
        format!("{claims}.{header}.{signature}"),
        good.replace('.', " "),
        good.to_uppercase(),
        signed("[]", "{}"),
        signed("{", "{}"),
        signed("", "{}"),
        signed(r#"{"alg":"HS256"}"#, "[]"),
        signed(r#"{"alg":"HS256"}"#, "null"),
        signed(r#"{"alg":"HS256"}"#, &format!("{{\"exp\":{}}} x", NOW + 60)),
        signed(r#"{"alg":["HS256"]}"#, &format!("{{\"exp\":{}}}", NOW + 60)),
        signed(r#"{"alg":"HS256","kid":1}"#, &format!("{{\"exp\":{}}}", NOW + 60)),
        signed(r#"{"alg":"HS256","alg":"HS256"}"#, &format!("{{\"exp\":{}}}", NOW + 60)),
        signed(r#"{"alg":"HS256"}"#, &format!("{{\"exp\":{}{}", "[".repeat(3000), "]".repeat(3000))),
    ];
    for token in bad {
        assert!(matches!(check(&hs256(), &token), Err(Failure::Invalid(_))), "{token}");
    }
    // The last sign of base64url holds bits that say nothing: only one writing of a signature counts.
    let last = good.chars().last().unwrap();
    let spellings = ('A'..='Z').chain('a'..='z').chain('0'..='9').filter(|sign| *sign != last);
    for sign in spellings {
        assert!(check(&hs256(), &format!("{}{sign}", &good[..good.len() - 1])).is_err());
    }
}

#[test]
fn what_a_token_says_of_its_own_key_is_not_looked_at_and_extensions_are_refused() {
    let claims = json!({ "exp": NOW + 60 }).to_string();
    for header in [
        r#"{"alg":"HS256","jku":"http://127.0.0.1:1/","x5u":"file:///etc/passwd","jwk":{"kty":"oct","k":"AA"},"x5c":["AA"]}"#,
        r#"{"alg":"HS256","kid":"../../etc/passwd","typ":"JWT","cty":"x"}"#,
        r#"{"alg":"HS256","kid":null,"crit":null}"#,
    ] {
        assert!(check(&hs256(), &signed(header, &claims)).is_ok(), "{header}");
    }
    let with_crit = |crit| signed(&format!(r#"{{"alg":"HS256","b64":false,"crit":{crit}}}"#), &claims);
    for crit in ["[]", "[\"exp\"]", "[\"b64\"]"] {
        assert!(why(check(&hs256(), &with_crit(crit))).contains("crit"), "{crit}");
    }
    for crit in ["\"\"", "{}", "true", "[1]"] {
        assert!(why(check(&hs256(), &with_crit(crit))).contains("header"), "{crit}");
    }
}

#[test]
fn a_key_is_found_by_its_exact_id() {
    let jwk = serde_json::from_str::<Value>(RFC_ES256_KEY).unwrap()["keys"][0].clone();
    let mut named = jwk.clone();
    named["kid"] = json!("one");
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let raw = rcgen::PublicKeyData::der_bytes(&pair).to_vec();
    let (x, y) = (URL_SAFE_NO_PAD.encode(&raw[1..33]), URL_SAFE_NO_PAD.encode(&raw[33..]));
    let ours = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "two", "alg": "ES256" });
    let set = keys::parse_jwks(json!({ "keys": [named, ours] }).to_string().as_bytes()).unwrap();
    let jwt = table(set, &[Algorithm::ES256]);
    let make = |id: Option<&str>| {
        let header = Header { kid: id.map(str::to_owned), ..Header::new(jsonwebtoken::Algorithm::ES256) };
        let key = EncodingKey::from_ec_der(pair.serialized_der());
        jsonwebtoken::encode(&header, &json!({ "exp": NOW + 60 }), &key).unwrap()
    };
    assert!(check(&jwt, &make(Some("two"))).is_ok());
    assert_eq!(why(check(&jwt, &make(Some("one")))), "the signature is wrong");
    for id in [Some("Two"), Some("two "), Some("three"), Some(""), None] {
        assert_eq!(why(check(&jwt, &make(id))), "there is no key for this token", "{id:?}");
    }
}

#[test]
fn times_are_numbers_and_an_end_is_needed() {
    let jwt = hs256();
    assert!(why(check(&jwt, &token(&json!({})))).contains("no `exp`"));
    for odd in [json!([NOW + 60]), json!({ "a": 1 })] {
        assert!(check(&jwt, &token(&json!({ "exp": odd }))).is_err(), "{odd}");
        assert!(check(&jwt, &with(json!({ "nbf": odd }))).is_err(), "{odd}");
    }
    for odd in [json!("1900000000"), json!(null), json!({}), json!(true), json!("")] {
        assert!(why(check(&jwt, &token(&json!({ "exp": odd })))).contains("`exp` is no number"), "{odd}");
        assert!(why(check(&jwt, &with(json!({ "nbf": odd })))).contains("`nbf` is no number"), "{odd}");
    }
    let raw = |claims: &str| check(&jwt, &signed(r#"{"alg":"HS256"}"#, claims));
    for claims in [
        r#"{"exp":1e400}"#,
        r#"{"exp":NaN}"#,
        r#"{"exp":Infinity}"#,
        r#"{"exp":0x7fffffff}"#,
        r#"{"exp":18e8,"exp":1.9e9}"#,
    ] {
        assert!(raw(claims).is_err(), "{claims}");
    }
    for claims in [r#"{"exp":-1}"#, r#"{"exp":0}"#, r#"{"exp":1799999999.9}"#, r#"{"exp":-1e300}"#] {
        assert_eq!(why(raw(claims)), "the token has expired", "{claims}");
    }
    for claims in [r#"{"exp":1800000000.5}"#, r#"{"exp":18446744073709551615}"#] {
        assert!(raw(claims).is_ok(), "{claims}");
    }
    assert_eq!(why(check(&jwt, &with(json!({ "nbf": NOW + 1 })))), "the token is not valid yet");
    assert!(check(&jwt, &with(json!({ "nbf": NOW }))).is_ok());
    let patient = Jwt { leeway: Duration::from_secs(5), ..jwt };
    assert!(check(&patient, &with(json!({ "nbf": NOW + 5 }))).is_ok());
    assert!(check(&patient, &with(json!({ "nbf": NOW + 6 }))).is_err());
    assert!(check(&patient, &token(&json!({ "exp": NOW - 4 }))).is_ok());
    assert!(check(&patient, &token(&json!({ "exp": NOW - 5 }))).is_err());
}

#[test]
fn the_audience_is_one_of_ours() {
    let jwt = Jwt { audience: vec!["api".into(), "web".into()], ..hs256() };
    for good in [json!("api"), json!(["other", "web"])] {
        assert!(check(&jwt, &with(json!({ "aud": good }))).is_ok(), "{good}");
    }
    for bad in [json!("apis"), json!("API"), json!([]), json!(["other"]), json!(["api", 1]), json!(null), json!({})] {
        assert!(why(check(&jwt, &with(json!({ "aud": bad })))).contains("aud"), "{bad}");
    }
    assert!(why(check(&jwt, &with(json!({})))).contains("aud"));
}

#[test]
fn required_claims_hold_as_text_as_a_word_or_in_a_list() {
    let require = vec![("scope".to_owned(), vec!["a:read".to_owned(), "a:all".to_owned()])];
    let jwt = Jwt { require, ..hs256() };
    for good in [json!("a:read"), json!("x a:all y"), json!(["x", "a:all"])] {
        assert!(check(&jwt, &with(json!({ "scope": good }))).is_ok(), "{good}");
    }
    for bad in [json!("a:reader"), json!(""), json!([["a:read"]]), json!(7), json!(null), json!({ "a:read": true })] {
        let why = why(check(&jwt, &with(json!({ "scope": bad }))));
        assert_eq!(why, "insufficient: claim `scope` does not hold", "{bad}");
    }
    assert!(why(check(&jwt, &with(json!({})))).starts_with("insufficient"));
    assert!(!why(check(&jwt, &token(&json!({ "exp": 1 })))).starts_with("insufficient"), "401 goes before 403");
}

#[test]
fn claims_become_headers_only_when_they_read_the_same_there() {
    let name = HeaderName::from_static("x-claim");
    let jwt = Jwt { claims_to_headers: vec![("c".into(), name.clone())], ..hs256() };
    let header = |value: &Value| {
        check(&jwt, &with(json!({ "c": value }))).map(|verified| {
            verified
                .headers
                .iter()
                .map(|(_, value)| String::from_utf8_lossy(value.as_bytes()).into_owned())
                .collect::<Vec<_>>()
        })
    };
    for (claim, value) in [
        (json!("anna"), "anna"),
        (json!(12), "12"),
        (json!(true), "true"),
        (json!(["a", 2, false]), "a,2,false"),
        (json!("a, b"), "a, b"),
        (json!("Zoë"), "Zoë"),
        (json!(""), ""),
        (json!([]), ""),
    ] {
        assert_eq!(header(&claim).unwrap(), [value]);
    }
    assert!(header(&json!(null)).unwrap().is_empty());
    for bad in [
        json!("a\r\nx-admin: 1"),
        json!("a\0"),
        json!("a\tb"),
        json!("\u{7f}"),
        json!(" admin"),
        json!("admin "),
        json!(["a,b"]),
        json!([["a"]]),
        json!([null]),
        json!({}),
    ] {
        assert!(why(header(&bad)).contains("claim `c`"), "{bad}");
    }
    let verified = check(&jwt, &with(json!({ "sub": 17 }))).unwrap();
    assert_eq!((verified.consumer.as_deref(), verified.headers.len()), (Some("17"), 0));
}

proptest! {
    #[test]
    fn foreign_bytes_are_no_token(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let tokens = Tokens::new(&Arc::new(hs256()), None);
        prop_assert!(tokens.check(&bytes, Duration::from_secs(NOW)).is_err());
    }

    #[test]
    fn a_token_with_one_byte_changed_does_not_count(at: prop::sample::Index, byte: u8) {
        let good = with(json!({ "sub": "anna" }));
        let mut bytes = good.clone().into_bytes();
        let at = at.index(bytes.len());
        prop_assume!(bytes[at] != byte);
        bytes[at] = byte;
        let tokens = Tokens::new(&Arc::new(hs256()), None);
        prop_assert!(tokens.check(&bytes, Duration::from_secs(NOW)).is_err());
    }

    #[test]
    fn signed_claims_of_any_shape_are_read_or_refused(
        claims in prop::collection::hash_map("exp|nbf|iss|aud|sub|scope|c", "-?[0-9]{1,20}|\"[ -~]{0,9}\"|null|\\[\\]|\\[1,\"a\"\\]|\\{\\}", 0..7),
    ) {
        prop_assume!(claims.values().all(|value| !value.contains('\\')));
        let body: HashMap<&String, &String> = claims.iter().collect();
        let text = body.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect::<Vec<_>>().join(",");
        let jwt = Jwt {
            audience: vec!["a".into()],
            require: vec![("scope".into(), vec!["a".into()])],
            claims_to_headers: vec![("c".into(), HeaderName::from_static("x-c"))],
            ..hs256()
        };
        let result = check(&jwt, &signed(r#"{"alg":"HS256"}"#, &format!("{{{text}}}")));
        if result.is_ok() {
            prop_assert!(claims.contains_key("exp") && claims.contains_key("aud") && claims.contains_key("scope"));
        }
    }
}
