//! Probes against small backends in this process that speak each protocol, well or badly.

use std::num::NonZeroU32;
use std::sync::Arc;

use proptest::prelude::*;
use tokio::io::{DuplexStream, duplex, split};
use tokio::net::{TcpListener, UdpSocket, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::super::now;
use super::*;
use crate::config::{Balance, Connect, Health, Percent, Pool, Queue, Step};
use crate::id::BackendId;

/// Sizes of the pipe between probe and backend: with 1, every byte comes alone.
const PIECES: [usize; 4] = [1, 3, 7, 4096];

pub(in super::super) fn pool(kind: Check) -> Pool {
    Pool {
        name: "db".into(),
        balance: Balance::RoundRobin,
        backends: Vec::new(),
        connect: Connect { timeout: Duration::from_secs(3), attempts: NonZeroU32::MIN, user_timeout: None },
        queue: Queue { max: 0, timeout: Duration::from_secs(5) },
        health: Health {
            kind,
            port: None,
            interval: Duration::from_millis(20),
            fast_interval: Duration::from_millis(10),
            timeout: Duration::from_secs(10),
            rise: NonZeroU32::new(2).unwrap(),
            fall: NonZeroU32::new(3).unwrap(),
            jitter: Percent(10),
            initial_up: true,
        },
        passive: None,
        panic_below: Percent(0),
        on_down: None,
        slow_start: Duration::ZERO,
        send_proxy: SendProxy::Off,
        source: None,
    }
}

pub(in super::super) fn target(pool: Pool, endpoint: Endpoint) -> Target {
    Target { backend: BackendId(7), name: "db1".into(), endpoint, pool: Arc::new(pool) }
}

async fn ask(target: &Target) -> Result<(), String> {
    let (result, stream) = probe(target, now()).await;
    if let Some(stream) = stream {
        leave(stream).await;
    }
    result.map_err(|failure| failure.line())
}

/// A backend that waits for as many bytes as each turn wants and then says its line; gives all that it heard.
fn backend(piece: usize, turns: Vec<(usize, Vec<u8>)>) -> (DuplexStream, JoinHandle<Vec<u8>>) {
    let (near, far) = duplex(piece);
    let (mut reading, mut writing) = split(far);
    let (count, mut counted) = watch::channel(0);
    let hearing = async move {
        let (mut heard, mut byte) = (Vec::new(), [0]);
        while reading.read_exact(&mut byte).await.is_ok() {
            heard.push(byte[0]);
            count.send_replace(heard.len());
        }
        heard
    };
    let saying = async move {
        let mut until = 0;
        for (wants, says) in turns {
            until += wants;
            if counted.wait_for(|&count| count >= until).await.is_err() || writing.write_all(&says).await.is_err() {
                return;
            }
        }
        let _ = writing.shutdown().await;
    };
    (near, tokio::spawn(async move { tokio::join!(hearing, saying).0 }))
}

/// A backend that says this, whatever it hears, again and again if told so.
fn stubborn(says: Vec<u8>, for_ever: bool) -> DuplexStream {
    let (near, far) = duplex(256);
    let (mut reading, mut writing) = split(far);
    tokio::spawn(async move {
        while writing.write_all(&says).await.is_ok() && for_ever {}
        let _ = writing.shutdown().await;
    });
    tokio::spawn(async move { tokio::io::copy(&mut reading, &mut tokio::io::sink()).await });
    near
}

fn reason(answer: Result<(), Failure>) -> String {
    answer.expect_err("the check fails").line()
}

fn pg(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], ((body.len() + 4) as u32).to_be_bytes().as_slice(), body].concat()
}

fn pg_error(code: &str, message: &str) -> Vec<u8> {
    pg(b'E', format!("SFATAL\0VFATAL\0C{code}\0M{message}\0\0").as_bytes())
}

const PG_STARTUP: &[u8] = b"\0\0\0\x3f\0\x03\0\0user\0eve\0database\0shop\0application_name\0evener-health\0\0";

