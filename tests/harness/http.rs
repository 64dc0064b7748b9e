//! HTTP/1.1 byte by byte: messages as they were on the wire, backends that answer by a closure and keep what came, and
//! evener in front of them.

use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::{ALWAYS_UP, Backend, connect, patiently};

/// A request or a response.
#[derive(Clone, Debug, Default)]
pub struct Message {
    /// Its first line.
    pub start: String,
    /// Its fields as they came.
    pub fields: Vec<(String, String)>,
    /// Without the framing.
    pub body: Vec<u8>,
    /// What followed the last chunk.
    pub trailers: Vec<(String, String)>,
}

impl Message {
    /// Of a response.
    #[track_caller]
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{self:?}"))
    }

    /// Of a request, with its query.
    pub fn path(&self) -> &str {
        self.start.split(' ').nth(1).unwrap_or_default()
    }

    /// All values of a field.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(own, _)| own.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// The only value of a field.
    #[track_caller]
    pub fn field(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} stands several times in {self:?}");
        all.first().copied()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn is_chunked(&self) -> bool {
        self.all("transfer-encoding").contains(&"chunked")
    }

    fn length(&self) -> Option<usize> {
        self.field("content-length").map(|length| length.parse().unwrap())
    }
}

/// What a response answers, for its framing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Request,
    Response,
    ResponseToHead,
}

/// One side of a connection.
pub struct Peer(pub BufReader<TcpStream>);

impl Peer {
    /// A client of this port.
    #[track_caller]
    pub fn of(port: u16) -> Self {
        Self::on(connect(port))
    }

    pub fn on(stream: TcpStream) -> Self {
        Self(BufReader::new(patiently(stream)))
    }

    pub fn stream(&mut self) -> &mut TcpStream {
        self.0.get_mut()
    }

    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream().write_all(bytes.as_ref()).unwrap();
    }

    /// The next response.
    #[track_caller]
    pub fn response(&mut self) -> Message {
        read(&mut self.0, Kind::Response).unwrap().expect("a response")
    }

    /// The next response, which answers HEAD.
    #[track_caller]
    pub fn response_to_head(&mut self) -> Message {
        read(&mut self.0, Kind::ResponseToHead).unwrap().expect("a response")
    }

    /// The next response, or nothing where the connection ends before it.
    pub fn try_response(&mut self) -> io::Result<Option<Message>> {
        read(&mut self.0, Kind::Response)
    }

    /// The next head alone; the body is still to be read.
    #[track_caller]
    pub fn head(&mut self) -> Message {
        head(&mut self.0).unwrap().expect("a head")
    }

    /// The next request, or nothing where the connection ends.
    pub fn request(&mut self) -> io::Result<Option<Message>> {
        read(&mut self.0, Kind::Request)
    }

    /// Sends, and reads the response.
    #[track_caller]
    pub fn ask(&mut self, bytes: impl AsRef<[u8]>) -> Message {
        self.send(bytes);
        self.response()
    }

    /// The next chunk of a chunked body.
    #[track_caller]
    pub fn chunk(&mut self) -> Vec<u8> {
        chunk(&mut self.0).unwrap()
    }

    /// Whether the other side has ended here, without another byte.
    #[track_caller]
    pub fn is_over(&mut self) -> bool {
        loop {
            return match self.0.fill_buf() {
                Ok(rest) => rest.is_empty(),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
                // A read with a time limit is, when the machine stops for a moment (signal(7)).
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => panic!("neither bytes nor an end: {error}"),
            };
        }
    }
}

fn line(from: &mut impl BufRead) -> io::Result<Option<String>> {
    let mut line = Vec::new();
    from.read_until(b'\n', &mut line)?;
    if line.is_empty() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&line).into_owned();
    text.strip_suffix("\r\n").map(|text| Some(text.to_owned())).ok_or(ErrorKind::UnexpectedEof.into())
}

fn some_line(from: &mut impl BufRead) -> io::Result<String> {
    line(from)?.ok_or(ErrorKind::UnexpectedEof.into())
}

