//! Clients: connect, ask who answers, exchange streams and compare them, and see how a connection ended.

use std::io::{self, BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use sha2::{Digest, Sha256};
use socket2::{Domain, Socket, Type};

use super::{Pattern, SOON, local};

/// How a connection came to its end, seen by one of its peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// FIN.
    Closed,
    /// RST.
    Reset,
}

/// Connects; every read and write on it has a limit, so that a hanging balancer fails the test.
#[track_caller]
pub fn connect(port: u16) -> TcpStream {
    patiently(try_connect(port).unwrap())
}

/// Gives an accepted or connected stream the limits of [`connect`].
pub fn patiently(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_write_timeout(Some(SOON)).unwrap();
    // A connection that was reset meanwhile refuses the option; its reads will tell.
    let _ = stream.set_nodelay(true);
    stream
}

/// Whether this listener refuses a client: a reset or an end without a byte. A reset may be faster than the end of
/// connect(2), which then reports it.
#[track_caller]
pub fn is_refused(connected: io::Result<TcpStream>) -> bool {
    let Ok(mut stream) = connected else { return true };
    stream.set_read_timeout(Some(SOON)).unwrap();
    match stream.read(&mut [0]) {
        Ok(read) => read == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

/// Connects, or says why not.
pub fn try_connect(port: u16) -> io::Result<TcpStream> {
    TcpStream::connect_timeout(&local(port), SOON)
}

/// The same from another address of this host.
pub fn try_connect_from(source: Ipv4Addr, port: u16) -> io::Result<TcpStream> {
    let socket = bound_from(SocketAddrV4::new(source, 0));
    socket.connect_timeout(&local(port).into(), SOON)?;
    Ok(socket.into())
}

/// A socket bound to this source (port 0: any) before it connects.
pub fn bound_from(source: SocketAddrV4) -> Socket {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&SocketAddr::V4(source).into()).unwrap();
    socket
}

/// Connects from 127.x.y.z, all of which are this host.
#[track_caller]
pub fn connect_from(source: Ipv4Addr, port: u16) -> TcpStream {
    patiently(try_connect_from(source, port).unwrap())
}

/// The name that the backend behind this port tells ([`super::Backend::named`]); an error when there is none.
pub fn who(port: u16) -> io::Result<String> {
    read_name(&mut try_connect(port)?)
}

/// The same from another address of this host.
#[track_caller]
pub fn who_from(source: Ipv4Addr, port: u16) -> io::Result<String> {
    read_name(&mut try_connect_from(source, port)?)
}

/// Reads the name that a backend tells, and nothing beyond it.
pub fn read_name(stream: &mut TcpStream) -> io::Result<String> {
    stream.set_read_timeout(Some(SOON))?;
    let mut name = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 {
        if byte[0] == b'\n' {
            return Ok(String::from_utf8_lossy(&name).into_owned());
        }
        name.push(byte[0]);
    }
    Err(ErrorKind::UnexpectedEof.into())
}

/// Sends this and reads as many bytes back.
#[track_caller]
pub fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(bytes)?;
    let mut back = vec![0; bytes.len()];
    stream.read_exact(&mut back)?;
    Ok(back)
}

/// FIN.
pub fn shut_write(stream: &TcpStream) {
    stream.shutdown(Shutdown::Write).unwrap();
}

/// RST: close with nothing lingering (socket(7), SO_LINGER 0).
pub fn reset(stream: TcpStream) {
    let socket = Socket::from(stream);
    socket.set_linger(Some(Duration::ZERO)).unwrap();
}

/// Reads to the end, however much comes, and says how it ended and after how many bytes.
#[track_caller]
pub fn ending(stream: &mut TcpStream) -> (Ending, u64) {
    let mut buffer = vec![0; 64 * 1024];
    let mut bytes = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (Ending::Closed, bytes),
            Ok(read) => bytes += read as u64,
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return (Ending::Reset, bytes),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("neither an end nor a reset after {bytes} bytes: {error}"),
        }
    }
}

/// Reads to the end of the stream: length and SHA-256 of what came.
pub fn digest_of(stream: &mut impl Read) -> io::Result<(u64, String)> {
    let mut hash = Sha256::new();
    let bytes = io::copy(&mut BufReader::with_capacity(64 * 1024, stream), &mut hash)?;
    Ok((bytes, format!("{:x}", hash.finalize())))
}

/// Sends the first `bytes` of the pattern and FIN while it reads to the end: length and SHA-256 of what came back.
#[track_caller]
pub fn echo_digest(stream: TcpStream, bytes: u64) -> (u64, String) {
    let mut writing = stream.try_clone().unwrap();
    let mut reading = stream;
    std::thread::scope(|scope| {
        let sender = scope.spawn(move || {
            Pattern::default().send(&mut writing, bytes).unwrap();
            shut_write(&writing);
        });
        let digest = digest_of(&mut reading).unwrap();
        sender.join().unwrap();
        digest
    })
}

/// GET over a fresh connection: status and body.
pub fn http_get(port: u16, path: &str) -> io::Result<(u16, String)> {
    let mut stream = try_connect(port)?;
    stream.set_read_timeout(Some(SOON))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n").as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    parse_answer(&answer).ok_or_else(|| ErrorKind::InvalidData.into())
}

/// Status and body of an HTTP/1.1 answer that ended with its connection.
pub fn parse_answer(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let code = head.split(' ').nth(1)?.parse().ok()?;
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Some((code, body.to_owned()));
    }
    let (mut rest, mut whole) = (body, String::new());
    while let Some((size, after)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).ok()?;
        whole.push_str(after.get(..size)?);
        rest = after.get(size..)?.trim_start_matches("\r\n");
    }
    Some((code, whole))
}
