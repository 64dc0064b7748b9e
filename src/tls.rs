//! TLS as the configuration has it, ready for use: what it takes to be a server to clients, and a client to backends.
//!
//! It is built once for each file, not for each connection or snapshot. What a client has to resume an earlier session
//! with stays good over a reload, as long as the same clients may come: one that was let in without a certificate must
//! not resume where one is asked for, and so nothing is shared between listeners.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoClientAuth, ResolvesServerCert, ServerConfig, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion};

use crate::config::Address;
use crate::config::tls::{Authorities, Certificate, ListenerTls, PoolTls, TlsVersion};

/// What a listener is to its clients. `before` is what it was by the last file.
pub fn server(tls: &ListenerTls, before: Option<(&ListenerTls, &ServerConfig)>) -> Arc<ServerConfig> {
    let verifier = match &tls.client_ca {
        None => Arc::new(NoClientAuth),
        Some(ca) => WebPkiClientVerifier::builder_with_provider(ca.roots.clone(), provider())
            .build()
            .expect("there is an authority: the configuration has made sure"),
    };
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(tls.min_version))
        .expect("the provider has ciphers for all versions")
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(ByName::new(&tls.certificates)));
    config.alpn_protocols = tls.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    match before.filter(|(before, _)| before.client_ca == tls.client_ca) {
        Some((_, before)) => {
            config.ticketer = before.ticketer.clone();
            config.session_storage = before.session_storage.clone();
        }
        // Without tickets clients resume by what is stored here.
        None => config.ticketer = aws_lc_rs::Ticketer::new().unwrap_or(config.ticketer),
    }
    Arc::new(config)
}

/// What a pool is to its backends.
#[derive(Clone, Debug)]
pub struct ToBackends {
    tls: PoolTls,
    /// For whatever bytes.
    pub plain: Arc<ClientConfig>,
    /// For the version of HTTP that the pool's backends are spoken to in.
    pub http: Arc<ClientConfig>,
}

impl ToBackends {
    /// By the pool's `tls`, and the ALPN name of its version of HTTP.
    pub fn new(tls: &PoolTls, http: &[u8]) -> Self {
        let mut plain = client(tls);
        plain.alpn_protocols.clear();
        let mut with_http = plain.clone();
        with_http.alpn_protocols = vec![http.to_vec()];
        Self { tls: tls.clone(), plain: Arc::new(plain), http: Arc::new(with_http) }
    }

    /// Whether it was made of these.
    pub fn is_of(&self, tls: &PoolTls, http: &[u8]) -> bool {
        self.tls == *tls && self.http.alpn_protocols == [http]
    }

    /// Whom a backend at this address must prove to be; `None` for one that the configuration would have refused.
    pub fn name_of(&self, address: &Address) -> Option<ServerName<'static>> {
        self.tls.name_of(address)
    }
}

/// For checks of backends whose pool has no `tls`: whoever answers is believed, and nothing secret is said.
pub fn unverified() -> Arc<ToBackends> {
    static ANYBODY: OnceLock<Arc<ToBackends>> = OnceLock::new();
    let tls = PoolTls { server_name: None, ca: None, certificate: None, min_version: TlsVersion::Tls12 };
    ANYBODY.get_or_init(|| Arc::new(ToBackends::new(&tls, b"http/1.1"))).clone()
}

fn client(tls: &PoolTls) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions(tls.min_version))
        .expect("the provider has ciphers for all versions")
        .dangerous()
        .with_custom_certificate_verifier(verifier(tls.ca.as_ref()));
    match &tls.certificate {
        None => builder.with_no_client_auth(),
        Some(own) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(own.chain.clone()))),
    }
}

fn verifier(ca: Option<&Authorities>) -> Arc<dyn ServerCertVerifier> {
    match ca {
        None => Arc::new(Anybody(provider())),
        Some(ca) => WebPkiServerVerifier::builder_with_provider(ca.roots.clone(), provider())
            .build()
            .expect("there is an authority: the configuration has made sure"),
    }
}

fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    PROVIDER.get_or_init(|| Arc::new(aws_lc_rs::default_provider())).clone()
}

fn versions(min: TlsVersion) -> &'static [&'static SupportedProtocolVersion] {
    static NEWEST: [&SupportedProtocolVersion; 1] = [&TLS13];
    match min {
        TlsVersion::Tls12 => rustls::ALL_VERSIONS,
        TlsVersion::Tls13 => &NEWEST,
    }
}

