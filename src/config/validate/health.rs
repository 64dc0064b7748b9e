//! `pool.health`: how backends are checked.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use crate::config::error::Finding;
use crate::config::payload::{DATAGRAM_BYTES_MAX, parse_payload};
use crate::config::raw::{Fault, Item, Reader, boolean, fault, mismatch, quoted, text, whole};
use crate::config::words::{INITIAL, Words, nearest};
use crate::config::{Check, Health, Percent, Step};

use super::{count, percent, positive};

/// Checks in a row; more would never be waited for.
const ROW_MAX: u32 = 1_000;
/// Steps of a script.
const STEPS_MAX: usize = 64;
/// A program and its arguments.
const RUN_MAX: usize = 256;
/// Ranges in `status`.
const RANGES_MAX: usize = 100;
/// The name of a user or database, in bytes.
const ACCOUNT_BYTES_MAX: usize = 255;
/// RFC 9110, 15: three digits.
const STATUS: RangeInclusive<u16> = 100..=599;

const INTERVAL: Duration = Duration::from_secs(2);
const FAST_INTERVAL: Duration = Duration::from_millis(500);
const TIMEOUT: Duration = Duration::from_secs(1);
const RISE: NonZeroU32 = NonZeroU32::new(2).expect("it is not 0");
const FALL: NonZeroU32 = NonZeroU32::new(3).expect("it is not 0");
const JITTER: Percent = Percent(10);
const HTTP_STATUS: RangeInclusive<u16> = 200..=399;
/// The role and the database that each PostgreSQL has.
const POSTGRES_ACCOUNT: &str = "postgres";
const MYSQL_USER: &str = "evener";

/// What is asked, before its keys are read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Tcp,
    Tls,
    Http,
    Postgres,
    Mysql,
    Redis,
    Udp,
    Script,
    Command,
}

const KINDS: Words<Kind> = &[
    ("tcp", Kind::Tcp),
    ("tls", Kind::Tls),
    ("http", Kind::Http),
    ("postgres", Kind::Postgres),
    ("mysql", Kind::Mysql),
    ("redis", Kind::Redis),
    ("udp", Kind::Udp),
    ("script", Kind::Script),
    ("command", Kind::Command),
    ("none", Kind::None),
];

/// The keys that only some kinds have.
const KIND_KEYS: &[(&str, &[Kind], &str)] = &[
    ("path", &[Kind::Http], "http"),
    ("host", &[Kind::Http], "http"),
    ("status", &[Kind::Http], "http"),
    ("body", &[Kind::Http], "http"),
    ("user", &[Kind::Postgres, Kind::Mysql], "postgres or mysql"),
    ("database", &[Kind::Postgres], "postgres"),
    ("send", &[Kind::Udp], "udp"),
    ("expect", &[Kind::Udp], "udp"),
    (
        "tls",
        &[Kind::Http, Kind::Postgres, Kind::Mysql, Kind::Redis, Kind::Script],
        "http, postgres, mysql, redis or script",
    ),
    ("steps", &[Kind::Script], "script"),
    ("run", &[Kind::Command], "command"),
];

/// `has_tls`: the pool speaks TLS to its backends.
pub(super) fn read(r: &mut Reader, has_tls: bool) -> Health {
    r.hints(&[("retries", "did you mean `fall`?")]);
    let kind_given = r.has("kind");
    let unless_given = if has_tls { Kind::Tls } else { Kind::Tcp };
    let kind = if kind_given { r.optional("kind", kind) } else { Some(unless_given) };
    refuse_keys_of_other_kinds(r, kind);
    let kind = kind.map_or(Check::Tcp, |kind| check(r, kind));
    let interval = r.or("interval", positive, INTERVAL);
    let port = r.optional("port", |value| whole(value, 1, u32::from(u16::MAX)));
    // Another port is another service, which is not told about the pool's TLS.
    let tls = r.or("tls", boolean, has_tls && port.is_none() && kind.is_talk());
    let health = Health {
        port: port.and_then(|port| u16::try_from(port).ok()),
        tls: tls || kind == Check::Tls,
        interval,
        fast_interval: r.or("fast_interval", positive, FAST_INTERVAL.min(interval)),
        timeout: r.or("timeout", positive, TIMEOUT),
        rise: r.or("rise", count(ROW_MAX), RISE),
        fall: r.or("fall", count(ROW_MAX), FALL),
        jitter: r.or("jitter", percent, JITTER),
        initial_up: r.word("initial", INITIAL, true),
        kind,
    };
    compare_times(r, &health);
    if matches!(health.kind, Check::Mysql { .. }) && kind_given && !r.has("user") {
        let finding = Finding::warning(r.span_of("kind"), format!("this check names the account `{MYSQL_USER}`"))
            .label("no `user` is given")
            .help(format!("add `user = \"…\"`, or `CREATE USER '{MYSQL_USER}'@'…'` without rights: of an account that it does not know, the server logs each check"));
        r.findings.push(finding);
    }
    health
}

