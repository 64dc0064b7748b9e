//! Backends that echo, as long as they are well.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use socket2::SockRef;

use crate::harness::{Backend, breathe};

#[derive(Clone, Copy, PartialEq)]
#[repr(u8)]
pub enum Mood {
    /// Echoes.
    Well,
    /// Echoes little at a time.
    Slow,
    /// Neither reads nor writes; its kernel still accepts.
    Frozen,
    /// Resets what it has, and whatever comes.
    Resetting,
}

pub struct Moody {
    backend: Backend,
    mood: Arc<AtomicU8>,
}

impl Moody {
    pub fn new(name: &str) -> Self {
        let mood = Arc::new(AtomicU8::new(Mood::Well as u8));
        let felt = mood.clone();
        Self { backend: Backend::on("127.0.0.1:0", name, move |stream, _| serve(stream, &felt)), mood }
    }

    pub fn feel(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::SeqCst);
    }

    pub fn kill(&mut self) {
        self.backend.kill();
    }

    pub fn revive(&mut self) {
        self.backend.revive();
    }

    pub fn entry(&self, keys: &str) -> String {
        self.backend.entry(keys)
    }
}

fn serve(mut stream: &TcpStream, mood: &AtomicU8) -> io::Result<()> {
    let is = |which: Mood| mood.load(Ordering::SeqCst) == which as u8;
    let mut buffer = [0; 16 * 1024];
    // So often it looks how it feels.
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    loop {
        while is(Mood::Frozen) {
            breathe();
        }
        if is(Mood::Resetting) {
            return SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
        let take = if is(Mood::Slow) { 200 } else { buffer.len() };
        match stream.read(&mut buffer[..take]) {
            Ok(0) => return stream.shutdown(Shutdown::Write),
            Ok(read) => stream.write_all(&buffer[..read])?,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {}
            Err(error) => return Err(error),
        }
        if is(Mood::Slow) {
            breathe();
        }
    }
}
