//! Tests: how a backend is connected to and left, with a real socket; the check of that alone, kind tcp.

use tokio::net::{TcpListener, UnixListener};

use super::*;
use crate::config::Step;

async fn listener() -> (TcpListener, Endpoint) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = Endpoint::Ip(listener.local_addr().unwrap());
    (listener, endpoint)
}

#[tokio::test]
async fn a_tcp_check_is_not_seen_by_the_backend() {
    let (listener, endpoint) = listener().await;
    let target = target(pool(Check::Tcp), endpoint);
    for _ in 0..5 {
        assert_eq!(ask(&target).await, Ok(()));
    }
    let Endpoint::Ip(address) = target.endpoint else { unreachable!() };
    let client = tokio::net::TcpStream::connect(address).await.unwrap();
    let (_, first) = listener.accept().await.unwrap();
    assert_eq!(first, client.local_addr().unwrap(), "the first connection in the backlog is the client's");
}

#[tokio::test]
async fn a_closed_port_is_down() {
    let (listener, endpoint) = listener().await;
    drop(listener);
    assert_eq!(ask(&target(pool(Check::Tcp), endpoint)).await, Err("Connection refused".into()));
}

#[tokio::test]
async fn the_proxy_header_comes_first_and_leaving_is_an_end_without_a_reset() {
    for (version, header) in [(SendProxy::V1, "PROXY UNKNOWN\r\n"), (SendProxy::V2, "\r\n\r\n\0\r\nQUIT\n\x20\0\0\0")] {
        for kind in [Check::Tcp, Check::Script { steps: vec![Step::Send(b"hello".to_vec())] }] {
            let (listener, endpoint) = listener().await;
            let said = if kind == Check::Tcp { "" } else { "hello" };
            let mut pool = pool(kind);
            pool.send_proxy = version;
            let target = target(pool, endpoint);
            let (answer, heard) = tokio::join!(ask(&target), async {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut heard = Vec::new();
                stream.write_all(b"a word that nobody waits for").await.unwrap();
                stream.read_to_end(&mut heard).await.expect("no reset");
                heard
            });
            assert_eq!(answer, Ok(()));
            assert_eq!(heard, format!("{header}{said}").into_bytes());
        }
    }
}

#[tokio::test]
async fn a_port_of_its_own_replaces_the_port_and_takes_no_proxy_header() {
    let (listener, endpoint) = listener().await;
    let Endpoint::Ip(address) = endpoint else { unreachable!() };
    let mut pool = pool(Check::Redis);
    pool.health.port = Some(address.port());
    pool.send_proxy = SendProxy::V2;
    pool.source = Some("127.0.0.2".parse().unwrap());
    let target = target(pool, Endpoint::Ip("127.0.0.1:1".parse().unwrap()));
    let (answer, ()) = tokio::join!(ask(&target), async {
        let (mut stream, client) = listener.accept().await.unwrap();
        assert_eq!(client.ip().to_string(), "127.0.0.2");
        let mut first = [0; 14];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"*1\r\n$4\r\nPING\r\n");
        stream.write_all(b"+PONG\r\n").await.unwrap();
    });
    assert_eq!(answer, Ok(()));
}

#[tokio::test]
async fn a_source_that_this_host_has_not_says_nothing_about_the_backend() {
    let (_listener, endpoint) = listener().await;
    let mut pool = pool(Check::Tcp);
    pool.source = Some("192.0.2.99".parse().unwrap());
    let failure = probe(&target(pool, endpoint), now()).await.0.unwrap_err();
    assert!(failure.is_ours, "{}", failure.line());
}

#[tokio::test]
async fn a_unix_socket_is_checked_like_an_address() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let listener = UnixListener::bind(&path).unwrap();
    let redis = target(pool(Check::Redis), Endpoint::Unix(path.clone()));
    let (answer, ()) = tokio::join!(ask(&redis), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_exact(&mut [0; 14]).await.unwrap();
        stream.write_all(b"+PONG\r\n").await.unwrap();
    });
    assert_eq!(answer, Ok(()));
    let tcp = target(pool(Check::Tcp), Endpoint::Unix(path));
    assert_eq!(ask(&tcp).await, Ok(()));
    drop(listener);
    assert_eq!(ask(&tcp).await, Err("Connection refused".into()));
}

#[tokio::test]
async fn silence_is_down_at_the_time_out() {
    let (_listener, endpoint) = listener().await;
    assert_eq!(
        ask(&target(within(30, Check::Redis), endpoint)).await,
        Err("connected, but no answer within 30ms".into())
    );
}
