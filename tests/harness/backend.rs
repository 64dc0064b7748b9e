//! In-process backends: they echo, tell their name, send, swallow, reset, record, never accept; they die and come back
//! on the same port; or they hand a test the other end of a connection.

use std::collections::{HashMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;

use sha2::{Digest, Sha256};
use socket2::{Domain, SockRef, Socket, Type};

use super::http::Message;
use super::{SOON, patiently, wait_until};

const BUFFER_BYTES: usize = 64 * 1024;
/// A thread a connection, many at once: small stacks.
const STACK_BYTES: usize = 64 * 1024;

type Serve = dyn Fn(&TcpStream, &Shared) -> io::Result<()> + Send + Sync;

/// A backend on its own port; dropping it kills it.
pub struct Backend {
    name: String,
    address: SocketAddr,
    serve: Option<Arc<Serve>>,
    shared: Arc<Shared>,
    acceptor: Option<(TcpListener, JoinHandle<()>)>,
    deaf: Option<(Socket, Vec<Socket>)>,
    /// Bound, but nobody listens: while it is dead, nobody else gets its port.
    grave: Option<Socket>,
}

/// What the connections of a backend have in common.
#[derive(Default)]
pub struct Shared {
    accepted: AtomicU64,
    sent: AtomicU64,
    read: AtomicU64,
    resets: AtomicU64,
    sick: AtomicBool,
    open: Mutex<HashMap<u64, Arc<TcpStream>>>,
    held: Mutex<VecDeque<TcpStream>>,
    records: Mutex<Vec<Vec<u8>>>,
    requests: Mutex<Vec<Message>>,
}

impl Shared {
    /// Keeps a request for the test.
    pub fn keep(&self, request: &Message) {
        self.requests.lock().unwrap().push(request.clone());
    }

    /// How many were kept.
    pub fn kept(&self) -> u64 {
        self.requests.lock().unwrap().len() as u64
    }

    /// Sends so many bytes of the pattern, counted by [`Backend::sent`].
    pub fn send_pattern(&self, stream: &TcpStream, bytes: u64) -> io::Result<()> {
        Pattern::default().send(&mut Counted(stream, &self.sent), bytes)
    }
}

impl Backend {
    /// Sends back what it is sent, and FIN after FIN.
    pub fn echo() -> Self {
        Self::on("127.0.0.1:0", "echo", echo)
    }

    /// Tells its name in a line, then echoes.
    pub fn named(name: &str) -> Self {
        Self::named_at("127.0.0.1:0", name)
    }

    /// The same at this address.
    pub fn named_at(address: &str, name: &str) -> Self {
        let line = format!("{name}\n");
        Self::on(address, name, move |stream, shared| {
            write_all(stream, line.as_bytes())?;
            echo(stream, shared)
        })
    }

    /// Reads and forgets.
    pub fn sink() -> Self {
        Self::on("127.0.0.1:0", "sink", |stream, shared| read_to_end(stream, shared, |_| ()))
    }

    /// Sends this many bytes of the pattern at once and FIN, then reads to the end.
    pub fn source(bytes: u64) -> Self {
        Self::on("127.0.0.1:0", "source", move |stream, shared| {
            shared.send_pattern(stream, bytes)?;
            stream.shutdown(Shutdown::Write)?;
            read_to_end(stream, shared, |_| ())
        })
    }

    /// Reads to FIN and only then answers: "LENGTH SHA256" of what came.
    pub fn digest() -> Self {
        Self::on("127.0.0.1:0", "digest", |stream, _| {
            let (bytes, hash) = super::digest_of(&mut &*stream)?;
            write_all(stream, format!("{bytes} {hash}").as_bytes())
        })
    }

    /// Answers a request with 200 and its name, or 503 while it is sick ([`Backend::be_sick`]).
    pub fn http(name: &str) -> Self {
        let body = name.to_owned();
        Self::on("127.0.0.1:0", name, move |stream, shared| {
            let mut request = Vec::new();
            let mut piece = [0; 1024];
            while !request.windows(4).any(|four| four == b"\r\n\r\n") {
                match (&*stream).read(&mut piece)? {
                    0 => return Ok(()),
                    read => request.extend_from_slice(&piece[..read]),
                }
            }
            if !request.starts_with(b"GET /health") {
                shared.records.lock().unwrap().push(request);
            }
            let status = if shared.sick.load(Ordering::SeqCst) { "503 Sick" } else { "200 OK" };
            let length = body.len();
            write_all(
                stream,
                format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}").as_bytes(),
            )
        })
    }

    /// Resets every connection as soon as it is accepted.
    pub fn resetting() -> Self {
        Self::on("127.0.0.1:0", "resetting", |stream, _| SockRef::from(stream).set_linger(Some(Duration::ZERO)))
    }

    /// Keeps what comes, connection by connection ([`Backend::records`]), and says nothing.
    pub fn recorder() -> Self {
        Self::on("127.0.0.1:0", "recorder", |stream, shared| {
            let place = {
                let mut records = shared.records.lock().unwrap();
                records.push(Vec::new());
                records.len() - 1
            };
            read_to_end(stream, shared, |bytes| shared.records.lock().unwrap()[place].extend_from_slice(bytes))
        })
    }

    /// Accepts and does nothing; [`Backend::take`] hands the connections to the test in their order.
    pub fn held() -> Self {
        Self::listen("127.0.0.1:0", "held", None)
    }

    /// A host that does not answer: it listens, its queue is full, and it never accepts. SYNs are dropped.
    pub fn black_hole() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        socket.listen(0).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        let mut fill = Vec::new();
        loop {
            let one = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
            let connected = one.connect_timeout(&address.into(), Duration::from_millis(150));
            if connected.is_err() {
                break;
            }
            fill.push(one);
        }
        let shared = Arc::default();
        Self {
            name: "hole".into(),
            address,
            serve: None,
            shared,
            acceptor: None,
            deaf: Some((socket, fill)),
            grave: None,
        }
    }

    /// A backend of any other behaviour, at this address.
    pub fn on(
        address: &str,
        name: &str,
        serve: impl Fn(&TcpStream, &Shared) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        Self::listen(address, name, Some(Arc::new(serve)))
    }

    fn listen(address: &str, name: &str, serve: Option<Arc<Serve>>) -> Self {
        let listener = TcpListener::bind(address).unwrap();
        let address = listener.local_addr().unwrap();
        let mut backend =
            Self { name: name.into(), address, serve, shared: Arc::default(), acceptor: None, deaf: None, grave: None };
        backend.accept_on(listener);
        backend
    }

    fn accept_on(&mut self, listener: TcpListener) {
        SockRef::from(&listener).listen(4096).unwrap();
        let (shared, serve) = (self.shared.clone(), self.serve.clone());
        let accepting = listener.try_clone().unwrap();
        let thread = std::thread::spawn(move || accept(&accepting, &shared, serve.as_ref()));
        self.acceptor = Some((listener, thread));
    }

    /// Dies as a killed process does: nobody listens, every connection is closed.
    pub fn kill(&mut self) {
        let Some((listener, thread)) = self.acceptor.take() else { return };
        // Ends listening at once, and the accept(2) that waits there.
        let _ = SockRef::from(&listener).shutdown(Shutdown::Both);
        thread.join().unwrap();
        drop(listener);
        let grave = Socket::new(Domain::for_address(self.address), Type::STREAM, None).unwrap();
        grave.set_reuse_address(true).unwrap();
        grave.bind(&self.address.into()).unwrap();
        self.grave = Some(grave);
        for (_, stream) in self.shared.open.lock().unwrap().drain() {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.held.lock().unwrap().clear();
    }

    /// Comes back on the same port.
    pub fn revive(&mut self) {
        let grave = self.grave.take().unwrap();
        self.accept_on(grave.into());
    }

    /// From now on [`Backend::http`] answers 503, or 200 again.
    pub fn be_sick(&self, sick: bool) {
        self.shared.sick.store(sick, Ordering::SeqCst);
    }

    /// An entry of `backends` by its name, with these further keys of TOML (`"weight = 3"`).
    pub fn entry(&self, keys: &str) -> String {
        super::entry(&self.name, self.address, keys)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The other end of the next connection of a [`Backend::held`].
    #[track_caller]
    pub fn take(&self) -> TcpStream {
        let mut taken = None;
        wait_until(SOON, "the backend has a connection", || {
            taken = self.shared.held.lock().unwrap().pop_front();
            taken.is_some()
        });
        patiently(taken.unwrap())
    }

    /// How many connections a [`Backend::held`] holds that nobody took.
    pub fn holds(&self) -> usize {
        self.shared.held.lock().unwrap().len()
    }

    /// Connections that came, ever.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Connections being served.
    pub fn open(&self) -> usize {
        self.shared.open.lock().unwrap().len()
    }

    /// Bytes that [`Backend::source`] got rid of.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Bytes read by echo, sink, source and recorder.
    pub fn read(&self) -> u64 {
        self.shared.read.load(Ordering::SeqCst)
    }

    /// Connections that ended by a reset from the other side.
    pub fn resets(&self) -> u64 {
        self.shared.resets.load(Ordering::SeqCst)
    }

    /// What came, connection by connection (recorder), or the requests (http).
    pub fn records(&self) -> Vec<Vec<u8>> {
        self.shared.records.lock().unwrap().clone()
    }

    /// The requests that came, in their order ([`Backend::web`]).
    pub fn requests(&self) -> Vec<Message> {
        self.shared.requests.lock().unwrap().clone()
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.kill();
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>, serve: Option<&Arc<Serve>>) {
    while let Ok((stream, _)) = listener.accept() {
        let number = shared.accepted.fetch_add(1, Ordering::SeqCst);
        let Some(serve) = serve.cloned() else {
            shared.held.lock().unwrap().push_back(stream);
            continue;
        };
        let _ = stream.set_nodelay(true);
        let stream = Arc::new(stream);
        shared.open.lock().unwrap().insert(number, stream.clone());
        let shared = shared.clone();
        let serving = move || {
            if let Err(error) = serve(&stream, &shared)
                && error.kind() == io::ErrorKind::ConnectionReset
            {
                shared.resets.fetch_add(1, Ordering::SeqCst);
            }
            shared.open.lock().unwrap().remove(&number);
        };
        std::thread::Builder::new().stack_size(STACK_BYTES).spawn(serving).unwrap();
    }
}

fn echo(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = (&*stream).read(&mut buffer)?;
        if read == 0 {
            return stream.shutdown(Shutdown::Write);
        }
        shared.read.fetch_add(read as u64, Ordering::SeqCst);
        write_all(stream, &buffer[..read])?;
    }
}

fn read_to_end(stream: &TcpStream, shared: &Shared, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = (&*stream).read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        shared.read.fetch_add(read as u64, Ordering::SeqCst);
        each(&buffer[..read]);
    }
}

