//! What is read from sockets and written to them.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use tokio::io::AsyncWriteExt;

use super::*;
use crate::gateway::body::Cut;
use crate::gateway::http1::conn::{Conn, Upload};
use crate::gateway::http1::framing::Encoder;
use crate::gateway::http1::wire::{Inbox, Outbox};
use crate::gateway::io::{Io, Raw};

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

fn tokio_stream(stream: UnixStream) -> tokio::net::UnixStream {
    stream.set_nonblocking(true).unwrap();
    tokio::net::UnixStream::from_std(stream).unwrap()
}

fn raw(stream: UnixStream) -> Raw {
    stream.set_nonblocking(true).unwrap();
    Raw::new(OwnedFd::from(stream).into()).unwrap()
}

/// A connection that takes little before it is read, and its other side.
async fn pair() -> (Io, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    socket2::SockRef::from(&ours).set_send_buffer_size(16 * 1024).unwrap();
    theirs.set_nonblocking(true).unwrap();
    // Else the first try to write would be in vain.
    let ours = raw(ours).connected().await.unwrap();
    (Io::plain(ours), theirs)
}

/// Bytes that differ from those near them.
fn data(length: usize) -> Bytes {
    (0..length).map(|at| (at * 31 + at / 251) as u8).collect()
}

/// Writes what the other side takes without reading; whether that is all.
fn sends_all(outbox: &mut Outbox, io: &mut Io) -> bool {
    let sent = outbox.poll_send(io, &mut Context::from_waker(Waker::noop()));
    sent.map(|sent| sent.unwrap()).is_ready()
}

/// What the other side can read now.
fn taken(mut theirs: &UnixStream) -> Vec<u8> {
    let mut all = Vec::new();
    match theirs.read_to_end(&mut all) {
        Ok(_) => {}
        Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
    }
    all
}

