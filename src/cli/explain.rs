//! `evener explain`: what would become of a request, by the code of the data path. Reads the file, sends nothing.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use http::header::ACCESS_CONTROL_ALLOW_METHODS;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};

use super::Misuse;
use crate::api::{Explanation, Refused, Weighted};
use crate::config::http::format_size;
use crate::config::http::{Action, Http, LimitKey, Policies, RateLimit, Route};
use crate::config::{self, Bind, Config, Listener, Protocol, contains, format_duration};
use crate::gateway::canonical::{Malformed, canonical};
use crate::gateway::forwarded;
use crate::gateway::message::Head;
use crate::gateway::policy::cors::{self, Cors};
use crate::gateway::refusal::Refusal;
use crate::gateway::route::{Asked, Table};

/// A request.
#[derive(Debug, clap::Args)]
pub struct Question {
    /// GET, POST ...
    method: Method,
    /// With http:// or https://, written as a client would send it: nothing is made of it before evener sees it
    #[arg(value_parser = parse_url)]
    url: Url,
    /// A header of the request; may stand several times
    #[arg(long = "header", short = 'H', value_name = "NAME: VALUE", value_parser = parse_header)]
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Where the connection comes from; perhaps a trusted proxy
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    client: IpAddr,
    /// Which one it comes to, where the port does not say
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// For programs
    #[arg(long)]
    json: bool,
}

/// A URL, cut and not changed.
#[derive(Clone, Debug)]
struct Url {
    is_secure: bool,
    authority: String,
    path_and_query: String,
}

impl Url {
    fn port(&self) -> u16 {
        let usual = if self.is_secure { 443 } else { 80 };
        let behind = self.authority.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        behind.and_then(|(_, port)| port.parse().ok()).unwrap_or(usual)
    }
}

fn parse_url(text: &str) -> Result<Url, String> {
    let (scheme, rest) = text.split_once("://").ok_or("a URL begins with http:// or https://")?;
    let is_secure = match scheme {
        "http" => false,
        "https" => true,
        _ => return Err("a URL begins with http:// or https://".to_owned()),
    };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#', '\\']).unwrap_or(rest.len()));
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok(Url { is_secure, authority: authority.to_owned(), path_and_query: format!("{slash}{path}") })
}

fn parse_header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text.split_once(':').ok_or("a header is NAME: VALUE")?;
    let name = name.trim().parse().map_err(|_| format!("`{}` is no name of a header", name.trim()))?;
    Ok((name, value.trim().parse().map_err(|_| "a value has no control signs".to_owned())?))
}

/// Says what would become of the request.
pub fn explain(path: &Path, question: &Question) -> anyhow::Result<()> {
    let config = config::load(path).map_err(Misuse::file)?.config;
    let listener = listener(&config, question)?;
    let explanation = explained(&config, listener.0, listener.1, question);
    let text = match question.json {
        true => serde_json::to_string_pretty(&explanation)? + "\n",
        false => words(&explanation),
    };
    std::io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// What is wrong with the routes of the file without being an error.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    for (listener, _) in listeners(config) {
        let table = Table::build(&config.gateway, &listener.name);
        for (route, by) in table.shadowed() {
            warnings.push(format!(
                "no request takes the route `{}`: `{}` goes before it and takes them all",
                route.name, by.name
            ));
        }
        for (open, protected) in by_open(&table.exposed()) {
            warnings.push(format!(
                "the route `{}` asks nobody who they are, and takes requests to hosts and paths of others that do: \
                 {protected}; if that is meant, say `auth = \"none\"` in it",
                open.name
            ));
        }
        for (open, protected) in by_open(&table.sidesteps()) {
            let key = if open.rewrite_path.is_some() { "rewrite_path" } else { "strip_prefix" };
            warnings.push(format!(
                "the route `{}` asks nobody who they are, and by its `{key}` requests come to their pool as those of others \
                 that do: {protected}; no route is looked for again, so give it `auth`, or, if that is meant, say \
                 `auth = \"none\"` in it",
                open.name
            ));
        }
    }
    warnings
}

/// Open routes, each with the names of all protected ones that it is paired with.
fn by_open<'r>(pairs: &[(&'r Arc<Route>, &'r Arc<Route>)]) -> Vec<(&'r Route, String)> {
    let names = |pairs: &[(_, &Arc<Route>)]| {
        pairs.iter().map(|(_, protected)| format!("`{}`", protected.name)).collect::<Vec<_>>().join(", ")
    };
    let chunks = pairs.chunk_by(|(one, _), (next, _)| one.name == next.name);
    chunks.map(|pairs| (&**pairs[0].0, names(pairs))).collect()
}

