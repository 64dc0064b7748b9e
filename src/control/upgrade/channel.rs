//! How two processes speak: words as JSON, bytes and descriptors behind them, one message after the other.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

use crate::sys::rights::{self, RIGHTS_MAX};

/// Lengths of words and bytes, and the count of descriptors: 32 bits each, little end first.
const HEAD_BYTES: usize = 12;
/// Bytes of a message: the counts of tens of thousands of backends.
const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// Received at once.
const READ_BYTES: usize = 64 << 10;
/// Pause while too many descriptors are on their way (unix(7), ETOOMANYREFS).
const CROWDED_PAUSE: Duration = Duration::from_millis(2);

/// One end.
#[derive(Debug)]
pub struct Channel {
    stream: UnixStream,
    received: Vec<u8>,
    fds: VecDeque<OwnedFd>,
}

/// A message.
#[derive(Debug)]
pub struct Message<T> {
    /// What is said.
    pub words: T,
    /// What goes with it.
    pub bytes: Vec<u8>,
    /// And this.
    pub fds: VecDeque<OwnedFd>,
}

impl Channel {
    /// By a connected stream socket.
    ///
    /// # Errors
    /// When it is none, or cannot be watched.
    pub fn of(socket: OwnedFd) -> io::Result<Self> {
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        Ok(Self { stream: UnixStream::from_std(stream)?, received: Vec::new(), fds: VecDeque::new() })
    }

    /// Says something; the descriptors stay open here too.
    ///
    /// # Errors
    /// When the other one is gone.
    pub async fn send(&self, words: &impl Serialize, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let words = serde_json::to_vec(words)?;
        let mut message = Vec::with_capacity(HEAD_BYTES + words.len() + bytes.len());
        for length in [words.len(), bytes.len(), fds.len()] {
            let length = u32::try_from(length).map_err(|_| io::Error::other("the message is too long"))?;
            message.extend_from_slice(&length.to_le_bytes());
        }
        message.extend_from_slice(&words);
        message.extend_from_slice(bytes);
        let (mut rest, mut fds) = (&message[..], fds);
        while !rest.is_empty() {
            let (now, later) = fds.split_at(fds.len().min(RIGHTS_MAX));
            // A byte carries what one message may; the last one all that is left to say.
            let piece = if later.is_empty() { rest } else { &rest[..1] };
            let write = || rights::send(self.stream.as_fd(), piece, now);
            match self.stream.async_io(Interest::WRITABLE, write).await {
                Ok(sent) => (rest, fds) = (&rest[sent..], later),
                Err(error) if error.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                    tokio::time::sleep(CROWDED_PAUSE).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// What is said next. May be given up and asked again.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other one is gone.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Message<T>> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            let mut piece = vec![0; READ_BYTES];
            let mut fds = Vec::new();
            let read = || rights::receive(self.stream.as_fd(), &mut piece, &mut fds);
            let got = self.stream.async_io(Interest::READABLE, read).await?;
            if got == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.received.extend_from_slice(&piece[..got]);
            self.fds.extend(fds);
        }
    }

    /// The first message, when all of it is there.
    fn take<T: DeserializeOwned>(&mut self) -> io::Result<Option<Message<T>>> {
        let Some((head, rest)) = self.received.split_first_chunk::<HEAD_BYTES>() else { return Ok(None) };
        let length = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]) as usize;
        let (words, bytes, fds) = (length(0), length(4), length(8));
        if words.saturating_add(bytes) > MESSAGE_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "this is no message of an upgrade"));
        }
        if rest.len() < words + bytes || self.fds.len() < fds {
            return Ok(None);
        }
        let message = Message {
            words: serde_json::from_slice(&rest[..words])?,
            bytes: rest[words..words + bytes].to_vec(),
            fds: self.fds.drain(..fds).collect(),
        };
        self.received.drain(..HEAD_BYTES + words + bytes);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Channel, Channel) {
        let (one, other) = std::os::unix::net::UnixStream::pair().expect("sockets");
        (Channel::of(one.into()).expect("a channel"), Channel::of(other.into()).expect("a channel"))
    }

    #[tokio::test]
    async fn long_messages_with_many_descriptors_arrive_whole_and_in_order() {
        let (one, mut other) = pair();
        let null = std::fs::File::open("/dev/null").expect("a file");
        let fds = vec![null.as_fd(); 3 * RIGHTS_MAX + 5];
        let words = "x".repeat(300_000);
        let say = async {
            one.send(&words, b"behind", &fds).await.expect("it is heard");
            one.send(&7, &[], &[]).await.expect("it is heard");
            drop(one);
        };
        let hear = async {
            let first: Message<String> = other.receive().await.expect("the first one");
            assert!(first.words == words && first.bytes == b"behind" && first.fds.len() == fds.len());
            let second: Message<u32> = other.receive().await.expect("the second one");
            assert_eq!((second.words, second.fds.len()), (7, 0));
            let end = other.receive::<u32>().await.expect_err("the end");
            assert_eq!(end.kind(), io::ErrorKind::UnexpectedEof);
        };
        tokio::join!(say, hear);
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused_before_memory_is_taken_for_it() {
        let (one, mut other) = pair();
        rights::send(one.stream.as_fd(), &[0xff; 64], &[]).expect("room");
        assert_eq!(other.receive::<u32>().await.expect_err("nonsense").kind(), io::ErrorKind::InvalidData);
    }
}
