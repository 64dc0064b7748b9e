//! The admin API: HTTP and JSON on a unix socket that only the owner and the group of the process may use.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::body::Incoming;
use hyper::{Method, Request as HttpRequest, StatusCode};
use tokio::net::{UnixListener, UnixStream};

use super::desk::{Desk, Gone, ListenerChange, Refusal, Request, Span};
use super::events;
use super::http::{self, Answer};
use super::listeners::{clear_stale, inode};
use super::operate::check_reason;
use crate::{api, config, handover};

/// Access to the socket.
const SOCKET_MODE: u32 = 0o660;
/// Access to its folder, when that has to be made.
const FOLDER_MODE: u32 = 0o755;

/// The socket's file; removed when dropped, unless a successor has put its own there.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: Option<(u64, u64)>,
    /// Not another process's, before or behind an upgrade.
    is_ours: bool,
}

impl SocketFile {
    /// What a successor has to know of it.
    pub fn describe(&self) -> handover::Admin {
        handover::Admin { path: self.path.to_string_lossy().into_owned(), inode: self.inode }
    }

    /// The file of a predecessor, which it is until that has been succeeded.
    pub fn inherit(from: &handover::Admin) -> Self {
        Self { path: PathBuf::from(&from.path), inode: from.inode, is_ours: false }
    }

    /// Whether it is ours from now on, or another process's.
    pub fn set_ours(&mut self, is_ours: bool) {
        self.is_ours = is_ours;
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_ours && self.inode.is_some() && inode(&self.path) == self.inode {
            // A file that stays behind is found stale by the next start.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Why there is no admin socket.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The socket answers.
    #[error("{0}: another evener runs with this admin socket\nstop it first, or give this one another process.admin")]
    Taken(PathBuf),
    /// Anything else.
    #[error(
        "process.admin: {path}: {error}\nits folder must be writable by the user of the process; \"\" switches the API off"
    )]
    Io {
        /// The socket.
        path: PathBuf,
        /// What happened.
        error: io::Error,
    },
}

/// Makes the socket, and its folder when missing. A socket that a dead process left is replaced; it never exists with
/// wider permissions than it shall have, because it is renamed into place when they are set.
///
/// # Errors
/// When another process answers there, or the file system refuses.
pub async fn bind(path: &Path) -> Result<(UnixListener, SocketFile), AdminError> {
    let failed = |error| AdminError::Io { path: path.to_owned(), error };
    if UnixStream::connect(path).await.is_ok() {
        return Err(AdminError::Taken(path.to_owned()));
    }
    clear_stale(path).map_err(failed)?;
    make_folder(path).map_err(failed)?;
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    clear_stale(&fresh).map_err(failed)?;
    let listener = UnixListener::bind(&fresh).map_err(failed)?;
    std::fs::set_permissions(&fresh, PermissionsExt::from_mode(SOCKET_MODE)).map_err(failed)?;
    std::fs::rename(&fresh, path).map_err(failed)?;
    Ok((listener, SocketFile { path: path.to_owned(), inode: inode(path), is_ours: true }))
}

/// The same with a socket that the service manager has made: its file is not ours to remove.
///
/// # Errors
/// When the event loop cannot have it.
pub fn adopt(path: &Path, socket: OwnedFd) -> Result<(UnixListener, SocketFile), AdminError> {
    let adopt = || {
        let socket = std::os::unix::net::UnixListener::from(socket);
        socket.set_nonblocking(true)?;
        UnixListener::from_std(socket)
    };
    let listener = adopt().map_err(|error| AdminError::Io { path: path.to_owned(), error })?;
    Ok((listener, SocketFile { path: path.to_owned(), inode: None, is_ours: true }))
}

fn make_folder(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() && !folder.exists() => {
            std::fs::create_dir_all(folder)?;
            std::fs::set_permissions(folder, PermissionsExt::from_mode(FOLDER_MODE))
        }
        _ => Ok(()),
    }
}

