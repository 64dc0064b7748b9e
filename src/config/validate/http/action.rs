//! What becomes of a request: `pool`, `pools`, `redirect` or `reply`.

use http::{HeaderValue, StatusCode};
use toml::Spanned;
use toml::de::DeValue;

use crate::config::error::Finding;
use crate::config::http::Action;
use crate::config::raw::{Fault, Item, Reader, fault, mismatch, quoted, text, whole};

use super::super::{Used, WEIGHT};
use super::path::check_placeholders;

/// Pools of one route.
const POOLS_MAX: usize = 256;
const WEIGHT_MAX: u32 = 65_535;
/// Bytes of a fixed answer.
const REPLY_BYTES_MAX: usize = 64 << 10;
/// Bytes of where a client is sent.
const REDIRECT_BYTES_MAX: usize = 4_096;

const ACTIONS: [&str; 4] = ["pool", "pools", "redirect", "reply"];
const REDIRECTS: [u16; 5] = [301, 302, 303, 307, 308];
const REDIRECT: StatusCode = StatusCode::PERMANENT_REDIRECT;
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// The one action of a route, and the pools that it names. `names` are those of the parts of its path.
pub(super) fn read(r: &mut Reader, names: &[String]) -> (Option<Action>, Vec<Used>) {
    let given: Vec<&str> = ACTIONS.into_iter().filter(|key| r.has(key)).collect();
    match given[..] {
        [] => r.missing("pool", "pool = \"NAME\"`, `pools`, `redirect` or `reply"),
        [_] => {}
        [first, second, ..] => {
            let finding = Finding::error(r.key_span(second), format!("`{first}` and `{second}` do not go together"))
                .label("a second action")
                .help("a route does one thing: leave one of them out, or write two routes")
                .also(r.key_span(first), "the first");
            r.findings.push(finding);
        }
    }
    let mut used = Vec::new();
    let pool = r.optional("pool", |value| text(value).map(str::to_owned));
    let pool = pool.map(|pool| {
        used.push(Used { pool: pool.clone(), span: r.span_of("pool") });
        Action::Forward(vec![(pool, WEIGHT)])
    });
    let pools = pools(r, &mut used);
    let redirect = r.has("redirect").then(|| r.table("redirect", |r| redirect(r, names)));
    let reply = r.has("reply").then(|| r.table("reply", reply));
    for key in ACTIONS {
        r.take(key);
    }
    (pool.or(pools).or(redirect.flatten()).or(reply), used)
}

fn pools(r: &mut Reader, used: &mut Vec<Used>) -> Option<Action> {
    const EXAMPLE: &str = "pools = [{ name = \"v1\", weight = 95 }, { name = \"v2\", weight = 5 }]";
    let item = r.take("pools")?;
    if item.get_ref().as_array().is_some_and(|list| list.is_empty()) {
        r.value::<()>("pools", item, |_| Err(fault("the list is empty", "no pool").help(format!("write `{EXAMPLE}`"))));
    }
    let items = r.elements("pools", item, POOLS_MAX);
    let mut pools: Vec<(String, u32)> = Vec::new();
    for item in items {
        let Some((name, weight)) = weighted(r, item) else { continue };
        if pools.iter().any(|(known, _)| *known == name) {
            r.value::<()>("pools", item, |_| {
                Err(fault(format!("`{}` stands there twice", quoted(&name)), "again here")
                    .help("give it the sum of both weights"))
            });
        }
        used.push(Used { pool: name.clone(), span: Spanned::span(item) });
        pools.push((name, weight));
    }
    if !pools.is_empty() && pools.len() == items.len() && pools.iter().all(|(_, weight)| *weight == 0) {
        r.value::<()>("pools", item, |_| {
            Err(fault("every pool has weight 0", "no request could be served")
                .help("give at least one of them a weight of 1 or more"))
        });
    }
    Some(Action::Forward(pools))
}

