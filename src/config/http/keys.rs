//! The keys that tokens are verified with: a JWK Set (RFC 7517), public keys in PEM, or a secret.
//!
//! The library reads and uses keys; here stands which of them may be used, and for what. A key serves the algorithms of
//! its kind and no other, so a token can never make a public key into a secret.

use std::collections::HashMap;
use std::fmt;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents};
use aws_lc_rs::{digest, rsa};
pub use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use jsonwebtoken::{AlgorithmFamily, DecodingKey, DecodingKeyKind};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde::Deserialize;
use serde_json::Value;

/// Keys in one set.
const KEYS_MAX: usize = 100;
/// Keys of one id, or without one: so many are tried for one token.
const KEYS_PER_ID_MAX: usize = 8;
/// Shorter secrets can be guessed from one token (RFC 7518, 3.2).
const SECRET_BYTES_MIN: usize = 32;
/// Of an RSA modulus: 2048 bits at least (RFC 7518, 3.3), and 8192 at most, since longer ones cost too much time.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;
const NOT_SOUND: &str = "it is no key: RSA has 2048 to 8192 bits, and curves are P-256, P-384 and Ed25519";

/// All algorithms (RFC 7518, 3.1 and RFC 8037, 3.1), by the names that they have in the file and in tokens.
pub const ALGORITHMS: [&str; 12] =
    ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"];

/// Whether it wants a secret (HS*), which who verifies shares with who signs; all others want a public key.
pub fn is_of_secrets(algorithm: Algorithm) -> bool {
    algorithm.family() == AlgorithmFamily::Hmac
}

/// Keys by their id, and those without one. Sets are equal when the same bytes were read.
#[derive(Clone, Default)]
pub struct KeySet {
    named: HashMap<String, Vec<Key>>,
    unnamed: Vec<Key>,
    /// SHA-256 of what was read; zeros when nothing was.
    fingerprint: [u8; 32],
}

/// A key, and what it may be used for.
#[derive(Clone)]
pub struct Key {
    /// The key.
    pub key: DecodingKey,
    /// The only ones that it serves; at least one.
    pub algorithms: Vec<Algorithm>,
}

impl KeySet {
    /// Those that may have signed a token that names this key. One that names none may be of any key without an id, or of
    /// the only key there is; one that names an id that no key has may be of a key without.
    pub fn candidates(&self, id: Option<&str>) -> &[Key] {
        match id {
            Some(id) => self.named.get(id).unwrap_or(&self.unnamed),
            None if self.unnamed.is_empty() && self.named.len() == 1 => {
                self.named.values().next().unwrap_or(&self.unnamed)
            }
            None => &self.unnamed,
        }
    }

    /// Whether a key has this id.
    pub fn has_named(&self, id: &str) -> bool {
        self.named.contains_key(id)
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.unnamed.is_empty()
    }

    fn empty_of(bytes: &[u8]) -> Self {
        let mut set = Self::default();
        set.fingerprint.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        set
    }

    fn add(&mut self, id: Option<String>, key: Key) -> Result<(), String> {
        let known = match id {
            Some(id) => self.named.entry(id).or_default(),
            None => &mut self.unnamed,
        };
        if known.len() == KEYS_PER_ID_MAX {
            return Err(format!("it has more than {KEYS_PER_ID_MAX} keys of one id, or without one"));
        }
        known.push(key);
        Ok(())
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// Nothing but ids: a key set may hold a secret.
impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut ids: Vec<&str> = self.named.keys().map(String::as_str).collect();
        ids.sort_unstable();
        f.debug_struct("KeySet").field("ids", &ids).field("unnamed", &!self.unnamed.is_empty()).finish_non_exhaustive()
    }
}

/// The secret that tokens are signed with (HS256, HS384, HS512); a newline at its end is not part of it.
///
/// # Errors
/// What is wrong with it.
pub fn secret(bytes: &[u8]) -> Result<KeySet, String> {
    let secret = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
    if secret.len() < SECRET_BYTES_MIN {
        let length = secret.len();
        return Err(format!(
            "the secret has {length} bytes, fewer than {SECRET_BYTES_MIN}: openssl rand -hex 32 makes one"
        ));
    }
    let mut set = KeySet::empty_of(secret);
    let algorithms = AlgorithmFamily::Hmac.algorithms().to_vec();
    set.unnamed.push(Key { key: DecodingKey::from_secret(secret), algorithms });
    Ok(set)
}

