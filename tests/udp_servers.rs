//! Real servers and senders of UDP: unbound under dnsperf and under our own questions, logger(1) and its sinks.
#![allow(clippy::unwrap_used)]

mod harness;
#[path = "harness/servers.rs"]
mod servers;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};

use harness::datagram::{UdpServer, ask, is_not_answered, udp_client};
use harness::{Evener, Flag, SOON, require, send_signal, wait_until};
use serde_json::Value;
use servers::Unbound;

/// Questions a second, which one unbound answers with ease.
const RATE: u64 = 4000;
/// Names in the zone.
const NAMES: usize = 200;

/// Type numbers of RFC 1035, 3.2.2.
const A: u16 = 1;
const TXT: u16 = 16;

/// The address that a name of the zone has, a different one for each.
fn address_of(number: usize) -> [u8; 4] {
    [192, 0, 2, number as u8]
}

/// Two servers with the same addresses; `who.test` is another at each.
fn two_servers() -> [Unbound; 2] {
    ["127.0.0.53", "127.0.0.54"].map(|host| {
        let addresses = (0..NAMES).map(|number| {
            let [a, b, c, d] = address_of(number);
            format!("n{number}.test. 60 IN A {a}.{b}.{c}.{d}")
        });
        let records: Vec<String> = addresses.chain([format!("who.test. 60 IN TXT {host}")]).collect();
        Unbound::start(host, &records).unwrap()
    })
}

fn config(servers: &[Unbound; 2], responses: u32, pool_keys: &str) -> String {
    let [one, two] = servers.each_ref().map(|server| server.address);
    format!(
        "[listener.dns]\nbind = \"127.0.0.1:0\"\nprotocol = \"udp\"\npool = \"dns\"\nudp = {{ responses = {responses} }}\n\n\
         [pool.dns]\nbackends = [{{ address = \"{one}\", name = \"one\" }}, {{ address = \"{two}\", name = \"two\" }}]\n\
         {pool_keys}\n"
    )
}

/// A question (RFC 1035, 4.1), recursion desired.
fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut bytes = [&id.to_be_bytes()[..], &[1, 0, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
    for part in name.split('.') {
        bytes.push(part.len() as u8);
        bytes.extend(part.as_bytes());
    }
    bytes.push(0);
    bytes.extend([kind.to_be_bytes(), [0, 1]].concat());
    bytes
}

/// The data of the one record in an answer; it must be the answer to just this question, without an error.
fn data_of<'a>(answer: &'a [u8], question: &[u8]) -> &'a [u8] {
    let id_and_flags = [question[0], question[1], 0x85, 0x80]; // an authoritative answer, NOERROR
    assert_eq!((&answer[..4], &answer[4..12]), (&id_and_flags[..], &[0, 1, 0, 1, 0, 0, 0, 0][..]), "{answer:?}");
    assert_eq!(answer[12..question.len()], question[12..], "{answer:?}");
    // The name, a reference of two bytes, then type, class, time to live, length.
    let record = &answer[question.len()..];
    assert_eq!(usize::from(u16::from_be_bytes([record[10], record[11]])), record.len() - 12);
    &record[12..]
}

/// Who answers a client, by the text of `who.test`.
fn who(client: &UdpSocket) -> String {
    let question = question(7, "who.test", TXT);
    let answer = ask(client, &question);
    String::from_utf8(data_of(&answer, &question)[1..].to_vec()).unwrap()
}

/// Asks one name after the other and looks at each answer until the flag is raised: how many it were.
fn ask_on(address: SocketAddr, flag: &Flag) -> u64 {
    let client = udp_client(address);
    let mut asked = 0;
    while !flag.is_raised() {
        let number = asked as usize % NAMES;
        let question = question(asked as u16, &format!("n{number}.test"), A);
        assert_eq!(data_of(&ask(&client, &question), &question), address_of(number));
        asked += 1;
        harness::breathe();
    }
    asked
}

/// dnsperf at [`RATE`], with the names of the zone.
struct Dnsperf {
    child: Child,
    _names: tempfile::NamedTempFile,
}

/// What it has to say in the end.
#[derive(Debug)]
struct Report {
    sent: u64,
    lost: u64,
    without_error: u64,
}

