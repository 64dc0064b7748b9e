//! The keys that tokens are verified with: a JWK Set (RFC 7517), public keys in PEM, or a secret.
//!
//! A key is made ready for each algorithm that it can be used with and for no other, so a token can never make a public
//! key into a secret. Verifying then neither parses a key nor copies one.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{self, ParsedPublicKey, RsaPublicKeyComponents, VerificationAlgorithm};
use aws_lc_rs::{digest, hmac, rsa};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;
use serde_json::Value;

/// Keys in one set.
const KEYS_MAX: usize = 100;
/// Keys of one id, or without one: so many are tried for one token.
const KEYS_PER_ID_MAX: usize = 8;
/// Shorter secrets can be guessed from one token (RFC 7518, 3.2).
const SECRET_BYTES_MIN: usize = 32;
/// Of an RSA modulus: 2048 bits at least (RFC 7518, 3.3), and 8192 at most, since longer ones cost too much time.
const RSA_BYTES: std::ops::RangeInclusive<usize> = 256..=1024;

/// How a token is signed (RFC 7518, 3.1 and RFC 8037, 3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are those of the registry
pub enum Algorithm {
    HS256,
    HS384,
    HS512,
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    EdDSA,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::HS256,
        Self::HS384,
        Self::HS512,
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::EdDSA,
    ];

    /// Its name in the file and in tokens.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HS256 => "HS256",
            Self::HS384 => "HS384",
            Self::HS512 => "HS512",
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::EdDSA => "EdDSA",
        }
    }

    /// Whether it wants a secret (HS*), which who verifies shares with who signs; all others want a public key.
    pub const fn is_secret(self) -> bool {
        matches!(self, Self::HS256 | Self::HS384 | Self::HS512)
    }

    fn of_secrets(self) -> Option<hmac::Algorithm> {
        match self {
            Self::HS256 => Some(hmac::HMAC_SHA256),
            Self::HS384 => Some(hmac::HMAC_SHA384),
            Self::HS512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    fn of_public_keys(self) -> Option<&'static dyn VerificationAlgorithm> {
        match self {
            Self::HS256 | Self::HS384 | Self::HS512 => None,
            Self::RS256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            Self::RS384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            Self::RS512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            Self::PS256 => Some(&signature::RSA_PSS_2048_8192_SHA256),
            Self::PS384 => Some(&signature::RSA_PSS_2048_8192_SHA384),
            Self::PS512 => Some(&signature::RSA_PSS_2048_8192_SHA512),
            Self::ES256 => Some(&signature::ECDSA_P256_SHA256_FIXED),
            Self::ES384 => Some(&signature::ECDSA_P384_SHA384_FIXED),
            Self::EdDSA => Some(&signature::ED25519),
        }
    }
}

impl FromStr for Algorithm {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == text).ok_or(())
    }
}

/// Keys by their id, and those without one. Sets are equal when the same bytes were read.
#[derive(Clone, Default)]
pub struct KeySet {
    named: HashMap<String, Vec<Key>>,
    unnamed: Vec<Key>,
    /// SHA-256 of what was read; zeros when nothing was.
    fingerprint: [u8; 32],
}

/// A key for one algorithm.
#[derive(Clone)]
pub struct Key {
    /// The only one that it serves.
    pub algorithm: Algorithm,
    verifier: Verifier,
}

