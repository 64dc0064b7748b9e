//! Logs: the program's own on stderr, the access log on stdout.
//!
//! The access log has a thread of its own. It takes what has gathered, formats it into one buffer and writes it with
//! one call, then lets events gather for a moment, so that a busy balancer makes twenty large writes a second instead
//! of thousands of small ones.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tracing_subscriber::filter::{LevelFilter, filter_fn};
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, reload};

use crate::access::{Event, Journal, Request};
use crate::config::{Log, LogFormat, LogLevel};

/// How long events gather between two writes.
const GATHER: Duration = Duration::from_millis(50);
/// How long the end waits for the last events to be written, should nobody read the log.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);

/// The least severe level that passes, for all layers above it. (A filter of a single layer cannot be reloaded.)
type Level = reload::Layer<LevelFilter, Registry>;
type Lines = Box<dyn Layer<Layered<Level, Registry>> + Send + Sync>;

/// What a reload may replace.
struct Output {
    level: reload::Handle<LevelFilter, Registry>,
    lines: reload::Handle<Lines, Layered<Level, Registry>>,
}

static OUTPUT: OnceLock<Output> = OnceLock::new();

/// Sends the program's own log to stderr, as the file wants it, now and at each reload. Colour only on a terminal,
/// never with NO_COLOR. Where the embedding program has set up a log of its own, that one stays.
pub fn set_up(log: &Log) {
    if let Some(output) = OUTPUT.get() {
        // They can only be gone together with the process.
        let _ = output.level.reload(level(log));
        let _ = output.lines.reload(lines(log));
        return;
    }
    let (level_layer, level) = reload::Layer::new(level(log));
    let (lines_layer, lines) = reload::Layer::new(lines(log));
    // What the resolver's library has to say is said by whoever asked; besides, strangers could make it talk.
    let ours = filter_fn(|event| !event.target().starts_with("hickory"));
    if tracing_subscriber::registry().with(level_layer).with(lines_layer).with(ours).try_init().is_ok() {
        let _ = OUTPUT.set(Output { level, lines });
    }
}

const fn level(log: &Log) -> LevelFilter {
    match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

fn lines(log: &Log) -> Lines {
    let lines = tracing_subscriber::fmt::layer().with_writer(io::stderr).with_target(false);
    match log.format {
        LogFormat::Text => lines.with_ansi(wants_colour(&io::stderr())).boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    }
}

/// Logs a warning about the file that is ready to print: its level stands before the line already.
pub fn warn(warning: &str) {
    tracing::warn!("{}", warning.strip_prefix("warning: ").unwrap_or(warning).trim_end());
}

/// Whether to colour: only a terminal, and never with NO_COLOR (no-color.org).
pub fn wants_colour(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The access log's thread.
#[derive(Debug)]
pub struct AccessLog {
    journal: Arc<Journal>,
    is_json: Arc<AtomicBool>,
    hurry: Sender<()>,
    done: Receiver<()>,
    thread: JoinHandle<()>,
}

impl AccessLog {
    /// Starts writing what comes into `journal` to `out`.
    ///
    /// # Errors
    /// When no thread can be made.
    pub fn start(journal: Arc<Journal>, format: LogFormat, out: impl Write + Send + 'static) -> io::Result<Self> {
        let (hurry, hurried) = channel();
        let (finish, done) = channel();
        let events = journal.clone();
        let is_json = Arc::new(AtomicBool::new(format == LogFormat::Json));
        let json = is_json.clone();
        let thread = std::thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            write(&events, &json, out, &hurried);
            let _ = finish.send(());
        })?;
        Ok(Self { journal, is_json, hurry, done, thread })
    }

    /// The format of all lines from now on.
    pub fn set_format(&self, format: LogFormat) {
        self.is_json.store(format == LogFormat::Json, Relaxed);
    }

    /// Writes what is left and ends the thread; gives up when nobody reads.
    pub fn end(self) {
        self.journal.close();
        drop(self.hurry);
        if self.done.recv_timeout(FLUSH_TIMEOUT).is_ok() {
            let _ = self.thread.join();
        }
    }
}

