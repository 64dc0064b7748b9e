//! `listener.tls` and `pool.tls`.

use std::sync::Arc;
use std::time::Duration;

use toml::de::DeValue;

use crate::config::error::{Finding, Span};
use crate::config::raw::{Fault, Item, Reader, boolean, fault, mismatch, quoted, text};
use crate::config::tls::TLS_VERSIONS;
use crate::config::tls::{
    Authorities, Certificate, ListenerTls, PoolTls, TlsVersion, host_authorities, read_authorities, read_chain,
    read_key, server_name,
};
use crate::config::{Backend, Protocol};

use super::positive;

/// Certificates of one listener.
const CERTIFICATES_MAX: usize = 4_096;
/// Protocols of one `alpn`.
const PROTOCOLS_MAX: usize = 16;
/// The name of a protocol, in bytes (RFC 7301, 3.1).
const PROTOCOL_BYTES_MAX: usize = 255;
/// What a listener for HTTP speaks, the best first.
const HTTP_PROTOCOLS: [&str; 2] = ["h2", "http/1.1"];

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const MIN_VERSION: TlsVersion = TlsVersion::Tls12;

const EXAMPLE: &str = "tls = { certificate = \"/etc/evener/cert.pem\", key = \"/etc/evener/key.pem\" }";
const CERTIFICATE: &str = "certificate = \"/etc/evener/cert.pem\"";
const KEY: &str = "key = \"/etc/evener/key.pem\"";

/// Keys that people look for here.
const HINTS: &[(&str, &str)] = &[
    ("cert", "did you mean `certificate`?"),
    ("chain", "the chain stands behind the certificate, in the file of `certificate`"),
    ("private_key", "did you mean `key`?"),
    ("ciphers", "leave it out: TLS 1.2 and 1.3 have no weak ones here"),
    ("acme", "this version orders no certificates: name the files that another program renews, and reload"),
    ("sni", "write `server_name` for the name that backends are asked for"),
];

/// The keys that hold for a whole listener, and so stand in its first table.
const LISTENER_KEYS: [&str; 4] = ["client_ca", "min_version", "alpn", "handshake_timeout"];

/// A table, or a list of tables.
pub(super) fn listener(r: &mut Reader, protocol: &Protocol) -> Option<ListenerTls> {
    let item = r.take("tls")?;
    if r.has("sni") {
        let finding = Finding::error(r.key_span("tls"), "`sni` routes TLS that the backends end, and `tls` ends it here")
            .label("ends TLS")
            .help("leave one of the two out; several certificates stand in a list, and the name that a client asks for chooses")
            .also(r.key_span("sni"), "carries TLS through");
        r.findings.push(finding);
    }
    let items: &[Item] = match item.get_ref() {
        DeValue::Array(items) if items.is_empty() => {
            let finding = Finding::error(item.span(), "invalid `tls`: the list is empty").label("no certificate");
            r.findings.push(finding.help(format!("write `{EXAMPLE}`")));
            &[]
        }
        DeValue::Array(_) => r.elements("tls", item, CERTIFICATES_MAX),
        _ => std::slice::from_ref(item),
    };
    let mut tls = ListenerTls {
        certificates: Vec::new(),
        client_ca: None,
        min_version: MIN_VERSION,
        alpn: Vec::new(),
        handshake_timeout: HANDSHAKE_TIMEOUT,
    };
    for (at, item) in items.iter().enumerate() {
        let DeValue::Table(table) = item.get_ref() else {
            let expected = "a table, or a list of tables, with `certificate` and `key`";
            r.value::<()>("tls", item, |value| Err(mismatch(value, expected).help(format!("write `{EXAMPLE}`"))));
            continue;
        };
        r.element(table, item.span(), "`tls`".to_owned(), |r| {
            r.hints(HINTS);
            if at > 0 {
                LISTENER_KEYS.iter().for_each(|key| r.refuse(key, |span| not_first(span, key)));
            }
            let certificate = certificate(r);
            if at == 0 {
                options(r, &mut tls, matches!(protocol, Protocol::Http(_)));
            } else if certificate.as_ref().is_some_and(|certificate| certificate.names.is_empty()) {
                let finding = Finding::warning(r.span_of("certificate"), "no client will ever see this certificate")
                    .label("no name of a server in it")
                    .help("have it issued with the names as subjectAltName, or write it first: it then serves who asks for no name");
                r.findings.push(finding);
            }
            tls.certificates.extend(certificate);
        });
    }
    Some(tls)
}

fn not_first(span: Span, key: &str) -> Finding {
    Finding::error(span, format!("`{key}` holds for the whole listener"))
        .label("not in the first table")
        .help("write it into the first table of the list")
}