/// Public keys: a JWK Set, or one or more PEM blocks `PUBLIC KEY`. Keys of kinds that are not known or that are not for
/// signatures are left out (RFC 7517, 5).
///
/// # Errors
/// What is wrong with it.
pub fn parse_jwks(bytes: &[u8]) -> Result<KeySet, String> {
    let mut set = KeySet::empty_of(bytes);
    let mut left_out = Vec::new();
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        for (at, key) in SubjectPublicKeyInfoDer::pem_slice_iter(bytes).enumerate() {
            let key = key.map_err(|error| format!("it is not PEM: {error}"))?;
            if at == KEYS_MAX {
                return Err(format!("it has more than {KEYS_MAX} keys"));
            }
            match read_der(&key) {
                Some(key) => set.add(None, key)?,
                None => left_out.push(format!("key {}: {NOT_SOUND}", at + 1)),
            }
        }
    } else {
        let value: Value = serde_json::from_slice(bytes).map_err(|error| format!("it is no JSON: {error}"))?;
        let keys = value.get("keys").and_then(Value::as_array).ok_or("it is no JWK Set: it has no list `keys`")?;
        if keys.len() > KEYS_MAX {
            return Err(format!("it has {} keys, more than {KEYS_MAX}", keys.len()));
        }
        for (at, key) in keys.iter().enumerate() {
            if key.get("kty").and_then(Value::as_str) == Some("oct") {
                return Err(format!("key {} is a secret (kty = \"oct\"): secrets go into a `secret_file`", at + 1));
            }
            match read_jwk(key) {
                Ok((id, key)) => set.add(id, key)?,
                Err(why) => left_out.push(format!("key {}: {why}", at + 1)),
            }
        }
    }
    match set.is_empty() {
        false => Ok(set),
        true if left_out.is_empty() => Err("it has no public key (a JWK Set, or PEM blocks `PUBLIC KEY`)".to_owned()),
        true => Err(format!("it has no usable key: {}", left_out.join("; "))),
    }
}

/// A JWK and its id.
fn read_jwk(jwk: &Value) -> Result<(Option<String>, Key), String> {
    let jwk = Jwk::deserialize(jwk).map_err(|error| format!("it is no JWK: {error}"))?;
    if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
        return Err("it is not for signatures (`use`)".to_owned());
    }
    if jwk.common.key_operations.as_ref().is_some_and(|operations| !operations.contains(&KeyOperations::Verify)) {
        return Err("it is not for verifying (`key_ops`)".to_owned());
    }
    let mut algorithms = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => AlgorithmFamily::Rsa.algorithms().to_vec(),
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => vec![Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => vec![Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
        _ => return Err("its kind is not known, or something is missing (`kty`, `crv`)".to_owned()),
    };
    if let Some(only) = jwk.common.key_algorithm {
        algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == only);
    }
    let algorithm = *algorithms.first().ok_or("its `alg` is not one for such a key")?;
    let key = DecodingKey::from_jwk(&jwk).map_err(|error| format!("it cannot be read: {error}"))?;
    match is_sound(&key, algorithm) {
        true => Ok((jwk.common.key_id, Key { key, algorithms })),
        false => Err(NOT_SOUND.to_owned()),
    }
}

/// A SubjectPublicKeyInfo, which says itself of which kind it is. The library's own way from PEM walks through DER as
/// deep as that goes, on the stack, and keys may come from a network.
fn read_der(der: &[u8]) -> Option<Key> {
    let kinds = [
        (DecodingKey::from_rsa_der(der), AlgorithmFamily::Rsa.algorithms()),
        (DecodingKey::from_ec_der(der), &[Algorithm::ES256]),
        (DecodingKey::from_ec_der(der), &[Algorithm::ES384]),
        (DecodingKey::from_ed_der(der), &[Algorithm::EdDSA]),
    ];
    let (key, algorithms) = kinds.into_iter().find(|(key, algorithms)| is_sound(key, algorithms[0]))?;
    Some(Key { key, algorithms: algorithms.to_vec() })
}

/// Whether this is a key for such an algorithm. The library takes any bytes for a key, and then no signature for right.
fn is_sound(key: &DecodingKey, algorithm: Algorithm) -> bool {
    match (key.kind(), algorithm) {
        (DecodingKeyKind::RsaModulusExponent { n, e }, _) => {
            let key = RsaPublicKeyComponents { n, e }.to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256);
            key.is_ok_and(|key| is_sound(&DecodingKey::from_rsa_der(key.as_ref()), algorithm))
        }
        (DecodingKeyKind::SecretOrDer(key), Algorithm::ES256) => {
            ParsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, key).is_ok()
        }
        (DecodingKeyKind::SecretOrDer(key), Algorithm::ES384) => {
            ParsedPublicKey::new(&signature::ECDSA_P384_SHA384_FIXED, key).is_ok()
        }
        (DecodingKeyKind::SecretOrDer(key), Algorithm::EdDSA) => ParsedPublicKey::new(&signature::ED25519, key).is_ok(),
        (DecodingKeyKind::SecretOrDer(key), _) => {
            rsa::PublicKey::from_der(key).is_ok_and(|key| RSA_BYTES.contains(&key.modulus_len()))
        }
    }
}

#[cfg(test)]
mod tests;