fn write(journal: &Journal, is_json: &AtomicBool, mut out: impl Write, hurried: &Receiver<()>) {
    let mut events = Vec::new();
    let mut text = String::new();
    let mut fails = false;
    // The last line has no end: what comes next must not seem to belong to it.
    let mut torn = false;
    while journal.wait(&mut events) {
        text.clear();
        text.extend(torn.then_some('\n'));
        let format = if is_json.load(Relaxed) { LogFormat::Json } else { LogFormat::Text };
        for event in &events {
            line(event, format, &mut text);
        }
        // A log that cannot be written (a closed pipe, a full disk) must not stop the traffic; said once.
        let (written, result) = write_all(&mut out, text.as_bytes());
        let (done, left) = text.as_bytes().split_at(written);
        torn = done.last().map_or(torn, |last| *last != b'\n');
        if let Err(error) = &result {
            journal.lose(left.iter().filter(|byte| **byte == b'\n').count().min(events.len()));
            if !fails {
                tracing::warn!(%error, "the access log cannot be written to stdout; its events are lost");
            }
        }
        fails = result.is_err();
        // A hang-up of the other end means that the process ends: then there is nothing to gather for.
        let _ = hurried.recv_timeout(GATHER);
    }
}

/// How much was written, and why not all.
fn write_all(out: &mut impl Write, bytes: &[u8]) -> (usize, io::Result<()>) {
    let mut written = 0;
    while written < bytes.len() {
        match out.write(&bytes[written..]) {
            Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
            Ok(count) => written += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return (written, Err(error)),
        }
    }
    (written, out.flush())
}

/// A field's value.
enum Value<'a> {
    Text(Cow<'a, str>),
    Number(u64),
    Millis(Duration),
    Nothing,
}

/// One line for one event, with its end.
fn line(event: &Event, format: LogFormat, out: &mut String) {
    if format == LogFormat::Json {
        out.push('{');
    }
    for (i, (name, value)) in fields(event).into_iter().enumerate() {
        let first = i == 0;
        match format {
            LogFormat::Text => {
                out.push_str(if first { "" } else { " " });
                let _ = write!(out, "{name}=");
                text(&value, out);
            }
            LogFormat::Json => {
                out.push_str(if first { "" } else { "," });
                let _ = write!(out, "\"{name}\":");
                json(&value, out);
            }
        }
    }
    out.push_str(if format == LogFormat::Json { "}\n" } else { "\n" });
}

/// The fields in their order; both formats have the same. A request has some of a connection's, and its own.
fn fields(event: &Event) -> Vec<(&'static str, Value<'_>)> {
    let mut fields = whole(event);
    if let Some(request) = &event.request {
        fields.retain(|(name, _)| !OF_CONNECTIONS.contains(name));
        fields.extend(of_request(request));
    }
    fields
}

/// What a request has not.
const OF_CONNECTIONS: [&str; 6] = ["connect_ms", "datagrams_in", "datagrams_out", "spliced_bytes", "reason", "code"];

fn of_request(request: &Request) -> [(&'static str, Value<'_>); 11] {
    let known = |text: Option<&'_ str>| text.map_or(Value::Nothing, |text| Value::Text(Cow::Owned(text.to_owned())));
    [
        ("method", Value::Text(request.method.as_str().into())),
        ("host", Value::Text(request.host.as_str().into())),
        ("path", Value::Text(request.path.as_str().into())),
        ("version", Value::Text(request.version.into())),
        ("route", known(request.route.as_deref())),
        ("consumer", known(request.consumer.as_deref())),
        ("status", Value::Number(request.status.into())),
        ("refusal", known(request.refusal)),
        ("first_byte_ms", request.first_byte.map_or(Value::Nothing, Value::Millis)),
        ("request_id", known(request.request_id.as_deref())),
        ("cut", Value::Text(if request.is_cut { "yes" } else { "no" }.into())),
    ]
}