async fn ask_postgres(piece: usize, says: Vec<u8>) -> (Result<(), Failure>, Vec<u8>) {
    let (mut near, heard) = backend(piece, vec![(PG_STARTUP.len(), says)]);
    let answer = postgres::probe(&mut near, "eve", "shop").await;
    drop(near);
    (answer, heard.await.unwrap())
}

#[tokio::test]
async fn postgres_that_wants_no_password_is_up_and_is_left_with_terminate() {
    for piece in PIECES {
        let says = [
            pg(b'R', &[0; 4]),
            pg(b'S', b"server_version\x0015.4\0"),
            pg(b'K', &[1; 8]),
            pg(b'N', b"SNOTICE\0\0"),
            pg(b'Z', b"I"),
        ];
        let (answer, heard) = ask_postgres(piece, says.concat()).await;
        assert_eq!(answer, Ok(()));
        assert_eq!(heard, [PG_STARTUP, b"X\0\0\0\x04"].concat());
    }
}

#[tokio::test]
async fn postgres_that_wants_a_password_is_up_and_is_told_nothing_more() {
    for piece in PIECES {
        for request in [b"\0\0\0\x05salt".as_slice(), b"\0\0\0\x0aSCRAM-SHA-256\0\0", b"\0\0\0\x03"] {
            let (answer, heard) = ask_postgres(piece, pg(b'R', request)).await;
            assert_eq!(answer, Ok(()));
            assert_eq!(heard, PG_STARTUP);
        }
    }
}

#[tokio::test]
async fn postgres_is_down_when_it_can_take_nobody_and_up_when_it_refuses_us() {
    for piece in PIECES {
        for (code, message) in [
            ("57P03", "the database system is starting up"),
            ("53300", "sorry, too many clients already"),
            ("XX000", "oops"),
        ] {
            let (answer, _) = ask_postgres(piece, pg_error(code, message)).await;
            assert_eq!(reason(answer), format!("FATAL: {message} ({code})"));
            let late = [pg(b'R', &[0; 4]), pg_error(code, message)].concat();
            assert!(ask_postgres(piece, late).await.0.is_err(), "also after AuthenticationOk");
        }
        for code in ["28000", "28P01", "3D000"] {
            assert_eq!(ask_postgres(piece, pg_error(code, "no")).await.0, Ok(()));
        }
    }
}

#[tokio::test]
async fn what_is_no_postgres_is_down() {
    let no_length = reason(ask_postgres(4096, b"Ecould not fork new process\n\0".to_vec()).await.0);
    assert_eq!(no_length, "not a PostgreSQL answer: Ecould not fork new process\\n\\0");
    assert!(reason(ask_postgres(1, b"HTTP/1.1 400 Bad\r\n".to_vec()).await.0).starts_with("not a PostgreSQL"));
    assert_eq!(reason(ask_postgres(1, Vec::new()).await.0), "it closed the connection before its answer");
    assert_eq!(
        reason(ask_postgres(1, b"R\0\0".to_vec()).await.0),
        "it closed the connection in the middle of its answer"
    );
    let mut endless = stubborn(pg(b'S', b"a\0b\0"), true);
    assert_eq!(reason(postgres::probe(&mut endless, "eve", "shop").await), "its answer is longer than 64 KiB");
}

fn my(sequence: u8, body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes()[..3], &[sequence], body].concat()
}

fn my_greeting(plugin: Option<&str>) -> Vec<u8> {
    let capabilities = CLIENT_CAPABILITIES | if plugin.is_some() { 0x0008_0000 } else { 0 };
    let [low1, low2, high1, high2] = capabilities.to_le_bytes();
    let mut body = b"\x0a8.0.36\0\x01\0\0\0nonce678\0".to_vec();
    body.extend([low1, low2, 33, 2, 0, high1, high2, if plugin.is_some() { 21 } else { 0 }]);
    body.extend([0; 10]);
    body.extend(b"nonce9012345\0");
    if let Some(plugin) = plugin {
        body.extend(plugin.bytes());
        body.push(0);
    }
    my(0, &body)
}

const CLIENT_CAPABILITIES: u32 = 0x0000_8200;

fn my_error(sequence: u8, code: u16, message: &str) -> Vec<u8> {
    my(sequence, &[&[0xff], code.to_le_bytes().as_slice(), b"#08004", message.as_bytes()].concat())
}