#[derive(Clone)]
enum Verifier {
    /// Two hash states, ten times as large as the other one.
    Secret(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

impl Key {
    /// Whether this key made this signature of the message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.verifier {
            Verifier::Secret(key) => hmac::verify(key, message, signature).is_ok(),
            Verifier::Public(key) => key.verify_sig(message, signature).is_ok(),
        }
    }
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

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.named.is_empty() && self.unnamed.is_empty()
    }

    fn empty_of(bytes: &[u8]) -> Self {
        let mut set = Self::default();
        set.fingerprint.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
        set
    }

    fn add(&mut self, id: Option<String>, keys: Vec<Key>) -> Result<(), String> {
        let known = match id {
            Some(id) => self.named.entry(id).or_default(),
            None => &mut self.unnamed,
        };
        known.extend(keys);
        for algorithm in Algorithm::ALL {
            if known.iter().filter(|key| key.algorithm == algorithm).count() > KEYS_PER_ID_MAX {
                return Err(format!("it has more than {KEYS_PER_ID_MAX} keys of one id, or without one"));
            }
        }
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
    let key = |algorithm: Algorithm| {
        let key = Box::new(hmac::Key::new(algorithm.of_secrets()?, secret));
        Some(Key { algorithm, verifier: Verifier::Secret(key) })
    };
    set.unnamed = Algorithm::ALL.into_iter().filter_map(key).collect();
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
            match keys_of(&key, &Algorithm::ALL) {
                Ok(keys) => set.add(None, keys)?,
                Err(why) => left_out.push(why),
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
                Ok(keys) => set.add(key.get("kid").and_then(Value::as_str).map(str::to_owned), keys)?,
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

/// The algorithms of a kind of key, by `kty` and `crv`.
fn algorithms_of(kind: &str, curve: &str) -> Option<&'static [Algorithm]> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    match (kind, curve) {
        ("RSA", _) => Some(&[RS256, RS384, RS512, PS256, PS384, PS512]),
        ("EC", "P-256") => Some(&[ES256]),
        ("EC", "P-384") => Some(&[ES384]),
        ("OKP", "Ed25519") => Some(&[EdDSA]),
        _ => None,
    }
}

/// A JWK, ready for each algorithm that it serves.
fn read_jwk(jwk: &Value) -> Result<Vec<Key>, String> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    if text("use").is_some_and(|usage| usage != "sig") {
        return Err("it is not for signatures (`use`)".to_owned());
    }
    if let Some(operations) = jwk.get("key_ops").and_then(Value::as_array)
        && !operations.iter().any(|operation| operation == "verify")
    {
        return Err("it is not for verifying (`key_ops`)".to_owned());
    }
    if jwk.get("kid").is_some_and(|id| !id.is_string()) {
        return Err("its `kid` is no text".to_owned());
    }
    let (kind, curve) = (text("kty").unwrap_or_default(), text("crv").unwrap_or_default());
    let algorithms = algorithms_of(kind, curve).ok_or_else(|| format!("`{kind}` {curve} is not known"))?;
    // Other names than ours: RSA-OAEP and the like, or an algorithm that this key cannot have.
    let algorithms = match text("alg") {
        None => algorithms,
        Some(name) => {
            let only = algorithms.iter().position(|algorithm| algorithm.as_str() == name);
            only.map(|at| &algorithms[at..=at]).ok_or_else(|| format!("`alg` {name} is not for such a key"))?
        }
    };
    let number = |name: &str| {
        let bytes = text(name).and_then(|text| URL_SAFE_NO_PAD.decode(text).ok());
        bytes.ok_or_else(|| format!("`{name}` is missing or no base64url"))
    };
    let coordinate = |name: &str, bytes: usize| match number(name)? {
        number if number.len() == bytes => Ok(number),
        number => Err(format!("`{name}` has {} bytes and not {bytes}", number.len())),
    };
    let key = match (kind, curve) {
        ("RSA", _) => {
            let components = RsaPublicKeyComponents { n: number("n")?, e: number("e")? };
            let key = components.to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256);
            key.map_err(|_| "`n` and `e` are no RSA key")?.as_ref().to_vec()
        }
        ("EC", "P-256") => [vec![4], coordinate("x", 32)?, coordinate("y", 32)?].concat(),
        ("EC", _) => [vec![4], coordinate("x", 48)?, coordinate("y", 48)?].concat(),
        _ => coordinate("x", 32)?,
    };
    keys_of(&key, algorithms)
}

/// A public key, ready for each of these algorithms that takes such a key.
fn keys_of(public: &[u8], algorithms: &[Algorithm]) -> Result<Vec<Key>, String> {
    if let Ok(key) = rsa::PublicKey::from_der(public)
        && !RSA_BYTES.contains(&key.modulus_len())
    {
        return Err(format!("RSA with {} bits, and not 2048 to 8192", key.modulus_len() * 8));
    }
    let key = |algorithm: &Algorithm| {
        let key = ParsedPublicKey::new(algorithm.of_public_keys()?, public).ok()?;
        Some(Key { algorithm: *algorithm, verifier: Verifier::Public(key) })
    };
    let keys: Vec<Key> = algorithms.iter().filter_map(key).collect();
    if keys.is_empty() { Err("it is not a key of a known kind".to_owned()) } else { Ok(keys) }
}

#[cfg(test)]
mod tests;
