//! Key sets as providers publish them, and as they should not.

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// RFC 7517, appendix A.1.
const EC: &str = r#"{"kty":"EC","crv":"P-256","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM","use":"sig","kid":"1"}"#;
/// RFC 7517, appendix A.1, for signatures.
const RSA: &str = r#"{"kty":"RSA","n":"0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e":"AQAB","alg":"RS256","kid":"2011-04-29"}"#;
/// RFC 8037, appendix A.2.
const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

fn set(keys: &[&str]) -> Result<KeySet, String> {
    parse_jwks(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes())
}

fn changed(key: &str, name: &str, value: Value) -> String {
    let mut key: Value = serde_json::from_str(key).unwrap();
    match value {
        Value::Null => drop(key.as_object_mut().unwrap().remove(name)),
        value => key[name] = value,
    }
    key.to_string()
}

fn algorithms(keys: &[Key]) -> Vec<String> {
    keys.iter().flat_map(|key| &key.algorithms).map(|algorithm| format!("{algorithm:?}")).collect()
}

#[test]
fn a_key_serves_the_algorithms_of_its_kind_and_no_other() {
    let keys = set(&[EC, RSA, ED]).unwrap();
    assert_eq!(algorithms(keys.candidates(Some("1"))), ["ES256"]);
    assert_eq!(algorithms(keys.candidates(Some("2011-04-29"))), ["RS256"]);
    assert_eq!(algorithms(keys.candidates(None)), ["EdDSA"]);
    assert_eq!(algorithms(keys.candidates(Some("other"))), ["EdDSA"], "one without an id may be any");
    let all = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    assert_eq!(algorithms(set(&[&changed(RSA, "alg", Value::Null)]).unwrap().candidates(Some("2011-04-29"))), all);
    assert_eq!(algorithms(secret(&[b'a'; 32]).unwrap().candidates(Some("x"))), ["HS256", "HS384", "HS512"]);
}

#[test]
fn an_id_is_compared_as_it_is() {
    let keys = set(&[EC, RSA]).unwrap();
    for id in ["", "1 ", "01", "../1", "1\0", "2011-04-2"] {
        assert!(keys.candidates(Some(id)).is_empty(), "{id:?}");
    }
    assert!(keys.candidates(None).is_empty(), "of two keys with ids, a token has to name one");
    assert_eq!(set(&[EC]).unwrap().candidates(None).len(), 1, "the only key there is");
}

#[test]
fn what_is_not_for_signatures_or_not_known_is_left_out() {
    let bad = [
        (changed(EC, "use", json!("enc")), "`use`"),
        (changed(EC, "key_ops", json!(["sign"])), "`key_ops`"),
        (changed(EC, "kid", json!(7)), "no JWK"),
        (changed(EC, "crv", json!("P-521")), "not known"),
        (changed(EC, "crv", json!("secp256k1")), "not known"),
        (changed(EC, "kty", json!("AKP")), "not known"),
        (changed(EC, "alg", json!("RS256")), "`alg`"),
        (changed(EC, "alg", json!("HS256")), "`alg`"),
        (changed(EC, "alg", json!("none")), "`alg`"),
        (changed(RSA, "alg", json!("RSA-OAEP")), "`alg`"),
        (changed(EC, "y", json!("5Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM")), "no key: RSA"),
        (changed(EC, "x", json!("AAAA")), "no key: RSA"),
        (changed(EC, "x", Value::Null), "missing"),
        (changed(EC, "crv", json!("Ed25519")), "not known"),
        (changed(ED, "crv", json!("P-256")), "not known"),
        (changed(ED, "x", json!("AAAA")), "no key: RSA"),
        (changed(RSA, "n", json!("+/==")), "cannot be read"),
        (changed(RSA, "e", json!("")), "no key: RSA"),
        (changed(RSA, "n", json!(format!("{}8", "_".repeat(170)))), "2048 to 8192"),
        (changed(RSA, "n", json!(format!("{}8", "_".repeat(1450)))), "2048 to 8192"),
        (changed(ED, "crv", json!("Ed448")), "not known"),
        ("17".to_owned(), "no JWK"),
        ("{}".to_owned(), "not known"),
    ];
    for (key, why) in &bad {
        let error = set(&[key]).unwrap_err();
        assert!(error.contains(why) && error.contains("no usable key: key 1"), "{key}: {error}");
        assert_eq!(set(&[key, ED]).unwrap().candidates(None).len(), 1, "{key} spoils no other");
    }
}

#[test]
fn a_secret_among_public_keys_is_refused() {
    let oct =
        r#"{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}"#;
    assert!(set(&[EC, oct]).unwrap_err().contains("key 2 is a secret"));
}

