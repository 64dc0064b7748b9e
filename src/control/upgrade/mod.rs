//! An upgrade: the program on disk takes over from the running one, with its sockets, its connections and what it knows.
//!
//! ```text
//!        this process                                   its successor
//!        starts the program on disk ──────────────────▶ reads the file, asks for names
//!                                    ◀── hello ───────
//!        what there is, listening sockets ────────────▶ binds what is missing, starts threads
//!                                    ◀── prepared ────
//!        takes no new clients; parks ─── batches ─────▶ holds them, touches nothing
//!                                    ◀── held ────────
//!        the counts ──────────────────── commit ──────▶
//!                                    ◀── taken ───────  serves
//!        forgets, drains the rest, ends
//! ```
//!
//! There is one point of no return: *taken*. Whoever dies, hangs or refuses before it leaves this process to go on as if
//! nothing had been: both have the same sockets, and only one of them has read or written. A successor that is killed
//! before it has said so has not touched anything; what it has said is read before its end is seen.
//!
//! `offer` is this side, `receive` the other one; `state` is what both know of backends and counts, `channel` how they
//! speak.

mod channel;
mod offer;
pub mod receive;
pub mod state;

use std::ffi::OsString;
use std::path::PathBuf;

pub use offer::{Arrival, Offer};

/// The process id of the predecessor, in the environment of its successor, whose standard input is the way to it.
const VARIABLE: &str = "EVENER_PREDECESSOR";

/// What this process was started as.
#[derive(Clone, Debug)]
pub struct Program {
    /// The file, which another one may have replaced meanwhile. A symbolic link stays one.
    pub path: PathBuf,
    /// All but the first.
    pub arguments: Vec<OsString>,
}

impl Program {
    /// As the command line and the folders of programs have it now.
    pub fn of_this_process() -> Option<Self> {
        let mut words = std::env::args_os();
        let name = PathBuf::from(words.next()?);
        let folders = std::env::var_os("PATH").unwrap_or_default();
        let found = match name.components().count() {
            0 => None,
            1 if !name.is_absolute() => {
                std::env::split_paths(&folders).map(|folder| folder.join(&name)).find(|path| path.is_file())
            }
            _ => std::path::absolute(&name).ok().filter(|path| path.is_file()),
        };
        let path = found.or_else(|| std::env::current_exe().ok())?;
        Some(Self { path, arguments: words.collect() })
    }
}
