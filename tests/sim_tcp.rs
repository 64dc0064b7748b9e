//! Seeded simulation of the TCP core: two scripted sockets with short reads and writes, full buffers, FINs and resets
//! in any order, and the kernel's edge-triggered manner of telling. For each of thousands of seeds: no byte is lost,
//! reordered or invented, no truncated stream ends in a clean FIN, every connection ends exactly once, and nothing leaks.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use evener::id::Side;
use evener::reason::CloseReason;
use evener::tcp::conduit::{Conduit, Room, Stream};
use evener::tcp::relay::{Progress, Readiness, Relay};

const SEEDS: u64 = 3000;
/// Turns after which a connection that has not ended is stuck.
const TURNS_MAX: usize = 20_000;

thread_local! {
    static PIPES_OPEN: Cell<usize> = const { Cell::new(0) };
    static PIPE_KIND: Cell<u64> = const { Cell::new(0) };
}

/// A pipe in memory.
struct ScriptedPipe(RefCell<VecDeque<u8>>);

impl Conduit for ScriptedPipe {
    fn open(capacity: usize) -> io::Result<(Self, usize)> {
        match PIPE_KIND.get() {
            0 => return Err(io::Error::from_raw_os_error(libc::EMFILE)),
            1 => return Ok((Self::new(), 4096)), // the quota is used up
            _ => {}
        }
        Ok((Self::new(), capacity))
    }
}

impl ScriptedPipe {
    fn new() -> Self {
        PIPES_OPEN.set(PIPES_OPEN.get() + 1);
        Self(RefCell::default())
    }
}

impl Drop for ScriptedPipe {
    fn drop(&mut self) {
        PIPES_OPEN.set(PIPES_OPEN.get() - 1);
    }
}

/// One peer as its socket shows it.
struct Peer {
    /// What it will send in all; byte i is `content(i)`.
    total: usize,
    arrived: usize,
    read: usize,
    fin_arrived: bool,
    /// The RST has arrived; its error has not been told yet.
    reset_pending: bool,
    is_reset: bool,
    /// What was sent to it.
    received: Vec<u8>,
    got_fin: bool,
    /// Bytes our send buffer takes now.
    space: usize,
    /// A send met a full buffer: the kernel will tell when there is space again.
    no_space: bool,
    spliceable: bool,
    seed: u8,
}

impl Peer {
    fn describe(&self) -> String {
        format!(
            "total {} arrived {} read {} fin {} reset {} pending {}",
            self.total, self.arrived, self.read, self.fin_arrived, self.is_reset, self.reset_pending
        )
    }
}

struct Scripted(Rc<RefCell<Peer>>, RefCell<fastrand::Rng>);

fn content(seed: u8, i: usize) -> u8 {
    (i as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) as u8 ^ seed
}

impl Scripted {
    fn read(&self, max: usize, mut put: impl FnMut(u8)) -> io::Result<usize> {
        let mut peer = self.0.borrow_mut();
        let n = max.min(peer.arrived - peer.read);
        if n == 0 {
            if std::mem::take(&mut peer.reset_pending) {
                return Err(io::Error::from_raw_os_error(libc::ECONNRESET));
            }
            // After its error was told, a dead socket reads as if it had ended.
            if peer.is_reset || (peer.fin_arrived && peer.read == peer.arrived) {
                return Ok(0);
            }
            return Err(io::ErrorKind::WouldBlock.into());
        }
        for i in peer.read..peer.read + n {
            put(content(peer.seed, i));
        }
        peer.read += n;
        Ok(n)
    }

    fn write(&self, bytes: impl ExactSizeIterator<Item = u8>) -> io::Result<usize> {
        let mut peer = self.0.borrow_mut();
        if peer.is_reset {
            let errno = if std::mem::take(&mut peer.reset_pending) { libc::ECONNRESET } else { libc::EPIPE };
            return Err(io::Error::from_raw_os_error(errno));
        }
        assert!(!peer.got_fin, "bytes after FIN");
        let wanted = bytes.len();
        let n = wanted.min(peer.space);
        peer.no_space |= n < wanted;
        peer.space -= n;
        peer.received.extend(bytes.take(n));
        if n == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }
}

