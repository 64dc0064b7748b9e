//! Seeded simulations: sessions over streams in memory that are read, written and cut anywhere, with real peers at their
//! ends. No byte is lost or invented, an end is passed on only where it was said, and what is held is bounded.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::OnceLock;

use rustls::RootCertStore;

use super::*;
use crate::reason::CloseReason;

const SEEDS: u64 = 150;
/// Turns after which a connection that has not ended is stuck.
const TURNS_MAX: usize = 200_000;

/// The two directions of a socket as its owner sees them.
#[derive(Default)]
struct Wire {
    arrived: VecDeque<u8>,
    fin_arrived: bool,
    sent: VecDeque<u8>,
    fin_sent: bool,
    space: usize,
}

struct NoPipe;

impl Conduit for NoPipe {
    fn open(_: usize) -> io::Result<(Self, usize)> {
        Err(io::Error::from_raw_os_error(libc::EMFILE))
    }
}

#[derive(Clone)]
struct Socket(Rc<RefCell<Wire>>);

impl Stream for Socket {
    type Pipe = NoPipe;

    fn recv(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        let got = into.len().min(wire.arrived.len());
        if got == 0 && !wire.fin_arrived {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.arrived.drain(..got).zip(into).for_each(|(byte, place)| *place = byte);
        Ok(got)
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut wire = self.0.borrow_mut();
        assert!(!wire.fin_sent, "bytes after FIN");
        let taken = bytes.len().min(wire.space);
        if taken == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.space -= taken;
        wire.sent.extend(&bytes[..taken]);
        Ok(taken)
    }

    fn fill(&mut self, _: &NoPipe, _: usize) -> io::Result<usize> {
        unreachable!("what is encrypted is not spliced")
    }

    fn drain(&mut self, _: &NoPipe, _: usize) -> io::Result<usize> {
        unreachable!("what is encrypted is not spliced")
    }

    fn shutdown_write(&mut self) -> io::Result<()> {
        self.0.borrow_mut().fin_sent = true;
        Ok(())
    }
}

/// Who sits at the other end of a wire.
struct Peer {
    wire: Rc<RefCell<Wire>>,
    tls: Option<Connection>,
    /// What it has to say, and how much of it was said.
    total: usize,
    said: usize,
    /// It ends without close_notify.
    cuts: bool,
    ended: bool,
    heard: Vec<u8>,
    /// It was told that this is all.
    told_end: bool,
    /// What stands ready and has not left yet.
    outgoing: VecDeque<u8>,
}

fn content(at: usize) -> u8 {
    (at as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(17) as u8
}

impl Peer {
    fn new(tls: Option<Connection>, total: usize, cuts: bool, space: usize) -> (Self, Socket) {
        let wire = Rc::new(RefCell::new(Wire { space, ..Wire::default() }));
        let socket = Socket(wire.clone());
        let (said, heard, outgoing) = (0, Vec::new(), VecDeque::new());
        (Self { wire, tls, total, said, cuts, ended: false, heard, told_end: false, outgoing }, socket)
    }

    /// Takes what came, says what it can say, and lets some of it arrive. What that means for the socket's owner.
    fn act(&mut self, rng: &mut fastrand::Rng) -> Readiness {
        let mut wire = self.wire.borrow_mut();
        let came: Vec<u8> = wire.sent.drain(..).collect();
        let blocked = wire.space == 0;
        wire.space += rng.usize(0..30_000);
        match &mut self.tls {
            None => {
                self.heard.extend(&came);
                self.told_end |= wire.fin_sent;
                let more = (self.total - self.said).min(rng.usize(0..20_000));
                self.outgoing.extend((self.said..self.said + more).map(content));
                self.said += more;
                self.ended |= self.said == self.total;
            }
            Some(tls) => {
                let mut rest = &came[..];
                while !rest.is_empty() {
                    assert!(tls.read_tls(&mut rest).unwrap() > 0, "records behind close_notify");
                    let state = tls.process_new_packets().expect("our records are right");
                    let start = self.heard.len();
                    self.heard.resize(start + state.plaintext_bytes_to_read(), 0);
                    tls.reader().read_exact(&mut self.heard[start..]).unwrap();
                    self.told_end |= state.peer_has_closed();
                }
                if !tls.is_handshaking() && self.said < self.total {
                    let more: Vec<u8> = (self.said..self.total).take(rng.usize(1..20_000)).map(content).collect();
                    self.said += tls.writer().write(&more).unwrap();
                }
                if !tls.is_handshaking() && self.said == self.total && !self.ended {
                    self.ended = true;
                    if !self.cuts {
                        tls.send_close_notify();
                    }
                }
                while tls.wants_write() {
                    tls.write_tls(&mut self.outgoing).unwrap();
                }
            }
        }
        let arriving = self.outgoing.len().min(1 << rng.u8(0..16));
        wire.arrived.extend(self.outgoing.drain(..arriving));
        let fin = self.ended && self.outgoing.is_empty() && !wire.fin_arrived;
        wire.fin_arrived |= fin;
        Readiness { readable: arriving > 0 || fin, fin: wire.fin_arrived, writable: blocked, ..Readiness::default() }
    }
}

/// Both ends of TLS with a certificate for "localhost".
fn configs() -> &'static (Arc<ServerConfig>, Arc<ClientConfig>) {
    static CONFIGS: OnceLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = OnceLock::new();
    CONFIGS.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let server = ServerConfig::builder().with_no_client_auth();
        let server = server.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
        let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        (Arc::new(server), Arc::new(client))
    })
}

