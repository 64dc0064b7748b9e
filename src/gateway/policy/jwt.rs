//! `auth.jwt`: signed tokens (RFC 7515, RFC 7519), verified as RFC 8725 wants it. The library takes them apart and
//! verifies their signatures; what counts stands here. Algorithms and keys are those of the file; a token only says which
//! of them it means. Whatever a token carries to find its own key is not looked at, and a token that asks for an extension
//! by `crit` is refused, since there is none here.
//!
//! A token that counts is remembered: an RSA or ECDSA check costs more than all else that is done for a request, and
//! clients send the same token for minutes. Time and keys are looked at for each request all the same.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_utils::CachePadded;
use http::{HeaderName, HeaderValue};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use serde_json::{Map, Value};

use super::auth::{Failure, sha256};
use super::jwks::Source;
use crate::config::http::keys::KeySet;
use crate::config::http::{Jwt, KeySource};

/// Parts of the memory with a lock each.
const SHARDS: usize = 8;
/// Tokens in one generation of a part: 16384 in all, of some 500 bytes.
const REMEMBERED_MAX: usize = 1024;

/// A table `[jwt.NAME]` at work.
#[derive(Debug)]
pub struct Tokens {
    /// The table's name.
    pub name: Arc<str>,
    config: Arc<Jwt>,
    keys: Keys,
    remembered: Remembered,
}

#[derive(Debug)]
enum Keys {
    Fixed(Arc<KeySet>),
    Fetched(Arc<Source>),
}

/// What a token says, once its signature, issuer and audience were found to be right.
#[derive(Debug, PartialEq)]
pub struct Verified {
    /// `sub`.
    pub consumer: Option<Arc<str>>,
    /// What the backend is told.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// In seconds since 1970, as the token has them.
    expires: f64,
    not_before: Option<f64>,
    /// The place in `require` of a claim that does not hold.
    missing: Option<usize>,
}

impl Tokens {
    /// With the source of its keys when they are fetched.
    pub fn new(config: &Arc<Jwt>, source: Option<Arc<Source>>) -> Self {
        let keys = match (&config.keys, source) {
            (KeySource::Fixed { keys, .. }, _) => Keys::Fixed(Arc::new(keys.clone())),
            (KeySource::Url { .. }, Some(source)) => Keys::Fetched(source),
            // No key at all: no token counts.
            (KeySource::Url { .. }, None) => Keys::Fixed(Arc::default()),
        };
        let (name, remembered) = (config.name.as_str().into(), Remembered::default());
        Self { name, config: config.clone(), keys, remembered }
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// Why it does not count, or not for this.
    pub fn check(&self, token: &[u8], since_epoch: Duration) -> Result<Arc<Verified>, Failure> {
        let loaded;
        let keys = match &self.keys {
            Keys::Fixed(keys) => keys,
            Keys::Fetched(source) => {
                loaded = source.keys().load();
                &loaded
            }
        };
        let hash = sha256(token);
        let remembered = self.remembered.find(&hash, keys);
        let is_new = remembered.is_none();
        let verified = remembered.map_or_else(|| self.verify(token, keys).map(Arc::new), Ok)?;
        self.in_time(&verified, since_epoch)?;
        if is_new {
            self.remembered.add(hash, &verified, keys);
        }
        match verified.missing {
            None => Ok(verified),
            Some(at) => {
                Err(Failure::Insufficient(format!("claim `{}` does not hold", self.config.require[at].0).into()))
            }
        }
    }

    fn in_time(&self, verified: &Verified, since_epoch: Duration) -> Result<(), Failure> {
        let (now, leeway) = (since_epoch.as_secs_f64(), self.config.leeway.as_secs_f64());
        if now >= verified.expires + leeway {
            return Err(Failure::Invalid("the token has expired".into()));
        }
        match verified.not_before {
            Some(not_before) if now + leeway < not_before => Err(Failure::Invalid("the token is not valid yet".into())),
            _ => Ok(()),
        }
    }

    fn verify(&self, token: &[u8], keys: &KeySet) -> Result<Verified, Failure> {
        let invalid = |why: &'static str| Failure::Invalid(why.into());
        let header = decode_header(token);
        let header =
            header.map_err(|_| invalid("no token of three parts with a header and an `alg` that are known"))?;
        if !self.config.algorithms.contains(&header.alg) {
            return Err(invalid("the token's `alg` is not one of `algorithms`"));
        }
        if header.crit.is_some() {
            return Err(invalid("the token asks for an extension (`crit`)"));
        }
        let candidates = keys.candidates(header.kid.as_deref());
        let mut candidates = candidates.iter().filter(|key| key.algorithms.contains(&header.alg)).peekable();
        if candidates.peek().is_none() {
            self.ask_for_keys();
            return Err(invalid("there is no key for this token"));
        }
        let validation = signature_only(header.alg);
        for key in candidates {
            match decode::<Map<String, Value>>(token, &key.key, &validation) {
                Ok(token) => return self.read(&token.claims),
                Err(error) if *error.kind() == ErrorKind::InvalidSignature => {}
                Err(_) => return Err(invalid("the token is not well-formed")),
            }
        }
        // Of a key that was tried only for want of the right one: that may be a newer one than those that are known.
        if !header.kid.is_some_and(|id| keys.has_named(&id)) {
            self.ask_for_keys();
        }
        Err(invalid("the signature is wrong"))
    }

    /// Has them fetched again, where they are.
    fn ask_for_keys(&self) {
        if let Keys::Fetched(source) = &self.keys {
            source.ask();
        }
    }

    /// What signed claims say.
    fn read(&self, claims: &Map<String, Value>) -> Result<Verified, Failure> {
        let invalid = |why: &'static str| Failure::Invalid(why.into());
        let expires = date(claims, "exp")?.ok_or(invalid("the token has no `exp`"))?;
        let not_before = date(claims, "nbf")?;
        if let Some(issuer) = &self.config.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(invalid("the token is of another issuer (`iss`)"));
        }
        let is_ours =
            |value: &Value| value.as_str().is_some_and(|name| self.config.audience.iter().any(|ours| ours == name));
        let for_us = match claims.get("aud") {
            _ if self.config.audience.is_empty() => true,
            Some(Value::Array(names)) => names.iter().all(Value::is_string) && names.iter().any(is_ours),
            Some(name) => is_ours(name),
            None => false,
        };
        if !for_us {
            return Err(invalid("the token is for another audience (`aud`)"));
        }
        let holds = |(claim, wanted): &(String, Vec<String>)| claims.get(claim).is_some_and(|value| has(value, wanted));
        let missing = self.config.require.iter().position(|required| !holds(required));
        let mut headers = Vec::new();
        for (claim, name) in &self.config.claims_to_headers {
            if let Some(value) = claims.get(claim).filter(|value| !value.is_null()) {
                let value = header_value(value).ok_or_else(|| {
                    Failure::Invalid(format!("claim `{claim}` cannot be the value of a header").into())
                })?;
                headers.push((name.clone(), value));
            }
        }
        let consumer = claims.get("sub").and_then(text).map(Into::into);
        Ok(Verified { consumer, headers, expires, not_before, missing })
    }
}

