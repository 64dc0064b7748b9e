//! Properties of reading as a whole: no bytes make it panic, every problem has its place in the text, and what is
//! printed reads the same. What it says of which file stands in `tests/conf`.

use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;

const EVERYTHING: &str = include_str!("../../tests/conf/valid/everything.toml");
const HTTP: &str = include_str!("../../tests/conf/valid/http.toml");
const DATABASE: &str = include_str!("../../conf/database.toml");

/// Far more than it takes, far less than a quadratic pass over the file would take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A problem in a log is one line of this length at most, whatever the file holds.
const LOG_LINE_BYTES_MAX: usize = 2_000;

fn read(text: &str) -> Config {
    parse("evener.toml", text.as_bytes()).unwrap_or_else(|report| panic!("{report}")).config
}

/// Reads anything; checks what holds of every answer.
fn survive(bytes: &[u8]) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes)).into_owned();
    let problems = match parse("evener.toml", bytes) {
        Ok(loaded) => {
            let printed = print(&loaded.config);
            let again = parse("printed", printed.as_bytes()).map(|again| again.config);
            prop_assert_eq!(again.map_err(|report| report.to_string()), Ok(loaded.config));
            loaded.warnings
        }
        Err(report) => {
            prop_assert!(report.count() > 0);
            report.render(true);
            report.problems().to_vec()
        }
    };
    for problem in problems {
        let (Some(span), Some((line, column))) = (problem.span(), problem.position()) else { continue };
        prop_assert!(text.get(span.clone()).is_some(), "{span:?} of {} bytes", text.len());
        prop_assert!((1..=text.matches('\n').count() + 1).contains(&line));
        prop_assert!(column >= 1);
        let line = problem.to_string();
        prop_assert!(!line.contains(char::is_control) && line.len() < LOG_LINE_BYTES_MAX, "{line:?}");
    }
    Ok(())
}

#[test]
fn what_the_file_leaves_out_has_the_defaults_of_the_contract() {
    let config = read(
        "[listener.pg]\nbind = \"0.0.0.0:5432\"\npool = \"pg\"\n[pool.pg]\nbackends = [\"10.0.0.11:5432\", \"10.0.0.12:5432\"]\n",
    );
    let secs = Duration::from_secs;
    assert_eq!(config.process.workers, None);
    assert_eq!(config.process.admin, Some("/run/evener/admin.sock".into()));
    assert_eq!(config.process.metrics, None);
    assert_eq!(config.process.drain, Drain { deadline: secs(30), spread: secs(5) });
    let listener = &config.listeners[0];
    assert_eq!((listener.idle_timeout, listener.half_close_timeout), (Some(secs(600)), secs(30)));
    assert_eq!(listener.backlog.get(), 4096);
    assert_eq!(listener.keepalive.map(|k| (k.idle, k.interval, k.count.get())), Some((secs(60), secs(10), 6)));
    let pool = &config.pools[0];
    assert_eq!(pool.balance, Balance::RoundRobin);
    assert_eq!(pool.backends.iter().map(|b| b.weight).collect::<Vec<_>>(), [100, 100]);
    assert_eq!(pool.backends[0].name, "10.0.0.11:5432");
    let connect = &pool.connect;
    assert_eq!((connect.timeout, connect.attempts.get(), connect.user_timeout), (secs(3), 3, None));
    assert_eq!((pool.queue.max, pool.queue.timeout), (0, secs(5)));
    let health = &pool.health;
    assert_eq!((health.interval, health.timeout, health.rise.get(), health.fall.get()), (secs(2), secs(1), 2, 3));
    assert_eq!((health.fast_interval, health.jitter), (Duration::from_millis(500), Percent(10)));
    assert!(health.kind == Check::Tcp && health.initial_up);
    assert_eq!(pool.passive.map(|p| (p.failures.get(), p.window, p.eject)), Some((5, secs(10), secs(30))));
    assert_eq!((pool.panic_below, pool.on_down), (Percent(0), None));
    assert_eq!((pool.slow_start, pool.send_proxy, pool.source), (Duration::ZERO, SendProxy::Off, None));
}

const DNS: &str = "[listener.dns]\nbind = \"0.0.0.0:53\"\nprotocol = \"udp\"\npool = \"dns\"\n[pool.dns]\nbackends = [\"10.0.0.1:53\"]\n";
const DNS_TCP: &str = "[listener.tcp]\nbind = \"0.0.0.0:53\"\npool = \"dns\"\n";

