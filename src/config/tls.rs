//! `listener.tls` and `pool.tls`. The files that they name are read with the configuration: a missing or broken one is a
//! problem of the file that names it, and a reload takes renewed ones over. Keys are neither shown nor printed: their
//! paths are.

use std::fmt;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rustls::RootCertStore;
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::{Error, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::ParsedCertificate;
use rustls::sign::{CertifiedKey, SigningKey};
use toml::de::DeValue;

use super::Address;
use super::named_file::read_file;
use super::raw::{Fault, fault, text};
use super::validity::validity;
use super::words::Words;

/// A larger file is no chain of certificates, no key and no list of authorities.
const PEM_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// `listener.tls`: how clients are spoken to.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// At least one. The first whose name is what the client asks for serves it, else the first of all.
    pub certificates: Vec<Certificate>,
    /// Whose certificates clients must have; `None` = they need none.
    pub client_ca: Option<Authorities>,
    /// Older versions are refused.
    pub min_version: TlsVersion,
    /// The protocols that a client may choose from (ALPN), the best first; none = whatever the client offers is ignored.
    pub alpn: Vec<String>,
    /// How long a handshake may take.
    pub handshake_timeout: Duration,
}

/// `pool.tls`: how backends are spoken to.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolTls {
    /// Whom backends must prove to be; `None` = what the file has as their address.
    pub server_name: Option<ServerName<'static>>,
    /// By whom their certificates must be signed; `None` (the file's `verify = false`) = anybody is believed.
    pub ca: Option<Authorities>,
    /// What we show when asked who we are.
    pub certificate: Option<Certificate>,
    /// Older versions are refused.
    pub min_version: TlsVersion,
}

impl PoolTls {
    /// Whom a backend at this address must prove to be; `None` for a host name that no certificate can have.
    pub fn name_of(&self, address: &Address) -> Option<ServerName<'static>> {
        if let Some(name) = &self.server_name {
            return Some(name.clone());
        }
        match address {
            Address::Ip(address) => Some(address.ip().into()),
            Address::Host { name, .. } => server_name(name),
            Address::Unix(_) => server_name("localhost"),
        }
    }
}

/// A name or an IP address as it stands in a certificate.
pub(super) fn server_name(text: &str) -> Option<ServerName<'static>> {
    ServerName::try_from(text.strip_suffix('.').unwrap_or(text).to_owned()).ok()
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsVersion {
    /// RFC 5246.
    Tls12,
    /// RFC 8446.
    Tls13,
}

/// The words for them.
pub(super) const TLS_VERSIONS: Words<TlsVersion> = &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];

/// A chain of certificates with the key of the first.
#[derive(Clone)]
pub struct Certificate {
    /// Where the chain was read from.
    pub path: PathBuf,
    /// Where the key was read from.
    pub key_path: PathBuf,
    /// The two.
    pub chain: Arc<CertifiedKey>,
    /// The names of servers in the first certificate, in small letters, with wildcards.
    pub names: Vec<String>,
}

impl ListenerTls {
    /// Whether a connection whose hello asked for `server_name` may carry requests for `host`: with several certificates
    /// only those that its own one speaks for (RFC 9110, 7.4).
    pub fn may_carry(&self, server_name: &str, host: &str) -> bool {
        let fitting = || self.certificates.iter().filter(|certificate| certificate.covers(server_name));
        self.certificates.len() == 1
            || server_name == host
            || fitting().any(|certificate| certificate.covers(host))
            || (fitting().next().is_none() && self.certificates.first().is_some_and(|first| first.covers(host)))
    }
}

impl Certificate {
    /// Whether it speaks for the server of this name, in small letters.
    pub fn covers(&self, name: &str) -> bool {
        let wild = name.split_once('.').map(|(_, rest)| rest);
        self.names.iter().any(|own| own == name || own.strip_prefix("*.").is_some_and(|rest| Some(rest) == wild))
    }
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, key_path, chain: _, names } = self;
        let mut shown = f.debug_struct("Certificate");
        shown.field("path", path).field("key_path", key_path).field("names", names).finish_non_exhaustive()
    }
}

impl PartialEq for Certificate {
    /// The key fits the certificate, so another key is another certificate.
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path && self.key_path == other.key_path && self.chain.cert == other.chain.cert
    }
}

impl Certificate {
    /// When all of the chain holds; `None` when no dates can be read.
    pub fn validity(&self) -> Option<Range<SystemTime>> {
        let all: Option<Vec<_>> = self.chain.cert.iter().map(|der| validity(der)).collect();
        all?.into_iter().reduce(|one, next| one.start.max(next.start)..one.end.min(next.end))
    }

