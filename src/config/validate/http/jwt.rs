//! `[jwt.NAME]`: whose tokens count.

use std::net::IpAddr;
use std::time::Duration;

use http::{HeaderName, Uri};
use toml::de::DeValue;

use crate::config::error::{Finding, Span};
use crate::config::http::keys::{self, ALGORITHMS, Algorithm, is_of_secrets};
use crate::config::http::{Jwt, KeySource, folded};
use crate::config::named_file::read_file;
use crate::config::raw::{Fault, Reader, fault, quoted, text};
use crate::config::words::nearest;

use super::super::{duration, positive};
use super::matching::one_or_list;
use super::{FILE_BYTES_MAX, headers};

/// Clocks that differ by more are broken.
const LEEWAY_MAX: Duration = Duration::from_mins(5);
/// Entries of `require` and of `claims_to_headers`.
const CLAIMS_MAX: usize = 64;
/// Values of one claim.
const VALUES_MAX: usize = 64;

const LEEWAY: Duration = Duration::from_secs(30);
const REFRESH: Duration = Duration::from_mins(10);
const COOLDOWN: Duration = Duration::from_secs(10);

const SOURCES: [&str; 3] = ["keys_file", "keys_url", "secret_file"];
const SOURCE_EXAMPLE: &str = "keys_file = \"/etc/evener/jwks.json\"`, `keys_url` or `secret_file";

/// Keys that people look for here.
const HINTS: &[(&str, &str)] = &[
    ("jwks_url", "did you mean `keys_url`?"),
    ("jwks_uri", "did you mean `keys_url`?"),
    ("jwks_file", "did you mean `keys_file`?"),
    ("secret", "write the secret into a file that only evener can read, and its path into `secret_file`"),
    ("audiences", "did you mean `audience`?"),
    ("algorithm", "did you mean `algorithms`?"),
];

pub(super) fn read(r: &mut Reader, name: &str) -> Option<Jwt> {
    r.hints(HINTS);
    let algorithms = algorithms(r);
    let keys = source(r, &algorithms);
    let jwt = Jwt {
        name: name.to_owned(),
        issuer: r.optional("issuer", filled),
        audience: one_or_list(r, "audience", filled),
        leeway: r.or("leeway", leeway, LEEWAY),
        require: required_claims(r),
        claims_to_headers: claims_to_headers(r),
        algorithms,
        keys: keys?,
    };
    if jwt.audience.is_empty() && !r.has("audience") {
        let finding = Finding::warning(r.span.clone(), "tokens that were made for others count too")
            .label("no `audience`")
            .help("add `audience = \"…\"`: what your tokens have as `aud`");
        r.findings.push(finding.absence());
    }
    Some(jwt)
}

fn filled(value: &DeValue) -> Result<String, Fault> {
    match text(value)? {
        "" => Err(fault("it is empty", "empty")),
        text => Ok(text.to_owned()),
    }
}

fn algorithms(r: &mut Reader) -> Vec<Algorithm> {
    const EXAMPLE: &str = "algorithms = [\"RS256\"]";
    if !r.has("algorithms") {
        r.missing("algorithms", EXAMPLE);
    }
    let mut algorithms: Vec<Algorithm> = Vec::new();
    let listed = r.list("algorithms", ALGORITHMS.len(), algorithm);
    for (algorithm, span) in &listed {
        if algorithms.contains(algorithm) {
            let what = format!("`{algorithm:?}` stands there twice");
            r.findings.push(fault(what, "again here").at(span.clone(), "algorithms"));
        } else if algorithms.first().is_some_and(|first| is_of_secrets(*first) != is_of_secrets(*algorithm)) {
            let fault = fault("a public key must never be taken for a secret", "another kind of key")
                .help("write a table for each: HS* with `secret_file`, all others with `keys_file` or `keys_url`");
            r.findings.push(fault.at(span.clone(), "algorithms"));
        }
        algorithms.push(*algorithm);
    }
    if algorithms.is_empty() && r.has("algorithms") && r.is_sound() {
        let fault = fault("the list is empty", "no algorithm").help(format!("write `{EXAMPLE}`"));
        r.findings.push(fault.at(r.span_of("algorithms"), "algorithms"));
    }
    algorithms
}