/// These pieces as chunks.
fn encoded(pieces: &[Bytes]) -> Vec<u8> {
    let chunks = pieces.iter().map(|piece| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    [chunks.collect::<Vec<_>>().concat(), b"0\r\n\r\n".to_vec()].concat()
}

/// Sends pieces as the gateway does to both sides: another one whenever there is room, also while something waits. The
/// other side reads when nothing more can be written; this is all that it has read.
async fn through(io: &mut Io, theirs: &UnixStream, pieces: &[Bytes]) -> Vec<u8> {
    let (mut outbox, mut encoder, mut pieces, mut is_over) =
        (Outbox::default(), Encoder::Chunked, pieces.iter(), false);
    let mut seen = Vec::new();
    poll_fn(|cx| {
        loop {
            while !is_over && outbox.has_room() {
                match pieces.next() {
                    Some(piece) => outbox.piece(piece.clone(), &mut encoder).unwrap(),
                    None => {
                        outbox.end(None, encoder).unwrap();
                        is_over = true;
                    }
                }
            }
            let sent = outbox.poll_send(io, cx);
            seen.extend(taken(theirs));
            ready!(sent).unwrap();
            assert!(outbox.is_empty());
            if is_over {
                return Poll::Ready(());
            }
        }
    })
    .await;
    seen
}

#[test]
fn pieces_of_any_size_come_in_order_and_whole() {
    run(async {
        for sizes in [
            &[1, 2, 3][..],
            &[4000, 80, 1],
            &[4096, 4097, 1, 200_000, 5],
            &[100_000, 100_000, 100_000],
            &[1; 3000],
            &[300, 70_000, 300, 300, 4090, 70_000],
        ] {
            let (mut io, theirs) = pair().await;
            let pieces: Vec<Bytes> = sizes.iter().map(|size| data(*size)).collect();
            assert!(through(&mut io, &theirs, &pieces).await == encoded(&pieces), "{sizes:?}");
        }
    });
}

#[test]
fn a_write_may_end_anywhere() {
    run(async {
        let (mut io, _theirs) = pair().await;
        let mut outbox = Outbox::default();
        outbox.piece(data(1 << 20), &mut Encoder::UntilClose).unwrap();
        assert!(!sends_all(&mut outbox, &mut io));
        let room = io.meter.written.get() as usize;
        // The end of the room is in what follows the first piece, between its parts, or in the piece, ...
        for size in room - 12..room + 3 {
            for second in [data(9), data(5000)] {
                let (mut io, theirs) = pair().await;
                let pieces = [data(size), second, data(3)];
                assert!(through(&mut io, &theirs, &pieces).await == encoded(&pieces), "{size} of {room}");
            }
        }
        // ... and nothing may be added before what follows a piece.
        let size = room - format!("{room:x}\r\n").len();
        let (mut io, theirs) = pair().await;
        let (mut outbox, mut encoder) = (Outbox::default(), Encoder::Chunked);
        outbox.piece(data(size), &mut encoder).unwrap();
        assert!(!sends_all(&mut outbox, &mut io));
        assert_eq!(io.meter.written.get() as usize, room, "the socket takes as much as another one");
        assert!(!outbox.is_empty() && !outbox.has_room());
        assert_eq!(taken(&theirs).len(), room);
        poll_fn(|cx| outbox.poll_send(&mut io, cx)).await.unwrap();
        assert_eq!(taken(&theirs), b"\r\n");
        assert!(outbox.is_empty() && outbox.has_room());
    });
}

#[test]
fn small_pieces_are_copied_and_large_ones_are_not() {
    let (mut outbox, mut encoder) = (Outbox::default(), Encoder::Chunked);
    assert!(outbox.is_empty() && outbox.has_room());
    outbox.piece(Bytes::new(), &mut encoder).unwrap();
    assert!(outbox.is_empty(), "an empty chunk would be the last one");

    let small = data(4000);
    outbox.piece(small.clone(), &mut encoder).unwrap();
    assert!(!outbox.is_empty() && outbox.has_room() && small.is_unique());
    let next = data(100);
    outbox.piece(next.clone(), &mut encoder).unwrap();
    assert!(!outbox.has_room() && !next.is_unique(), "the row is full");

    for (size, is_copied) in [(4091, true), (4092, false)] {
        let mut outbox = Outbox::default();
        let piece = data(size);
        outbox.piece(piece.clone(), &mut encoder).unwrap();
        assert_eq!(piece.is_unique(), is_copied, "with the line before it it fits into a row of 4096 bytes or not");
        assert!(is_copied || !outbox.has_room());
        outbox.clear();
        assert!(piece.is_unique() && outbox.is_empty() && outbox.has_room());
    }

    let mut outbox = Outbox::default();
    outbox.row().extend_from_slice(&[b'x'; 4095]);
    assert!(outbox.has_room());
    outbox.row().push(b'x');
    assert!(!outbox.has_room());
}

#[test]
fn a_body_of_another_length_is_not_sent() {
    let mut outbox = Outbox::default();
    let mut encoder = Encoder::Length(5);
    assert_eq!(outbox.piece(data(6), &mut encoder), Err(Bad::Length));
    assert!(outbox.is_empty());
    outbox.piece(data(4), &mut encoder).unwrap();
    assert_eq!(outbox.end(None, encoder), Err(Bad::Length));
}

#[test]
fn who_has_more_to_say_is_read_in_larger_pieces_and_nothing_is_kept_after_it() {
    run(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut io, mut theirs) = (Io::plain(raw(ours)), tokio_stream(theirs));
        let mut inbox = Inbox::default();
        let all = data(300_000);
        let write = async { theirs.write_all(&all).await.unwrap() };
        let read = async {
            while inbox.bytes.len() < all.len() {
                assert!(poll_fn(|cx| inbox.poll_fill(&mut io, cx)).await.unwrap() > 0);
            }
        };
        tokio::join!(write, read);
        assert!(inbox.bytes == all);
        inbox.rest();
        assert!(inbox.bytes == all, "what is not used stays");
        inbox.bytes.clear();
        inbox.rest();
        assert_eq!(inbox.bytes.capacity(), 0);
        drop(theirs);
        assert_eq!(poll_fn(|cx| inbox.poll_fill(&mut io, cx)).await.unwrap(), 0);
    });
}

async fn next_head(conn: &RefCell<Conn>, limits: Limits) -> Result<Option<RequestHead>, Cut> {
    poll_fn(|cx| conn.borrow_mut().poll_head(limits, false, cx)).await
}

#[test]
fn requests_follow_each_other_however_they_come() {
    const SENT: &str = "POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
        3;x\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 1\r\n\r\n\
        \r\nPUT /b HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcdeGET /c HTTP/1.1\r\n\r\n";
    run(async {
        for step in [1, 2, 5, 64, SENT.len()] {
            let (io, theirs) = pair().await;
            let mut theirs = tokio_stream(theirs);
            let write = async {
                for piece in SENT.as_bytes().chunks(step) {
                    theirs.write_all(piece).await.unwrap();
                    tokio::task::yield_now().await;
                }
                theirs.shutdown().await.unwrap();
            };
            let read = async {
                let conn = Rc::new(RefCell::new(Conn::new(io)));
                for (path, expected, trailers) in [("/a", "abcde", 1), ("/b", "abcde", 0), ("/c", "", 0)] {
                    let head = next_head(&conn, LIMITS).await.unwrap().unwrap();
                    assert_eq!(head.head.uri, path);
                    conn.borrow_mut().begin(head.body, false);
                    let mut upload = Upload::new(&conn);
                    let (mut data, mut trailed) = (Vec::new(), 0);
                    while let Some(frame) = poll_fn(|cx| upload.poll_piece(cx)).await.transpose().unwrap() {
                        match frame.into_data() {
                            Ok(bytes) => data.extend_from_slice(&bytes),
                            Err(frame) => trailed += frame.into_trailers().unwrap().len(),
                        }
                    }
                    assert_eq!((&data[..], trailed), (expected.as_bytes(), trailers));
                    assert!(upload.is_over());
                }
                assert!(next_head(&conn, LIMITS).await.unwrap().is_none());
            };
            tokio::join!(write, read);
        }
    });
}

