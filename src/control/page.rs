//! What the metrics' address answers: metrics for Prometheus, and a status page for people, which is one file that asks
//! for nothing but `status.json` beside it.
//!
//! Whoever reaches this address may see all of it, so it only reads, and `process.status_page = false` leaves the metrics
//! alone.

use http_body_util::Either;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::header::{REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS};
use hyper::{Method, Request as HttpRequest, Response, StatusCode};

use super::desk::{Desk, Gone, Request};
use super::http::{self, Answer};

/// The page. Its style and script stand in it; the policy names them by their hashes.
const PAGE: &str = include_str!("page.html");
/// Nothing is loaded from anywhere, nothing runs but what was built in, nobody may frame it.
const POLICY: &str = "default-src 'none'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'; \
    style-src 'sha256-tYNO1JcG/3reljTGEAAPGi+ZwzWpCV+9A0E7mksLgTg='; \
    script-src 'sha256-i5GZssuNmPw8LNCy4zHrKkhy7UpAb/syXuF8ouw4saE='";
const GUARDS: [(HeaderName, &str); 4] = [
    (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (X_FRAME_OPTIONS, "DENY"),
    (REFERRER_POLICY, "no-referrer"),
    (CACHE_CONTROL, "no-store"),
];

/// Answers one request; `has_page` = not only the metrics.
pub async fn answer(desk: Desk, has_page: bool, request: HttpRequest<Incoming>) -> Answer {
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    match request.uri().path() {
        "/metrics" if is_read => match desk.ask(Request::Metrics).await {
            Ok(text) => http::text(StatusCode::OK, text),
            Err(gone) => away(gone),
        },
        "/" if has_page && is_read => page(),
        "/status.json" if has_page && is_read => match desk.ask(Request::Overview).await {
            Ok(overview) => guarded(http::json(StatusCode::OK, &overview)),
            Err(gone) => away(gone),
        },
        "/metrics" => http::not_allowed("GET"),
        "/" | "/status.json" if has_page => http::not_allowed("GET"),
        _ => http::error(StatusCode::NOT_FOUND, "metrics are at /metrics"),
    }
}

fn away(gone: Gone) -> Answer {
    http::error(StatusCode::SERVICE_UNAVAILABLE, gone.to_string())
}

fn page() -> Answer {
    let mut answer = Response::new(Either::Left(PAGE.into()));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    answer.headers_mut().insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    guarded(answer)
}

fn guarded(mut answer: Answer) -> Answer {
    for (name, value) in GUARDS {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;

    /// The hash of what stands between these tags, as the policy has it.
    fn hash(tag: &str) -> String {
        let inner = PAGE.split(&format!("<{tag}>")).nth(1).expect("it is there");
        let inner = inner.split(&format!("</{tag}>")).next().expect("it ends");
        let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, inner.as_bytes());
        format!("'sha256-{}'", base64::engine::general_purpose::STANDARD.encode(digest))
    }

    #[test]
    fn the_policy_lets_in_the_style_and_the_script_of_the_page_and_nothing_else() {
        for tag in ["style", "script"] {
            let directive = format!("{tag}-src {}", hash(tag));
            assert!(POLICY.contains(&directive), "after a change of the page the policy needs: {directive}");
            assert_eq!(PAGE.matches(&format!("<{tag}")).count(), 1);
        }
        assert!(!POLICY.contains("unsafe") && POLICY.starts_with("default-src 'none'"));
    }

    #[test]
    fn the_page_asks_nobody_else_and_makes_no_markup_of_what_it_is_told() {
        assert!(!PAGE.replace("http://www.w3.org/2000/svg", "").contains("://"), "a namespace is no address");
        for word in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", " onclick", " onload"] {
            assert!(!PAGE.contains(word), "{word}");
        }
    }
}
