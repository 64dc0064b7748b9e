//! The client of the admin API. Its errors say what was tried and what to do.

use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::task::JoinHandle;

use super::Misuse;
use crate::api;
use crate::config::{self, Report};
use crate::control::admin::encode;
use crate::control::log::wants_colour;

/// Where the socket is when nothing says otherwise; the default of `process.admin`.
const ADMIN: &str = "/run/evener/admin.sock";
/// The longest that an answer is waited for; a reload may wait for a resolver.
const TIMEOUT: Duration = Duration::from_secs(15);
/// The same for an upgrade, which waits for a program to start and to take many connections over.
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(110);
/// Bytes of one event.
const EVENT_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an answer: tens of thousands of backends.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A socket to ask at.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    /// The file that should say where the socket is, when it is wrong: the socket is a guess then.
    broken: Option<Report>,
}

impl Client {
    /// The socket: as the command line has it, else as the file says. A file that is wrong at the moment does not
    /// matter as long as that one key can be read.
    pub fn find(config: &Path, admin: Option<&Path>) -> anyhow::Result<Self> {
        let (socket, broken) = match (admin, config::load(config)) {
            (Some(path), _) => (Some(path.to_owned()), None),
            (None, Ok(read)) => (read.config.process.admin, None),
            (None, Err(report)) => (glean(config), Some(report)),
        };
        match socket {
            Some(socket) => Ok(Self { socket, broken }),
            None => Err(anyhow!("the admin API is switched off: process.admin is \"\" in {}", config.display())),
        }
    }

    /// The whole state.
    pub fn status(&self) -> anyhow::Result<api::Status> {
        self.ask(Method::GET, "/v1/status", Vec::new())
    }

    /// One pool.
    pub fn pool(&self, pool: &str) -> anyhow::Result<api::Pool> {
        self.ask(Method::GET, &format!("/v1/pools/{}", encode(pool)), Vec::new())
    }

    /// Overrides; the backends that it changed.
    pub fn change(&self, pool: &str, backend: &str, change: &api::Change) -> anyhow::Result<Vec<api::Backend>> {
        let path = format!("/v1/pools/{}/backends/{}", encode(pool), encode(backend));
        self.ask(Method::PUT, &path, serde_json::to_vec(change)?)
    }

    /// Ends a backend's connections.
    pub fn close(&self, pool: &str, backend: &str, close: &api::Close) -> anyhow::Result<api::Closing> {
        let path = format!("/v1/pools/{}/backends/{}/close", encode(pool), encode(backend));
        self.ask(Method::POST, &path, serde_json::to_vec(close)?)
    }

    /// Drains a listener, or has it take clients again.
    pub fn change_listener(&self, name: &str, change: &api::ListenerChange) -> anyhow::Result<api::Listener> {
        self.ask(Method::PUT, &format!("/v1/listeners/{}", encode(name)), serde_json::to_vec(change)?)
    }

    /// Has the file read again.
    pub fn reload(&self) -> anyhow::Result<api::Reloaded> {
        self.ask(Method::POST, "/v1/reload", Vec::new())
    }

    /// Has the program on disk take over.
    pub fn upgrade(&self) -> anyhow::Result<api::Upgraded> {
        self.ask_within(UPGRADE_TIMEOUT, Method::POST, "/v1/upgrade", Vec::new())
    }

    /// Has the process end within the deadline; answers with the one that holds.
    pub fn drain(&self, drain: &api::Drain) -> anyhow::Result<api::Drain> {
        self.ask(Method::POST, "/v1/drain", serde_json::to_vec(drain)?)
    }