/// The certificates of a listener.
struct ByName {
    first: Option<Arc<CertifiedKey>>,
    /// In the order of the file: there may be one with an ECDSA key and one with an RSA key for a name.
    named: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

impl ByName {
    fn new(certificates: &[Certificate]) -> Self {
        let mut named: HashMap<String, Vec<_>> = HashMap::new();
        for certificate in certificates {
            for name in &certificate.names {
                named.entry(name.clone()).or_default().push(certificate.chain.clone());
            }
        }
        Self { first: certificates.first().map(|certificate| certificate.chain.clone()), named }
    }

    /// Those for this name: its own, else those of the wildcard for what is behind its first label.
    fn of(&self, name: &str) -> &[Arc<CertifiedKey>] {
        let name = name.strip_suffix('.').unwrap_or(name);
        let wildcard = || self.named.get(&format!("*.{}", name.split_once('.')?.1));
        self.named.get(name).or_else(wildcard).map_or(&[], Vec::as_slice)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello) -> Option<Arc<CertifiedKey>> {
        let fitting = hello.server_name().map_or(&[][..], |name| self.of(name));
        let usable = fitting.iter().find(|chain| chain.key.choose_scheme(hello.signature_schemes()).is_some());
        usable.or(fitting.first()).or(self.first.as_ref()).cloned()
    }
}

impl fmt::Debug for ByName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.named.keys()).finish()
    }
}

/// `verify = false`: any certificate is taken from whoever has its key.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        rustls::crypto::verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, parse};

    const SHOP: &str = "certificate = \"tests/conf/tls/shop.pem\", key = \"tests/conf/tls/shop.key\"";
    const DB: &str = "certificate = \"tests/conf/tls/db.pem\", key = \"tests/conf/tls/db.key\"";

    fn read(listener: &str, pool: &str) -> Config {
        let text = format!(
            "[listener.a]\nbind = \"127.0.0.1:0\"\npool = \"a\"\ntls = {listener}\n\n[pool.a]\nbackends = [\"127.0.0.1:1\"]\ntls = {pool}\n"
        );
        parse("evener.toml", text.as_bytes()).unwrap_or_else(|report| panic!("{report}")).config
    }

    fn to_clients(tls: &str) -> ListenerTls {
        read(tls, "{ verify = false }").listeners[0].tls.clone().unwrap()
    }

    #[test]
    fn a_name_has_its_own_certificate_before_that_of_a_wildcard() {
        let tls = to_clients(&format!("[{{ {DB} }}, {{ {SHOP} }}]"));
        let by_name = ByName::new(&tls.certificates);
        let [db, shop] = [0, 1].map(|at| &tls.certificates[at].chain);
        for (name, chain) in [
            ("db.example.com", Some(db)),
            ("shop.example.com", Some(shop)),
            ("shop.example.com.", Some(shop)),
            ("x.shop.example.com", Some(shop)),
            ("y.x.shop.example.com", None),
            ("x.db.example.com", None),
            ("example.com", None),
            ("com", None),
            ("", None),
        ] {
            let found = by_name.of(name);
            assert!(found.len() <= 1 && found.first().map(Arc::as_ptr) == chain.map(Arc::as_ptr), "{name}");
        }
    }

    #[test]
    fn sessions_outlive_a_reload_as_long_as_the_same_clients_may_come() {
        let open = to_clients(&format!("{{ {SHOP} }}"));
        let renewed = to_clients(&format!("{{ {DB}, min_version = \"1.3\" }}"));
        let shut = to_clients(&format!("{{ {SHOP}, client_ca = \"tests/conf/tls/ca.pem\" }}"));
        let first = server(&open, None);
        assert!(first.ticketer.enabled());
        let keeps = |tls: &ListenerTls| Arc::ptr_eq(&server(tls, Some((&open, &first))).ticketer, &first.ticketer);
        assert!(keeps(&renewed) && !keeps(&shut));
        assert!(!Arc::ptr_eq(&server(&open, None).ticketer, &first.ticketer), "another listener has its own");
    }

    #[test]
    fn a_backend_is_asked_for_the_name_of_the_file_or_for_its_address() {
        let asked = |tls: &str, address: &Address| {
            let pool = read(&format!("{{ {SHOP} }}"), tls).pools[0].clone();
            let made = ToBackends::new(pool.tls.as_ref().unwrap(), pool.http.alpn());
            made.name_of(address).map(|name| name.to_str().into_owned())
        };
        let host = |name: &str| Address::Host { name: name.to_owned(), port: 1 };
        let addresses = [Address::Ip("[::1]:1".parse().unwrap()), host("db.internal."), Address::Unix("/tmp/x".into())];
        let names = addresses.clone().map(|address| asked("{ verify = false }", &address));
        assert_eq!(names.map(Option::unwrap), ["::1", "db.internal", "localhost"]);
        for address in addresses {
            let name = asked("{ server_name = \"db.example.com\", verify = false }", &address);
            assert_eq!(name.as_deref(), Some("db.example.com"));
        }
    }
}