/// Answers one request.
pub async fn answer(desk: Desk, request: HttpRequest<Incoming>) -> Answer {
    let path = request.uri().path().to_owned();
    let parts: Option<Vec<String>> = path.split('/').skip(1).map(decode).collect();
    let Some(parts) = parts else {
        return http::error(StatusCode::UNPROCESSABLE_ENTITY, "the path is not valid UTF-8 in percent-encoding");
    };
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    let result = match (parts.as_slice(), request.method()) {
        (["v1", "status"], &Method::GET) => {
            desk.ask(Request::Status).await.map(|status| http::json(StatusCode::OK, &status))
        }
        (["v1", "pools", pool], &Method::GET) => show_pool(&desk, pool).await,
        (["v1", "pools", pool, "backends", backend], &Method::PUT) => {
            let body = match http::body(request).await {
                Ok(body) => body,
                Err(answer) => return answer,
            };
            change_backend(&desk, pool, backend, &body).await
        }
        (["v1", "pools", pool, "backends", backend, "close"], &Method::POST) => {
            let body = match http::body(request).await {
                Ok(body) => body,
                Err(answer) => return answer,
            };
            close_backend(&desk, pool, backend, &body).await
        }
        (["v1", "listeners", listener], &Method::PUT) => {
            let body = match http::body(request).await {
                Ok(body) => body,
                Err(answer) => return answer,
            };
            change_listener(&desk, listener, &body).await
        }
        (["v1", "reload"], &Method::POST) => desk.ask(Request::Reload).await.map(outcome),
        (["v1", "drain"], &Method::POST) => {
            let body = match http::body(request).await {
                Ok(body) => body,
                Err(answer) => return answer,
            };
            drain(&desk, &body).await
        }
        (["v1", "upgrade"], &Method::POST) => desk.ask(Request::Upgrade).await.map(outcome),
        (["v1", "config"], &Method::GET) => {
            desk.ask(Request::Config).await.map(|text| http::text(StatusCode::OK, text))
        }
        (["v1", "events"], &Method::GET) => events::answer(&desk, request.uri().query()).await,
        (["v1", "status" | "config" | "events"] | ["v1", "pools", _], _) => Ok(http::not_allowed("GET")),
        (["v1", "pools", _, "backends", _] | ["v1", "listeners", _], _) => Ok(http::not_allowed("PUT")),
        (["v1", "reload" | "drain" | "upgrade"] | ["v1", "pools", _, "backends", _, "close"], _) => {
            Ok(http::not_allowed("POST"))
        }
        _ => Ok(http::error(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))),
    };
    result.unwrap_or_else(|gone: Gone| http::error(StatusCode::SERVICE_UNAVAILABLE, gone.to_string()))
}

async fn show_pool(desk: &Desk, name: &str) -> Result<Answer, Gone> {
    let pool = desk.ask(|answer| Request::Pool(name.to_owned(), answer)).await?;
    Ok(match pool {
        Some(pool) => http::json(StatusCode::OK, &pool),
        None => http::error(StatusCode::NOT_FOUND, format!("there is no pool \"{name}\"")),
    })
}

async fn change_backend(desk: &Desk, pool: &str, backend: &str, body: &[u8]) -> Result<Answer, Gone> {
    let change = match read_change(body) {
        Ok(change) => change,
        Err(why) => return Ok(http::error(StatusCode::UNPROCESSABLE_ENTITY, why)),
    };
    let (pool, backend) = (pool.to_owned(), backend.to_owned());
    desk.ask(|answer| Request::Change { pool, backend, change, answer }).await.map(outcome)
}

async fn close_backend(desk: &Desk, pool: &str, backend: &str, body: &[u8]) -> Result<Answer, Gone> {
    let spread = match read_close(body) {
        Ok(spread) => spread,
        Err(why) => return Ok(http::error(StatusCode::UNPROCESSABLE_ENTITY, why)),
    };
    let (pool, backend) = (pool.to_owned(), backend.to_owned());
    desk.ask(|answer| Request::Close { pool, backend, spread, answer }).await.map(outcome)
}

async fn change_listener(desk: &Desk, name: &str, body: &[u8]) -> Result<Answer, Gone> {
    let change = match read_listener_change(body) {
        Ok(change) => change,
        Err(why) => return Ok(http::error(StatusCode::UNPROCESSABLE_ENTITY, why)),
    };
    let name = name.to_owned();
    desk.ask(|answer| Request::Listener { name, change, answer }).await.map(outcome)
}

async fn drain(desk: &Desk, body: &[u8]) -> Result<Answer, Gone> {
    let span = match read_drain(body) {
        Ok(span) => span,
        Err(why) => return Ok(http::error(StatusCode::UNPROCESSABLE_ENTITY, why)),
    };
    let done = desk.ask(|answer| Request::Drain(span, answer)).await?;
    Ok(outcome(done.map(|deadline| {
        let deadline = Some(humantime::format_duration(deadline).to_string());
        api::Drain { deadline, spread: None }
    })))
}

fn read_drain(body: &[u8]) -> Result<Span, String> {
    let drain = if body.is_empty() { api::Drain::default() } else { read::<api::Drain>(body)? };
    Ok(Span { deadline: duration(drain.deadline.as_deref())?, spread: duration(drain.spread.as_deref())? })
}

fn read_close(body: &[u8]) -> Result<Option<Duration>, String> {
    let close = if body.is_empty() { api::Close::default() } else { read::<api::Close>(body)? };
    duration(close.spread.as_deref())
}

fn read_listener_change(body: &[u8]) -> Result<ListenerChange, String> {
    let change: api::ListenerChange = read(body)?;
    let span = Span { deadline: duration(change.deadline.as_deref())?, spread: duration(change.spread.as_deref())? };
    match change.state {
        api::ListenerState::Drain => Ok(ListenerChange::Drain(span)),
        api::ListenerState::Ready if span == Span::default() => Ok(ListenerChange::Ready),
        api::ListenerState::Ready => Err("`deadline` and `spread` stand beside \"drain\" only".to_owned()),
    }
}

fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Result<T, String> {
    serde_json::from_slice(body).map_err(|error| error.to_string())
}