fn kind(value: &DeValue) -> Result<Kind, Fault> {
    let known = || KINDS.iter().map(|(word, _)| *word);
    let list = known().collect::<Vec<_>>().join(", ");
    let word = text(value)?;
    match KINDS.iter().find(|(known, _)| *known == word) {
        Some((_, kind)) => Ok(*kind),
        None => Err(fault(format!("there is no check \"{}\"", quoted(word)), "unknown").help(
            match nearest(word, known()) {
                Some(near) => format!("did you mean \"{near}\"? There are {list}"),
                None => format!("there are {list}"),
            },
        )),
    }
}

/// Of a kind that there is not no key can be judged.
fn refuse_keys_of_other_kinds(r: &mut Reader, kind: Option<Kind>) {
    let word = KINDS.iter().find(|(_, known)| Some(*known) == kind).map(|(word, _)| *word);
    let label = match word {
        Some(word) if r.has("kind") => format!("this check is of kind {word}"),
        _ => "no `kind` is given".to_owned(),
    };
    for (key, kinds, names) in KIND_KEYS {
        match kind {
            Some(kind) if kinds.contains(&kind) => {}
            Some(kind) => r.refuse(key, |span| {
                let help = match (*key, kind) {
                    ("send" | "expect", Kind::Script) => {
                        "write it as a step: `steps = [{ send = \"…\" }, { expect = \"…\" }]`".to_owned()
                    }
                    ("send" | "expect", _) => {
                        format!("leave `{key}` out, or write `kind = \"udp\"`; with TCP it is a step of kind script")
                    }
                    _ => format!("leave `{key}` out, or change `kind`"),
                };
                Finding::error(span, format!("`{key}` belongs to kind {names}")).label(&label).help(help)
            }),
            None => drop(r.take(key)),
        }
    }
}

fn check(r: &mut Reader, kind: Kind) -> Check {
    match kind {
        Kind::None => Check::None,
        Kind::Tcp => Check::Tcp,
        Kind::Tls => Check::Tls,
        Kind::Redis => Check::Redis,
        Kind::Http => Check::Http {
            path: r.or("path", path, "/".to_owned()),
            host: r.optional("host", visible),
            status: r.or("status", status, vec![HTTP_STATUS]),
            body: r.optional("body", not_empty),
        },
        Kind::Postgres => Check::Postgres {
            user: r.or("user", account, POSTGRES_ACCOUNT.to_owned()),
            database: r.or("database", account, POSTGRES_ACCOUNT.to_owned()),
        },
        Kind::Mysql => Check::Mysql { user: r.or("user", account, MYSQL_USER.to_owned()) },
        Kind::Udp => Check::Udp {
            send: r.or("send", datagram, Vec::new()),
            expect: r.optional("expect", |value| {
                filled(datagram(value)?).map_err(|fault| fault.help("leave it out if no answer is expected"))
            }),
        },
        Kind::Script => Check::Script { steps: steps(r) },
        Kind::Command => Check::Command { run: run(r) },
    }
}

fn steps(r: &mut Reader) -> Vec<Step> {
    const EXAMPLE: &str = "steps = [{ send = \"PING\\r\\n\" }, { expect = \"PONG\" }]";
    filled_list(r, "steps", STEPS_MAX, EXAMPLE).iter().filter_map(|item| step(r, item)).collect()
}

fn step<'t>(r: &mut Reader<'t, '_>, item: &'t Item<'t>) -> Option<Step> {
    let Some(table) = item.get_ref().as_table() else {
        return r.value("steps", item, |value| Err(mismatch(value, "`{ send = \"…\" }` or `{ expect = \"…\" }`")));
    };
    r.element(table, item.span(), "a step".to_owned(), |r| {
        let given = [r.has("send"), r.has("expect")];
        let bytes = |value: &DeValue| filled(parse_payload(text(value)?)?);
        let send = r.optional("send", bytes).map(Step::Send);
        let expect = r.optional("expect", bytes).map(Step::Expect);
        if given[0] == given[1] {
            let finding = Finding::error(r.span.clone(), "a step either sends or expects")
                .label(if given[0] { "does both" } else { "does neither" })
                .help("write `{ send = \"…\" }, { expect = \"…\" }`");
            r.findings.push(finding);
        }
        send.or(expect)
    })
}

fn run(r: &mut Reader) -> Vec<String> {
    const EXAMPLE: &str = "run = [\"/usr/local/bin/check\", \"--quick\"]";
    let items = filled_list(r, "run", RUN_MAX, EXAMPLE);
    let argument = |value: &DeValue| match text(value)? {
        argument if argument.contains('\0') => Err(fault("an argument cannot hold a NUL", "holds a NUL")),
        argument => Ok(argument.to_owned()),
    };
    let run: Vec<String> = items.iter().filter_map(|item| r.value("run", item, argument)).collect();
    if run.first().is_some_and(String::is_empty) {
        r.value::<()>("run", &items[0], |_| Err(fault("the program has no name", "empty")));
    }
    run
}

