//! `keys_url`: keys that are fetched. One task for each table asks at the start, every `refresh`, and when a token may be
//! of a key that is not known, but never more often than `cooldown` says. What was had last is kept while there is nothing
//! newer; before anything was had, no token counts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{ACCEPT, HOST, USER_AGENT};
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use crate::config::http::keys::{KeySet, parse_jwks};
use crate::config::http::{Jwt, KeySource};

/// From the first packet to the last byte of an answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// Of an answer.
const ANSWER_BYTES_MAX: usize = 1024 * 1024;
/// Between two fetches, whatever the file says.
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// The keys of one table, kept up to date for as long as this lives.
#[derive(Debug)]
pub struct Source {
    shared: Arc<Shared>,
    pace: Pace,
    task: AbortHandle,
}

#[derive(Debug)]
struct Shared {
    keys: ArcSwap<KeySet>,
    asked: watch::Sender<()>,
    tried: watch::Sender<bool>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Pace {
    refresh: Duration,
    cooldown: Duration,
}

impl Source {
    /// Starts with `keys`, which may be none.
    fn start(name: &str, url: &Uri, pace: Pace, keys: Arc<KeySet>) -> Self {
        let tried = watch::Sender::new(!keys.is_empty());
        let shared = Arc::new(Shared { keys: ArcSwap::new(keys), asked: watch::Sender::new(()), tried });
        let task = tokio::spawn(keep(name.to_owned(), url.clone(), pace, shared.clone())).abort_handle();
        Self { shared, pace, task }
    }

    /// What is known now.
    pub fn keys(&self) -> &ArcSwap<KeySet> {
        &self.shared.keys
    }

    /// A token may be of a key that is not known. Asks of many tokens are one fetch.
    pub fn ask(&self) {
        self.shared.asked.send_replace(());
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// All sources, by table and URL.
#[derive(Debug, Default)]
pub struct Sources(HashMap<(String, Uri), Arc<Source>>);

impl Sources {
    /// Those of these tables, one for each that fetches keys; all others end with the last configuration that has them.
    pub fn renew(&mut self, tables: &[Arc<Jwt>]) -> Vec<Option<Arc<Source>>> {
        let old = std::mem::take(&mut self.0);
        let renew = |jwt: &Arc<Jwt>| {
            let KeySource::Url { url, refresh, cooldown } = &jwt.keys else { return None };
            let pace = Pace { refresh: (*refresh).max(PAUSE_MIN), cooldown: (*cooldown).max(PAUSE_MIN) };
            let key = (jwt.name.clone(), url.clone());
            let source = match old.get(&key) {
                Some(known) if known.pace == pace => known.clone(),
                known => {
                    let keys = known.map(|known| known.keys().load_full()).unwrap_or_default();
                    Arc::new(Source::start(&jwt.name, url, pace, keys))
                }
            };
            self.0.insert(key, source.clone());
            Some(source)
        };
        tables.iter().map(renew).collect()
    }

    /// Until each has been asked once.
    pub async fn fetched(&self) {
        for source in self.0.values() {
            // The sender lives as long as the source.
            let _ = source.shared.tried.subscribe().wait_for(|tried| *tried).await;
        }
    }
}

/// The task of a source. Changes are logged, and a failure when it is another one than before.
async fn keep(name: String, url: Uri, pace: Pace, shared: Arc<Shared>) {
    let mut failure = None;
    let mut asked = shared.asked.subscribe();
    loop {
        // Whoever has asked until now is served by this fetch.
        asked.mark_unchanged();
        let answer = timeout(FETCH_TIMEOUT, fetch(&url)).await;
        match answer.unwrap_or_else(|_| Err(format!("no answer within {} s", FETCH_TIMEOUT.as_secs()))) {
            Ok(keys) => {
                let is_new = **shared.keys.load() != keys;
                if is_new || failure.is_some() {
                    info!(jwt = name, %url, ?keys, "keys fetched");
                }
                if is_new {
                    shared.keys.store(Arc::new(keys));
                }
                failure = None;
            }
            Err(why) if failure.as_ref() != Some(&why) => {
                let without = shared.keys.load().is_empty();
                let meanwhile = if without { "no token counts until they are" } else { "those from before are kept" };
                warn!(jwt = name, %url, "keys cannot be fetched: {why}; {meanwhile}");
                failure = Some(why);
            }
            Err(_) => {}
        }
        shared.tried.send_replace(true);
        let pause = if failure.is_some() { pace.refresh.min(pace.cooldown) } else { pace.refresh };
        sleep(pause.min(pace.cooldown)).await;
        let _ = timeout(pause.saturating_sub(pace.cooldown), asked.changed()).await;
    }
}

async fn fetch(url: &Uri) -> Result<KeySet, String> {
    if url.scheme() != Some(&Scheme::HTTPS) {
        return ask(connect(url, 80).await?, url).await;
    }
    // Read each time, since they are renewed without anybody's reload; from many files, so not on this thread.
    let tls = tokio::task::spawn_blocking(trusted).await.map_err(|error| error.to_string())??;
    fetch_tls(url, tls).await
}

async fn fetch_tls(url: &Uri, tls: ClientConfig) -> Result<KeySet, String> {
    let name = ServerName::try_from(host(url).to_owned()).map_err(|error| error.to_string())?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, connect(url, 443).await?).await;
    ask(stream.map_err(|error| format!("TLS: {error}"))?, url).await
}

/// Those who vouch for servers, as the host has them.
fn trusted() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this host has no certificates of authorities (package ca-certificates)".to_owned());
    }
    client(roots)
}

fn client(roots: RootCertStore) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

/// Without the brackets of an IPv6 address.
fn host(url: &Uri) -> &str {
    url.host().unwrap_or_default().trim_matches(['[', ']'])
}

async fn connect(url: &Uri, port: u16) -> Result<TcpStream, String> {
    let address = (host(url), url.port_u16().unwrap_or(port));
    TcpStream::connect(address).await.map_err(|error| format!("no connection: {error}"))
}

async fn ask(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, url: &Uri) -> Result<KeySet, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // It ends with its sender and the body.
    tokio::spawn(connection);
    let path = url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let authority = url.authority().map_or("", http::uri::Authority::as_str);
    let request = Request::get(path)
        .header(HOST, authority.rsplit('@').next().unwrap_or_default())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(USER_AGENT, "evener")
        .body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let response = sender.send_request(request).await.map_err(|error| error.to_string())?;
    if response.status() != StatusCode::OK {
        return Err(format!("the answer is {}, not 200 (redirects are not followed)", response.status()));
    }
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    parse_jwks(&body.map_err(|error| error.to_string())?.to_bytes())
}

#[cfg(test)]
mod tests;
