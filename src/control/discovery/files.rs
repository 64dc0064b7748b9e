//! Files of backends: when one is read again, and reading it.
//!
//! Looked at by name, once a second, so that a file that was replaced or a symbolic link that was turned is seen
//! whatever file system it is on. A file that was put in place of another is whole and read at once; one that is
//! written where it stands is read when it has rested from one look to the next.

use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::book::Track;
use crate::config::{self, LIST_BYTES_MAX};

/// Between two looks.
pub const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What tells one content of a file from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// What has been seen of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The content that was read, well or not.
    read: Option<Stamp>,
    /// The last look.
    last: Option<Stamp>,
}

/// What a look has found.
#[derive(Debug)]
pub enum Found {
    /// What was there before, or what is still being written.
    Nothing,
    /// Another content, or why it is none.
    Content(Result<Vec<Arc<config::Backend>>, String>),
    /// The file cannot be read.
    Failed(String),
}

/// A file of backends with what is known.
#[derive(Clone, Debug)]
pub struct Watched {
    /// What has been seen of it.
    pub seen: Seen,
    /// When to look; `None` while somebody looks.
    pub due: Option<Instant>,
    /// Whether there was a look.
    pub was_asked: bool,
    /// The last good content; `None` = there was none.
    pub backends: Option<Vec<Arc<config::Backend>>>,
    /// How it has been doing.
    pub track: Track,
}

impl Watched {
    /// To be looked at at once.
    pub fn new(now: Instant) -> Self {
        Self { seen: Seen::default(), due: Some(now), was_asked: false, backends: None, track: Track::default() }
    }

    /// Takes a look in. True when something is known that was not.
    pub fn hear(&mut self, (seen, found): (Seen, Found), now: Instant, time: SystemTime) -> bool {
        let before = self.track.trouble().map(str::to_owned);
        (self.seen, self.due, self.was_asked) = (seen, Some(now + LOOK_INTERVAL), true);
        let is_new = match found {
            Found::Nothing => {
                // What is wrong with a content stays wrong until there is another.
                if !self.track.fails {
                    self.track.good(time);
                }
                false
            }
            Found::Content(Ok(backends)) => {
                let is_new = self.backends.as_ref() != Some(&backends);
                self.track.updates += u64::from(is_new);
                self.track.good(time);
                self.backends = Some(backends);
                is_new
            }
            Found::Content(Err(why)) | Found::Failed(why) => {
                self.track.bad(why, time);
                false
            }
        };
        is_new || before.as_deref() != self.track.trouble()
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl Seen {
    /// Whether a file that looks like this is to be read.
    fn wants(&self, now: Stamp) -> bool {
        match self.read {
            Some(read) if read == now => false,
            Some(read) if read.file == now.file => self.last == Some(now),
            _ => true,
        }
    }
}

/// Looks, and reads what is to be read.
pub fn look(path: &Path, mut seen: Seen) -> (Seen, Found) {
    let found = match stamp(path) {
        Ok(now) if seen.wants(now) => match read(path) {
            // Somebody writes it at this moment.
            Ok((_, after)) if after != now => {
                seen.last = Some(after);
                Found::Nothing
            }
            Ok((bytes, _)) => {
                seen = Seen { read: Some(now), last: Some(now) };
                Found::Content(config::parse_list(path, &bytes))
            }
            Err(error) => failed(&error),
        },
        Ok(now) => {
            seen.last = Some(now);
            Found::Nothing
        }
        Err(error) => failed(&error),
    };
    if matches!(found, Found::Failed(_)) {
        // What stands there next is another one.
        seen = Seen::default();
    }
    (seen, found)
}

fn failed(error: &io::Error) -> Found {
    let what = match error.kind() {
        io::ErrorKind::NotFound => "there is no such file".to_owned(),
        io::ErrorKind::PermissionDenied => "the file may not be read".to_owned(),
        _ => format!("the file cannot be read: {error}"),
    };
    Found::Failed(what)
}

fn stamp(path: &Path) -> io::Result<Stamp> {
    let metadata = std::fs::metadata(path)?;
    // Asked before it is opened: opening a pipe would wait for its writer.
    if !metadata.is_file() {
        return Err(io::Error::other("this is not a regular file"));
    }
    Ok(Stamp::of(&metadata))
}

/// The bytes, and how the file looks after they were read.
fn read(path: &Path) -> io::Result<(Vec<u8>, Stamp)> {
    let file = File::open(path)?;
    let mut bytes = Vec::new();
    // One byte more than is allowed, so that it is noticed.
    (&file).take(LIST_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok((bytes, Stamp::of(&file.metadata()?)))
}

#[cfg(test)]
mod tests {
    use super::super::super::{now, wall_clock};
    use super::*;
    use std::fs;

    fn stamp(file: u64, modified: i64) -> Stamp {
        Stamp { file: (1, file), size: 9, modified: (modified, 0), changed: (modified, 0) }
    }

    #[test]
    fn a_file_that_was_replaced_is_read_at_once_and_one_that_is_written_when_it_rests() {
        let seen = |read: Option<Stamp>, last: Option<Stamp>| Seen { read, last };
        let (old, new) = (stamp(1, 1), stamp(1, 2));
        assert!(Seen::default().wants(old), "the first time");
        assert!(!seen(Some(old), Some(old)).wants(old), "nothing has changed");
        assert!(seen(Some(old), Some(old)).wants(stamp(2, 1)), "another file");
        assert!(!seen(Some(old), Some(old)).wants(new), "somebody writes");
        assert!(!seen(Some(old), Some(stamp(1, 3))).wants(new), "and writes on");
        assert!(seen(Some(old), Some(new)).wants(new), "and is done");
    }

    /// What is known of a file after a look: the names, and the trouble.
    fn known(watched: &mut Watched, path: &Path) -> (Vec<String>, Option<String>) {
        let found = look(path, watched.seen);
        watched.hear(found, now(), wall_clock());
        let names = watched.backends.iter().flatten().map(|backend| backend.name.clone()).collect();
        (names, watched.track.trouble().map(str::to_owned))
    }

    #[test]
    fn what_cannot_be_read_changes_nothing_and_is_told_once() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("list");
        let put = |text: &str| {
            fs::write(folder.path().join("new"), text).expect("written");
            fs::rename(folder.path().join("new"), &path).expect("renamed");
        };
        let mut watched = Watched::new(now());
        let (names, trouble) = known(&mut watched, &path);
        assert_eq!((names.len(), trouble), (0, Some("there is no such file".to_owned())));
        put("10.0.0.1:80\n");
        assert_eq!(known(&mut watched, &path), (vec!["10.0.0.1:80".to_owned()], None));
        put("10.0.0.1:80\n10.0.0.2");
        for _ in 0..3 {
            let (names, trouble) = known(&mut watched, &path);
            assert_eq!(names, ["10.0.0.1:80"]);
            assert!(trouble.is_some_and(|why| why.contains("list:2:1: invalid `address`")));
            assert_eq!(watched.track.failures, 2, "the missing file and this one, once each");
        }
        put("");
        assert_eq!(known(&mut watched, &path), (vec![], None), "whether that is believed is not decided here");
        fs::remove_file(&path).expect("removed");
        assert!(known(&mut watched, &path).1.is_some_and(|why| why.contains("no such file")));
        fs::create_dir(&path).expect("a folder");
        assert!(known(&mut watched, &path).1.is_some_and(|why| why.contains("not a regular file")));
    }
}