impl Dnsperf {
    fn start(address: SocketAddr, seconds: u64, more: &[&str]) -> Self {
        let mut names = tempfile::NamedTempFile::new().unwrap();
        (0..NAMES).for_each(|number| writeln!(names, "n{number}.test A").unwrap());
        let mut command = Command::new("timeout");
        command.args(["-k", "1", "60", "dnsperf", "-q", "100", "-d"]).arg(names.path()).args(more);
        command.args(["-s", &address.ip().to_string(), "-p", &address.port().to_string()]);
        command.args(["-Q", &RATE.to_string(), "-l", &seconds.to_string()]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        Self { child, _names: names }
    }

    fn report(self) -> Report {
        let output = self.child.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{output:?}");
        let number = |after: &str| {
            let found = text.split_once(after).and_then(|(_, rest)| rest.split_whitespace().next());
            found.unwrap_or_else(|| panic!("no {after:?} in {text}")).parse::<u64>().unwrap()
        };
        Report {
            sent: number("Queries sent:"),
            lost: number("Queries lost:"),
            without_error: number("Response codes:       NOERROR"),
        }
    }
}

fn listener(evener: &Evener) -> Value {
    evener.status()["listeners"][0].clone()
}

fn is_here(test: &str) -> bool {
    require(test, &["unbound", "dnsperf"])
}

/// Every question is answered, and each server is asked its share.
fn none_is_lost(responses: u32) {
    const SECONDS: u64 = 3;
    let servers = two_servers();
    let evener = Evener::start(&config(&servers, responses, ""));
    let address = evener.address("dns");
    let flag = Flag::default();
    let (report, asked) = std::thread::scope(|scope| {
        let raise = flag.raise_on_drop();
        let asking = [0, 1].map(|_| scope.spawn(|| ask_on(address, &flag)));
        let report = Dnsperf::start(address, SECONDS, &["-c", "20"]).report();
        drop(raise);
        (report, asking.map(|thread| thread.join().unwrap()).iter().sum::<u64>())
    });
    assert!(report.sent >= RATE * SECONDS * 9 / 10, "it kept its pace: {report:?}");
    assert_eq!((report.lost, report.without_error), (0, report.sent), "{report:?}");
    assert!(asked > 200, "{asked} answers were looked at");
    let listener = listener(&evener);
    let all = report.sent + asked;
    assert_eq!((&listener["udp"]["datagrams_in"], &listener["udp"]["datagrams_out"]), (&all.into(), &all.into()));
    assert!(listener["udp"]["dropped"].as_object().unwrap().values().all(|count| *count == 0), "{listener}");
    let [one, two] = servers.map(Unbound::stop);
    assert_eq!(one + two, all);
    assert!(one.min(two) > all / 4, "{one} and {two}");
}

#[test]
fn unbound_answers_every_question_when_flows_end_with_their_answers() {
    if is_here("unbound_answers_every_question_when_flows_end_with_their_answers") {
        none_is_lost(1);
    }
}

#[test]
fn unbound_answers_every_question_when_flows_last() {
    if is_here("unbound_answers_every_question_when_flows_last") {
        none_is_lost(0);
    }
}

/// Fewer than one of a hundred questions is lost when a server is killed in the middle; nothing is configured for that.
fn hardly_any_is_lost(responses: u32) {
    // Long enough that the questions under way, 100 at most, are fewer than what may be lost.
    const SECONDS: u64 = 5;
    let mut servers = two_servers();
    let evener = Evener::start(&config(&servers, responses, ""));
    let address = evener.address("dns");
    let load = Dnsperf::start(address, SECONDS, &["-c", "20", "-t", "1"]);
    let half = RATE * SECONDS / 2;
    wait_until(SOON, "half of it has passed", || {
        listener(&evener)["udp"]["datagrams_in"].as_u64().is_some_and(|count| count >= half)
    });
    servers[0].kill();
    let report = load.report();
    assert!(report.sent >= RATE * SECONDS * 3 / 4, "it went on: {report:?}");
    assert!(report.lost * 100 < report.sent, "{report:?}");
    assert_eq!(report.without_error + report.lost, report.sent, "what was answered was answered well: {report:?}");
    assert!(["ejected", "down"].contains(&evener.state("dns", "one").as_str()));
    let [one, two] = servers;
    drop(one);
    assert_eq!(who(&udp_client(address)), "127.0.0.54");
    assert!(two.stop() > report.sent * 2 / 3, "the other one had the rest");
}

#[test]
fn one_of_two_unbounds_is_killed_while_each_question_is_a_flow() {
    if is_here("one_of_two_unbounds_is_killed_while_each_question_is_a_flow") {
        hardly_any_is_lost(1);
    }
}

#[test]
fn one_of_two_unbounds_is_killed_under_flows_that_last() {
    if is_here("one_of_two_unbounds_is_killed_under_flows_that_last") {
        hardly_any_is_lost(0);
    }
}

#[test]
fn unbound_is_asked_for_what_it_knows_and_a_silent_one_is_down_until_it_answers() {
    if !is_here("unbound_is_asked_for_what_it_knows_and_a_silent_one_is_down_until_it_answers") {
        return;
    }
    let servers = two_servers();
    // The question of docs/balancing-and-health.md: the address of "localhost".
    let keys = "health = { kind = \"udp\", send = \"hex:1234 0100 0001 0000 0000 0000 09 6c6f63616c686f7374 00 0001 0001\", \
                expect = \"hex:0004 7f000001\", initial = \"down\", interval = \"300ms\", fast_interval = \"100ms\", \
                timeout = \"300ms\", rise = 1, fall = 2 }\npassive = false";
    let evener = Evener::start(&config(&servers, 0, keys));
    ["one", "two"].iter().for_each(|name| evener.wait_for_state("dns", name, "up"));
    let clients = [0, 1, 2, 3].map(|_| udp_client(evener.address("dns")));
    let before: BTreeSet<String> = clients.iter().map(who).collect();
    assert_eq!(before.len(), 2, "{before:?}");

    send_signal(servers[0].pid(), "STOP");
    evener.wait_for_state("dns", "one", "down");
    assert!(clients.iter().all(|client| who(client) == "127.0.0.54"), "all flows go on with the other one");
    send_signal(servers[0].pid(), "CONT");
    evener.wait_for_state("dns", "one", "up");
    let after: BTreeSet<String> = (0..4).map(|_| who(&udp_client(evener.address("dns")))).collect();
    assert_eq!(after.len(), 2, "{after:?}");

    // An expectation that is not met.
    evener.reload(&config(&servers, 0, &keys.replace("7f000001", "7f000002")));
    evener.wait_for_state("dns", "one", "down");
}

/// Takes a PROXY header of version 2 for UDP over IPv4 off (proxy-protocol.txt, 2.2): source, destination, the rest.
fn unwrap_proxy(datagram: &[u8]) -> (SocketAddr, SocketAddr, &[u8]) {
    assert_eq!(datagram[..16], *b"\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c", "{datagram:?}");
    let address = |ip: usize, port: usize| {
        let ip: [u8; 4] = datagram[ip..ip + 4].try_into().unwrap();
        SocketAddr::from((ip, u16::from_be_bytes([datagram[port], datagram[port + 1]])))
    };
    (address(16, 24), address(20, 26), &datagram[28..])
}

#[test]
fn messages_of_logger_are_shared_by_two_sinks_and_say_who_sent_them() {
    const LOGGERS: usize = 3;
    const MESSAGES: usize = 200;
    if !require("messages_of_logger_are_shared_by_two_sinks_and_say_who_sent_them", &["logger"]) {
        return;
    }
    let sinks = ["a", "b"].map(UdpServer::silent);
    let evener = Evener::start(&format!(
        "[listener.syslog]\nbind = \"127.0.0.1:0\"\nprotocol = \"udp\"\npool = \"syslog\"\nudp = {{ one_way = true }}\n\n\
         [pool.syslog]\nbackends = [{}, {}]\nsend_proxy = \"v2\"\nhealth = {{ kind = \"none\" }}\n",
        sinks[0].entry(""),
        sinks[1].entry("")
    ));
    let address = evener.address("syslog");
    let mut loggers: Vec<Child> = (0..LOGGERS)
        .map(|number| {
            let port = address.port().to_string();
            let mut command = Command::new("logger");
            command.args(["--udp", "-n", "127.0.0.1", "-P", &port, "-p", "local0.info"]);
            command.args(["-t", &format!("logger{number}")]);
            command.stdin(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let count = || sinks.iter().map(UdpServer::count).sum::<usize>();
    for message in 0..MESSAGES {
        for logger in &mut loggers {
            writeln!(logger.stdin.as_mut().unwrap(), "message {message} of {MESSAGES}").unwrap();
        }
        // A few at a time: the sinks' buffers are the system's default.
        if message % 20 == 19 {
            wait_until(SOON, "they have come", || count() == (message + 1) * LOGGERS);
        }
    }
    assert!(loggers.iter_mut().all(|logger| logger.stdin.take().is_some() && logger.wait().unwrap().success()));

    let mut senders: BTreeMap<String, BTreeSet<SocketAddr>> = BTreeMap::new();
    let mut messages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (_, datagram) in sinks.iter().flat_map(UdpServer::heard) {
        let (source, destination, message) = unwrap_proxy(&datagram);
        assert_eq!((destination, source.ip()), (address, address.ip()));
        let message = std::str::from_utf8(message).unwrap();
        // RFC 5424: "<134>1 TIME HOST TAG - - [time quality] text"; 134 is local0.info.
        assert!(message.starts_with("<134>1 "), "{message}");
        let tag = message.split(' ').nth(3).unwrap().to_owned();
        senders.entry(tag.clone()).or_default().insert(source);
        messages.entry(tag).or_default().insert(message.split_once("] ").unwrap().1.to_owned());
    }
    let all: BTreeSet<String> = (0..MESSAGES).map(|message| format!("message {message} of {MESSAGES}")).collect();
    let tags: Vec<String> = (0..LOGGERS).map(|number| format!("logger{number}")).collect();
    assert_eq!(messages, tags.iter().map(|tag| (tag.clone(), all.clone())).collect(), "all of each, each once");
    assert!(senders.values().all(|senders| senders.len() == 1), "a sender is the same in all headers: {senders:?}");
    // Each worker takes turns.
    assert!(sinks[0].count().abs_diff(sinks[1].count()) <= LOGGERS, "{:?}", sinks.each_ref().map(UdpServer::count));
    assert!(is_not_answered(&udp_client(address), b"<134>1 - - - - - - late"), "nothing comes back");
}