fn duration(text: Option<&str>) -> Result<Option<Duration>, String> {
    let Some(text) = text else { return Ok(None) };
    match humantime::parse_duration(text) {
        Ok(duration) if duration <= config::DURATION_MAX => Ok(Some(duration)),
        Ok(_) => Err(format!("{text} is longer than it may be")),
        Err(error) => Err(format!("\"{text}\" is no duration: {error}")),
    }
}

fn read_change(body: &[u8]) -> Result<api::Change, String> {
    let change: api::Change = read(body)?;
    if let Some(reason) = &change.reason {
        if !matches!(change.state, Some(api::ChangeState::Drain | api::ChangeState::Maint)) {
            return Err("a reason stands beside \"drain\" or \"maint\" only".to_owned());
        }
        check_reason(reason)?;
    }
    match change {
        api::Change { state: None, weight: None, .. } => {
            Err(r#"one of {"state": "ready|drain|maint|auto"} and {"weight": N} is needed"#.to_owned())
        }
        api::Change { state: Some(api::ChangeState::Auto), weight: Some(_), .. } => {
            Err("\"auto\" clears the weight too: it cannot stand beside one".to_owned())
        }
        api::Change { weight: Some(weight), .. } if weight > api::WEIGHT_MAX => {
            Err(format!("a weight is 0 to {}", api::WEIGHT_MAX))
        }
        change => Ok(change),
    }
}

fn outcome<T: serde::Serialize>(result: Result<T, Refusal>) -> Answer {
    match result {
        Ok(value) => http::json(StatusCode::OK, &value),
        Err(Refusal::Unknown(why)) => http::error(StatusCode::NOT_FOUND, why),
        Err(Refusal::Invalid(why)) => http::error(StatusCode::UNPROCESSABLE_ENTITY, why),
        Err(Refusal::Failed(why)) => http::error(StatusCode::INTERNAL_SERVER_ERROR, why),
    }
}

/// A part of a path as it may stand in a URI: everything but letters, digits and `-._~` in percent-encoding
/// (RFC 3986, section 2.3).
pub fn encode(part: &str) -> String {
    let mut out = String::with_capacity(part.len());
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// The opposite of [`encode`].
fn decode(part: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(part.len());
    let mut rest = part.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).ok()?);
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_name_survives_the_path(name in "\\PC*") {
            let encoded = encode(&name);
            prop_assert!(!encoded.contains('/') && encoded.is_ascii());
            prop_assert_eq!(decode(&encoded), Some(name));
        }

        #[test]
        fn no_path_makes_decoding_fail_hard(path in "[%0-9a-fxé]*") {
            let _ = decode(&path);
        }
    }

    #[test]
    fn a_change_needs_something_to_change_that_makes_sense() {
        for bad in
            ["", "{}", "[]", "null", r#"{"state":"auto","weight":1}"#, r#"{"weight":65536}"#, r#"{"weight":"1"}"#]
                .into_iter()
                .chain([
                    r#"{"state":"ready","reason":"a"}"#,
                    r#"{"state":"maint","reason":"a\nb"}"#,
                    r#"{"reason":"a"}"#,
                ])
        {
            assert!(read_change(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(read_change(br#"{"state":"drain"}"#).is_ok());
        assert!(read_change(br#"{"weight":0}"#).is_ok());
    }

    #[test]
    fn a_deadline_is_a_duration_within_reason() {
        let of = |deadline| Ok(Span { deadline, spread: None });
        assert_eq!(read_drain(b""), of(None));
        assert_eq!(read_drain(br#"{"deadline": null}"#), of(None));
        assert_eq!(read_drain(br#"{"deadline": "1500ms"}"#), of(Some(Duration::from_millis(1500))));
        let read = read_listener_change(br#"{"state": "drain", "spread": "1s"}"#);
        let span = Span { deadline: None, spread: Some(Duration::from_secs(1)) };
        assert_eq!(read, Ok(ListenerChange::Drain(span)));
        assert!(read_listener_change(br#"{"state": "ready", "spread": "1s"}"#).is_err());
        for bad in [r#"{"deadline": 5}"#, r#"{"deadline": "soon"}"#, r#"{"deadline": "99999999years"}"#, "{"] {
            assert!(read_drain(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn a_live_socket_is_left_alone_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("made/too/admin.sock");
        runtime().block_on(async {
            let (listener, file) = bind(&path).await.expect("the first one");
            let mode = path.metadata().expect("a socket").permissions().mode();
            assert_eq!(mode & 0o777, 0o660);
            assert!(matches!(bind(&path).await, Err(AdminError::Taken(_))));
            assert!(path.exists(), "the first one's socket is still there");
            std::mem::forget(file);
            drop(listener);
            let (_listener, file) = bind(&path).await.expect("a stale one is replaced");
            drop(file);
            assert!(!path.exists());
        });
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notes.txt");
        std::fs::write(&path, "dear diary").expect("a file");
        assert!(runtime().block_on(bind(&path)).is_err());
        assert_eq!(std::fs::read_to_string(&path).expect("the file"), "dear diary");
    }
}
