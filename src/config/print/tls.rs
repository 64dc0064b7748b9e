//! `tls` of listeners and pools: the paths of the files, never what stands in them.

use std::path::Path;

use super::{list, quote, table, time, word_of};
use crate::config::tls::TLS_VERSIONS;
use crate::config::tls::{Authorities, Certificate, ListenerTls, PoolTls, TlsVersion};

/// A table, or a list of them; `alpn` is left to HTTP where that decides it.
pub(super) fn listener(tls: &ListenerTls, is_http: bool) -> String {
    let ListenerTls { certificates, client_ca, min_version, alpn, handshake_timeout } = tls;
    let mut keys = vec![("client_ca", authorities(client_ca.as_ref())), ("min_version", version(*min_version))];
    if !is_http {
        keys.push(("alpn", list(alpn)));
    }
    keys.push(("handshake_timeout", time(*handshake_timeout)));
    let mut keys = Some(keys);
    let tables =
        certificates.iter().map(|it| table(certificate(it).into_iter().chain(keys.take().into_iter().flatten())));
    let tables: Vec<String> = tables.collect();
    match tables.as_slice() {
        [one] => one.clone(),
        tables => format!("[{}]", tables.join(", ")),
    }
}

pub(super) fn pool(tls: &PoolTls) -> String {
    let PoolTls { server_name, ca, certificate: shown, min_version } = tls;
    let mut keys = Vec::new();
    keys.extend(server_name.iter().map(|name| ("server_name", quote(name.to_str()))));
    keys.extend(ca.iter().map(|ca| ("ca", authorities(Some(ca)))));
    keys.extend(shown.iter().flat_map(certificate));
    keys.extend([("verify", ca.is_some().to_string()), ("min_version", version(*min_version))]);
    table(keys)
}

fn certificate(certificate: &Certificate) -> [(&'static str, String); 2] {
    let path = |path: &Path| quote(path.display());
    [("certificate", path(&certificate.path)), ("key", path(&certificate.key_path))]
}

fn authorities(authorities: Option<&Authorities>) -> String {
    let path = authorities.and_then(|authorities| authorities.path.as_deref());
    quote(path.unwrap_or(Path::new("")).display())
}

fn version(version: TlsVersion) -> String {
    quote(word_of(TLS_VERSIONS, &version))
}