/// The listeners that have routes.
fn listeners(config: &Config) -> impl Iterator<Item = (&Listener, &Http)> {
    config.listeners.iter().filter_map(|listener| match &listener.protocol {
        Protocol::Http(http) => Some((&**listener, &**http)),
        _ => None,
    })
}

/// The one that is asked for, or has the URL's port, or is the only one.
fn listener<'c>(config: &'c Config, question: &Question) -> Result<(&'c Listener, &'c Http), Misuse> {
    let all: Vec<_> = listeners(config).collect();
    let has_port = |listener: &Listener| {
        listener.bind.iter().any(|bind| matches!(bind, Bind::Ip(address) if address.port() == question.url.port()))
    };
    let fits = |listener: &Listener| match &question.listener {
        Some(name) => listener.name == *name,
        None => has_port(listener) && listener.tls.is_some() == question.url.is_secure,
    };
    let mut fitting = all.iter().filter(|(listener, _)| fits(listener));
    match (fitting.next(), all.as_slice(), &question.listener) {
        (Some(fitting), ..) => Ok(*fitting),
        (None, [only], None) => Ok(*only),
        _ => {
            let names: Vec<_> = all.iter().map(|(listener, _)| listener.name.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(Misuse(format!("error: no listener for HTTP fits\n  choose one with --listener; there are: {names}")))
        }
    }
}

/// The way of a request, as far as it goes.
fn explained(config: &Config, listener: &Listener, http: &Http, question: &Question) -> Explanation {
    let mut told = Explanation { listener: listener.name.clone(), ..Explanation::default() };
    if !listener.allows(question.client) {
        told.refusal = Some(Refused {
            status: 0,
            reason: "denied".to_owned(),
            why: "the listener does not allow this address".to_owned(),
        });
        return told;
    }
    if let Err((refusal, why)) = walk(config, listener, http, question, &mut told) {
        let status = refusal.status().as_u16();
        told.refusal = Some(Refused { status, reason: refusal.label().to_owned(), why });
    }
    told
}

fn walk(
    config: &Config,
    listener: &Listener,
    http: &Http,
    question: &Question,
    told: &mut Explanation,
) -> Result<(), (Refusal, String)> {
    let malformed = |why: Malformed| (Refusal::Malformed, why.to_string());
    let mut head = request(question).map_err(|why| (Refusal::Malformed, why))?;
    let claims = config.gateway.jwt.iter().flat_map(|jwt| &jwt.claims_to_headers);
    let identity: Vec<HeaderName> = claims.map(|(_, name)| name.clone()).collect();
    let canonical = canonical(&head, listener.tls.is_some(), &identity).map_err(malformed)?;
    told.request = format!("{} {} {}", head.method, canonical.host(), canonical.path_and_query());
    let headers = head.headers.map();
    let client = forwarded::client(question.client, headers, &http.trusted_proxies);
    told.client = client.address.to_string();
    told.through = client.is_trusted.then(|| question.client.to_string());

    // What only tokens may say does not choose a route.
    for name in &identity {
        headers.remove(name);
    }
    let table = Table::build(&config.gateway, &listener.name);
    let asked = Asked { method: &head.method, canonical: &canonical, headers, client: client.address };
    let found = table.find(&asked).ok_or((Refusal::NoRoute, "no route fits".to_owned()))?;
    let route = found.route();
    told.route = Some(route.name.clone());
    told.policies = policies(&route.policies);
    let policies = &route.policies;
    if contains(&policies.deny, client.address) {
        return Err((Refusal::Denied, "`deny` has this address".to_owned()));
    }
    if !policies.allow.is_empty() && !contains(&policies.allow, client.address) {
        return Err((Refusal::Denied, "`allow` does not have this address".to_owned()));
    }
    if let Some(cors) = policies.cors.as_ref().filter(|_| cors::is_preflight(&head.method, headers)) {
        told.answer = Some(preflight(&Cors::new(cors).preflight(headers)));
        return Ok(());
    }
    match &route.action {
        Action::Reply { status, .. } => told.answer = Some(format!("{}", status.as_u16())),
        Action::Redirect { status, to } => {
            let location = found.location(to, &canonical);
            told.answer = Some(format!("{} {}", status.as_u16(), String::from_utf8_lossy(location.as_bytes())));
        }
        Action::Forward(pools) => {
            forwarded::strip_request(&mut head.headers, &identity).map_err(malformed)?;
            told.path = Some(found.forwarded(&canonical).map_err(malformed)?.to_string());
            told.pools = pools.iter().map(|(name, weight)| Weighted { name: name.clone(), weight: *weight }).collect();
        }
    }
    Ok(())
}

/// What this answer to a browser's question says.
fn preflight(answer: &HeaderMap) -> String {
    let said = match answer.get(ACCESS_CONTROL_ALLOW_METHODS) {
        Some(methods) => format!("pages of this origin may send {}", String::from_utf8_lossy(methods.as_bytes())),
        None => "pages of this origin may not ask".to_owned(),
    };
    format!("204 to a browser's question: {said}")
}

/// The head of the request, as HTTP/1.1 would bring it.
fn request(question: &Question) -> Result<Head, String> {
    let uri =
        Uri::try_from(&question.url.path_and_query).map_err(|error| format!("its URI cannot be read: {error}"))?;
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut()) = (question.method.clone(), uri);
    for (name, value) in &question.headers {
        request.headers_mut().append(name, value.clone());
    }
    if !request.headers().contains_key(http::header::HOST) {
        let host = HeaderValue::try_from(&question.url.authority).map_err(|_| "its host cannot be read".to_owned())?;
        request.headers_mut().insert(http::header::HOST, host);
    }
    Ok(request.into_parts().0.into())
}