    /// Hands on events as they come, from where `begin` has it ("since=7"), until the stream ends or nobody wants more.
    pub fn follow(&self, begin: &str, tell: impl FnMut(api::Event) -> ControlFlow<()>) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.read_events(begin, tell))
    }

    async fn read_events(
        &self,
        begin: &str,
        mut tell: impl FnMut(api::Event) -> ControlFlow<()>,
    ) -> anyhow::Result<()> {
        let (answer, _connection) = self.send(Method::GET, &format!("/v1/events?{begin}"), Vec::new()).await?;
        let status = answer.status();
        let mut body = answer.into_body();
        if !status.is_success() {
            let body = Limited::new(body, EVENT_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?;
            return Err(self.refused(status, &body.to_bytes()));
        }
        let mut text: Vec<u8> = Vec::new();
        while let Some(frame) = body.frame().await {
            // A process that ends breaks the stream off.
            let Ok(frame) = frame else { return Ok(()) };
            text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                if tell(serde_json::from_slice(&line)?).is_break() {
                    return Ok(());
                }
            }
            anyhow::ensure!(text.len() <= EVENT_BYTES_MAX, "{}: an event without an end", self.socket.display());
        }
        Ok(())
    }

    fn ask<T: DeserializeOwned>(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<T> {
        self.ask_within(TIMEOUT, method, path, body)
    }

    fn ask_within<T: DeserializeOwned>(
        &self,
        limit: Duration,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<T> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let exchange = async { tokio::time::timeout(limit, self.exchange(method, path, body)).await };
        let (status, body) = runtime.block_on(exchange).map_err(|_| {
            anyhow!("{}: no answer within {}s; does the process hang?", self.socket.display(), limit.as_secs())
        })??;
        if status.is_success() {
            let what = || format!("{}: the answer is not understood; is it the same version?", self.socket.display());
            return serde_json::from_slice(&body).with_context(what);
        }
        Err(self.refused(status, &body))
    }

    fn refused(&self, status: StatusCode, body: &[u8]) -> anyhow::Error {
        let said = match serde_json::from_slice::<api::Error>(body) {
            Ok(error) => error.error,
            Err(_) => format!("{}: status {status}", self.socket.display()),
        };
        match status {
            StatusCode::UNPROCESSABLE_ENTITY => Misuse(said).into(),
            _ => anyhow!(said),
        }
    }

    async fn exchange(&self, method: Method, path: &str, body: Vec<u8>) -> anyhow::Result<(StatusCode, Bytes)> {
        let (answer, connection) = self.send(method, path, body).await?;
        let status = answer.status();
        let body =
            Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect().await.map_err(anyhow::Error::from_boxed)?;
        connection.abort();
        Ok((status, body.to_bytes()))
    }

    /// Sends a request; the answer's body is read through the task that comes with it.
    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Vec<u8>,
    ) -> anyhow::Result<(Response<Incoming>, JoinHandle<hyper::Result<()>>)> {
        let stream = tokio::net::UnixStream::connect(&self.socket).await.map_err(|error| self.explain(&error))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header("host", "evener");
        let answer = sender.send_request(request.body(Full::new(Bytes::from(body)))?).await?;
        Ok((answer, connection))
    }

    fn explain(&self, error: &io::Error) -> anyhow::Error {
        let socket = self.socket.display();
        let is_absent = matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
        if let (Some(report), true) = (&self.broken, is_absent) {
            let report = report.render(wants_colour(&io::stderr()));
            let looked = format!("nobody answers at {socket}; the file cannot say where else (--admin PATH can)");
            return Misuse(format!("{}\n{looked}", report.trim_end())).into();
        }
        let advice = match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                "is evener running? (systemctl status evener) Does it read the same file? (-c FILE, or --admin PATH)"
            }
            io::ErrorKind::PermissionDenied => {
                "the socket is for the owner and the group of the process only: try sudo, or join its group"
            }
            _ => "the admin socket cannot be used",
        };
        anyhow!("{socket}: {error}\n{advice}")
    }
}

/// `process.admin` of a file that is wrong otherwise; the default when it does not say.
fn glean(config: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(config).unwrap_or_default();
    // Line by line: the file may not even be TOML at the moment.
    let value = |line: &str| {
        let value = line.trim().strip_prefix("admin")?.trim_start().strip_prefix('=')?;
        format!("v = {}", value.trim()).parse::<toml::Table>().ok()
    };
    let table = text.lines().find_map(value).unwrap_or_default();
    match table.get("v").and_then(|admin| admin.as_str()) {
        Some("") => None,
        admin => Some(PathBuf::from(admin.unwrap_or(ADMIN))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_file_still_says_where_the_socket_is() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("evener.toml");
        let found = |text: &str| {
            std::fs::write(&path, text).expect("a file");
            Client::find(&path, None).map(|client| client.socket).ok()
        };
        assert_eq!(found("[process]\nadmin = \"/x/a.sock\"\n[listner.pg]\n"), Some("/x/a.sock".into()));
        assert_eq!(found("[process]\nadmin = \"\"\n[listner.pg]\n"), None);
        assert_eq!(found("[listner.pg]\n"), Some(ADMIN.into()));
        assert_eq!(found("]]"), Some(ADMIN.into()));
        assert_eq!(found("[process]\n  admin=\"/x/b.sock\" # here\n[[[\n"), Some("/x/b.sock".into()));
    }

    #[test]
    fn nobody_at_the_socket_is_said_with_the_socket_and_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("admin.sock");
        let client = Client::find(Path::new("/nowhere.toml"), Some(&socket)).expect("named");
        let error = client.status().expect_err("nobody").to_string();
        assert!(error.contains(&socket.display().to_string()) && error.contains("is evener running?"), "{error}");
    }

    #[test]
    fn nobody_at_a_guessed_socket_is_blamed_on_the_file_that_is_broken() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("evener.toml");
        let text = format!("[process]\nadmin = \"{}/none.sock\"\n[listner.pg]\n", folder.path().display());
        std::fs::write(&path, text).expect("a file");
        let error = Client::find(&path, None).expect("gleaned").reload().expect_err("nobody");
        assert!(error.is::<Misuse>(), "exit status 2: {error}");
        assert!(error.to_string().contains("`listner`") && error.to_string().contains("none.sock"), "{error}");
    }
}
