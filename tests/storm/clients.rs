//! Clients that work without a pause and check every byte that they get.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::harness::http::{Peer, get};
use crate::harness::{breathe, reset};

/// Clients at once of each kind.
const BULK: usize = 8;
const TALKERS: usize = 12;
const RUDE: usize = 2;
const WEB: usize = 3;
const ASKERS: usize = 3;
/// What is sent at once.
const BULK_BYTES: usize = 600_000;
/// What a frozen backend costs a client at most.
const PATIENCE: Duration = Duration::from_secs(8);
/// Complaints that are kept.
const COMPLAINTS_MAX: usize = 10;

/// What may hurt connections that are there: whoever works in between has an excuse.
#[derive(Default)]
pub struct Trouble {
    for_all: Span,
    for_http: Span,
}

#[derive(Default)]
struct Span {
    begun: AtomicU64,
    ended: AtomicU64,
}

impl Trouble {
    pub fn begin(&self) {
        self.for_all.begun.fetch_add(1, Ordering::SeqCst);
    }

    pub fn end(&self) {
        self.for_all.ended.fetch_add(1, Ordering::SeqCst);
    }

    pub fn begin_for_http(&self) {
        self.for_http.begun.fetch_add(1, Ordering::SeqCst);
    }

    pub fn end_for_http(&self) {
        self.for_http.ended.fetch_add(1, Ordering::SeqCst);
    }

    /// How often it has begun for such clients, unless it goes on.
    fn none_since(&self, is_http: bool) -> Option<u64> {
        let all = self.for_all.none_since()?;
        if is_http { Some(all + self.for_http.none_since()?) } else { Some(all) }
    }
}

impl Span {
    fn none_since(&self) -> Option<u64> {
        let ended = self.ended.load(Ordering::SeqCst);
        (self.begun.load(Ordering::SeqCst) == ended).then_some(ended)
    }
}

#[derive(Default)]
struct Book {
    /// All bytes came back, and the end.
    perfect: AtomicU64,
    /// Broken off, with an excuse.
    excused: AtomicU64,
    /// What must not be.
    wrong: Mutex<Vec<String>>,
    is_over: AtomicBool,
}

pub struct Clients {
    book: Arc<Book>,
    threads: Vec<JoinHandle<()>>,
}

impl Clients {
    pub fn start(ports: (SocketAddr, SocketAddr, SocketAddr), trouble: &Arc<Trouble>, seed: u64) -> Self {
        let (tcp, http, udp) = ports;
        let book = Arc::new(Book::default());
        let mut threads = Vec::new();
        let mut start =
            |count: usize, work: fn(SocketAddr, &mut fastrand::Rng) -> Result<(), Failure>, to: SocketAddr| {
                for number in 0..count {
                    let (book, trouble) = (book.clone(), trouble.clone());
                    let is_http = to == http;
                    let mut rng = fastrand::Rng::with_seed(seed ^ (threads.len() * 1000 + number) as u64);
                    threads.push(std::thread::spawn(move || {
                        while !book.is_over.load(Ordering::SeqCst) {
                            let before = trouble.none_since(is_http);
                            let outcome = work(to, &mut rng);
                            let is_excused = before.is_none() || before != trouble.none_since(is_http);
                            book.note(outcome, is_excused);
                        }
                    }));
                }
            };
        start(BULK, bulk, tcp);
        start(TALKERS, talk, tcp);
        start(RUDE, be_rude, tcp);
        start(WEB, browse, http);
        start(ASKERS, ask, udp);
        Self { book, threads }
    }

    /// How much went as it should so far.
    pub fn perfect(&self) -> u64 {
        self.book.perfect.load(Ordering::SeqCst)
    }

    pub fn summary(&self) -> String {
        format!("{} perfect, {} excused", self.perfect(), self.book.excused.load(Ordering::SeqCst))
    }

    /// Lets each finish what it does; what went wrong.
    pub fn finish(self) -> Vec<String> {
        self.book.is_over.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.book.wrong.lock().unwrap())
    }
}

