//! A DNS server whose answers the test chooses, also wrong ones and none: UDP on a port of its own.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What is said of a name.
#[derive(Clone, Debug)]
pub enum Says {
    /// These addresses, for so many seconds.
    Addresses(Vec<IpAddr>, u32),
    /// These services for so many seconds: priority, weight, port, host.
    Services(Vec<(u16, u16, u16, String)>, u32),
    /// Nothing but this code (RFC 1035, 4.1.1): 0 = there are no records, 2 = failed, 3 = no such name, 5 = refused.
    Code(u8),
    /// Nothing at all.
    Silence,
}

/// A server; dropping it ends it. What it was not told of does not exist.
pub struct Dns {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    zone: Mutex<HashMap<String, Says>>,
    /// How often each name was asked for.
    asked: Mutex<HashMap<String, u64>>,
    ended: std::sync::atomic::AtomicBool,
}

const A: u16 = 1;
const AAAA: u16 = 28;
const SRV: u16 = 33;

impl Dns {
    pub fn start() -> Self {
        Self::on("127.0.0.1:0")
    }

    pub fn on(address: &str) -> Self {
        let socket = UdpSocket::bind(address).unwrap();
        let address = socket.local_addr().unwrap();
        let shared: Arc<Shared> = Arc::default();
        let serving = shared.clone();
        let thread = Some(std::thread::spawn(move || serve(&socket, &serving)));
        Self { address, shared, thread }
    }

    /// From now on.
    pub fn says(&self, name: &str, says: Says) {
        self.shared.zone.lock().unwrap().insert(name.to_owned(), says);
    }

    /// Addresses that live for a second.
    pub fn has(&self, name: &str, addresses: &[&str]) {
        self.says(name, Says::Addresses(addresses.iter().map(|ip| ip.parse().unwrap()).collect(), 1));
    }

    pub fn asked(&self, name: &str) -> u64 {
        self.shared.asked.lock().unwrap().get(name).copied().unwrap_or(0)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.ended.store(true, std::sync::atomic::Ordering::SeqCst);
        // Wakes it.
        let _ = UdpSocket::bind((self.address.ip(), 0)).and_then(|socket| socket.send_to(b"", self.address));
        self.thread.take().map(JoinHandle::join);
    }
}

fn serve(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 4096];
    while let Ok((length, client)) = socket.recv_from(&mut buffer) {
        if shared.ended.load(std::sync::atomic::Ordering::SeqCst) {
            return;
        }
        if let Some(answer) = answer(&buffer[..length], shared) {
            let _ = socket.send_to(&answer, client);
        }
    }
}

/// The name in a question, and where it ends.
fn name_of(question: &[u8]) -> Option<(String, usize)> {
    let (mut name, mut at) = (Vec::new(), 12);
    loop {
        let length = usize::from(*question.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name.join("."), at));
        }
        name.push(String::from_utf8_lossy(question.get(at..at + length)?).to_lowercase());
        at += length;
    }
}

fn wire(name: &str) -> Vec<u8> {
    let labels = name.split('.').filter(|label| !label.is_empty());
    let mut bytes: Vec<u8> = labels.flat_map(|label| [&[label.len() as u8], label.as_bytes()].concat()).collect();
    bytes.push(0);
    bytes
}

fn answer(question: &[u8], shared: &Shared) -> Option<Vec<u8>> {
    let (name, end) = name_of(question)?;
    let kind = u16::from_be_bytes(question.get(end..end + 2)?.try_into().ok()?);
    *shared.asked.lock().unwrap().entry(name.clone()).or_default() += 1;
    let says = shared.zone.lock().unwrap().get(&name).cloned().unwrap_or(Says::Code(3));
    let mut records: Vec<(u16, u32, Vec<u8>)> = Vec::new();
    let code = match says {
        Says::Silence => return None,
        Says::Code(code) => code,
        Says::Addresses(ips, ttl) => {
            records.extend(ips.into_iter().map(|ip| match ip {
                IpAddr::V4(ip) => (A, ttl, ip.octets().to_vec()),
                IpAddr::V6(ip) => (AAAA, ttl, ip.octets().to_vec()),
            }));
            0
        }
        Says::Services(services, ttl) => {
            records.extend(services.into_iter().map(|(priority, weight, port, host)| {
                let numbers = [priority, weight, port].map(u16::to_be_bytes).concat();
                (SRV, ttl, [numbers, wire(&host)].concat())
            }));
            0
        }
    };
    records.retain(|(of, ..)| *of == kind);
    // The same id, an authoritative answer, recursion desired and available.
    let mut bytes = vec![question[0], question[1], 0x85, 0x80 | code, 0, 1, 0, records.len() as u8, 0, 0, 0, 0];
    bytes.extend(&question[12..end + 4]);
    for (of, ttl, data) in records {
        // The name is that of the question (RFC 1035, 4.1.4).
        bytes.extend([0xc0, 12]);
        bytes.extend([of, 1].map(u16::to_be_bytes).concat());
        bytes.extend(ttl.to_be_bytes());
        bytes.extend((data.len() as u16).to_be_bytes());
        bytes.extend(data);
    }
    Some(bytes)
}