#[test]
fn too_many_keys_and_no_keys_are_refused() {
    assert!(set(&[]).unwrap_err().contains("no public key"));
    assert!(set(&vec!["{}"; KEYS_MAX + 1]).unwrap_err().contains("more than 100"));
    assert!(set(&[ED; KEYS_PER_ID_MAX + 1]).unwrap_err().contains("more than 8"));
    assert_eq!(set(&[ED; KEYS_PER_ID_MAX]).unwrap().candidates(None).len(), 8);
    for text in ["", "[]", "{\"keys\":{}}", "null", "{\"keys\":", "\u{feff}{\"keys\":[]}"] {
        assert!(parse_jwks(text.as_bytes()).is_err(), "{text}");
    }
}

#[test]
fn public_keys_in_pem_have_no_ids() {
    let mut pem = String::new();
    for algorithm in [&rcgen::PKCS_ECDSA_P256_SHA256, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_ED25519] {
        pem.push_str(&rcgen::KeyPair::generate_for(algorithm).unwrap().public_key_pem());
    }
    let keys = parse_jwks(format!("\n{pem}").as_bytes()).unwrap();
    assert_eq!(algorithms(keys.candidates(None)), ["ES256", "ES384", "EdDSA"]);
    assert_eq!(keys.candidates(Some("any")).len(), 3);
    let rsa = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap().public_key_pem();
    assert_eq!(algorithms(parse_jwks(rsa.as_bytes()).unwrap().candidates(None))[0], "RS256");
    let private = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().serialize_pem();
    assert!(parse_jwks(private.as_bytes()).unwrap_err().contains("no public key"));
    assert!(parse_jwks(b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n").is_err());
    assert!(parse_jwks(b"-----BEGIN PUBLIC KEY-----\nAA").is_err());
}

#[test]
fn a_secret_is_long_enough_and_its_newline_is_not_part_of_it() {
    let bare = secret(&[b'a'; 32]).unwrap();
    let verifies = |set: &KeySet, secret: &[u8]| {
        let key = jsonwebtoken::EncodingKey::from_secret(secret);
        let tag = jsonwebtoken::crypto::sign(b"message", &key, Algorithm::HS256).unwrap();
        jsonwebtoken::crypto::verify(&tag, b"message", &set.candidates(None)[0].key, Algorithm::HS256).unwrap()
    };
    for end in ["", "\n", "\r\n"] {
        let set = secret(format!("{}{end}", "a".repeat(32)).as_bytes()).unwrap();
        assert!(set == bare && verifies(&set, &[b'a'; 32]));
    }
    assert!(secret(format!("{}\n", "a".repeat(31)).as_bytes()).unwrap_err().contains("31 bytes"));
    let blank = secret(format!("{} \n\n", "a".repeat(32)).as_bytes()).unwrap();
    assert!(blank != bare && !verifies(&blank, &[b'a'; 32]), "nothing else is cut");
}

#[test]
fn sets_of_the_same_bytes_are_equal_and_tell_no_secret() {
    assert_eq!(set(&[EC, RSA]).unwrap(), set(&[EC, RSA]).unwrap());
    assert_ne!(set(&[EC, RSA]).unwrap(), set(&[EC]).unwrap());
    assert_ne!(secret(&[b'a'; 32]).unwrap(), secret(&[b'b'; 32]).unwrap());
    assert_eq!(KeySet::default(), KeySet::default());
    assert_eq!(format!("{:?}", set(&[RSA, EC]).unwrap()), r#"KeySet { ids: ["1", "2011-04-29"], unnamed: false, .. }"#);
    assert_eq!(format!("{:?}", secret(&[b'a'; 32]).unwrap()), "KeySet { ids: [], unnamed: true, .. }");
}

#[test]
fn every_algorithm_has_its_name() {
    for name in ALGORITHMS {
        let algorithm: Algorithm = name.parse().unwrap();
        assert_eq!(format!("{algorithm:?}"), name);
        assert_eq!(is_of_secrets(algorithm), name.starts_with("HS"));
    }
    for name in ["none", "None", "", "hs256", "HS256 ", "ES256K", "RS1"] {
        assert!(name.parse::<Algorithm>().is_err(), "{name}");
    }
}

proptest! {
    #[test]
    fn foreign_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = parse_jwks(&bytes);
        let _ = secret(&bytes);
        let _ = parse_jwks(&[b"-----BEGIN PUBLIC KEY-----\n", bytes.as_slice()].concat());
    }

    #[test]
    fn a_key_of_foreign_members_is_read_or_refused(
        kind in "RSA|EC|OKP|oct", curve in "P-256|P-384|Ed25519|.{0,3}", members in prop::collection::vec("[A-Za-z0-9_-]{0,90}", 4),
    ) {
        let key = json!({ "kty": kind, "crv": curve, "x": members[0], "y": members[1], "n": members[2], "e": members[3] });
        let _ = set(&[&key.to_string()]);
    }
}