/// Length of the log-in of user "eve".
const MY_LOGIN: usize = 4 + 32 + 4 + 1 + "mysql_native_password\0".len();

#[tokio::test]
async fn mysql_that_lets_us_in_is_up_and_is_left_with_quit() {
    for piece in PIECES {
        let turns = vec![(0, my_greeting(Some("mysql_native_password"))), (MY_LOGIN, my(2, &[0, 0, 0, 2, 0, 0, 0]))];
        let (mut near, heard) = backend(piece, turns);
        assert_eq!(mysql::probe(&mut near, "eve").await, Ok(()));
        drop(near);
        let heard = heard.await.unwrap();
        assert_eq!(heard[..9], [MY_LOGIN as u8 - 4, 0, 0, 1, 0x00, 0x82, 0x08, 0x00, 0x00]);
        assert_eq!(&heard[36..MY_LOGIN], b"eve\0\0mysql_native_password\0");
        assert_eq!(heard[MY_LOGIN..], [1, 0, 0, 0, 1]);
    }
}

#[tokio::test]
async fn mysql_that_knows_no_plugins_is_answered_without_one() {
    let (mut near, heard) = backend(3, vec![(0, my_greeting(None)), (41, my(2, &[0]))]);
    assert_eq!(mysql::probe(&mut near, "eve").await, Ok(()));
    drop(near);
    assert_eq!(heard.await.unwrap()[36..], *b"eve\0\0\x01\0\0\0\x01");
}

#[tokio::test]
async fn mysql_may_ask_for_another_plugin_and_gets_no_password_in_its_shape() {
    for (plugin, shape) in [("mysql_native_password", vec![]), ("client_ed25519", vec![0; 64])] {
        let switch = my(2, format!("\u{0}{plugin}\0nonce\0").as_bytes());
        let switch = switch.iter().enumerate().map(|(i, &b)| if i == 4 { 0xfe } else { b }).collect();
        let turns = vec![
            (0, my_greeting(Some("caching_sha2_password"))),
            (MY_LOGIN + 1, switch),
            (4 + shape.len(), my_error(4, 1045, "Access denied")),
        ];
        let (mut near, heard) = backend(1, turns);
        assert_eq!(mysql::probe(&mut near, "eve").await, Ok(()), "refusing us is being alive");
        drop(near);
        assert_eq!(heard.await.unwrap()[MY_LOGIN + 1..], my(3, &shape));
    }
}

#[tokio::test]
async fn mysql_is_down_when_it_can_take_nobody() {
    for piece in PIECES {
        let blocked = my(0, b"\xff\x69\x04Host '10.0.0.1' is blocked");
        let (mut near, _heard) = backend(piece, vec![(0, blocked)]);
        assert_eq!(reason(mysql::probe(&mut near, "eve").await), "Host '10.0.0.1' is blocked (1129)");
        for (code, is_up) in [(1040, false), (1053, false), (1045, true), (1698, true)] {
            let turns = vec![(0, my_greeting(Some("mysql_native_password"))), (MY_LOGIN, my_error(2, code, "no"))];
            let (mut near, _heard) = backend(piece, turns);
            assert_eq!(mysql::probe(&mut near, "eve").await.is_ok(), is_up, "{code}");
        }
    }
}

#[tokio::test]
async fn what_is_no_mysql_is_down() {
    let greeting = my_greeting(Some("mysql_native_password"));
    for length in 5..greeting.len() - 30 {
        let mut near = stubborn(my(0, &greeting[4..length]), false);
        assert!(mysql::probe(&mut near, "eve").await.is_err(), "a greeting cut at {length}");
    }
    let mut near = stubborn(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec(), false);
    assert!(reason(mysql::probe(&mut near, "eve").await).starts_with("not a MySQL answer: SSH-2.0"));
    let mut near = stubborn([greeting, my(2, &[1]).repeat(100_000)].concat(), true);
    assert_eq!(reason(mysql::probe(&mut near, "eve").await), "its answer is longer than 64 KiB");
}