impl Stream for Scripted {
    type Pipe = ScriptedPipe;

    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut at = 0;
        self.read(into.len(), |byte| {
            into[at] = byte;
            at += 1;
        })
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes.iter().copied())
    }

    fn fill(&mut self, pipe: &ScriptedPipe, max: usize) -> io::Result<usize> {
        if !self.0.borrow().spliceable {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut inside = pipe.0.borrow_mut();
        assert!(inside.is_empty(), "a pipe is filled only when it is empty");
        // A splice may stop short at a fragment although the socket has more.
        let max = if self.1.borrow_mut().bool() { max } else { self.1.borrow_mut().usize(1..=max) };
        self.read(max, |byte| inside.push_back(byte))
    }

    fn drain(&mut self, pipe: &ScriptedPipe, max: usize) -> io::Result<usize> {
        let mut inside = pipe.0.borrow_mut();
        assert_eq!(inside.len(), max, "the core knows what is inside");
        let offered = if self.1.borrow_mut().bool() { max } else { self.1.borrow_mut().usize(1..=max) };
        let n = self.write(inside.iter().copied().take(offered))?;
        inside.drain(..n);
        Ok(n)
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        let mut peer = self.0.borrow_mut();
        assert!(!std::mem::replace(&mut peer.got_fin, true), "FIN is sent once");
        if peer.is_reset { Err(io::Error::from_raw_os_error(libc::ENOTCONN)) } else { Ok(()) }
    }
}

fn peer(rng: &mut fastrand::Rng) -> Rc<RefCell<Peer>> {
    let total = match rng.u8(..6) {
        0 => 0,
        1 => rng.usize(1..100),
        2 => 16 * 1024 * rng.usize(1..4) + rng.usize(0..3) - 1,
        3 => rng.usize(1..100_000),
        _ => rng.usize(1..300_000),
    };
    Rc::new(RefCell::new(Peer {
        total,
        arrived: 0,
        read: 0,
        fin_arrived: false,
        reset_pending: false,
        is_reset: false,
        received: Vec::new(),
        got_fin: false,
        space: rng.usize(0..200_000),
        no_space: false,
        spliceable: rng.u8(..8) != 0,
        seed: rng.u8(..),
    }))
}

/// Something happens at one peer; what epoll would say of it.
fn happen(peer: &mut Peer, rng: &mut fastrand::Rng, may_reset: bool, spurious: bool) -> Option<Readiness> {
    let mut ready = Readiness::default();
    match rng.u8(..20) {
        0..9 if peer.arrived < peer.total && !peer.is_reset => {
            let most = (peer.total - peer.arrived).min(1 << rng.u8(0..20));
            peer.arrived += rng.usize(1..=most.max(1));
            ready.readable = true;
        }
        9..12 if peer.arrived == peer.total && !peer.fin_arrived && !peer.is_reset => {
            peer.fin_arrived = true;
            ready.readable = true;
        }
        12..18 => {
            peer.space += rng.usize(1..300_000);
            if !std::mem::take(&mut peer.no_space) {
                return None;
            }
            ready.writable = true;
        }
        18 if may_reset && !peer.is_reset && rng.u8(..8) == 0 => {
            peer.arrived += rng.usize(0..=peer.total - peer.arrived);
            peer.is_reset = true;
            peer.reset_pending = true;
            ready = Readiness { readable: true, writable: true, error: true, ..ready };
        }
        // An edge for something else, as epoll may give at any time. Not in every run: it would hide a lost one.
        19 if spurious => ready.readable = true,
        _ => return None,
    }
    // Level flags that epoll reports along with whatever raised the edge.
    ready.writable |= peer.space > 0 && rng.bool();
    ready.fin = peer.fin_arrived && !peer.is_reset;
    ready.error |= peer.reset_pending;
    Some(ready)
}

