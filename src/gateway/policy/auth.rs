//! `auth`: who a request is of, by a token, an API key, or name and password. Passing one of those that a route takes is
//! enough; what comes out is a typed [`Identity`], and nothing else can be taken for one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::jwt::{Tokens, Verified};
use super::limit::Failures;
use super::{Asked, Refused};
use crate::config::http::{ApiKey, Auth as Configured, Consumer};
use crate::gateway::forwarded::remove_with_aliases;
use crate::gateway::refusal::Refusal;

/// Of a key, a password or a token; longer ones are not looked at.
pub const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;

/// Who a request is of.
#[derive(Debug)]
pub struct Identity {
    /// Who says so: the table `[jwt.NAME]`; `None` = a consumer of the file.
    pub issuer: Option<Arc<str>>,
    /// Its name; `None` = a token without `sub`.
    pub consumer: Option<Arc<str>>,
    token: Option<Arc<Verified>>,
    hidden: Option<HeaderName>,
}

impl Identity {
    /// Writes into the header what the backend is told of it, and takes out what it is not to see.
    pub fn mark(&self, headers: &mut HeaderMap) {
        if let Some(name) = &self.hidden {
            remove_with_aliases(headers, std::iter::once(name));
        }
        for (name, value) in self.token.iter().flat_map(|token| &token.headers) {
            headers.insert(name, value.clone());
        }
    }
}

/// Why somebody is not known.
#[derive(Debug, PartialEq)]
pub enum Failure {
    /// There are no credentials of this kind.
    Absent,
    /// They do not count.
    Invalid(Cow<'static, str>),
    /// They count, but not for this.
    Insufficient(Cow<'static, str>),
}

impl Failure {
    /// The one of two that says more.
    fn or(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::Insufficient(_), _) | (Self::Invalid(_), Self::Absent | Self::Invalid(_)) => self,
            _ => other,
        }
    }
}

/// A route's `auth`.
#[derive(Debug)]
pub struct Auth {
    jwt: Option<Arc<Tokens>>,
    api_key: Option<ApiKey>,
    /// The challenge.
    basic: Option<HeaderValue>,
    consumers: Arc<Consumers>,
    failures: Arc<Failures>,
}

impl Auth {
    /// Finds the tokens by their table's name.
    pub fn new(
        auth: &Configured,
        tokens: &HashMap<&str, Arc<Tokens>>,
        consumers: &Arc<Consumers>,
        failures: &Arc<Failures>,
    ) -> Self {
        let jwt = auth.jwt.as_ref().map(|jwt| tokens.get(jwt.name.as_str()).cloned());
        let basic = auth.basic.as_ref().map(|realm| {
            let realm = realm.replace('\\', "\\\\").replace('"', "\\\"");
            let challenge = HeaderValue::try_from(format!("Basic realm=\"{realm}\", charset=\"UTF-8\""));
            challenge.unwrap_or(HeaderValue::from_static("Basic realm=\"evener\", charset=\"UTF-8\""))
        });
        Self {
            jwt: jwt.map(|tokens| tokens.expect("a route's table is one of the file")),
            api_key: auth.api_key.clone(),
            basic,
            consumers: consumers.clone(),
            failures: failures.clone(),
        }
    }

    /// Who it is. A client of which too many credentials did not count has to wait, whatever it has now.
    pub(super) fn authenticate(&self, asked: &mut Asked<'_>) -> Result<Identity, Refused> {
        self.failures.ask(asked.client, asked.now.since_start)?;
        self.identify(asked.headers.map(), asked.now.since_epoch).map_err(|why| {
            if let Failure::Invalid(_) = why {
                self.failures.count(asked.client, asked.now.since_start);
            }
            self.refused(why)
        })
    }

    fn identify(&self, headers: &HeaderMap, since_epoch: Duration) -> Result<Identity, Failure> {
        let mut why = Failure::Absent;
        if let Some(tokens) = &self.jwt {
            let verified = authorization(headers, "bearer").and_then(|token| tokens.check(token, since_epoch));
            match verified {
                Ok(token) => {
                    let (issuer, consumer) = (Some(tokens.name.clone()), token.consumer.clone());
                    return Ok(Identity { issuer, consumer, token: Some(token), hidden: self.hidden() });
                }
                Err(failure) => why = why.or(failure),
            }
        }
        if let Some(ApiKey { header, .. }) = &self.api_key {
            match single(headers, header).and_then(|key| self.consumers.with_key(key)) {
                Ok(consumer) => return Ok(Identity::of_consumer(consumer, self.hidden())),
                Err(failure) => why = why.or(failure),
            }
        }
        if self.basic.is_some() {
            match authorization(headers, "basic").and_then(|pair| self.consumers.with_password(pair)) {
                Ok(consumer) => return Ok(Identity::of_consumer(consumer, self.hidden())),
                Err(failure) => why = why.or(failure),
            }
        }
        Err(why)
    }

    /// The header with a key that the backend is not to see, also where something else has counted.
    fn hidden(&self) -> Option<HeaderName> {
        self.api_key.as_ref().filter(|key| key.hide).map(|key| key.header.clone())
    }