    /// Puts the two together, if they fit.
    pub(super) fn new(chain: Chain, key: Key) -> Option<Self> {
        let certified = CertifiedKey::new(chain.certificates, key.key);
        certified.keys_match().ok()?;
        Some(Self { path: chain.path, key_path: key.path, chain: Arc::new(certified), names: chain.names })
    }
}

/// Certificates of those who sign others.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// Where they were read from; `None` = what this host trusts.
    pub path: Option<PathBuf>,
    /// At least one.
    pub roots: Arc<RootCertStore>,
}

impl PartialEq for Authorities {
    fn eq(&self, other: &Self) -> bool {
        let same = || Arc::ptr_eq(&self.roots, &other.roots) || self.roots.roots == other.roots.roots;
        self.path == other.path && same()
    }
}

/// A chain as it was read, the certificate of the server itself first.
pub(super) struct Chain {
    path: PathBuf,
    certificates: Vec<CertificateDer<'static>>,
    pub names: Vec<String>,
}

/// A key as it was read.
pub(super) struct Key {
    path: PathBuf,
    key: Arc<dyn SigningKey>,
    pub is_readable_by_all: bool,
}

/// The file of `certificate`.
pub(super) fn read_chain(value: &DeValue) -> Result<Chain, Fault> {
    let (path, pem, _) = read_file(value, PEM_BYTES_MAX)?;
    let certificates = certificates(&pem)?;
    for (at, certificate) in certificates.iter().enumerate() {
        if let Err(error) = ParsedCertificate::try_from(certificate) {
            return Err(broken(at, &error));
        }
    }
    let leaf = webpki::EndEntityCert::try_from(&certificates[0]).map_err(|error| broken(0, &error))?;
    let names = leaf.valid_dns_names().map(str::to_ascii_lowercase).collect();
    Ok(Chain { path, certificates, names })
}

/// The file of `key`.
pub(super) fn read_key(value: &DeValue) -> Result<Key, Fault> {
    let (path, pem, metadata) = read_file(value, PEM_BYTES_MAX)?;
    let key = PrivateKeyDer::from_pem_slice(&pem).map_err(|error| match error {
        Error::NoItemsFound if pem.windows(ENCRYPTED.len()).any(|window| window == ENCRYPTED) => {
            fault("the key is locked by a password", "an encrypted key")
                .help("store it without one, `openssl pkey -in FILE -out NEW`, in a file that only evener can read")
        }
        Error::NoItemsFound => fault("there is no private key in this file", "no key")
            .help("name a PEM file with a part `-----BEGIN PRIVATE KEY-----`"),
        error => fault(format!("the file is no PEM: {error}"), "not PEM"),
    })?;
    let key = any_supported_type(&key).map_err(|error| {
        fault(format!("the key cannot be used: {error}"), "not usable")
            .help("use an ECDSA key (P-256, P-384, P-521), an Ed25519 key, or an RSA key of 2048 to 8192 bits")
    })?;
    Ok(Key { path, key, is_readable_by_all: metadata.permissions().mode() & 0o004 != 0 })
}

const ENCRYPTED: &[u8] = b"BEGIN ENCRYPTED PRIVATE KEY";

/// The file of `ca` and of `client_ca`; an empty name means what this host trusts where that is `allowed`.
pub(super) fn read_authorities(value: &DeValue, host_allowed: bool) -> Result<Option<Authorities>, Fault> {
    if text(value)?.is_empty() {
        return if host_allowed { host_authorities().map(Some) } else { Ok(None) };
    }
    let (path, pem, _) = read_file(value, PEM_BYTES_MAX)?;
    let mut roots = RootCertStore::empty();
    for (at, certificate) in certificates(&pem)?.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| broken(at, &error))?;
    }
    Ok(Some(Authorities { path: Some(path), roots: Arc::new(roots) }))
}

/// What this host trusts, read once: a change there takes a restart.
pub(super) fn host_authorities() -> Result<Authorities, Fault> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if roots.is_empty() {
        let help = "install them (the package is often called ca-certificates), or name a file: `ca = \"FILE\"`";
        return Err(fault("this host has no certificates of authorities", "nobody to trust").help(help));
    }
    Ok(Authorities { path: None, roots: roots.clone() })
}

/// At least one.
fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Fault> {
    let certificates: Result<Vec<_>, Error> = CertificateDer::pem_slice_iter(pem).collect();
    let certificates = certificates.map_err(|error| fault(format!("the file is no PEM: {error}"), "not PEM"))?;
    if certificates.is_empty() {
        return Err(fault("there is no certificate in this file", "no certificate")
            .help("name a PEM file with a part `-----BEGIN CERTIFICATE-----`"));
    }
    Ok(certificates)
}

fn broken(at: usize, error: &dyn fmt::Display) -> Fault {
    let error = error.to_string();
    let why = error.trim_start_matches("invalid peer certificate: ");
    fault(format!("certificate {} of this file is broken: {why}", at + 1), "broken")
}