/// Why something did not go as it should.
enum Failure {
    /// Bytes that nobody sent: there is no excuse for it.
    Changed(String),
    /// It was broken off.
    Broken(String),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

impl Book {
    fn note(&self, outcome: Result<(), Failure>, is_excused: bool) {
        let complaint = match outcome {
            Ok(()) => {
                self.perfect.fetch_add(1, Ordering::SeqCst);
                return;
            }
            Err(Failure::Broken(_)) if is_excused => {
                self.excused.fetch_add(1, Ordering::SeqCst);
                return;
            }
            Err(Failure::Broken(what) | Failure::Changed(what)) => what,
        };
        let mut wrong = self.wrong.lock().unwrap();
        if wrong.len() < COMPLAINTS_MAX {
            wrong.push(complaint);
        }
    }
}

fn dial(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn random_bytes(rng: &mut fastrand::Rng, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    rng.fill(&mut bytes);
    bytes
}

/// Reads so many bytes, each of which must be the one that was sent.
fn expect(stream: &mut TcpStream, sent: &[u8], who: &str) -> Result<(), Failure> {
    let mut buffer = [0; 32 * 1024];
    let mut at = 0;
    while at < sent.len() {
        let room = buffer.len().min(sent.len() - at);
        let read = stream.read(&mut buffer[..room]).map_err(|error| broken(who, at, sent.len(), &error.to_string()))?;
        if read == 0 {
            return Err(broken(who, at, sent.len(), "the end"));
        }
        if buffer[..read] != sent[at..at + read] {
            return Err(Failure::Changed(format!("{who}: other bytes than were sent, behind {at}")));
        }
        at += read;
    }
    Ok(())
}

fn broken(who: &str, at: usize, of: usize, why: &str) -> Failure {
    Failure::Broken(format!("{who}: {why} after {at} of {of} bytes"))
}

/// Sends much and an end, and gets all of it and an end.
fn bulk(to: SocketAddr, rng: &mut fastrand::Rng) -> Result<(), Failure> {
    let mut stream = dial(to)?;
    let length = rng.usize(1..BULK_BYTES);
    let bytes = Arc::new(random_bytes(rng, length));
    let (mut writer, sent) = (stream.try_clone()?, bytes.clone());
    let writing = std::thread::spawn(move || {
        writer.write_all(&sent)?;
        writer.shutdown(Shutdown::Write)
    });
    let outcome = expect(&mut stream, &bytes, "bulk");
    if outcome.is_err() {
        let _ = stream.shutdown(Shutdown::Both);
    }
    let written = writing.join().unwrap();
    outcome?;
    written?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(Failure::Changed("bulk: more bytes than were sent".to_owned())),
    }
}

/// Says something, hears it, and so on.
fn talk(to: SocketAddr, rng: &mut fastrand::Rng) -> Result<(), Failure> {
    let mut stream = dial(to)?;
    for _ in 0..rng.usize(1..30) {
        let length = rng.usize(1..3000);
        let bytes = random_bytes(rng, length);
        stream.write_all(&bytes)?;
        expect(&mut stream, &bytes, "talk")?;
    }
    Ok(())
}

/// Comes and goes as it likes: without a word, in the middle, by a reset.
fn be_rude(to: SocketAddr, rng: &mut fastrand::Rng) -> Result<(), Failure> {
    let mut stream = dial(to)?;
    let length = rng.usize(0..100_000);
    let bytes = random_bytes(rng, length);
    let _ = stream.write_all(&bytes[..length / 2]);
    if rng.bool() {
        reset(stream);
    }
    // It is not to fill every place.
    breathe();
    Ok(())
}

/// Asks for pages over one connection.
fn browse(to: SocketAddr, rng: &mut fastrand::Rng) -> Result<(), Failure> {
    let mut client = Peer::on(dial(to)?);
    for _ in 0..rng.usize(1..20) {
        client.stream().write_all(get("/page").as_bytes())?;
        let response = client.try_response()?.ok_or_else(|| Failure::Broken("http: no response".to_owned()))?;
        if response.status() != 200 {
            return Err(Failure::Broken(format!("http: {}", response.status())));
        }
        if response.text() != "web" {
            return Err(Failure::Changed(format!("http: {:?}", response.text())));
        }
    }
    Ok(())
}

/// Datagrams may be lost, but those that come are those that were sent.
fn ask(to: SocketAddr, rng: &mut fastrand::Rng) -> Result<(), Failure> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut buffer = [0; 4096];
    let mut sent = Vec::new();
    for _ in 0..10 {
        let length = rng.usize(1..1200);
        sent.push(random_bytes(rng, length));
        // Nobody listens there for a while: the socket says so.
        let asked = socket.send(&sent[sent.len() - 1]).and_then(|_| socket.recv(&mut buffer));
        // One that comes late answers a question before.
        if let Ok(read) = asked
            && !sent.iter().any(|sent| sent == &buffer[..read])
        {
            return Err(Failure::Changed("udp: an answer that nobody gave".to_owned()));
        }
    }
    Ok(())
}