    /// RFC 9110, 11.6.1: a 401 says what would do; RFC 6750, 3: and what was wrong with the token.
    fn refused(&self, why: Failure) -> Refused {
        let (refusal, detail, bearer) = match why {
            Failure::Absent => (Refusal::Unauthenticated, "no credentials".into(), "Bearer"),
            Failure::Invalid(why) => (Refusal::Unauthenticated, why, "Bearer error=\"invalid_token\""),
            Failure::Insufficient(why) => (Refusal::Forbidden, why, "Bearer error=\"insufficient_scope\""),
        };
        let mut headers = Vec::new();
        if self.jwt.is_some() {
            headers.push((WWW_AUTHENTICATE, HeaderValue::from_static(bearer)));
        }
        if refusal == Refusal::Unauthenticated {
            // No scheme is registered for keys in a header of their own; this one says where the key belongs.
            let key = self.api_key.as_ref().map(|key| format!("ApiKey header=\"{}\"", key.header));
            let key = key.and_then(|challenge| HeaderValue::try_from(challenge).ok());
            headers.extend(key.into_iter().chain(self.basic.clone()).map(|challenge| (WWW_AUTHENTICATE, challenge)));
        }
        Refused { refusal, detail, headers }
    }
}

impl Identity {
    fn of_consumer(consumer: Arc<str>, hidden: Option<HeaderName>) -> Self {
        Self { issuer: None, consumer: Some(consumer), token: None, hidden }
    }
}

/// The only value of a header: of two, a backend could mean the other one.
fn single<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h [u8], Failure> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Err(Failure::Absent),
        (Some(value), None) if value.len() <= CREDENTIAL_BYTES_MAX => Ok(value.as_bytes()),
        (Some(_), None) => Err(Failure::Invalid("longer than credentials may be".into())),
        (Some(_), Some(_)) => Err(Failure::Invalid("two headers with credentials".into())),
    }
}

/// What Authorization has behind this scheme, which is given in small letters.
fn authorization<'h>(headers: &'h HeaderMap, scheme: &str) -> Result<&'h [u8], Failure> {
    let value = single(headers, &AUTHORIZATION)?;
    let (named, rest) = value.split_at(value.iter().position(|byte| *byte == b' ').unwrap_or(value.len()));
    if !named.eq_ignore_ascii_case(scheme.as_bytes()) {
        return Err(Failure::Absent);
    }
    Ok(rest.trim_ascii())
}

/// Who is known by a key or a password.
///
/// Of both only the SHA-256 is known. A key is found by a part of that and then compared as a whole in constant time;
/// what finding may tell by its time is a part of the hash of a key, from which no key of 128 random bits can be had.
#[derive(Debug)]
pub struct Consumers {
    by_key: HashMap<[u8; 8], Vec<KnownKey>>,
    by_name: HashMap<Arc<str>, [u8; 32]>,
}

/// Its SHA-256, and whose it is.
type KnownKey = ([u8; 32], Arc<str>);

impl Consumers {
    /// All of the file.
    pub fn new(consumers: &[Arc<Consumer>]) -> Self {
        let (mut by_key, mut by_name) = (HashMap::<_, Vec<_>>::new(), HashMap::new());
        for consumer in consumers {
            let name: Arc<str> = consumer.name.as_str().into();
            for key in &consumer.keys {
                by_key.entry(start(key)).or_default().push((*key, name.clone()));
            }
            by_name.extend(consumer.password.map(|password| (name, password)));
        }
        Self { by_key, by_name }
    }

    fn with_key(&self, key: &[u8]) -> Result<Arc<str>, Failure> {
        let hash = sha256(key);
        let known = self.by_key.get(&start(&hash)).into_iter().flatten();
        let mut found = known.filter(|(known, _)| verify_slices_are_equal(known, &hash).is_ok());
        found.next().map(|(_, name)| name.clone()).ok_or(Failure::Invalid("unknown API key".into()))
    }

    /// RFC 7617: base64 of "name:password". One hash is made and compared whether or not the name is known.
    fn with_password(&self, pair: &[u8]) -> Result<Arc<str>, Failure> {
        let pair = STANDARD.decode(pair).map_err(|_| Failure::Invalid("Basic without base64".into()))?;
        let colon = pair.iter().position(|byte| *byte == b':');
        let colon = colon.ok_or(Failure::Invalid("Basic without a colon".into()))?;
        let known = std::str::from_utf8(&pair[..colon]).ok().and_then(|name| self.by_name.get_key_value(name));
        let is_right = verify_slices_are_equal(known.map_or(&[0; 32], |(_, hash)| hash), &sha256(&pair[colon + 1..]));
        match (known, is_right) {
            (Some((name, _)), Ok(())) => Ok(name.clone()),
            _ => Err(Failure::Invalid("unknown name or wrong password".into())),
        }
    }
}

/// What credentials are known by.
pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

fn start(hash: &[u8; 32]) -> [u8; 8] {
    let mut start = [0; 8];
    start.copy_from_slice(&hash[..8]);
    start
}
