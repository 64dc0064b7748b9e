//! Batches over loopback.

use std::os::fd::AsRawFd;

use super::*;

const BUFFER: usize = 1 << 20;

fn listening(address: &str) -> (DatagramSocket, SocketAddr) {
    let socket = DatagramSocket::bind(address.parse().unwrap(), BUFFER, Offload::probe()).unwrap();
    let local = socket.local_address().unwrap();
    (socket, local)
}

fn to(peer: SocketAddr) -> DatagramSocket {
    let socket = DatagramSocket::connect(peer, None).unwrap();
    socket.widen(BUFFER, Offload::probe()).unwrap();
    socket
}

/// Calls until it gives something: on a busy machine loopback takes its time.
fn soon<T>(mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..10_000_000 {
        if let Some(found) = look() {
            return found;
        }
        std::thread::yield_now();
    }
    panic!("it never came");
}

/// Receives one after the other until so many slots are filled.
fn receive(inbox: &mut Inbox, socket: &DatagramSocket, count: usize) {
    for slot in 0..count {
        soon(|| inbox.receive(socket, slot, 1).ok());
    }
}

/// So many datagrams, trains taken apart.
fn contents(socket: &DatagramSocket, count: usize) -> Vec<Vec<u8>> {
    let mut inbox = Inbox::new();
    let mut all = Vec::new();
    while all.len() < count {
        let received = soon(|| inbox.receive(socket, 0, BATCH_MAX).ok());
        for slot in 0..received {
            let segment = inbox.received(slot).segment.max(1) as usize;
            match inbox.bytes(slot) {
                [] => all.push(Vec::new()),
                bytes => all.extend(bytes.chunks(segment).map(<[u8]>::to_vec)),
            }
        }
    }
    all
}

/// Fills slots of the arena and returns a message for each.
fn fill(inbox: &mut Inbox, datagrams: &[Vec<u8>]) -> Outbox {
    let mut outbox = Outbox::default();
    for (slot, bytes) in datagrams.iter().enumerate() {
        inbox.slot_mut(slot)[..bytes.len()].copy_from_slice(bytes);
        outbox.begin(slot as u32, None, None);
        outbox.add(slot, 0, bytes.len());
    }
    outbox
}

fn numbered(count: usize, len: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| vec![number as u8; len]).collect()
}

#[test]
fn a_batch_arrives_whole_in_order_and_with_its_sender() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let (server, local) = listening(address);
        let client = to(local);
        let mut inbox = Inbox::new();
        let datagrams = vec![vec![1; 64], vec![], vec![2; 65_507 - 20], vec![3; 1]];
        let mut outbox = fill(&mut inbox, &datagrams);
        assert_eq!(outbox.send(0, &client, &inbox).unwrap(), 4);
        receive(&mut inbox, &server, 4);
        for (slot, datagram) in datagrams.iter().enumerate() {
            assert_eq!(inbox.bytes(slot), datagram);
            let received = inbox.received(slot);
            assert_eq!(received.source, client.local_address().unwrap());
            assert_eq!((received.local, received.datagrams()), (None, 1));
        }
        let nothing = inbox.receive(&server, 0, 1).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    }
}

#[test]
fn a_train_of_pieces_is_received_as_one_and_sent_on_as_one() {
    let (server, local) = listening("127.0.0.1:0");
    let client = to(local);
    let mut inbox = Inbox::new();
    // Three segments of 100 bytes, each a header of ours and the client's bytes, and a shorter last one.
    let datagrams = [vec![7; 90], vec![8; 90], vec![9; 90], vec![10; 5]];
    let singles = fill(&mut inbox, &datagrams);
    assert_eq!(singles.len(), 4);
    let mut outbox = Outbox::default();
    outbox.begin(0, None, None);
    for (slot, datagram) in datagrams.iter().enumerate() {
        outbox.add_own(&[slot as u8; 10]);
        outbox.add(slot, 0, datagram.len());
    }
    outbox.set_segment(100);
    assert_eq!(outbox.datagrams(0), 4);
    assert_eq!(outbox.send(0, &client, &inbox).unwrap(), 1);
    receive(&mut inbox, &server, 1);
    let received = *inbox.received(0);
    assert_eq!((received.len, received.segment, received.datagrams()), (315, 100, 4));
    for (slot, part) in inbox.bytes(0).chunks(100).enumerate() {
        assert_eq!(part[..10], [slot as u8; 10]);
        assert_eq!(part[10..], datagrams[slot]);
    }
}

#[test]
fn a_train_that_a_path_does_not_take_goes_one_by_one() {
    let (server, local) = listening("127.0.0.1:0");
    let client = to(local);
    // Without a checksum the kernel cannot take a train apart: it refuses (udp(7), SO_NO_CHECK).
    set_option(&client, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1).unwrap();
    let mut inbox = Inbox::new();
    let datagrams = [vec![1; 50], vec![2; 50], vec![3; 50], vec![4; 20]];
    fill(&mut inbox, &datagrams);
    let mut outbox = Outbox::default();
    outbox.begin(5, None, None);
    datagrams.iter().enumerate().for_each(|(slot, bytes)| outbox.add(slot, 0, bytes.len()));
    outbox.set_segment(50);
    assert!(outbox.send(0, &client, &inbox).is_err());
    assert_eq!((outbox.tag(0), outbox.is_train(0)), (5, true));
    let (lost, error) = outbox.send_apart(0, &client, &inbox);
    assert_eq!((lost, error.map(|error| error.to_string())), (0, None));
    assert_eq!(contents(&server, datagrams.len()), datagrams);
}

