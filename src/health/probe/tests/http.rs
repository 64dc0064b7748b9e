//! Tests: HTTP.

use super::*;
use crate::health::probe::http;

async fn ask_http(piece: usize, body: Option<&str>, says: &str) -> (Result<(), Failure>, String) {
    let request = format!(
        "GET /up?x=1 HTTP/1.1\r\nhost: db\r\nuser-agent: evener/{} health\r\nconnection: close\r\n\r\n",
        env!("CARGO_PKG_VERSION")
    );
    let (mut near, heard) = backend(piece, vec![(request.len(), says.into())]);
    let answer = http::probe(&mut near, "/up?x=1", "db", &[200..=299, 401..=401], body).await;
    drop(near);
    let heard = String::from_utf8(heard.await.unwrap()).unwrap();
    assert_eq!(heard, request);
    (answer, heard)
}

#[tokio::test]
async fn http_looks_at_status_and_body() {
    for piece in PIECES {
        for (body, says, verdict) in [
            (None, "HTTP/1.1 204 No Content\r\n\r\n", Ok(())),
            (None, "HTTP/1.0 401 Go\r\n\r\nlog in", Ok(())),
            (None, "HTTP/1.1 503 Service Unavailable\r\n\r\n", Err("status 503 Service Unavailable")),
            (Some("role: primary"), "HTTP/1.1 200 OK\r\n\r\n{role: primary}", Ok(())),
            (
                Some("primary"),
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nprim\r\n3\r\nary\r\n0\r\n\r\n",
                Ok(()),
            ),
            (Some("primary"), "HTTP/1.1 200 OK\r\n\r\nreplica", Err("the body does not hold the expected text")),
        ] {
            let (answer, _) = ask_http(piece, body, says).await;
            assert_eq!(answer.map_err(|failure| failure.line()), verdict.map_err(String::from), "{says}");
        }
    }
}

#[tokio::test]
async fn what_is_no_http_is_down() {
    assert!(ask_http(1, None, "").await.0.is_err());
    assert!(ask_http(1, None, "+PONG\r\n").await.0.is_err());
    assert!(ask_http(1, None, "HTTP/1.1 2").await.0.is_err());
    let cut = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nreplica";
    assert!(ask_http(1, Some("primary"), cut).await.0.is_err());
    let head = b"HTTP/1.1 200 OK\r\n".to_vec();
    let mut near = stubborn([head.as_slice(), &b"x: y\r\n".repeat(50_000)].concat(), false);
    assert!(http::probe(&mut near, "/", "db", &[200..=200], None).await.is_err(), "an endless head");
    let mut near = stubborn([head.as_slice(), b"\r\n", &b"primar".repeat(50_000)].concat(), true);
    assert_eq!(
        reason(http::probe(&mut near, "/", "db", &[200..=200], Some("primary")).await),
        "the first 64 KiB of the body do not hold the text"
    );
}