#[test]
fn what_a_file_of_udp_leaves_out_has_the_defaults_of_the_contract() {
    let config = read(DNS);
    let Protocol::Udp(udp) = config.listeners[0].protocol else { panic!("{:?}", config.listeners[0]) };
    assert_eq!((udp.idle_timeout, udp.responses), (Duration::from_secs(30), None));
    assert_eq!((udp.max_flows.get(), udp.one_way), (100_000, false));
}

#[test]
fn a_pool_that_only_udp_uses_is_asked_by_udp_unless_it_says_something_else() {
    let kind = |text: &str| read(text).pools[0].health.kind.clone();
    let udp = Check::Udp { send: Vec::new(), expect: None };
    assert_eq!(kind(DNS), udp);
    assert_eq!(kind(&format!("{DNS}health.port = 5353\n")), udp);
    assert_eq!(kind(&format!("{DNS}health.kind = \"tcp\"\n")), Check::Tcp);
    assert_eq!(kind(&format!("{DNS}{DNS_TCP}")), Check::Tcp);
    assert!(print(&read(DNS)).contains("health = { kind = \"udp\", send = \"\","));
}

#[test]
fn a_udp_listener_is_printed_with_the_keys_that_it_has_and_no_other() {
    let printed = print(&read(DNS));
    let (_, tables) = printed.split_once("[listener.dns]\n").unwrap();
    let keys: Vec<&str> = tables.lines().filter_map(|line| line.split_once(" = ")).map(|(key, _)| key).collect();
    let listener = ["bind", "protocol", "pool", "allow", "deny", "per_client", "udp"];
    let pool = ["balance", "backends", "health", "passive", "panic_below", "slow_start", "send_proxy"];
    assert_eq!(keys, [&listener[..], &pool].concat());
    assert!(parse("printed", printed.as_bytes()).unwrap().warnings.is_empty());
}

#[test]
fn a_listener_of_another_protocol_is_another_listener() {
    let tcp = read(&DNS.replace("\"udp\"", "\"tcp\""));
    let diff = diff(&tcp, &read(DNS));
    assert_eq!(diff.to_string(), "listeners: +dns -dns; pools: ~dns (options)");
    let slower = read(&DNS.replace("pool = ", "udp.idle_timeout = \"1m\"\npool = "));
    assert_eq!(super::diff(&read(DNS), &slower).to_string(), "listeners: ~dns");
}

#[test]
fn a_pool_that_only_names_of_servers_lead_to_is_used_like_any_other() {
    let tls = "[listener.tls]\nbind = \"0.0.0.0:443\"\npool = \"web\"\nsni = { \"A.example.com\" = \"dns\" }\n";
    let web = "[pool.web]\nbackends = [\"10.0.0.2:443\"]\n";
    let text = format!("{DNS}{tls}{web}");
    assert!(parse("evener.toml", text.as_bytes()).unwrap().warnings.is_empty());
    let config = read(&text);
    assert_eq!(config.pools[0].health.kind, Check::Tcp, "TCP clients use it too");
    assert!(config.listeners[1].pools().eq(["web", "dns"]));
    assert!(print(&config).contains("sni.\"a.example.com\" = \"dns\"\n"));
    assert!(diff(&config, &read(&text.replace("A.example", "a.Example"))).is_empty());
    assert_eq!(diff(&config, &read(&text.replace("A.example", "b.example"))).to_string(), "listeners: ~tls");
}

#[test]
fn a_key_of_a_nested_table_leaves_the_others_at_their_defaults() {
    let config = read(&DATABASE.replace("log = { format = \"json\" }", "log.level = \"warn\""));
    assert_eq!(config.process.log, Log { level: LogLevel::Warn, format: LogFormat::Text, access: Access::Close });
}

#[test]
fn a_long_or_hostile_value_makes_no_long_or_hostile_message() {
    let noise = format!("\\u001b[31m{}", "x".repeat(100_000));
    for value in
        [noise.clone(), format!("http://{noise}"), format!("unix:{noise}"), format!("/{noise}"), format!("{noise}:80")]
    {
        let table = format!("[pool.\"{noise}\"]\nbackends = [\"{value}\"]\nsource = \"{value}\"\n\"{noise}\" = 1\n");
        let listener = format!(
            "[listener.a]\npool = \"{value}\"\nbind = \"{value}\"\nallow = [\"{value}\"]\nidle_timeout = \"{value}\"\n"
        );
        survive(format!("{listener}{table}[process]\nadmin = \"{value}\"\nworkers = \"{value}\"\n").as_bytes())
            .unwrap();
    }
}