fn fields(from: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut fields = Vec::new();
    loop {
        let line = some_line(from)?;
        let Some((name, value)) = line.split_once(':') else {
            assert!(line.is_empty(), "no field: {line:?}");
            return Ok(fields);
        };
        fields.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn head(from: &mut impl BufRead) -> io::Result<Option<Message>> {
    let Some(start) = line(from)? else { return Ok(None) };
    Ok(Some(Message { start, fields: fields(from)?, ..Message::default() }))
}

fn chunk(from: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let size = some_line(from)?;
    let size =
        usize::from_str_radix(&size, 16).map_err(|_| io::Error::other(format!("no size of a chunk: {size:?}")))?;
    let mut data = vec![0; size];
    from.read_exact(&mut data)?;
    if size > 0 && !some_line(from)?.is_empty() {
        return Err(io::Error::other("a chunk is longer than it says"));
    }
    Ok(data)
}

fn read(from: &mut impl BufRead, kind: Kind) -> io::Result<Option<Message>> {
    let Some(mut message) = head(from)? else { return Ok(None) };
    assert!(!(message.is_chunked() && message.length().is_some()), "framed twice: {message:?}");
    let is_bare =
        kind == Kind::ResponseToHead || kind == Kind::Response && matches!(message.status(), 100..=199 | 204 | 304);
    if is_bare {
        return Ok(Some(message));
    }
    if message.is_chunked() {
        loop {
            let data = chunk(from)?;
            if data.is_empty() {
                break;
            }
            message.body.extend(data);
        }
        message.trailers = fields(from)?;
    } else if let Some(length) = message.length() {
        message.body = vec![0; length];
        from.read_exact(&mut message.body)?;
    } else if kind == Kind::Response {
        from.read_to_end(&mut message.body)?;
    }
    Ok(Some(message))
}

/// Backends' answers.
pub type Answer = io::Result<()>;

impl Backend {
    /// Reads requests, keeps them ([`Backend::requests`]), and answers each by `answer`; an error of it ends the connection.
    pub fn web(name: &str, answer: impl Fn(&Message, &mut TcpStream) -> Answer + Send + Sync + 'static) -> Self {
        Self::on("127.0.0.1:0", name, move |stream, shared| {
            let mut peer = Peer(BufReader::new(stream.try_clone()?));
            while let Some(request) = peer.request()? {
                shared.keep(&request);
                answer(&request, peer.stream())?;
            }
            Ok(())
        })
    }

    /// Answers every request with its name.
    pub fn webs(name: &str) -> Self {
        let body = name.to_owned();
        Self::web(name, move |_, stream| stream.write_all(reply("200 OK", &body).as_bytes()))
    }
}

/// A response with a length.
pub fn reply(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

/// A GET of this path, of host `a.test`.
pub fn get(path: &str) -> String {
    request("GET", path, "")
}

/// A request and its answer, by a new connection to a [`Backend::held`]; its other end.
#[track_caller]
pub fn first_answer(client: &mut Peer, backend: &Backend) -> Peer {
    client.send(get("/first"));
    let mut server = Peer::on(backend.take());
    server.request().unwrap().unwrap();
    server.send(reply("200 OK", "ok"));
    assert_eq!(client.response().text(), "ok");
    server
}

/// A request without a body; `fields` are whole lines.
pub fn request(method: &str, path: &str, fields: &str) -> String {
    format!("{method} {path} HTTP/1.1\r\nhost: a.test\r\n{fields}\r\n")
}

/// A POST with a length.
pub fn post(path: &str, body: &str) -> String {
    request("POST", path, &format!("content-length: {}\r\n", body.len())) + body
}

/// In chunks of uneven sizes, with these trailers, which are whole lines.
pub fn chunked(body: &[u8], trailers: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in body.chunks(40_009) {
        bytes.extend(format!("{:x}\r\n", piece.len()).bytes());
        bytes.extend(piece);
        bytes.extend(b"\r\n");
    }
    bytes.extend(format!("0\r\n{trailers}\r\n").bytes());
    bytes
}

/// Listener `web` for HTTP and pool `web` with these backends, which nobody checks. The keys are lines of TOML; those of
/// the route, which takes everything, stand for nothing else.
pub fn site(listener_keys: &str, route_keys: &str, pool_keys: &str, backends: &[&Backend]) -> String {
    let route = format!("[[route]]\nname = \"all\"\nlistener = \"web\"\npool = \"web\"\n{route_keys}\n");
    listener(listener_keys) + &route + &pool("web", pool_keys, backends)
}

/// Listener `web` for HTTP.
pub fn listener(keys: &str) -> String {
    format!("[listener.web]\nbind = \"127.0.0.1:0\"\nprotocol = \"http\"\n{keys}\n\n")
}

/// A pool with backends that nobody checks.
pub fn pool(name: &str, keys: &str, backends: &[&Backend]) -> String {
    let entries: Vec<String> = backends.iter().map(|backend| backend.entry("")).collect();
    format!("[pool.{name}]\nbackends = [{}]\n{ALWAYS_UP}{keys}\n\n", entries.join(", "))
}

/// A pool with this one address.
pub fn pool_of(name: &str, address: SocketAddr, keys: &str) -> String {
    format!("[pool.{name}]\nbackends = [{}]\n{ALWAYS_UP}{keys}\n\n", super::entry(name, address, ""))
}