/// A list that must be there and not be empty.
fn filled_list<'t>(r: &mut Reader<'t, '_>, key: &'static str, max: usize, example: &str) -> &'t [Item<'t>] {
    let Some(item) = r.take(key) else {
        r.missing(key, example);
        return &[];
    };
    if item.get_ref().as_array().is_some_and(|list| list.is_empty()) {
        r.value::<()>(key, item, |_| Err(fault("the list is empty", "empty").help(format!("write `{example}`"))));
    }
    r.elements(key, item, max)
}

fn compare_times(r: &mut Reader, health: &Health) {
    if !r.is_sound() {
        return;
    }
    if health.fast_interval > health.interval {
        let finding = Finding::error(r.span_of("fast_interval"), "`fast_interval` is longer than `interval`")
            .label("longer")
            .help("it is the time between checks while the state is changing: make it at most as long as `interval`");
        r.findings.push(finding);
    }
    if health.timeout > health.interval && health.kind != Check::None {
        let key = if r.has("timeout") { "timeout" } else { "interval" };
        let title = "a check may still be waiting when the next one is due: `timeout` is longer than `interval`";
        let finding = Finding::warning(r.span_of(key), title)
            .label(if key == "timeout" { "longer than `interval`" } else { "shorter than the default `timeout`, 1s" })
            .help("make `timeout` at most as long as `interval`");
        r.findings.push(finding);
    }
}

/// "200-399", "200,204,300-399" or 200.
pub(super) fn status(value: &DeValue) -> Result<Vec<RangeInclusive<u16>>, Fault> {
    if let DeValue::Integer(_) = value {
        let status = whole(value, u32::from(*STATUS.start()), u32::from(*STATUS.end()))?;
        return Ok(u16::try_from(status).map(|status| vec![status..=status]).unwrap_or_default());
    }
    let wrong =
        |what: String| fault(what, "not a list of statuses").help("write \"200-399\", \"200,204,300-399\" or 200");
    let text = text(value)?;
    let ranges: Vec<_> = text.split(',').take(RANGES_MAX + 1).collect();
    if ranges.len() > RANGES_MAX {
        return Err(wrong(format!("at most {RANGES_MAX} ranges are allowed")));
    }
    let number = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        digits.then(|| text.parse().ok()).flatten().filter(|status| STATUS.contains(status))
    };
    let range = |text: &str| {
        let (low, high) = text.split_once('-').unwrap_or((text, text));
        match (number(low.trim()), number(high.trim())) {
            (Some(low), Some(high)) if low <= high => Ok(low..=high),
            (Some(low), Some(high)) => Err(wrong(format!("{low} is larger than {high}"))),
            _ => Err(wrong(format!("\"{}\" is not a status from 100 to 599", quoted(text.trim())))),
        }
    };
    ranges.into_iter().map(|text| range(text.trim())).collect()
}

/// A path as it stands in a request line (RFC 9112, 3.2.1).
fn path(value: &DeValue) -> Result<String, Fault> {
    let path = visible(value)?;
    if path.starts_with('/') {
        Ok(path)
    } else {
        Err(fault("a path begins with `/`", "no `/`").help(format!("write \"/{}\"", quoted(&path))))
    }
}

/// Text that may stand in the head of a request: no spaces, no control characters, ASCII.
fn visible(value: &DeValue) -> Result<String, Fault> {
    let text = not_empty(value)?;
    if text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text);
    }
    Err(fault("only visible ASCII characters can be sent here", "holds others")
        .help("percent-encode what is not ASCII"))
}

fn account(value: &DeValue) -> Result<String, Fault> {
    let name = not_empty(value)?;
    if name.len() > ACCOUNT_BYTES_MAX || name.contains('\0') {
        return Err(fault(format!("a name has at most {ACCOUNT_BYTES_MAX} bytes and no NUL"), "not a name"));
    }
    Ok(name)
}

fn not_empty(value: &DeValue) -> Result<String, Fault> {
    text(value).and_then(filled).map(str::to_owned)
}

/// What one datagram can hold.
fn datagram(value: &DeValue) -> Result<Vec<u8>, Fault> {
    let bytes = parse_payload(text(value)?)?;
    if bytes.len() > DATAGRAM_BYTES_MAX {
        let what = format!("a datagram holds at most {DATAGRAM_BYTES_MAX} bytes");
        return Err(fault(what, format!("{} bytes", bytes.len())));
    }
    Ok(bytes)
}

fn filled<T: AsRef<[u8]>>(bytes: T) -> Result<T, Fault> {
    if bytes.as_ref().is_empty() { Err(fault("it is empty", "empty")) } else { Ok(bytes) }
}