/// What is asked, in the order in which it is asked.
fn policies(policies: &Policies) -> Vec<String> {
    let Policies { allow, deny, cors, auth, is_meant_open: _, rate_limits, body } = policies;
    let mut words = Vec::new();
    let mut word = |is_set: bool, word: &str| words.extend(is_set.then(|| word.to_owned()));
    word(!deny.is_empty(), "deny");
    word(!allow.is_empty(), "allow");
    word(cors.is_some(), "cors");
    let by_consumer = |limit: &&RateLimit| limit.key.contains(&LimitKey::Consumer);
    words.extend(rate_limits.iter().filter(|limit| !by_consumer(limit)).map(rate_limit));
    words.push(match auth {
        None => "no auth".to_owned(),
        Some(auth) => {
            let jwt = auth.jwt.as_ref().map(|jwt| format!("jwt {}", jwt.name));
            let api_key = auth.api_key.as_ref().map(|key| format!("api_key in {}", key.header));
            let ways = [jwt, api_key, auth.basic.as_ref().map(|_| "basic".to_owned())];
            format!("auth {}", ways.into_iter().flatten().collect::<Vec<_>>().join(" or "))
        }
    });
    words.extend(rate_limits.iter().filter(by_consumer).map(rate_limit));
    words.push(format!("body {}", format_size(*body)));
    words
}

fn rate_limit(limit: &RateLimit) -> String {
    let keys = limit.key.iter().map(|key| match key {
        LimitKey::ClientIp => "client_ip",
        LimitKey::Consumer => "consumer",
        LimitKey::Route => "route",
        LimitKey::Header(name) => name.as_str(),
    });
    let per = format_duration(limit.per);
    format!("limit {}/{per} by {}", limit.limit, keys.collect::<Vec<_>>().join("+"))
}

/// For people.
fn words(told: &Explanation) -> String {
    let mut out = String::new();
    let mut line = |name: &str, text: &str| {
        let _ = writeln!(out, "{name:<10}{text}");
    };
    line("listener", &told.listener);
    if !told.request.is_empty() {
        line("request", &told.request);
        match &told.through {
            Some(proxy) => line("client", &format!("{} (through {proxy})", told.client)),
            None => line("client", &told.client),
        }
    }
    if let Some(route) = &told.route {
        line("route", route);
        line("policies", &told.policies.join("; "));
    }
    if !told.pools.is_empty() {
        let is_alone = told.pools.len() == 1;
        let pool = |pool: &Weighted| match is_alone {
            true => pool.name.clone(),
            false => format!("{} (weight {})", pool.name, pool.weight),
        };
        line("pool", &told.pools.iter().map(pool).collect::<Vec<_>>().join(", "));
    }
    let rest = [("path", &told.path), ("answer", &told.answer)];
    rest.iter().filter_map(|(name, text)| Some((name, text.as_ref()?))).for_each(|(name, text)| line(name, text));
    if let Some(Refused { status, reason, why }) = &told.refusal {
        let status = if *status == 0 { String::new() } else { format!("{status} ") };
        line("refused", &format!("{status}{reason}: {why}"));
    }
    out
}