#[tokio::test]
async fn redis_is_up_unless_it_sends_clients_away() {
    for piece in PIECES {
        for (says, verdict) in [
            ("+PONG\r\n", Ok(())),
            ("-NOAUTH Authentication required.\r\n", Ok(())),
            ("-NOPERM this user has no permissions\r\n", Ok(())),
            ("-LOADING Redis is loading\r\n", Err("it answers PING with -LOADING Redis is loading")),
            ("-MASTERDOWN Link is down\r\n", Err("it answers PING with -MASTERDOWN Link is down")),
            ("-ERR max number of clients reached\r\n", Err("it answers PING with -ERR max number of clients reached")),
            ("HTTP/1.1 400 Bad Request\r\n", Err("not a Redis answer: HTTP/1.1 400 Bad Request")),
            ("+PONG", Err("it closed the connection in the middle of its answer")),
        ] {
            let (mut near, heard) = backend(piece, vec![(14, says.into())]);
            let answer = redis::probe(&mut near).await;
            drop(near);
            assert_eq!(answer.clone().map_err(|f| f.line()), verdict.map_err(String::from));
            let goodbye = if answer.is_ok() { "*1\r\n$4\r\nQUIT\r\n" } else { "" };
            assert_eq!(heard.await.unwrap(), format!("*1\r\n$4\r\nPING\r\n{goodbye}").into_bytes());
        }
    }
    assert_eq!(reason(redis::probe(&mut stubborn(b"+".to_vec(), true)).await), "its answer is longer than 64 KiB");
}

#[tokio::test]
async fn a_script_goes_on_behind_each_match() {
    let steps = |last: &str| {
        vec![
            Step::Expect(b"220 ".to_vec()),
            Step::Send(b"EHLO\r\n".to_vec()),
            Step::Expect(b"250".to_vec()),
            Step::Expect(last.as_bytes().to_vec()),
            Step::Send(b"QUIT\r\n".to_vec()),
        ]
    };
    for piece in PIECES {
        let turns = vec![(0, b"220 mail\r\n".to_vec()), (6, b"250-one\r\n250 two\r\n".to_vec())];
        let (mut near, heard) = backend(piece, turns.clone());
        assert_eq!(script::probe(&mut near, &steps("250")).await, Ok(()));
        drop(near);
        assert_eq!(heard.await.unwrap(), b"EHLO\r\nQUIT\r\n");
        let (mut near, _heard) = backend(piece, turns);
        assert_eq!(
            reason(script::probe(&mut near, &steps("220 ")).await),
            "step 4 (expect): it closed the connection in the middle of its answer; \
             expected \"220 \", got \"-one\\r\\n250 two\\r\\n\"",
            "what stood before a match is gone"
        );
    }
}

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

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever a backend says, each check ends with a verdict.
    #[test]
    fn no_answer_breaks_a_check(
        start in prop::sample::select(vec![&b""[..], b"R\0\0\0\x08\0\0\0\0", b"E\0\0\0\x20", b"\x50\0\0\0\x0a8.0\0", b"HTTP/1.1 200 OK\r\n", b"+"]),
        rest in prop::collection::vec(any::<u8>(), 0..200), for_ever: bool,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let says = [start, &rest, b"\n"].concat();
        runtime.block_on(async {
            let near = || stubborn(says.clone(), for_ever);
            let _ = postgres::probe(&mut near(), "u", "d").await;
            let _ = mysql::probe(&mut near(), "u").await;
            let _ = redis::probe(&mut near()).await;
            let _ = script::probe(&mut near(), &[Step::Expect(b"no such thing in there".to_vec())]).await;
            let _ = http::probe(&mut near(), "/", "h", &[200..=299], Some("no such thing in there")).await;
        });
    }
}

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
    let mut pool = pool(Check::Redis);
    pool.health.timeout = Duration::from_millis(30);
    assert_eq!(ask(&target(pool, endpoint)).await, Err("connected, but no answer within 30ms".into()));
}

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

