//! What is known of a request: from its first line on until the last byte of its answer, when all is counted and logged.

use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode, Version};

use super::body::Intake;
use super::canonical::Canonical;
use super::client::Client;
use super::forwarded::RequestId;
use super::refusal::Refusal;
use super::sites::SiteTable;
use crate::access::{Event, EventKind, Request};
use crate::config::Access;
use crate::snapshot::Backend;
use crate::stats::{BackendSlot, BackendStats};

/// The status in log and metrics when the client went away before an answer began; it has none in HTTP.
const CLIENT_GONE: u16 = 499;

/// See the module.
pub struct Record {
    client: Rc<Client>,
    pub began: Instant,
    pub method: Method,
    pub version: Version,
    /// As routing and backend see them; empty for a request that has no canonical form.
    pub host: String,
    pub path: String,
    /// Where its route is found, by its number; until there is one it counts outside of all.
    sites: Arc<SiteTable>,
    route: Option<usize>,
    pub consumer: Option<Arc<str>>,
    pub request_id: Option<RequestId>,
    /// Its client, which is not who connected where that is a trusted proxy.
    address: Option<IpAddr>,
    pub refusal: Option<Refusal>,
    pub pool: Option<Arc<str>>,
    pub attempts: u32,
    pub intake: Rc<Intake>,
    /// Who answers, if the place is held by somebody else.
    backend: Option<Arc<BackendStats>>,
    place: Option<BackendSlot>,
    status: StatusCode,
    first_byte: Option<Duration>,
    bytes_out: u64,
    is_broken: bool,
    is_answered: bool,
}

impl Record {
    /// A request begins.
    pub fn new(client: Rc<Client>, method: Method, version: Version, sites: Arc<SiteTable>) -> Self {
        client.begin();
        let began = client.thread.clock.turn();
        let address = client.address.map(|client| client.ip());
        Self {
            client,
            began,
            method,
            version,
            host: String::new(),
            path: String::new(),
            sites,
            route: None,
            consumer: None,
            request_id: None,
            address,
            refusal: None,
            pool: None,
            attempts: 0,
            intake: Rc::default(),
            backend: None,
            place: None,
            status: StatusCode::OK,
            first_byte: None,
            bytes_out: 0,
            is_broken: false,
            is_answered: false,
        }
    }

    /// What it asks for is clear.
    pub fn on_canonical(&mut self, canonical: &Canonical, with_query: bool) {
        if self.client.thread.shared.access == Access::Off {
            return;
        }
        self.host = canonical.host().to_owned();
        self.path = match canonical.query() {
            Some(query) if with_query => format!("{}?{query}", canonical.path()),
            Some(_) => format!("{}?", canonical.path()),
            None => canonical.path().to_owned(),
        };
    }

    /// Who asks is clear.
    pub fn on_client(&mut self, address: IpAddr, request_id: &RequestId) {
        self.address = self.address.map(|_| address);
        self.request_id = Some(request_id.clone());
    }

    /// Its route is found.
    pub fn on_route(&mut self, index: usize) {
        self.route = Some(index);
    }

    /// This backend answers, and its place is held by what follows the answer.
    pub fn on_switch(&mut self, backend: &Backend) {
        self.backend = Some(backend.stats.clone());
    }

    /// Whose place this is answers: it is held until the end.
    pub fn hold(&mut self, place: BackendSlot) {
        self.place = Some(place);
    }

    /// The answer begins.
    pub fn on_answer(&mut self, status: StatusCode) {
        self.is_answered = true;
        self.status = status;
        let now = self.client.thread.clock.turn();
        self.client.motion().note_answer(now);
        self.first_byte = Some(now - self.began);
    }

    /// Bytes of the answer's body.
    pub fn on_bytes(&mut self, count: usize) {
        self.bytes_out += count as u64;
    }

    /// The answer ended before its end.
    pub fn on_break(&mut self) {
        self.is_broken = true;
    }
}

impl Record {
    /// The port is known of who connected, not of those whom a header of the request names.
    fn client_address(&self) -> Option<SocketAddr> {
        let known = self.client.address?;
        let address = self.address?;
        Some(if known.ip().to_canonical() == address { known } else { SocketAddr::new(address, 0) })
    }
}

fn version_text(version: Version) -> &'static str {
    match version {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let thread = self.client.thread.clone();
        let took = thread.clock.turn() - self.began;
        if !self.is_answered {
            // The client has gone away meanwhile.
            self.client.on_reset();
        }
        let bytes_in = self.intake.bytes.get();
        if let Some(place) = self.place.take() {
            let cell = place.stats().cell(thread.index);
            cell.bytes_in.add(bytes_in);
            cell.bytes_out.add(self.bytes_out);
            if thread.shared.access != Access::Off {
                self.backend = Some(place.stats().clone());
            }
        }
        let cell = self.client.site.stats.cell(thread.index);
        cell.bytes_in.add(bytes_in);
        cell.bytes_out.add(self.bytes_out);
        let status = if self.is_answered { self.status.as_u16() } else { CLIENT_GONE };
        self.refusal = self.refusal.filter(|_| self.is_answered);
        let route = self.route.map(|index| &self.sites.routes[index]);
        let stats = route.map_or(&self.sites.outside, |route| &route.stats);
        stats.cell(thread.index - thread.shared.first).note(status, self.refusal, took);
        self.client.end();
        thread.report(|thread| Event {
            kind: EventKind::Request,
            time_ms: 0,
            id: thread.next_id(),
            listener: self.client.site.stats.clone(),
            pool: self.pool.clone().unwrap_or_else(|| "".into()),
            backend: self.backend.take(),
            client: self.client_address(),
            local: self.client.local,
            connect: None,
            duration: took,
            bytes_in,
            bytes_out: self.bytes_out,
            datagrams: None,
            spliced_bytes: 0,
            attempts: self.attempts,
            reason: None,
            sni: self.client.server_name.clone(),
            request: Some(Box::new(Request {
                method: self.method.to_string(),
                host: std::mem::take(&mut self.host),
                path: std::mem::take(&mut self.path),
                version: version_text(self.version),
                route: self.route.map(|index| self.sites.routes[index].name.clone()),
                consumer: self.consumer.take(),
                status,
                refusal: self.refusal.map(Refusal::label),
                first_byte: self.first_byte,
                request_id: self.request_id.as_ref().map(|id| id.as_str().to_owned()),
                is_cut: self.is_broken,
            })),
        });
    }
}