fn algorithm(value: &DeValue) -> Result<Algorithm, Fault> {
    let text = text(value)?;
    text.parse().map_err(|_| {
        let fault = fault(format!("there is no \"{}\"", quoted(text)), "unknown");
        let list = ALGORITHMS.join(", ");
        match nearest(text, ALGORITHMS) {
            _ if text.eq_ignore_ascii_case("none") => fault.help("a token without a signature never counts"),
            Some(near) => fault.help(format!("did you mean \"{near}\"? There are {list}")),
            None => fault.help(format!("there are {list}")),
        }
    })
}

/// The one source of keys. Secrets go with HS* only, public keys with the others only: so a public key, which anybody
/// may know, is never a secret that a token could be signed with.
fn source(r: &mut Reader, algorithms: &[Algorithm]) -> Option<KeySource> {
    let given: Vec<&str> = SOURCES.into_iter().filter(|key| r.has(key)).collect();
    match given[..] {
        [] => r.missing("keys_file", SOURCE_EXAMPLE),
        [source] => {
            let wants_secret = algorithms.first().copied().is_some_and(is_of_secrets);
            if !algorithms.is_empty() && wants_secret != (source == "secret_file") {
                let title = match wants_secret {
                    true => format!("HS256, HS384 and HS512 want a secret, and `{source}` has public keys"),
                    false => "these algorithms want public keys, and `secret_file` has a secret".to_owned(),
                };
                let finding = Finding::error(r.key_span(source), title)
                    .label("another kind of key")
                    .help("HS* go with `secret_file`, all others with `keys_file` or `keys_url`")
                    .also(r.span_of("algorithms"), "for these");
                r.findings.push(finding);
            }
        }
        [first, second, ..] => {
            let finding = Finding::error(r.key_span(second), format!("`{first}` and `{second}` do not go together"))
                .label("a second source of keys")
                .help("leave one of them out, or write two tables")
                .also(r.key_span(first), "the first");
            r.findings.push(finding);
        }
    }
    if !r.has("keys_url") {
        for key in ["refresh", "cooldown"] {
            r.refuse(key, |span| {
                Finding::error(span, format!("`{key}` belongs to `keys_url`"))
                    .label("nothing is fetched")
                    .help("leave it out: a file is read again with the configuration")
            });
        }
    }
    let fixed = |value: &DeValue, parse: fn(&[u8]) -> Result<keys::KeySet, String>| {
        let (path, bytes, _) = read_file(value, FILE_BYTES_MAX)?;
        let keys = parse(&bytes).map_err(|error| fault(quoted(&error), "not usable"))?;
        Ok(KeySource::Fixed { path, keys })
    };
    let keys_file = r.optional("keys_file", |value| fixed(value, keys::parse_jwks));
    let secret_file = r.optional("secret_file", |value| fixed(value, keys::secret));
    let url = r.optional("keys_url", url);
    warn_of_clear_text(r, url.as_ref());
    let (refresh, cooldown) = (r.or("refresh", positive, REFRESH), r.or("cooldown", positive, COOLDOWN));
    keys_file.or(secret_file).or(url.map(|url| KeySource::Url { url, refresh, cooldown }))
}

fn url(value: &DeValue) -> Result<Uri, Fault> {
    let wrong = |what: &str| fault(what, "not a URL").help("write one such as \"https://issuer.example.com/jwks\"");
    let text = text(value)?;
    if text.contains('#') {
        return Err(wrong("a fragment is never sent"));
    }
    let url: Uri = text.parse().map_err(|_| wrong("it is no URL"))?;
    if !matches!(url.scheme_str(), Some("http" | "https")) || url.host().is_none_or(str::is_empty) {
        return Err(wrong("it does not begin with `https://` or `http://` and a host"));
    }
    if url.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        return Err(wrong("it holds a password, and this file is shown"));
    }
    Ok(url)
}

