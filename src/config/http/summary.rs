//! What a route matches, what becomes of its requests and what it asks of clients, in words for `check`.

use super::{Action, Gateway, HostPattern, LimitKey, Match, PathPattern, Policies, RateLimit, format_size};
use crate::config::units::format_duration;

impl Gateway {
    /// Of each route its name, what it matches, where that goes, and what is asked, in the order in which it is asked.
    pub fn summary(&self) -> Vec<[String; 4]> {
        let row = |route: &super::Route| {
            [route.name.clone(), matched(&route.matches), action(&route.action), asked(&route.policies)]
        };
        self.routes.iter().map(|route| row(route)).collect()
    }
}

fn matched(matches: &Match) -> String {
    let Match { hosts, path, methods, headers, query, user_agent, client_ip } = matches;
    let host = match hosts.as_slice() {
        [] => "*".to_owned(),
        [HostPattern::Exact(name)] => name.clone(),
        [HostPattern::Wildcard(parent)] => format!("*.{parent}"),
        [_, rest @ ..] => format!("{} hosts", rest.len() + 1),
    };
    let path = match path {
        PathPattern::Any => "/*".to_owned(),
        PathPattern::Template(template) => template.clone(),
        PathPattern::Prefix(prefix) => format!("{prefix}/*"),
        PathPattern::Regex(pattern) => format!(" ~ {}", pattern.text()),
    };
    let mut text = String::new();
    if !methods.is_empty() {
        let methods: Vec<&str> = methods.iter().map(http::Method::as_str).collect();
        text = format!("{} ", methods.join("|"));
    }
    text.push_str(&host);
    text.push_str(&path);
    let more = [
        ("header", !headers.is_empty()),
        ("query", !query.is_empty()),
        ("user_agent", user_agent.is_some()),
        ("client_ip", !client_ip.is_empty()),
    ];
    for (key, _) in more.into_iter().filter(|(_, is_given)| *is_given) {
        text.push_str(&format!(" +{key}"));
    }
    text
}

fn action(action: &Action) -> String {
    match action {
        Action::Forward(pools) => pools.iter().map(|(pool, _)| pool.as_str()).collect::<Vec<_>>().join("|"),
        Action::Redirect { status, .. } => format!("redirect {}", status.as_u16()),
        Action::Reply { status, .. } => format!("reply {}", status.as_u16()),
    }
}

/// In the order in which it is asked.
fn asked(policies: &Policies) -> String {
    let Policies { allow, deny, cors, auth, is_meant_open: _, rate_limits, body } = policies;
    let mut parts = Vec::new();
    if !allow.is_empty() {
        parts.push("allow".to_owned());
    }
    if !deny.is_empty() {
        parts.push("deny".to_owned());
    }
    if cors.is_some() {
        parts.push("cors".to_owned());
    }
    let by_consumer = |limit: &&RateLimit| limit.key.contains(&LimitKey::Consumer);
    parts.extend(rate_limits.iter().filter(|limit| !by_consumer(limit)).map(rate_limit));
    match auth {
        None => parts.push("no auth".to_owned()),
        Some(auth) => {
            let ways = [
                auth.jwt.as_ref().map(|jwt| format!("jwt {}", jwt.name)),
                auth.api_key.as_ref().map(|_| "api_key".to_owned()),
                auth.basic.as_ref().map(|_| "basic".to_owned()),
            ];
            parts.push(format!("auth {}", ways.into_iter().flatten().collect::<Vec<_>>().join(" or ")));
        }
    }
    parts.extend(rate_limits.iter().filter(by_consumer).map(rate_limit));
    parts.push(format!("body {}", format_size(*body)));
    parts.join(", ")
}

fn rate_limit(limit: &RateLimit) -> String {
    let mut key: Vec<&str> = Vec::new();
    for part in &limit.key {
        key.push(match part {
            LimitKey::ClientIp => "client_ip",
            LimitKey::Consumer => "consumer",
            LimitKey::Route => "route",
            LimitKey::Header(name) => name.as_str(),
        });
    }
    format!("limit {}/{} by {}", limit.limit, format_duration(limit.per), key.join("+"))
}