#[test]
fn segments_are_cut_where_they_end_whatever_the_pieces_are() {
    let (server, local) = listening("127.0.0.1:0");
    let client = to(local);
    let mut inbox = Inbox::new();
    let all: Vec<u8> = (0..=255).collect();
    inbox.slot_mut(0)[..256].copy_from_slice(&all);
    let mut outbox = Outbox::default();
    outbox.begin(0, None, None);
    for (start, len) in [(0, 10), (10, 100), (110, 1), (111, 145)] {
        outbox.add(0, start, len);
    }
    outbox.set_segment(60);
    assert_eq!(outbox.send_apart(0, &client, &inbox).0, 0);
    let expected: Vec<Vec<u8>> = all.chunks(60).map(<[u8]>::to_vec).collect();
    assert_eq!(contents(&server, expected.len()), expected);
}

#[test]
fn a_reply_leaves_from_the_address_that_was_spoken_to() {
    for (any, spoken_to) in [("0.0.0.0:0", "127.0.0.77"), ("[::]:0", "::1")] {
        let (server, bound) = listening(any);
        let peer = SocketAddr::new(spoken_to.parse().unwrap(), bound.port());
        let client = to(peer);
        let mut inbox = Inbox::new();
        fill(&mut inbox, &numbered(1, 8)).send(0, &client, &inbox).unwrap();
        receive(&mut inbox, &server, 1);
        let received = *inbox.received(0);
        assert_eq!(received.local, Some(peer.ip()));
        let mut reply = Outbox::default();
        reply.begin(0, Some(received.source), received.local);
        reply.add(0, 0, 8);
        assert_eq!(reply.send(0, &server, &inbox).unwrap(), 1);
        // The client is connected: it would not see a reply from elsewhere.
        assert_eq!(contents(&client, 1), numbered(1, 8));
    }
}

#[test]
fn more_messages_than_a_batch_take_several_calls() {
    let (server, local) = listening("127.0.0.1:0");
    let client = to(local);
    let mut inbox = Inbox::new();
    inbox.slot_mut(0)[..2].copy_from_slice(&[1, 2]);
    let mut outbox = Outbox::default();
    for tag in 0..150 {
        outbox.begin(tag, None, None);
        outbox.add(0, 0, 2);
    }
    let mut calls = 0;
    let mut sent = 0;
    while sent < outbox.len() {
        sent = outbox.send(sent, &client, &inbox).unwrap();
        calls += 1;
    }
    assert_eq!((calls, contents(&server, 150).len()), (3, 150));
    outbox.clear();
    assert!(outbox.is_empty());
}

#[test]
fn a_closed_port_is_told_to_who_sent_there_and_sending_goes_on_afterwards() {
    let (server, local) = listening("127.0.0.1:0");
    drop(server);
    let client = to(local);
    let mut inbox = Inbox::new();
    let mut outbox = fill(&mut inbox, &numbered(2, 4));
    outbox.send(0, &client, &inbox).unwrap();
    // What is sent next meets the ICMP answer, and is not sent; the one after it is.
    let error = soon(|| outbox.send(1, &client, &inbox).err());
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    // A batch that the answer cuts short swallows the error; the queue of errors has it still.
    assert_eq!(soon(|| client.take_errors()).0.kind(), io::ErrorKind::ConnectionRefused);
    while client.take_errors().is_some() {}
    assert_eq!(outbox.send(1, &client, &inbox).unwrap(), 2, "nothing stands in the way of the next one");
    assert_eq!(soon(|| client.take_errors()).0.kind(), io::ErrorKind::ConnectionRefused);
    assert_eq!(client.discard(), 0);
}

#[test]
fn what_a_full_buffer_has_lost_is_counted() {
    let (server, local) = listening("127.0.0.1:0");
    set_option(&server, libc::SOL_SOCKET, libc::SO_RCVBUF, 1).unwrap(); // the kernel's least
    let client = to(local);
    let mut inbox = Inbox::new();
    let mut outbox = fill(&mut inbox, &numbered(BATCH_MAX, 1000));
    assert_eq!(outbox.send(0, &client, &inbox).unwrap(), BATCH_MAX);
    // Each message tells what was lost before it came: in the end all is accounted for.
    let (mut sent, mut arrived, mut lost) = (BATCH_MAX as u32, 0, 0);
    soon(|| {
        if let Ok(count) = inbox.receive(&server, 0, BATCH_MAX) {
            arrived += count as u32;
            lost = inbox.received(count - 1).overflow.unwrap_or(lost);
        } else {
            sent += outbox.send(BATCH_MAX - 1, &client, &inbox).map_or(0, |_| 1);
        }
        (lost > 0 && arrived + lost == sent).then_some(())
    });
    assert!(arrived > 0);
    assert_eq!(server.lost(), Some(lost), "who asks later hears the same");
}

#[test]
fn the_buffer_is_as_large_as_asked_for_or_as_the_system_allows() {
    let (server, _) = listening("127.0.0.1:0");
    let allowed: usize = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap().trim().parse().unwrap();
    assert!(server.receive_buffer_bytes() >= BUFFER.min(allowed), "{}", server.receive_buffer_bytes());
    assert!(server.as_raw_fd() >= 0);
}
