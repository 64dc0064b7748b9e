//! Tests: datagrams, with real sockets.

use tokio::net::UdpSocket;

use super::*;

fn udp(send: &[u8], expect: Option<&[u8]>) -> Check {
    Check::Udp { send: send.to_vec(), expect: expect.map(<[u8]>::to_vec) }
}

/// A backend that answers each datagram with these; gives the first one that it hears, and from where.
async fn udp_backend(address: &str, says: &[&[u8]]) -> (Endpoint, JoinHandle<(Vec<u8>, SocketAddr)>) {
    let socket = UdpSocket::bind(address).await.unwrap();
    let endpoint = Endpoint::Ip(socket.local_addr().unwrap());
    let says: Vec<Vec<u8>> = says.iter().map(|says| says.to_vec()).collect();
    let hearing = async move {
        let mut buffer = vec![0; 65_536];
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        for says in says {
            socket.send_to(&says, client).await.unwrap();
        }
        (buffer[..length].to_vec(), client)
    };
    (endpoint, tokio::spawn(hearing))
}

#[tokio::test]
async fn a_udp_backend_that_answers_is_up_at_once_and_hears_the_bytes_of_the_file() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        for (send, expect, says) in [
            (&b""[..], None, &b""[..]),
            (b"", None, b"whatever"),
            (b"\x12\x34\x01", Some(&b"\x12\x34"[..]), b"\x12\x34\x81\x80"),
            (b"status", Some(b"ready"), b"it is ready"),
        ] {
            let (endpoint, heard) = udp_backend(address, &[says]).await;
            let long = target(pool(udp(send, expect)), endpoint);
            let started = now();
            assert_eq!(ask(&long).await, Ok(()));
            assert!(now() - started < long.pool.health.timeout);
            assert_eq!(heard.await.unwrap().0, send);
        }
    }
}

#[tokio::test]
async fn a_udp_port_at_which_nobody_listens_is_down() {
    for expect in [None, Some(&b"ready"[..])] {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let closed = UdpSocket::bind(address).await.unwrap().local_addr().unwrap();
            let answer = ask(&target(pool(udp(b"x", expect)), Endpoint::Ip(closed))).await;
            assert_eq!(answer, Err("Connection refused".into()));
        }
    }
}

#[tokio::test]
async fn a_silent_udp_backend_is_up_at_the_time_out_unless_an_answer_is_expected() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let silent = Endpoint::Ip(socket.local_addr().unwrap());
    let started = now();
    assert_eq!(ask(&target(within(30, udp(b"", None)), silent.clone())).await, Ok(()));
    assert!(now() - started >= Duration::from_millis(30));
    let answer = ask(&target(within(30, udp(b"", Some(b"ready"))), silent)).await;
    assert_eq!(answer, Err("no answer within 30ms".into()));
}

#[tokio::test]
async fn udp_answers_without_the_bytes_are_passed_over() {
    let (endpoint, _heard) = udp_backend("127.0.0.1:0", &[b"", b"late: rea", b"dy", b"ready"]).await;
    assert_eq!(ask(&target(pool(udp(b"x", Some(b"ready"))), endpoint)).await, Ok(()));
    let (endpoint, _heard) = udp_backend("127.0.0.1:0", &[b"loading", b"\x12\x34\x81\x82"]).await;
    let asked = target(within(100, udp(b"x", Some(b"\x12\x34\x81\x80"))), endpoint);
    let why = "an answer came, but without \"hex:12348180\"; got \"hex:12348182\"";
    assert_eq!(ask(&asked).await, Err(why.into()));
}

#[tokio::test]
async fn a_flood_of_udp_answers_ends_the_check_before_its_time_out() {
    let (endpoint, _heard) = udp_backend("127.0.0.1:0", &[&b"no"[..]; 64]).await;
    let why = "an answer came, but without \"ready\"; got \"no\"";
    assert_eq!(ask(&target(pool(udp(b"x", Some(b"ready"))), endpoint)).await, Err(why.into()));
}

#[tokio::test]
async fn a_udp_check_is_not_answered_by_others() {
    let backend = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let asked = target(within(100, udp(b"x", Some(b"ready"))), Endpoint::Ip(backend.local_addr().unwrap()));
    let (answer, ()) = tokio::join!(ask(&asked), async {
        let (_, client) = backend.recv_from(&mut [0; 8]).await.unwrap();
        let foreign = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        foreign.send_to(b"ready", client).await.unwrap();
    });
    assert_eq!(answer, Err("no answer within 100ms".into()));
}

#[tokio::test]
async fn a_udp_check_says_in_a_proxy_header_that_it_is_one() {
    for (version, port_of_its_own, header) in [
        (SendProxy::V2, false, V2_LOCAL),
        (SendProxy::V2First, false, V2_LOCAL),
        (SendProxy::V2, true, b""),
        (SendProxy::V1, false, b""),
        (SendProxy::Off, false, b""),
    ] {
        let (endpoint, heard) = udp_backend("127.0.0.1:0", &[b"ready"]).await;
        let Endpoint::Ip(address) = endpoint else { unreachable!() };
        let mut pool = pool(udp(b"x", Some(b"ready")));
        pool.send_proxy = version;
        pool.source = Some("127.0.0.2".parse().unwrap());
        pool.health.port = port_of_its_own.then_some(address.port());
        let given = if port_of_its_own { "127.0.0.1:1".parse().unwrap() } else { address };
        assert_eq!(ask(&target(pool, Endpoint::Ip(given))).await, Ok(()));
        let (heard, client) = heard.await.unwrap();
        assert_eq!(heard, [header, b"x"].concat());
        assert_eq!(client.ip().to_string(), "127.0.0.2");
    }
}

#[tokio::test]
async fn a_udp_check_that_this_host_cannot_make_says_nothing_about_the_backend() {
    let mut pool = pool(udp(b"", None));
    pool.source = Some("192.0.2.99".parse().unwrap());
    let failure =
        probe(&target(pool.clone(), Endpoint::Ip("127.0.0.1:9".parse().unwrap())), now()).await.0.unwrap_err();
    assert!(failure.is_ours, "{}", failure.line());
    pool.source = None;
    let answer = ask(&target(pool, Endpoint::Unix("/run/x".into()))).await;
    assert_eq!(answer, Err("a unix socket carries no UDP".into()));
}