fn within(millis: u64, kind: Check) -> Pool {
    let mut pool = pool(kind);
    pool.health.timeout = Duration::from_millis(millis);
    pool
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
        (SendProxy::V2, false, PROXY_V2_LOCAL),
        (SendProxy::V2First, false, PROXY_V2_LOCAL),
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

fn shell(script: &str) -> Check {
    Check::Command { run: ["sh", "-c", script].map(String::from).to_vec() }
}

#[tokio::test]
async fn a_command_finds_its_backend_in_the_environment_and_decides_by_status() {
    let ip = Endpoint::Ip("[::1]:5432".parse().unwrap());
    let wanted = "echo $EVENER_POOL $EVENER_BACKEND $EVENER_ADDRESS $EVENER_HOST $EVENER_PORT; exit 3";
    assert_eq!(
        ask(&target(pool(shell(wanted)), ip.clone())).await,
        Err("exit status: 3: db db1 [::1]:5432 ::1 5432".into())
    );
    let unix = Endpoint::Unix("/run/x".into());
    let answer =
        ask(&target(pool(shell("echo \"$EVENER_ADDRESS,$EVENER_HOST,$EVENER_PORT\" >&2; exit 1")), unix)).await;
    assert_eq!(answer, Err("exit status: 1: unix:/run/x,/run/x,".into()));
    assert_eq!(ask(&target(pool(shell("cat; exit 0")), ip.clone())).await, Ok(()));
    assert_eq!(ask(&target(pool(shell("kill -9 $$")), ip.clone())).await, Err("signal: 9 (SIGKILL)".into()));
    let missing = Check::Command { run: vec!["/no/such/program".into()] };
    let answer = ask(&target(pool(missing), ip)).await;
    assert_eq!(answer, Err("cannot start /no/such/program: No such file or directory".into()));
}

#[tokio::test]
async fn a_command_may_write_without_end_and_leave_children_behind() {
    let ip = Endpoint::Ip("127.0.0.1:1".parse().unwrap());
    let much = shell("yes | head -c 3000000; printf 'a\\033[31mb'; exit 1");
    assert_eq!(ask(&target(pool(much), ip.clone())).await, Err("exit status: 1: a\\u{1b}[31mb".into()));
    let started = now();
    assert_eq!(ask(&target(pool(shell("sleep 5 & echo gone; exit 1")), ip)).await, Err("exit status: 1: gone".into()));
    assert!(now() - started < Duration::from_secs(4), "the child that holds the output open is not waited for");
}

#[tokio::test]
async fn a_command_is_killed_at_the_time_out_and_leaves_no_zombie() {
    let process = pid_after_time_out("echo $$ > PID; exec sleep 1000").await;
    wait_until(|| !process.exists()).await;
}

#[tokio::test]
async fn what_a_command_has_started_is_killed_with_it() {
    let process = pid_after_time_out("sleep 1000 & echo $! > PID; wait").await;
    // Its parent is gone too: it may stay a zombie until somebody collects it.
    let is_dead = || std::fs::read_to_string(process.join("stat")).map_or(true, |stat| stat.contains(") Z "));
    wait_until(is_dead).await;
}

/// Lets a check run into its time-out; the folder in /proc of the process whose number it has written to PID.
async fn pid_after_time_out(script: &str) -> std::path::PathBuf {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pid");
    let mut pool = pool(shell(&script.replace("PID", &file.display().to_string())));
    pool.health.timeout = Duration::from_millis(300);
    let target = target(pool, Endpoint::Ip("127.0.0.1:1".parse().unwrap()));
    assert_eq!(ask(&target).await, Err("the program has not ended within 300ms".into()));
    Path::new("/proc").join(std::fs::read_to_string(&file).unwrap().trim())
}

async fn wait_until(mut is_so: impl FnMut() -> bool) {
    let waiting = timeout(Duration::from_secs(10), async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waiting.await.is_ok(), "it has not come");
}

#[test]
fn reasons_are_one_short_line_without_control_bytes() {
    let failure = Failure::new("a\r\nb\u{1b}[0m \"c\" 'd' \\e ü \u{202e}\n");
    assert_eq!(failure.line(), "a\\r\\nb\\u{1b}[0m \"c\" 'd' \\e ü \\u{202e}");
    let long = Failure::new("ü".repeat(1000)).line();
    assert_eq!(long, "ü".repeat(200) + "…");
}
