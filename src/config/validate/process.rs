//! `[process]`.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use crate::config::address::{parse_socket_address, parse_unix_path};
use crate::config::error::Finding;
use crate::config::raw::{Fault, Reader, boolean, fault, mismatch, quoted, text, whole};
use crate::config::words::{ACCESS, LOG_FORMATS, LOG_LEVELS, SPLICE};
use crate::config::{Access, Drain, Log, LogFormat, LogLevel, Process, Splice};

use super::{duration, limit};

/// More threads than any host has cores.
const WORKERS_MAX: u32 = 1_024;
const ADMIN: &str = "/run/evener/admin.sock";
const DRAIN: Drain = Drain { deadline: Duration::from_secs(30), spread: Duration::from_secs(5) };

pub(super) fn read(r: &mut Reader) -> Process {
    Process {
        workers: r.or("workers", workers, None),
        pin: r.or("pin", boolean, false),
        busy_poll: r.or("busy_poll", boolean, true),
        max_connections: r.or("max_connections", limit, None),
        admin: r.or("admin", admin, Some(PathBuf::from(ADMIN))),
        metrics: r.optional("metrics", |value| parse_socket_address(text(value)?)),
        status_page: r.or("status_page", boolean, true),
        splice: r.word("splice", SPLICE, Splice::Auto),
        log: r.table("log", |r| Log {
            level: r.word("level", LOG_LEVELS, LogLevel::Info),
            format: r.word("format", LOG_FORMATS, LogFormat::Text),
            access: r.word("access", ACCESS, Access::Close),
        }),
        drain: r.table("drain", |r| drain(r, DRAIN)),
    }
}

/// What the file does not give of a drain is as `default` has it.
pub(super) fn drain(r: &mut Reader, default: Drain) -> Drain {
    let deadline = r.or("deadline", duration, default.deadline);
    let spread = r.or("spread", duration, default.spread.min(deadline));
    if spread > deadline && r.is_sound() {
        let finding = Finding::error(r.span_of("spread"), "`spread` is longer than `deadline`")
            .label("endings are spread before the deadline")
            .help("make `spread` at most as long as `deadline`");
        r.findings.push(finding);
    }
    Drain { deadline, spread }
}

/// A number of threads, or "auto".
fn workers(value: &DeValue) -> Result<Option<NonZeroUsize>, Fault> {
    let help = "write \"auto\" for one per core";
    match value {
        DeValue::String(word) if word == "auto" => Ok(None),
        DeValue::String(_) => Err(fault("neither \"auto\" nor a number", "unknown").help(help)),
        DeValue::Integer(_) => match whole(value, 1, WORKERS_MAX) {
            Ok(count) => Ok(NonZeroU32::new(count).and_then(|count| count.try_into().ok())),
            Err(fault) => Err(fault.help(help)),
        },
        other => Err(mismatch(other, "\"auto\" or a whole number").help(help)),
    }
}

/// The path of the admin socket; "" switches it off.
fn admin(value: &DeValue) -> Result<Option<PathBuf>, Fault> {
    match text(value)? {
        "" => Ok(None),
        path => {
            if let Some(bare) = path.strip_prefix("unix:") {
                return Err(
                    fault("this key takes only a path", "no `unix:` here").help(format!("write \"{}\"", quoted(bare)))
                );
            }
            match parse_unix_path(path) {
                Ok(path) => Ok(Some(path)),
                Err(fault) => Err(fault.help(format!("write a whole path, such as \"{ADMIN}\"; \"\" switches it off"))),
            }
        }
    }
}