fn warn_of_clear_text(r: &mut Reader, url: Option<&Uri>) {
    let is_here = |host: &str| {
        let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
        host == "localhost" || address.is_ok_and(|address| address.is_loopback())
    };
    if url.is_some_and(|url| url.scheme_str() == Some("http") && !url.host().is_some_and(is_here)) {
        let finding = Finding::warning(r.span_of("keys_url"), "whoever can change what passes here can sign tokens")
            .label("in clear text")
            .help("write `https://`");
        r.findings.push(finding);
    }
}

fn leeway(value: &DeValue) -> Result<Duration, Fault> {
    match duration(value)? {
        leeway if leeway > LEEWAY_MAX => Err(fault("at most 5m are allowed", "too long")
            .help("tokens that have run out count for so long: set the clocks instead")),
        leeway => Ok(leeway),
    }
}

fn required_claims(r: &mut Reader) -> Vec<(String, Vec<String>)> {
    let entries = r.entries("require", "a table of claims", "write `require = { scope = [\"orders:read\"] }`");
    too_many(r, "require", entries.get(CLAIMS_MAX).map(|(key, _)| key.span()));
    let mut claims = Vec::new();
    for (key, item) in entries.into_iter().take(CLAIMS_MAX) {
        let values: Vec<String> = match item.get_ref() {
            DeValue::Array(list) if list.is_empty() => {
                r.value::<()>("require", item, |_| {
                    Err(fault("the list is empty", "no value").help("write what the claim must hold one of"))
                });
                Vec::new()
            }
            DeValue::Array(_) => {
                let items = r.elements("require", item, VALUES_MAX);
                items.iter().filter_map(|item| r.value("require", item, filled)).collect()
            }
            _ => r.value("require", item, filled).into_iter().collect(),
        };
        claims.push((key.get_ref().as_ref().to_owned(), values));
    }
    claims
}

fn claims_to_headers(r: &mut Reader) -> Vec<(String, HeaderName)> {
    let help = "write `claims_to_headers = { sub = \"x-user\" }`";
    let entries = r.entries("claims_to_headers", "a table of claims and headers", help);
    too_many(r, "claims_to_headers", entries.get(CLAIMS_MAX).map(|(key, _)| key.span()));
    let mut claims: Vec<(String, HeaderName)> = Vec::new();
    for (key, item) in entries.into_iter().take(CLAIMS_MAX) {
        let header = r.value("claims_to_headers", item, |value| {
            let header = headers::header_name(value)?;
            let folded = folded(&header);
            if headers::is_own(&folded) || headers::is_about_the_client(&folded) {
                return Err(fault(format!("`{header}` cannot be changed"), "evener's own")
                    .help("choose a name of your own, such as \"x-user\""));
            }
            if folded != header {
                let what = format!("some backends take `{folded}`, which every client may send, for `{header}`");
                return Err(fault(what, "not only letters, digits and `-`").help(format!("write \"{folded}\"")));
            }
            if claims.iter().any(|(_, known)| *known == header) {
                return Err(fault(format!("`{header}` stands there twice"), "again here").help("one claim, one header"));
            }
            Ok(header)
        });
        claims.extend(header.map(|header| (key.get_ref().as_ref().to_owned(), header)));
    }
    claims
}

fn too_many(r: &mut Reader, key: &str, place: Option<Span>) {
    if let Some(place) = place {
        let title = format!("invalid `{key}`: at most {CLAIMS_MAX} claims are allowed");
        r.findings.push(Finding::error(place, title).label("one too many"));
    }
}