/// Nothing but the signature, with this algorithm: the library would ask the clock, take a claim that is not there for
/// one that holds, and add a minute to every time.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    (validation.validate_exp, validation.validate_nbf, validation.validate_aud) = (false, false, false);
    validation
}

/// A NumericDate (RFC 7519, 2). One that is there and no number is never taken for one that is not there.
fn date(claims: &Map<String, Value>, name: &'static str) -> Result<Option<f64>, Failure> {
    let date = claims.get(name).map(|value| value.as_f64().filter(|seconds| seconds.is_finite()));
    match date {
        None => Ok(None),
        Some(Some(seconds)) => Ok(Some(seconds)),
        Some(None) => Err(Failure::Invalid(format!("the token's `{name}` is no number").into())),
    }
}

/// A claim of one value, as text.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(is) => Some(is.to_string()),
        _ => None,
    }
}

/// Whether a claim holds one of these: as its text, a word of it, or an item of a list.
fn has(value: &Value, wanted: &[String]) -> bool {
    let is_wanted = |text: &str| wanted.iter().any(|wanted| wanted == text);
    match value {
        Value::Array(items) => items.iter().filter_map(text).any(|item| is_wanted(&item)),
        Value::String(text) => is_wanted(text) || text.split(' ').any(is_wanted),
        value => text(value).is_some_and(|text| is_wanted(&text)),
    }
}

/// A claim as the value of a header: a list with commas between its items. `None` when the backend could read something
/// else than what was signed: control bytes, spaces around it (they are cut), a comma in an item, no plain values.
fn header_value(value: &Value) -> Option<HeaderValue> {
    let value = match value {
        Value::Array(items) => {
            let items: Option<Vec<String>> = items.iter().map(text).collect();
            items.filter(|items| items.iter().all(|item| !item.contains(',')))?.join(",")
        }
        value => text(value)?,
    };
    let is_plain = !value.bytes().any(|byte| byte.is_ascii_control()) && value.trim_ascii().len() == value.len();
    HeaderValue::try_from(value).ok().filter(|_| is_plain)
}

/// Tokens that count, by their SHA-256, with the keys that they were verified with: other keys, and all is forgotten.
/// Only tokens of the issuer come in here. A full generation becomes the old one, in place of the one before; what is
/// asked for again in time moves into the young one.
#[derive(Debug, Default)]
struct Remembered([CachePadded<Mutex<Generations>>; SHARDS]);

#[derive(Debug, Default)]
struct Generations {
    keys: Arc<KeySet>,
    young: HashMap<[u8; 32], Arc<Verified>>,
    old: HashMap<[u8; 32], Arc<Verified>>,
}

impl Remembered {
    fn find(&self, hash: &[u8; 32], keys: &Arc<KeySet>) -> Option<Arc<Verified>> {
        self.with(hash, |part| {
            if !Arc::ptr_eq(&part.keys, keys) {
                *part = Generations { keys: keys.clone(), ..Generations::default() };
            }
            if let Some(verified) = part.young.get(hash) {
                return Some(verified.clone());
            }
            let verified = part.old.remove(hash)?;
            part.add(*hash, verified.clone());
            Some(verified)
        })
    }

    fn add(&self, hash: [u8; 32], verified: &Arc<Verified>, keys: &Arc<KeySet>) {
        self.with(&hash, |part| {
            if Arc::ptr_eq(&part.keys, keys) {
                part.add(hash, verified.clone());
            }
        });
    }

    /// No step leaves a part half done, so one that a panic has poisoned is as good as before.
    fn with<T>(&self, hash: &[u8; 32], act: impl FnOnce(&mut Generations) -> T) -> T {
        act(&mut self.0[usize::from(hash[0]) % SHARDS].lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Generations {
    fn add(&mut self, hash: [u8; 32], verified: Arc<Verified>) {
        if self.young.len() >= REMEMBERED_MAX {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(hash, verified);
    }
}

#[cfg(test)]
mod tests;
