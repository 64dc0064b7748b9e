//! Embedded backends: each line comes back as it was sent.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;

/// A backend on a port of its own, which it keeps through death and return.
pub struct Echo {
    address: SocketAddr,
    dying: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    /// On a free port.
    pub fn start() -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let mut echo = Self { address: listener.local_addr()?, dying: Arc::default(), thread: None };
        echo.serve(listener)?;
        Ok(echo)
    }

    /// Where it is.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes its port, as a process that is stopped does; the connections it has come to their end.
    pub fn die(&mut self) {
        self.dying.store(true, Relaxed);
        // Wakes the thread from accept.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    /// Opens its port again.
    pub fn revive(&mut self) -> io::Result<()> {
        self.dying.store(false, Relaxed);
        self.serve(TcpListener::bind(self.address)?)
    }

    fn serve(&mut self, listener: TcpListener) -> io::Result<()> {
        let dying = self.dying.clone();
        let thread = std::thread::Builder::new().name("backend".to_owned()).spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                spawn_echo(stream);
                if dying.load(Relaxed) {
                    break;
                }
            }
            // Whoever is in the queue already has a connection as far as TCP is concerned: it is served.
            if listener.set_nonblocking(true).is_ok() {
                while let Ok((stream, _)) = listener.accept() {
                    spawn_echo(stream);
                }
            }
        })?;
        self.thread = Some(thread);
        Ok(())
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.die();
    }
}

fn spawn_echo(stream: TcpStream) {
    // Without a thread the connection is closed, and counts as lost.
    let _ = std::thread::Builder::new().name("echo".to_owned()).spawn(move || echo(stream));
}

fn echo(mut stream: TcpStream) {
    let mut buffer = [0; 1024];
    let _ = stream.set_nonblocking(false);
    let _ = stream.set_nodelay(true);
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_answers_until_it_dies_and_again_at_the_same_port_when_it_is_back() {
        let mut backend = Echo::start().expect("a port");
        let ask = |address| -> io::Result<[u8; 2]> {
            let mut stream = TcpStream::connect(address)?;
            stream.write_all(b"hi")?;
            let mut answer = [0; 2];
            stream.read_exact(&mut answer)?;
            Ok(answer)
        };
        assert_eq!(ask(backend.address()).expect("an answer"), *b"hi");
        backend.die();
        assert_eq!(ask(backend.address()).expect_err("dead").kind(), io::ErrorKind::ConnectionRefused);
        backend.revive().expect("the same port");
        assert_eq!(ask(backend.address()).expect("an answer"), *b"hi");
    }
}