fn name() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

/// Shakes hands until that is done.
fn shake(session: &mut Session, socket: &mut Socket, peer: &mut Peer, rng: &mut fastrand::Rng) {
    let mut scratch = [0; 1024];
    for _ in 0..TURNS_MAX {
        match session.shake(socket, &mut scratch) {
            Shaken::Done => return,
            Shaken::Waiting | Shaken::Again => drop(peer.act(rng)),
            Shaken::Failed(error) => panic!("{error}"),
        }
    }
    panic!("the handshake is stuck");
}

fn run(seed: u64) -> CloseReason {
    let mut rng = fastrand::Rng::with_seed(seed);
    let (server, client) = configs();
    let mut total = || if rng.bool() { rng.usize(0..3000) } else { rng.usize(0..150_000) };
    let totals = [total(), total()];
    let (with_client, with_backend) = [(true, false), (false, true), (true, true)][rng.usize(..3)];
    let cuts = [with_client && rng.u8(..4) == 0, with_backend && rng.u8(..4) == 0];
    let near = with_client.then(|| ClientConnection::new(client.clone(), name()).unwrap().into());
    let far = with_backend.then(|| ServerConnection::new(server.clone()).unwrap().into());
    let (mut near, mut client_socket) = Peer::new(near, totals[0], cuts[0], rng.usize(0..20_000));
    let (mut far, mut backend_socket) = Peer::new(far, totals[1], cuts[1], rng.usize(0..20_000));
    let mut sessions = Sessions::default();
    if with_client {
        near.act(&mut rng);
        let mut arrived = near.wire.borrow_mut();
        let early = rng.usize(0..=arrived.arrived.len());
        let received = arrived.arrived.drain(..early).collect();
        drop(arrived);
        let session = sessions.client.insert(Box::new(Session::with_client(server.clone(), received).unwrap()));
        shake(session, &mut client_socket, &mut near, &mut rng);
        assert_eq!(session.server_name(), Some("localhost"));
    }
    if with_backend {
        let session = sessions.backend.insert(Box::new(Session::with_backend(client.clone(), name()).unwrap()));
        shake(session, &mut backend_socket, &mut far, &mut rng);
    }
    let mut room: Room<NoPipe> = Room::new(4);
    let mut relay = Relay::default();
    sessions.begin(&mut relay);
    let mut again = true;
    for _ in 0..TURNS_MAX {
        let (side, peer) = if rng.bool() { (Side::Client, &mut near) } else { (Side::Backend, &mut far) };
        let ready = peer.act(&mut rng);
        if ready.readable || ready.writable {
            assert!(!relay.event(side, ready), "no error was announced");
            again = true;
        }
        if !again {
            continue;
        }
        let progress = sessions.pump(&mut relay, &mut client_socket, &mut backend_socket, &mut room);
        assert!(!relay.is_streaming(), "nothing is spliced");
        match progress {
            Progress::Waiting => again = false,
            Progress::Again => {}
            Progress::Ended(end) => {
                // A close without a reset passes FIN on.
                for (peer, socket) in [(&mut near, &client_socket), (&mut far, &backend_socket)] {
                    socket.0.borrow_mut().fin_sent |= !end.reset;
                    peer.act(&mut rng);
                }
                check(&near, &far, end, relay.to_backend.bytes);
                check(&far, &near, end, relay.to_client.bytes);
                assert_eq!(end.reset, near.cuts || far.cuts, "{end:?}");
                return end.reason;
            }
        }
    }
    panic!("stuck after {} and {} bytes", near.heard.len(), far.heard.len());
}

/// What `to` has heard of `from`.
fn check(from: &Peer, to: &Peer, end: End, counted: u64) {
    assert!(to.heard.iter().enumerate().all(|(at, byte)| *byte == content(at)), "reordered or invented");
    assert!(to.heard.len() <= from.said && to.heard.len() as u64 <= counted);
    if to.told_end {
        assert!(!from.cuts, "a stream that was cut was passed on as whole");
        assert_eq!(to.heard.len(), from.total);
    }
    assert!(end.reset || to.told_end, "the end was not passed on");
}

#[test]
fn no_byte_is_lost_and_no_end_invented_wherever_streams_are_torn() {
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..SEEDS {
        let reason = std::panic::catch_unwind(|| run(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
        *seen.entry(reason).or_insert(0) += 1;
    }
    assert_eq!(seen.len(), 4, "the seeds cover all ends: {seen:?}");
}

#[test]
fn whatever_a_peer_sends_instead_of_a_handshake_ends_it() {
    let (server, client) = configs();
    for seed in 0..500 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (peer, mut socket) = Peer::new(None, 0, false, 1 << 20);
        let mut noise: Vec<u8> = (0..rng.usize(0..3000)).map(|_| rng.u8(..)).collect();
        if rng.bool() && noise.len() > 5 {
            noise[..5].copy_from_slice(&[22, 3, rng.u8(..5), rng.u8(..64), rng.u8(..)]);
        }
        peer.wire.borrow_mut().arrived.extend(noise);
        peer.wire.borrow_mut().fin_arrived = true;
        let mut session = match rng.bool() {
            true => Session::with_client(server.clone(), Vec::new()).unwrap(),
            false => Session::with_backend(client.clone(), name()).unwrap(),
        };
        let mut scratch = [0; 512];
        let failed = (0..100).any(|_| matches!(session.shake(&mut socket, &mut scratch), Shaken::Failed(_)));
        assert!(failed, "seed {seed}");
    }
}
