//! UDP servers that answer, and clients that ask: each server is a thread with a socket of its own.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::SOON;

/// Between two looks of a server whether it has to end.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The longest datagram there is, and some.
pub const DATAGRAM_MAX: usize = 65_536;

/// Where servers are: nobody sends from there, so that a port is still free when its server comes back.
pub const SERVERS: &str = "127.0.0.2:0";

/// What a server does with a datagram of somebody: the datagrams that it answers with.
type Answer = Arc<dyn Fn(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + Sync>;

/// A datagram and its sender.
type Heard = (SocketAddr, Vec<u8>);

/// A UDP server on a port of the kernel's choice, which it keeps when it is revived.
pub struct UdpServer {
    name: String,
    address: SocketAddr,
    answer: Answer,
    heard: Arc<Mutex<Vec<Heard>>>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

impl UdpServer {
    /// Answers each datagram with `name` and the datagram.
    pub fn named(name: &str) -> Self {
        let own = name.to_owned();
        Self::on(SERVERS, name, move |datagram, _| vec![[own.as_bytes(), b" ", datagram].concat()])
    }

    /// Answers each datagram with itself.
    pub fn echo(address: &str) -> Self {
        Self::on(address, "echo", |datagram, _| vec![datagram.to_vec()])
    }

    /// Never answers.
    pub fn silent(name: &str) -> Self {
        Self::on(SERVERS, name, |_, _| Vec::new())
    }

    pub fn on(
        address: &str,
        name: &str,
        answer: impl Fn(&[u8], SocketAddr) -> Vec<Vec<u8>> + Send + Sync + 'static,
    ) -> Self {
        let address: SocketAddr = address.parse().unwrap();
        let mut server =
            Self { name: name.to_owned(), address, answer: Arc::new(answer), heard: Arc::default(), running: None };
        server.revive();
        server
    }

    /// Closes the socket: whoever sends there is told so.
    pub fn kill(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.store(true, Ordering::SeqCst);
            thread.join().unwrap();
        }
    }

    pub fn revive(&mut self) {
        let socket = UdpSocket::bind(self.address).unwrap();
        self.address = socket.local_addr().unwrap();
        socket.set_read_timeout(Some(LOOK_EVERY)).unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, answer, heard) = (stop.clone(), self.answer.clone(), self.heard.clone());
        let thread = std::thread::spawn(move || {
            let mut buffer = vec![0; DATAGRAM_MAX];
            while !stopped.load(Ordering::SeqCst) {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { continue };
                heard.lock().unwrap().push((from, buffer[..len].to_vec()));
                for reply in answer(&buffer[..len], from) {
                    // A client that has gone away does not matter here.
                    let _ = socket.send_to(&reply, from);
                }
            }
        });
        self.running = Some((stop, thread));
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As an element of a pool's `backends`, with more keys.
    pub fn entry(&self, keys: &str) -> String {
        super::entry(&self.name, self.address, keys)
    }

    /// Everything that has come so far, with its sender.
    pub fn heard(&self) -> Vec<Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// How many datagrams have come.
    pub fn count(&self) -> usize {
        self.heard.lock().unwrap().len()
    }

    /// Those who have sent something, and how often.
    pub fn senders(&self) -> BTreeMap<SocketAddr, usize> {
        let mut senders = BTreeMap::new();
        for (from, _) in self.heard.lock().unwrap().iter() {
            *senders.entry(*from).or_default() += 1;
        }
        senders
    }
}

impl Drop for UdpServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A client's socket that speaks with one address only.
pub fn udp_client(to: SocketAddr) -> UdpSocket {
    let any = if to.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    udp_client_from(any, to)
}

pub fn udp_client_from(source: &str, to: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind(source).unwrap();
    socket.connect(to).unwrap();
    socket.set_read_timeout(Some(SOON)).unwrap();
    socket
}

/// Sends a datagram and returns the reply to it.
#[track_caller]
pub fn ask(client: &UdpSocket, datagram: &[u8]) -> Vec<u8> {
    client.send(datagram).unwrap();
    hear(client).unwrap_or_else(|error| panic!("no reply to {} bytes: {error}", datagram.len()))
}

/// The next datagram.
pub fn hear(client: &UdpSocket) -> std::io::Result<Vec<u8>> {
    let mut buffer = vec![0; DATAGRAM_MAX];
    let len = client.recv(&mut buffer)?;
    buffer.truncate(len);
    Ok(buffer)
}

/// The name in the reply of a [`UdpServer::named`].
#[track_caller]
pub fn who_answers(client: &UdpSocket) -> String {
    let reply = ask(client, b"who");
    String::from_utf8(reply).unwrap().split(' ').next().unwrap().to_owned()
}

/// The same, asking again when a datagram was lost.
pub fn who_answers_in_the_end(client: &UdpSocket) -> String {
    client.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    for _ in 0..100 {
        // A refusal of an earlier one may be told here.
        let _ = client.send(b"who");
        if let Ok(reply) = hear(client) {
            client.set_read_timeout(Some(SOON)).unwrap();
            return String::from_utf8(reply).unwrap().split(' ').next().unwrap().to_owned();
        }
    }
    panic!("nobody answers");
}

/// Whether no reply comes for a while.
pub fn is_not_answered(client: &UdpSocket, datagram: &[u8]) -> bool {
    client.set_read_timeout(Some(Duration::from_millis(150))).unwrap();
    let _ = client.send(datagram);
    let silence = hear(client).is_err();
    client.set_read_timeout(Some(SOON)).unwrap();
    silence
}