#[test]
fn who_was_left_behind_reads_nothing_of_the_next_request() {
    const SENT: &str =
        "PUT /a HTTP/1.1\r\nContent-Length: 4\r\n\r\nabcdPUT /b HTTP/1.1\r\nContent-Length: 4\r\n\r\nefgh";
    run(async {
        let (io, mut theirs) = pair().await;
        theirs.write_all(SENT.as_bytes()).unwrap();
        let conn = Rc::new(RefCell::new(Conn::new(io)));
        let head = next_head(&conn, LIMITS).await.unwrap().unwrap();
        conn.borrow_mut().begin(head.body, false);
        let mut left_behind = Upload::new(&conn);
        assert_eq!(left_behind.left(), Some(4));
        let mut cx = Context::from_waker(Waker::noop());
        let is_cut = |upload: &mut Upload, cx: &mut Context<'_>| {
            let piece = upload.poll_piece(cx);
            matches!(piece, Poll::Ready(Some(Err(Cut::Lost(_))))) && !upload.is_over() && upload.left().is_none()
        };
        assert!(conn.borrow_mut().skip_body(), "it was here already");
        assert!(is_cut(&mut left_behind, &mut cx), "nor does it take what was skipped for an end");
        let head = next_head(&conn, LIMITS).await.unwrap().unwrap();
        conn.borrow_mut().begin(head.body, false);
        let mut upload = Upload::new(&conn);
        assert!(is_cut(&mut left_behind, &mut cx));
        let frame = poll_fn(|cx| upload.poll_piece(cx)).await.unwrap().unwrap();
        assert_eq!(frame.into_data().unwrap(), "efgh");
        assert!(upload.is_over() && conn.borrow_mut().skip_body());
    });
}

#[test]
fn who_waits_for_a_word_is_told_to_go_on_once() {
    const HEAD: &str = "PUT / HTTP/1.1\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n";
    run(async {
        for begun in ["", "ab"] {
            let (io, mut theirs) = pair().await;
            theirs.write_all(HEAD.as_bytes()).unwrap();
            theirs.write_all(begun.as_bytes()).unwrap();
            let conn = Rc::new(RefCell::new(Conn::new(io)));
            let head = next_head(&conn, LIMITS).await.unwrap().unwrap();
            conn.borrow_mut().begin(head.body, head.waits);
            assert_eq!(taken(&theirs), b"", "nobody wants the body yet");
            let mut upload = Upload::new(&conn);
            let mut cx = Context::from_waker(Waker::noop());
            if begun.is_empty() {
                assert!(upload.poll_piece(&mut cx).is_pending());
                assert_eq!(taken(&theirs), b"HTTP/1.1 100 Continue\r\n\r\n");
                assert!(upload.poll_piece(&mut cx).is_pending());
                theirs.write_all(b"ab").unwrap();
            }
            let frame = poll_fn(|cx| upload.poll_piece(cx)).await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), "ab");
            assert!(poll_fn(|cx| upload.poll_piece(cx)).await.is_none());
            assert_eq!(taken(&theirs), b"", "once is enough");
        }
    });
}

#[test]
fn a_connection_that_ends_within_a_head_is_cut_and_a_long_head_is_refused() {
    run(async {
        let outcome = async |sent: &str, limits| {
            let (io, theirs) = pair().await;
            tokio_stream(theirs).write_all(sent.as_bytes()).await.unwrap();
            next_head(&RefCell::new(Conn::new(io)), limits).await.map(|head| head.is_some())
        };
        let head = "GET / HTTP/1.1\r\n\r\n";
        let short = |bytes| Limits { bytes, fields: 10 };
        assert!(matches!(outcome("", LIMITS).await, Ok(false)));
        assert!(matches!(outcome(head, short(18)).await, Ok(true)));
        assert!(matches!(outcome(&head[..17], LIMITS).await, Err(Cut::Lost(_))));
        assert!(matches!(outcome("\r\n", LIMITS).await, Err(Cut::Lost(_))));
        assert!(matches!(outcome(head, short(17)).await, Err(Cut::Bad(Bad::TooLarge))));
        assert!(matches!(outcome(&head[..17], short(17)).await, Err(Cut::Bad(Bad::TooLarge))));
    });
}
