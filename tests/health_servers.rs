//! Checks against real PostgreSQL, Redis and MariaDB: what is up and down, and that checks leave no traces there.
//!
//! A program that is not installed is skipped with a line on stderr; EVENER_REQUIRE_SERVERS=1 makes that a failure.

#![allow(clippy::unwrap_used, reason = "a test ends where its surroundings fail")]

mod harness;
#[path = "harness/servers.rs"]
mod servers;

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use evener::config::{self, Endpoint};
use evener::health::{Checkers, Target, check};
use evener::id::BackendId;
use servers::{MariaDb, Postgres, Redis, wait_until};

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// A check as the file writes it, `kind = …`.
fn target(kind: &str, host: IpAddr, port: u16) -> Target {
    let address = SocketAddr::new(host, port);
    let times = "interval = \"20ms\", timeout = \"10s\", jitter = \"0%\", rise = 1, fall = 1";
    let file = harness::config("", &format!("health = {{ {kind}, {times} }}"), &[harness::entry("db1", address, "")]);
    let config = config::parse("db", file.as_bytes()).unwrap_or_else(|report| panic!("{report}")).config;
    Target {
        backend: BackendId(1),
        name: "db1".into(),
        endpoint: Endpoint::Ip(address),
        pool: config.pools[0].clone(),
        is_up: true,
        tls: None,
    }
}

fn tcp(host: IpAddr, port: u16) -> Target {
    target("kind = \"tcp\"", host, port)
}

fn postgres(user: &str, database: &str, port: u16) -> Target {
    target(&format!("kind = \"postgres\", user = \"{user}\", database = \"{database}\""), LOCALHOST, port)
}

fn redis(port: u16) -> Target {
    target("kind = \"redis\"", LOCALHOST, port)
}