fn whole(event: &Event) -> Vec<(&'static str, Value<'_>)> {
    let time = SystemTime::UNIX_EPOCH + Duration::from_millis(event.time_ms);
    let maybe = |text: Option<String>| text.map_or(Value::Nothing, |text| Value::Text(Cow::Owned(text)));
    let fixed = |text: &'static str| Value::Text(Cow::Borrowed(text));
    vec![
        ("time", Value::Text(humantime::format_rfc3339_millis(time).to_string().into())),
        ("event", fixed(event.kind.as_str())),
        ("id", Value::Number(event.id)),
        ("listener", Value::Text(event.listener.name.as_str().into())),
        ("pool", Value::Text((&*event.pool).into())),
        ("backend", event.backend.as_ref().map_or(Value::Nothing, |backend| Value::Text((&*backend.name).into()))),
        ("client", maybe(event.client.map(|client| client.to_string()))),
        ("local", maybe(event.local.map(|local| local.to_string()))),
        ("connect_ms", event.connect.map_or(Value::Nothing, Value::Millis)),
        ("duration_ms", Value::Millis(event.duration)),
        ("bytes_in", Value::Number(event.bytes_in)),
        ("bytes_out", Value::Number(event.bytes_out)),
        ("datagrams_in", event.datagrams.map_or(Value::Nothing, |(count, _)| Value::Number(count))),
        ("datagrams_out", event.datagrams.map_or(Value::Nothing, |(_, count)| Value::Number(count))),
        ("spliced_bytes", Value::Number(event.spliced_bytes)),
        ("attempts", Value::Number(event.attempts.into())),
        ("reason", event.reason.map_or(Value::Nothing, |reason| fixed(reason.as_str()))),
        ("code", event.reason.map_or(Value::Nothing, |reason| fixed(reason.code()))),
        ("sni", event.sni.as_ref().map_or(Value::Nothing, |name| Value::Text((&**name).into()))),
    ]
}

fn text(value: &Value<'_>, out: &mut String) {
    match value {
        Value::Text(text) => {
            let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\' | '=');
            if !text.is_empty() && text.chars().all(plain) {
                out.push_str(text);
            } else {
                let _ = write!(out, "\"{}\"", text.escape_debug());
            }
        }
        Value::Nothing => out.push('-'),
        other => number(other, out),
    }
}

fn json(value: &Value<'_>, out: &mut String) {
    match value {
        // A string of JSON is what serde_json makes of it; that cannot fail.
        Value::Text(text) => out.push_str(&serde_json::Value::from(&**text).to_string()),
        Value::Nothing => out.push_str("null"),
        other => number(other, out),
    }
}