fn write_all(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    (&*stream).write_all(bytes)
}

struct Counted<'a>(&'a TcpStream, &'a AtomicU64);

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(bytes)?;
        self.1.fetch_add(written as u64, Ordering::SeqCst);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A stream of bytes in which no piece looks like another: what is lost, doubled or swapped changes its hash.
pub struct Pattern(&'static [u8]);

/// Prime, so that it never lines up with a buffer.
const PATTERN_BYTES: usize = 1_048_573;

impl Default for Pattern {
    fn default() -> Self {
        static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
        Self(BLOCK.get_or_init(|| {
            let mut state = 0x9E37_79B9_7F4A_7C15_u64;
            let mut next = move || {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            };
            (0..PATTERN_BYTES).map(|_| next()).collect()
        }))
    }
}

impl Pattern {
    /// Its first bytes, in writes of uneven sizes.
    pub fn send(&self, to: &mut impl Write, bytes: u64) -> io::Result<()> {
        let mut at = 0;
        while at < bytes {
            let start = (at % PATTERN_BYTES as u64) as usize;
            let piece = (PATTERN_BYTES - start).min((bytes - at) as usize).min(100_003);
            to.write_all(&self.0[start..start + piece])?;
            at += piece as u64;
        }
        Ok(())
    }

    /// The digest of its first bytes, as [`super::digest_of`] gives it.
    pub fn digest(bytes: u64) -> (u64, String) {
        let mut hash = Sha256::new();
        Self::default().send(&mut hash, bytes).unwrap();
        (bytes, format!("{:x}", hash.finalize()))
    }
}
