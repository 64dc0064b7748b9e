//! `auth`: who a client must be.

use std::sync::Arc;

use http::HeaderName;
use toml::Spanned;
use toml::de::DeValue;

use crate::config::error::Finding;
use crate::config::http::{ApiKey, Auth, folded};
use crate::config::raw::{Fault, Reader, boolean, fault, mismatch, quoted, text};
use crate::config::words::nearest;

use super::{Known, headers};

const API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const REALM: &str = "evener";
/// It stands in each answer that asks for a password.
const REALM_BYTES_MAX: usize = 255;

const EXAMPLE: &str = "write `auth = { jwt = \"NAME\" }`, `{ api_key = true }` or `{ basic = true }`, or \"none\"";

/// Who it must be, and whether `"none"` stands here, which takes a default away.
pub(super) fn read(r: &mut Reader, known: &Known, default: Option<Arc<Auth>>) -> (Option<Arc<Auth>>, bool) {
    let Some(item) = r.take("auth") else { return (default, false) };
    match item.get_ref() {
        DeValue::String(word) if word.as_ref() == "none" => (None, true),
        DeValue::Table(table) => {
            let auth = r.element(table, Spanned::span(item), "`auth`".to_owned(), |r| auth(r, known));
            (Some(Arc::new(auth)), false)
        }
        _ => {
            r.value::<()>("auth", item, |value| Err(mismatch(value, "a table, or \"none\",").help(EXAMPLE)));
            (default, false)
        }
    }
}

fn auth(r: &mut Reader, known: &Known) -> Auth {
    let name = r.optional("jwt", |value| text(value).map(str::to_owned));
    let jwt = name.and_then(|name| match known.jwt.iter().find(|known| known.name == name) {
        Some(known) => known.table.clone(),
        None => {
            let help = match nearest(&name, known.jwt.iter().map(|known| known.name.as_str())) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("add a table `[jwt.{}]`", quoted(&name)),
            };
            let finding = Finding::error(r.span_of("jwt"), format!("there is no `[jwt.{}]`", quoted(&name)));
            r.findings.push(finding.label("unknown").help(help).absence());
            None
        }
    });
    let auth = Auth { jwt, api_key: api_key(r), basic: basic(r) };
    if !r.has("jwt") && !r.has("api_key") && !r.has("basic") {
        let finding = Finding::error(r.span.clone(), "this `auth` asks for nothing").label("no way to be known");
        r.findings.push(finding.help(EXAMPLE).absence());
    }
    if auth.api_key.is_some() && !known.consumers.iter().any(|consumer| !consumer.keys.is_empty()) {
        warn_of_nobody(r, "api_key", "a key", "keys = [\"sha256:…\"]");
    }
    if auth.basic.is_some() && !known.consumers.iter().any(|consumer| consumer.password.is_some()) {
        warn_of_nobody(r, "basic", "a password", "password = \"sha256:…\"");
    }
    auth
}

fn warn_of_nobody(r: &mut Reader, key: &str, what: &str, example: &str) {
    let finding = Finding::warning(r.key_span(key), format!("no consumer has {what}"))
        .label("nobody can be known by it")
        .help(format!("add `{example}` to a table `[consumer.NAME]`"));
    r.findings.push(finding.absence());
}

/// `true` or a table.
fn api_key(r: &mut Reader) -> Option<ApiKey> {
    match r.take("api_key")?.get_ref() {
        DeValue::Table(_) => Some(r.table("api_key", |r| ApiKey {
            header: r.or("header", header, API_KEY),
            hide: r.or("hide", boolean, false),
        })),
        _ => r.optional("api_key", only_true).map(|()| ApiKey { header: API_KEY, hide: false }),
    }
}

fn header(value: &DeValue) -> Result<HeaderName, Fault> {
    let name = headers::header_name(value)?;
    let read = folded(&name);
    if headers::is_own(&read) || headers::is_about_the_client(&read) {
        return Err(fault(format!("`{name}` holds no key"), "evener's own").help("write one such as \"x-api-key\""));
    }
    Ok(name)
}

fn basic(r: &mut Reader) -> Option<String> {
    match r.take("basic")?.get_ref() {
        DeValue::Table(_) => Some(r.table("basic", |r| r.or("realm", realm, REALM.to_owned()))),
        _ => r.optional("basic", only_true).map(|()| REALM.to_owned()),
    }
}

fn realm(value: &DeValue) -> Result<String, Fault> {
    let realm = text(value)?;
    let fits = |b: u8| (b == b' ' || b.is_ascii_graphic()) && !matches!(b, b'"' | b'\\');
    if !(1..=REALM_BYTES_MAX).contains(&realm.len()) || !realm.bytes().all(fits) {
        let what = format!("a realm has 1 to {REALM_BYTES_MAX} visible ASCII characters, without quotes");
        return Err(fault(what, "not a realm"));
    }
    Ok(realm.to_owned())
}

fn only_true(value: &DeValue) -> Result<(), Fault> {
    match value {
        DeValue::Boolean(true) => Ok(()),
        DeValue::Boolean(false) => Err(fault("`false` says nothing", "off already").help("leave it out")),
        value => Err(mismatch(value, "`true` or a table")),
    }
}