fn mysql(user: &str, host: IpAddr, port: u16) -> Target {
    target(&format!("kind = \"mysql\", user = \"{user}\""), host, port)
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// So many checks, one after the other; the last failure.
fn ask(target: &Target, times: usize) -> Result<(), String> {
    runtime().block_on(async {
        let mut answer = Ok(());
        for _ in 0..times {
            let result = check(target).await;
            if !result.ok {
                answer = Err(result.why);
            }
        }
        answer
    })
}

/// Runs `test` on what has started, or says what is missing.
fn with<S>(name: &str, started: Option<S>, test: impl FnOnce(S)) {
    match started {
        Some(server) => test(server),
        None => harness::skip(&format!("the check of {name}"), name),
    }
}

/// How many bytes of a log there are now; [`complaints`] looks at what comes behind them.
fn length(log: &Path) -> usize {
    fs::read(log).unwrap().len()
}

fn complaints(log: &Path, since: usize, words: &[&str]) -> Vec<String> {
    let text = String::from_utf8_lossy(&fs::read(log).unwrap()[since..]).into_owned();
    text.lines().filter(|line| words.iter().any(|word| line.contains(word))).map(String::from).collect()
}

const TROUBLE: [&str; 4] = ["ERROR", "FATAL", "PANIC", "LOG:  "];

#[test]
fn postgres_logs_nothing_for_checks_with_and_without_passwords() {
    let hba = "local all all trust\nhost all open all trust\nhost all old all md5\nhost all all all scram-sha-256\n";
    with("PostgreSQL", Postgres::start(hba, ""), |server| {
        wait_until("PostgreSQL takes SQL", || server.sql("SELECT 1").is_ok());
        let roles = "CREATE ROLE open LOGIN; CREATE ROLE new LOGIN PASSWORD 'x'; \
                     SET password_encryption = 'md5'; CREATE ROLE old LOGIN PASSWORD 'x'";
        server.sql(roles).unwrap();
        let since = length(&server.log);
        for user in ["open", "old", "new", "postgres", "nobody_at_all"] {
            assert_eq!(ask(&postgres(user, "postgres", server.port), 20), Ok(()), "{user}");
        }
        assert_eq!(ask(&tcp(LOCALHOST, server.port), 20), Ok(()));
        let idle = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'evener-health'";
        wait_until("no check is left behind", || server.sql(idle).is_ok_and(|count| count == "0"));
        assert_eq!(complaints(&server.log, since, &TROUBLE), Vec::<String>::new());
    });
}

#[test]
fn postgres_that_refuses_us_is_up_and_one_that_is_full_or_in_recovery_is_down() {
    let hba = "local all all trust\nhost all all all trust\n";
    let settings = "max_connections = 2\nsuperuser_reserved_connections = 1\nhot_standby = off\n";
    with("PostgreSQL", Postgres::start(hba, settings), |mut server| {
        wait_until("PostgreSQL takes SQL", || server.sql("CREATE ROLE open LOGIN").is_ok());
        wait_until("it is up", || ask(&postgres("open", "postgres", server.port), 1).is_ok());
        assert_eq!(ask(&postgres("open", "no_such_database", server.port), 1), Ok(()));
        assert_eq!(ask(&postgres("no_such_role", "postgres", server.port), 1), Ok(()));

        std::thread::scope(|scope| {
            scope.spawn(|| server.sql("SELECT pg_sleep(600)"));
            let full = "remaining connection slots are reserved";
            wait_until("it is full", || {
                ask(&postgres("open", "postgres", server.port), 1)
                    .is_err_and(|why| why.contains(full) && why.contains("53300"))
            });
            // The last check may still have the place that is left.
            wait_until("the one who sleeps is woken", || {
                let awake = "query LIKE 'SELECT pg_sleep%' AND pid <> pg_backend_pid()";
                server.sql(&format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {awake}")).is_ok()
            });
        });

        server.stop();
        assert_eq!(ask(&postgres("open", "postgres", server.port), 1), Err("Connection refused".into()));
        server.write("standby.signal", "");
        server.resume();
        let why = ask(&postgres("open", "postgres", server.port), 1).unwrap_err();
        assert!(why.contains("57P03"), "{why}");
    });
}

#[test]
fn redis_is_asked_and_left_with_and_without_a_password() {
    for settings in ["", "requirepass secret\n"] {
        with("Redis", Redis::start(settings), |server| {
            assert_eq!(ask(&redis(server.port), 20), Ok(()));
            assert_eq!(complaints(&server.log, 0, &["error", "Error", "# Protocol"]), Vec::<String>::new());
        });
    }
}

#[test]
fn redis_that_takes_no_more_clients_is_down() {
    with("Redis", Redis::start("maxclients 1\n"), |server| {
        let redis = redis(server.port);
        wait_until("it is up", || ask(&redis, 1).is_ok());
        let _client = std::net::TcpStream::connect((LOCALHOST, server.port)).unwrap();
        assert!(ask(&redis, 1).is_err());
    });
}

#[test]
fn a_replica_of_redis_without_its_master_is_down() {
    let settings = "replicaof 127.0.0.1 1\nreplica-serve-stale-data no\n";
    with("Redis", Redis::start(settings), |server| {
        let why = ask(&redis(server.port), 1).unwrap_err();
        assert!(why.contains("-MASTERDOWN"), "{why}");
    });
}

/// An address of this host that MariaDB does not take for localhost (whose errors it does not count), if there is one.
fn outer_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // No datagram is sent; the kernel only chooses the source address.
    socket.connect("198.51.100.1:9").ok()?;
    socket.local_addr().ok().map(|address| address.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

fn mariadb_status(server: &MariaDb, name: &str) -> u64 {
    let row = server.sql(&format!("SHOW GLOBAL STATUS LIKE '{name}'")).unwrap();
    row.split_whitespace().last().unwrap().parse().unwrap()
}

fn connect_errors(server: &MariaDb) -> u64 {
    let sum = "SELECT COALESCE(MAX(SUM_CONNECT_ERRORS), 0) FROM performance_schema.host_cache";
    server.sql(sum).unwrap().parse().unwrap()
}

#[test]
fn mariadb_neither_blocks_us_nor_counts_checks_of_an_account_without_password() {
    with("MariaDB", MariaDb::start(), |server| {
        server.sql("CREATE USER evener@'%'; CREATE USER app@'%' IDENTIFIED BY 'x'; CREATE USER plain@'%'").unwrap();
        let host = outer_address().unwrap_or(LOCALHOST);
        let since = length(&server.log);

        assert_eq!(ask(&mysql("evener", host, server.port), 300), Ok(()));
        assert_eq!(ask(&tcp(host, server.port), 300), Ok(()));
        for counter in ["Aborted_connects", "Aborted_clients", "Access_denied_errors"] {
            assert_eq!(mariadb_status(&server, counter), 0, "{counter}");
        }
        let words = ["Aborted connection", "Access denied", "ERROR", "Error"];
        assert_eq!(complaints(&server.log, since, &words), Vec::<String>::new());

        for user in ["no_such_account", "app"] {
            assert_eq!(ask(&mysql(user, host, server.port), 150), Ok(()), "{user}: refusing us is being alive");
        }
        assert_eq!(mariadb_status(&server, "Aborted_connects"), 300, "as the documentation says");
        assert_eq!(connect_errors(&server), 0, "nothing counts towards max_connect_errors");
        assert_eq!(server.log_in("plain", &host.to_string()), Ok("1".into()));
    });
}

#[test]
fn mariadb_that_has_blocked_us_or_is_full_is_down() {
    with("MariaDB", MariaDb::start(), |server| {
        server.sql("CREATE USER evener@'%'; CREATE USER plain@'%'; SET GLOBAL max_connections = 10").unwrap();
        let full: Vec<_> = (0..11).map(|_| std::net::TcpStream::connect((LOCALHOST, server.port)).unwrap()).collect();
        let mysql = |host| mysql("evener", host, server.port);
        wait_until("it is full", || ask(&mysql(LOCALHOST), 1).is_err_and(|why| why == "Too many connections (1040)"));
        drop(full);
        wait_until("it is up again", || ask(&mysql(LOCALHOST), 1).is_ok());

        let Some(host) = outer_address() else {
            eprintln!("skipped: this host has no address but localhost, which MariaDB never blocks");
            return;
        };
        // Handshakes that are broken off, which is what the check avoids.
        for _ in 0..12 {
            let mut stream = std::net::TcpStream::connect((host, server.port)).unwrap();
            std::io::Read::read_exact(&mut stream, &mut [0; 4]).unwrap();
        }
        wait_until("all are counted", || connect_errors(&server) >= 10);
        let why = ask(&mysql(host), 1).unwrap_err();
        assert!(why.contains("is blocked") && why.ends_with("(1129)"), "{why}");
    });
}

#[test]
fn a_database_that_dies_and_returns_is_seen_to_go_down_and_up() {
    let hba = "local all all trust\nhost all all all scram-sha-256\n";
    with("PostgreSQL", Postgres::start(hba, ""), |mut server| {
        let runtime = runtime();
        let (sender, mut verdicts) = tokio::sync::mpsc::channel(16);
        let mut checkers = Checkers::new(sender);
        let _guard = runtime.enter();
        let target = postgres("postgres", "postgres", server.port);
        wait_until("it is up", || ask_in(&runtime, &target));
        checkers.set(vec![target]);
        let mut until = |up| {
            runtime.block_on(async {
                let change = async { while verdicts.recv().await.expect("checks go on").up != up {} };
                tokio::time::timeout(Duration::from_secs(30), change).await.expect("the state changes");
            });
        };
        until(true);
        server.stop();
        until(false);
        server.resume();
        until(true);
    });
}

fn ask_in(runtime: &tokio::runtime::Runtime, target: &Target) -> bool {
    runtime.block_on(check(target)).ok
}