#[cfg(feature = "gateway")]
mod gateway;

#[test]
fn tables_keep_the_order_of_the_file() {
    let config = read(DATABASE);
    assert_eq!(config.listeners.iter().map(|l| l.name.as_str()).collect::<Vec<_>>(), ["pg", "redis", "mysql"]);
    assert_eq!(config.pools.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["pg", "redis", "mysql"]);
}

#[test]
fn ten_megabytes_of_noise_are_refused_shortly_and_in_time() {
    const BYTES: usize = 10 << 20;
    let noise = |seed: u64| {
        let next =
            |state: &u64| Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963));
        let words = std::iter::successors(Some(seed), next).take(BYTES / 4);
        words.flat_map(|word| word.to_be_bytes().into_iter().take(4)).collect::<Vec<u8>>()
    };
    let keys: String = (0..BYTES / 9).map(|i| format!("k{i:06} =1\n")).take(300_000).collect();
    let cases = [
        noise(7),
        noise(9).into_iter().map(|byte| byte & 0x7f).collect(),
        "=".repeat(BYTES).into_bytes(),
        "[".repeat(BYTES).into_bytes(),
        format!("a = {}", "[".repeat(BYTES)).into_bytes(),
        format!("[pool.a]\nbackends = [{}", ",".repeat(BYTES)).into_bytes(),
        format!("a = \"{}\"", "x".repeat(BYTES)).into_bytes(),
        "\n".repeat(BYTES).into_bytes(),
        // Small enough for all errors to be looked for.
        "=".repeat(250_000).into_bytes(),
        "a\n".repeat(125_000).into_bytes(),
        "a=1\n".repeat(60_000).into_bytes(),
        "[\n".repeat(60_000).into_bytes(),
        keys.into_bytes(),
    ];
    for case in cases {
        let start = moment();
        let report = parse("noise", &case).unwrap_err();
        let shown = report.render(true);
        assert!(shown.len() < 200_000, "{} bytes", shown.len());
        assert!(moment() - start < PATIENCE, "{:?} for {:?}", moment() - start, &case[..8]);
    }
}

#[allow(clippy::disallowed_methods)] // a test may look at the clock
fn moment() -> Instant {
    Instant::now()
}

#[test]
fn a_reload_is_summed_up_in_one_line() {
    let old = read(DATABASE);
    assert_eq!(diff(&old, &old).to_string(), "no change");
    let text = DATABASE
        .replace("0.0.0.0:6379", "127.0.0.1:6379")
        .replace("[listener.mysql]", "[listener.maria]")
        .replace("10.0.0.12:5432", "10.0.0.13:5432")
        .replace("weight = 50", "weight = 60")
        .replace("on_down = \"close after 10s\"", "on_down = \"keep\"")
        .replace("format = \"json\"", "format = \"text\"")
        .replace("127.0.0.1:9464", "127.0.0.1:9465");
    let diff = diff(&old, &read(&text));
    assert_eq!(
        diff.to_string(),
        "listeners: +maria -mysql ~redis (other addresses); pools: ~pg (+1 -1 backends, options) ~redis (~1 backends); \
         process: ~log; restart needed for process.metrics"
    );
    assert_eq!(diff.rebound, ["redis"]);
    assert_eq!(diff.pool_changes[0].backends.added, ["pg2"]);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        survive(&bytes)?;
    }

    #[test]
    fn no_text_that_looks_like_a_file_makes_it_panic(text in "(\\[(pool|listener|process)?\\.?[a\"]{0,2}\\]?|[a-z_]{1,3} ?= ?|[\"{},0-9é\\[\\]]|\r?\n|\\.|bind=|backends=|pool=\"a\"|health=|\"10\\.0\\.0\\.1:80\"){0,40}") {
        survive(text.as_bytes())?;
    }

    #[test]
    fn no_change_to_a_valid_file_makes_it_panic(
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0usize..12, "[\\[\\]{}=\",.:\\n #a-z0-9é%/-]{0,6}"), 1..6),
        file in prop::sample::select(&[DATABASE, EVERYTHING, HTTP][..]),
    ) {
        let mut bytes = file.as_bytes().to_vec();
        for (at, length, with) in edits {
            let start = at.index(bytes.len());
            let end = (start + length).min(bytes.len());
            bytes.splice(start..end, with.into_bytes());
        }
        survive(&bytes)?;
    }
}