/// A pool's name, or a table with one.
fn weighted<'t>(r: &mut Reader<'t, '_>, item: &'t Item<'t>) -> Option<(String, u32)> {
    let name = |value: &DeValue| text(value).map(str::to_owned);
    match item.get_ref() {
        DeValue::Table(table) => r.element(table, Spanned::span(item), "a pool of `pools`".to_owned(), |r| {
            let name = r.required("name", name, "name = \"NAME\"");
            let weight = r.or("weight", |value| whole(value, 0, WEIGHT_MAX), WEIGHT);
            Some((name?, weight))
        }),
        DeValue::String(_) => Some((r.value("pools", item, name)?, WEIGHT)),
        _ => r.value("pools", item, |value| Err(mismatch(value, "the name of a pool or a table with one"))),
    }
}

fn redirect(r: &mut Reader, names: &[String]) -> Option<Action> {
    let to = r.required("to", |value| destination(value, names), "to = \"https://{host}{path}{query}\"");
    let status = r.or("status", redirect_status, REDIRECT);
    Some(Action::Redirect { status, to: to? })
}

fn redirect_status(value: &DeValue) -> Result<StatusCode, Fault> {
    let status = u16::try_from(whole(value, 100, 599)?).unwrap_or_default();
    match StatusCode::from_u16(status) {
        Ok(code) if REDIRECTS.contains(&status) => Ok(code),
        _ => Err(fault(format!("{status} sends nobody elsewhere"), "no redirect")
            .help("write 308 (for ever) or 307 (for now); 301, 302 and 303 let the method become GET")),
    }
}

/// A path or a URL, with `{…}`; where it leads is for the file to say, not for the client.
fn destination(value: &DeValue, names: &[String]) -> Result<String, Fault> {
    let to = text(value)?;
    let authority = ["http://", "https://"].iter().find_map(|scheme| to.strip_prefix(scheme));
    let is_path = to.starts_with('/') && !to.starts_with("//");
    if !is_path && authority.is_none_or(|authority| authority.is_empty() || authority.starts_with('/')) {
        return Err(fault("neither a path nor a URL", "not a destination")
            .help("begin with `/` or with `https://`, such as \"https://{host}{path}{query}\""));
    }
    if to.len() > REDIRECT_BYTES_MAX || !to.bytes().all(|b| b.is_ascii_graphic()) {
        let what = format!("a destination has at most {REDIRECT_BYTES_MAX} visible ASCII characters");
        return Err(fault(what, "not a destination").help("percent-encode all others"));
    }
    // Up to here the name of a host can go on.
    let ends = ["/", "?", "{path}", "{query}"].into_iter().filter_map(|end| authority?.find(end)).min();
    let host = authority.map(|authority| &authority[..ends.unwrap_or(authority.len())]);
    if host.is_some_and(|host| host.replace("{host}", "").contains('{')) {
        return Err(fault("the client would choose the host that it is sent to", "not for the client to say")
            .help("write the name of the host, or `{host}` for the one that was asked for, and `/` behind it"));
    }
    let known: Vec<String> = ["host", "path", "query"].map(str::to_owned).into_iter().chain(names.to_vec()).collect();
    check_placeholders(to, &known)?;
    Ok(to.to_owned())
}

fn reply(r: &mut Reader) -> Action {
    let status = r.or("status", |value| whole(value, 200, 599), 200);
    let status = u16::try_from(status).ok().and_then(|status| StatusCode::from_u16(status).ok()).unwrap_or_default();
    let body = r.or("body", body, String::new());
    if matches!(status.as_u16(), 204 | 205 | 304) && !body.is_empty() {
        let finding = Finding::error(r.span_of("body"), format!("an answer with status {status} has no body"))
            .label("never sent")
            .help("leave `body` out, or choose another status");
        r.findings.push(finding);
    }
    let content_type = r.or("content_type", content_type, CONTENT_TYPE);
    Action::Reply { status, content_type, body }
}

fn body(value: &DeValue) -> Result<String, Fault> {
    let body = text(value)?;
    if body.len() > REPLY_BYTES_MAX {
        return Err(fault(format!("it has at most {REPLY_BYTES_MAX} bytes"), format!("{} bytes", body.len())));
    }
    Ok(body.to_owned())
}

fn content_type(value: &DeValue) -> Result<HeaderValue, Fault> {
    let wrong = || fault("not a media type", "not a media type").help("write one such as \"application/json\"");
    let kind = text(value)?;
    if !kind.contains('/') {
        return Err(wrong());
    }
    HeaderValue::from_str(kind).ok().filter(|kind| kind.to_str().is_ok()).ok_or_else(wrong)
}