fn number(value: &Value<'_>, out: &mut String) {
    let _ = match value {
        Value::Number(number) => write!(out, "{number}"),
        Value::Millis(time) => write!(out, "{}.{:03}", time.as_millis(), time.subsec_micros() % 1000),
        Value::Text(_) | Value::Nothing => Ok(()),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::EventKind;
    use crate::id::{BackendId, ListenerId, PoolId};
    use crate::limit::{Limiter, Limits};
    use crate::reason::CloseReason;
    use crate::stats::{BackendStats, ListenerStats, PoolStats};

    fn event(listener: &str) -> Event {
        let clients = Limiter::new(Limits { connections: None, rate: None }, 1);
        let pool = Arc::new(PoolStats::new(PoolId(3), "pg", 1));
        Event {
            kind: EventKind::Close,
            time_ms: 1_700_000_000_123,
            id: 7,
            listener: Arc::new(ListenerStats::new(ListenerId(1), listener, clients, 1)),
            pool: "pg".into(),
            backend: Some(Arc::new(BackendStats::new(BackendId(2), &pool, "pg1", "10.0.0.11:5432", 1))),
            client: Some("192.0.2.1:40000".parse().expect("an address")),
            local: None,
            connect: Some(Duration::from_micros(412)),
            duration: Duration::from_micros(1_500_000),
            bytes_in: 10,
            bytes_out: 20,
            datagrams: None,
            spliced_bytes: 0,
            attempts: 1,
            reason: Some(CloseReason::ClientReset),
            sni: None,
            request: None,
        }
    }

    fn written(event: &Event, format: LogFormat) -> String {
        let mut out = String::new();
        line(event, format, &mut out);
        out
    }

    #[test]
    fn a_line_of_text_has_every_field_once() {
        assert_eq!(
            written(&event("web"), LogFormat::Text),
            "time=2023-11-14T22:13:20.123Z event=close id=7 listener=web pool=pg backend=pg1 client=192.0.2.1:40000 \
             local=- connect_ms=0.412 duration_ms=1500.000 bytes_in=10 bytes_out=20 datagrams_in=- datagrams_out=- \
             spliced_bytes=0 attempts=1 reason=client_reset code=CD sni=-\n"
        );
    }

    #[test]
    fn a_line_of_json_says_the_same_as_the_text() {
        let line = written(&event("web"), LogFormat::Json);
        assert!(line.ends_with("}\n") && line.lines().count() == 1);
        let json: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(json.as_object().expect("an object").len(), 19);
        assert_eq!(json["connect_ms"], 0.412);
        assert_eq!(json["duration_ms"], 1500.0);
        assert_eq!(json["local"], serde_json::Value::Null);
        assert_eq!(json["reason"], "client_reset");
        assert_eq!(json["bytes_out"], 20);
    }

    #[test]
    fn the_server_that_a_client_asked_for_is_named() {
        let event = Event { sni: Some("a\"=.example.com".into()), ..event("web") };
        assert!(written(&event, LogFormat::Text).ends_with(" sni=\"a\\\"=.example.com\"\n"));
        assert!(written(&event, LogFormat::Json).ends_with(",\"sni\":\"a\\\"=.example.com\"}\n"));
    }

    #[test]
    fn a_request_says_what_was_asked_and_not_what_only_connections_have() {
        let request = Request {
            method: "GET".to_owned(),
            host: "a.example".to_owned(),
            path: "/x?".to_owned(),
            version: "HTTP/2",
            route: Some("all".into()),
            consumer: None,
            status: 429,
            refusal: Some("limited"),
            first_byte: Some(Duration::from_micros(1500)),
            request_id: Some("1f".to_owned()),
            is_cut: false,
        };
        let event = Event { kind: EventKind::Request, request: Some(Box::new(request)), ..event("web") };
        assert_eq!(
            written(&event, LogFormat::Text),
            "time=2023-11-14T22:13:20.123Z event=request id=7 listener=web pool=pg backend=pg1 client=192.0.2.1:40000 \
             local=- duration_ms=1500.000 bytes_in=10 bytes_out=20 attempts=1 sni=- method=GET host=a.example path=/x? \
             version=HTTP/2 route=all consumer=- status=429 refusal=limited first_byte_ms=1.500 request_id=1f cut=no\n"
        );
    }

    #[test]
    fn nothing_in_a_name_breaks_a_line() {
        let hostile = "a b\n\"x\\ = \u{1b}[31m\u{202e}";
        let text = written(&event(hostile), LogFormat::Text);
        assert_eq!(text.lines().count(), 1);
        assert!(!text.contains('\u{1b}'));
        let json = written(&event(hostile), LogFormat::Json);
        assert_eq!(json.lines().count(), 1);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&json).expect("JSON")["listener"], hostile);
    }

    #[test]
    fn the_log_can_be_set_up_again() {
        let log = |level, format| Log { level, format, access: crate::config::Access::Off };
        set_up(&log(LogLevel::Error, LogFormat::Text));
        set_up(&log(LogLevel::Warn, LogFormat::Json));
        assert_eq!(LevelFilter::current(), LevelFilter::WARN);
        set_up(&log(LogLevel::Error, LogFormat::Text));
        assert_eq!(LevelFilter::current(), LevelFilter::ERROR);
    }

    /// Counts what is written, and how often.
    struct Sink(std::sync::mpsc::Sender<Vec<u8>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(|_| io::ErrorKind::BrokenPipe)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_batch_is_one_write_and_the_end_loses_nothing() {
        let journal = Arc::new(Journal::default());
        let (sender, writes) = channel();
        let mut batch = vec![event("web"); 100];
        journal.push(&mut batch);
        let log = AccessLog::start(journal.clone(), LogFormat::Text, Sink(sender)).expect("a thread");
        let first = writes.recv().expect("a write");
        assert_eq!(first.iter().filter(|byte| **byte == b'\n').count(), 100);
        journal.push(&mut vec![event("web"); 3]);
        log.end();
        let rest: Vec<u8> = writes.iter().flatten().collect();
        assert_eq!(rest.iter().filter(|byte| **byte == b'\n').count(), 3);
    }
}