/// What the first table says of all.
fn options(r: &mut Reader, tls: &mut ListenerTls, is_http: bool) {
    tls.client_ca = r.or("client_ca", |value| read_authorities(value, false), None);
    tls.min_version = r.word("min_version", TLS_VERSIONS, MIN_VERSION);
    tls.handshake_timeout = r.or("handshake_timeout", positive, HANDSHAKE_TIMEOUT);
    if is_http {
        r.refuse("alpn", |span| {
            Finding::error(span, "`alpn` belongs to a listener with protocol = \"tcp\"")
                .label("this listener carries HTTP")
                .help("leave it out: it offers HTTP/2 and HTTP/1.1")
        });
    }
    let alpn = r.list("alpn", PROTOCOLS_MAX, protocol_name);
    tls.alpn = if is_http {
        HTTP_PROTOCOLS.map(str::to_owned).into()
    } else {
        alpn.into_iter().map(|(name, _)| name).collect()
    };
}

fn protocol_name(value: &DeValue) -> Result<String, Fault> {
    let name = text(value)?;
    if (1..=PROTOCOL_BYTES_MAX).contains(&name.len()) {
        return Ok(name.to_owned());
    }
    Err(fault(format!("the name of a protocol has 1 to {PROTOCOL_BYTES_MAX} bytes"), "not a name")
        .help("write it as clients offer it, such as \"h2\", \"http/1.1\" or \"postgresql\""))
}

/// `certificate` and `key`, both needed.
fn certificate(r: &mut Reader) -> Option<Certificate> {
    let chain = r.required("certificate", read_chain, CERTIFICATE);
    let key = r.required("key", read_key, KEY);
    let (chain, key) = (chain?, key?);
    if key.is_readable_by_all {
        let finding = Finding::warning(r.span_of("key"), "every user of this host can read this key")
            .label("readable by all")
            .help("`chmod o-r` it, and let the user that runs evener own it");
        r.findings.push(finding);
    }
    let certificate = Certificate::new(chain, key);
    if certificate.is_none() {
        let finding = Finding::error(r.span_of("key"), "the key does not fit the certificate")
            .label("another's key")
            .help("name the key with which the certificate was ordered")
            .also(r.span_of("certificate"), "of this certificate");
        r.findings.push(finding);
    }
    certificate
}

/// `pool.tls`, which fits the addresses of the pool's backends.
pub(super) fn pool(r: &mut Reader, backends: &[(Arc<Backend>, Span)]) -> Option<PoolTls> {
    if !r.has("tls") {
        return None;
    }
    let tls = r.table("tls", |r| {
        r.hints(HINTS);
        let server_name = r.optional("server_name", |value| {
            let name = text(value)?;
            server_name(name).ok_or_else(|| {
                fault(format!("`{}` is neither a host name nor an IP address", quoted(name)), "not a name")
                    .help("write it as the backends' certificates have it, such as \"db.internal\"")
            })
        });
        let verify = r.or("verify", boolean, true);
        let ca = if verify { authorities(r) } else { believe_anybody(r) };
        let shows_one = r.has("certificate") || r.has("key");
        let certificate = if shows_one {
            certificate(r)
        } else {
            let _ = (r.take("certificate"), r.take("key"));
            None
        };
        PoolTls { server_name, ca, certificate, min_version: r.word("min_version", TLS_VERSIONS, MIN_VERSION) }
    });
    for (backend, span) in backends.iter().filter(|(backend, _)| tls.name_of(&backend.address).is_none()) {
        r.findings.push_with(|| {
            let title = format!("no certificate can have the name of `{}`", quoted(&backend.name));
            Finding::error(span.clone(), title)
                .label("not a name of a server")
                .help("say whom the backends must prove to be: `tls = { server_name = \"db.internal\" }`")
        });
    }
    Some(tls)
}

fn authorities(r: &mut Reader) -> Option<Authorities> {
    if r.has("ca") {
        return r.optional("ca", |value| read_authorities(value, true)).flatten();
    }
    let _ = r.take("ca");
    let span = r.span.clone();
    host_authorities().map_err(|fault| r.findings.push(fault.at(span, "ca"))).ok()
}

fn believe_anybody(r: &mut Reader) -> Option<Authorities> {
    r.refuse("ca", |span| {
        Finding::error(span, "with `verify = false` nobody is verified")
            .label("never asked")
            .help("leave `verify` out, or `ca`")
    });
    let finding = Finding::warning(r.span_of("verify"), "whoever answers at a backend's address is believed")
        .label("not verified")
        .help("name who signs the backends' certificates, `ca = \"FILE\"`, and leave `verify` out");
    r.findings.push(finding);
    None
}