fn run(seed: u64) -> CloseReason {
    let mut rng = fastrand::Rng::with_seed(seed);
    PIPE_KIND.set(rng.u64(..8));
    let (may_reset, spurious) = (rng.bool(), rng.bool());
    let peers = [peer(&mut rng), peer(&mut rng)];
    let [mut client, mut backend] = peers.clone().map(|peer| Scripted(peer, RefCell::new(rng.fork())));
    let mut room: Room<ScriptedPipe> = Room::new(rng.usize(..4));
    let mut relay: Relay<ScriptedPipe> = Relay::default();
    let preload = if rng.u8(..4) == 0 { vec![7; rng.usize(1..40_000)] } else { Vec::new() };
    relay.to_backend.preload(&preload, &[]);
    for side in [Side::Client, Side::Backend] {
        relay.event(side, Readiness { readable: true, writable: true, ..Readiness::default() });
    }
    let mut again = true;
    let mut end = None;
    for _ in 0..TURNS_MAX {
        let side = if rng.bool() { Side::Client } else { Side::Backend };
        let at = usize::from(side == Side::Backend);
        let event = happen(&mut peers[at].borrow_mut(), &mut rng, may_reset, spurious);
        if let Some(ready) = event {
            if relay.event(side, ready) && std::mem::take(&mut peers[at].borrow_mut().reset_pending) {
                end = Some(relay.failed(side, &io::Error::from_raw_os_error(libc::ECONNRESET)));
                break;
            }
            again = true;
        }
        if !again {
            continue;
        }
        let progress = relay.pump(&mut client, &mut backend, &mut room);
        let held = usize::from(relay.to_backend.holds_bytes()) + usize::from(relay.to_client.holds_bytes());
        assert!(room.pipes.counts().0 <= held, "a pipe is borrowed only while bytes are inside");
        match progress {
            Progress::Waiting => {
                again = false;
                for (from, to) in [(&peers[0], &peers[1]), (&peers[1], &peers[0])] {
                    let overlooked = from.borrow().reset_pending && !to.borrow().no_space && to.borrow().space > 0;
                    assert!(!overlooked, "a reset is overlooked");
                }
            }
            Progress::Again => {}
            Progress::Ended(how) => {
                end = Some(how);
                break;
            }
        }
    }
    let end = end.unwrap_or_else(|| panic!("stuck after {} bytes", relay.bytes()));
    relay.abandon(&mut room);
    assert_eq!(room.pipes.counts().0, 0, "all pipes were given back");
    drop(room);
    assert_eq!(PIPES_OPEN.get(), 0, "no pipe leaks");

    let [client, backend] = [peers[0].borrow(), peers[1].borrow()];
    check_stream(&client, &backend, &preload, relay.to_backend.bytes, end.reset);
    check_stream(&backend, &client, &[], relay.to_client.bytes, end.reset);
    let any_reset = client.is_reset || backend.is_reset;
    assert!(any_reset || !end.reset, "{end:?} although nobody reset");
    match end.reason {
        CloseReason::ClientClosed | CloseReason::BackendClosed => assert!(!end.reset),
        CloseReason::ClientReset => assert!(client.is_reset && end.reset),
        CloseReason::BackendReset => assert!(backend.is_reset && end.reset),
        other => panic!("{other:?} cannot come from two peers that only send, end or reset"),
    }
    end.reason
}

/// What one peer got is exactly what the other sent, as far as it goes; and all of it if it ended with FIN.
fn check_stream(from: &Peer, to: &Peer, preload: &[u8], counted: u64, reset: bool) {
    let (head, body) = to.received.split_at(preload.len().min(to.received.len()));
    assert_eq!(head, &preload[..head.len()]);
    assert!(body.iter().enumerate().all(|(i, byte)| *byte == content(from.seed, i)), "reordered or invented");
    assert_eq!(counted, body.len() as u64, "counted what was delivered, our own header aside");
    // A close without a reset is a FIN too.
    if to.got_fin || !reset {
        assert_eq!(body.len(), from.total, "a truncated stream ended in a clean FIN: {}", from.describe());
        assert!(from.fin_arrived, "FIN is passed on, not made");
    }
}

#[test]
fn no_byte_is_lost_and_every_connection_ends_once_whatever_the_sockets_do() {
    if let Ok(seed) = std::env::var("EVENER_SIM_SEED") {
        run(seed.parse().expect("EVENER_SIM_SEED is the number of a seed that failed"));
        return;
    }
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..SEEDS {
        let reason = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
        *seen.entry(reason).or_insert(0) += 1;
    }
    for reason in
        [CloseReason::ClientClosed, CloseReason::BackendClosed, CloseReason::ClientReset, CloseReason::BackendReset]
    {
        assert!(seen.get(&reason).is_some_and(|times| *times > SEEDS / 50), "the seeds cover {reason:?}: {seen:?}");
    }
}
