//! TLS for tests: an authority that signs certificates, clients that trust it, and backends that speak TLS.
#![allow(dead_code, clippy::unwrap_used)]

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::{connect, patiently};

/// Who signs; its files and those that it signed stand in a folder that goes with it.
pub struct Authority {
    folder: tempfile::TempDir,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate that was signed, and its key.
#[derive(Clone, Debug)]
pub struct Signed {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Signed {
    /// `certificate = "…", key = "…"`.
    pub fn keys(&self) -> String {
        format!("certificate = \"{}\", key = \"{}\"", self.certificate.display(), self.key.display())
    }

    fn read(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let chain = CertificateDer::pem_file_iter(&self.certificate).unwrap().map(Result::unwrap).collect();
        (chain, PrivateKeyDer::from_pem_file(&self.key).unwrap())
    }
}

/// A client's end of TLS.
pub type Client = StreamOwned<ClientConnection, TcpStream>;
/// A backend's end of TLS.
pub type Server = StreamOwned<ServerConnection, TcpStream>;

impl Authority {
    pub fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("evener-tls-").tempdir().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Authorities are told apart by their names.
        params.distinguished_name.push(DnType::CommonName, folder.path().display().to_string());
        let key = KeyPair::generate().unwrap();
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { folder, issuer: Issuer::new(params, key) }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The file with its own certificate.
    pub fn file(&self) -> PathBuf {
        self.folder().join("ca.pem")
    }

    /// Signs a fresh key for these names; the first is the subject, and files of the same name are written over.
    pub fn sign(&self, names: &[&str]) -> Signed {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, names[0]);
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let name = names[0].replace('*', "any");
        let at = |end: &str| self.folder().join(format!("{name}.{end}"));
        let signed = Signed { certificate: at("pem"), key: at("key") };
        std::fs::write(&signed.certificate, certificate.pem()).unwrap();
        std::fs::write(&signed.key, key.serialize_pem()).unwrap();
        signed
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.file()).unwrap()).unwrap();
        roots
    }

    /// What a client that trusts this authority is, with a certificate of its own or without.
    pub fn client(&self, own: Option<&Signed>) -> Arc<ClientConfig> {
        let builder = ClientConfig::builder().with_root_certificates(self.roots());
        Arc::new(match own.map(Signed::read) {
            Some((chain, key)) => builder.with_client_auth_cert(chain, key).unwrap(),
            None => builder.with_no_client_auth(),
        })
    }
}

/// Connects and shakes hands; an error where that fails.
pub fn try_secure(stream: TcpStream, config: &Arc<ClientConfig>, name: &str) -> io::Result<Client> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    let mut client = StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), stream);
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock)?;
    }
    Ok(client)
}

#[track_caller]
pub fn secure(port: u16, config: &Arc<ClientConfig>, name: &str) -> Client {
    try_secure(connect(port), config, name).unwrap()
}

/// Sends this and reads as many bytes back.
#[track_caller]
pub fn exchange(client: &mut Client, bytes: &[u8]) -> Vec<u8> {
    client.write_all(bytes).unwrap();
    let mut back = vec![0; bytes.len()];
    client.read_exact(&mut back).unwrap();
    back
}

/// Listens and serves each client in a thread of its own, until the test ends.
pub fn backend(signed: &Signed, client_ca: Option<&Authority>, serve: fn(Server) -> io::Result<()>) -> SocketAddr {
    let builder = match client_ca {
        None => ServerConfig::builder().with_no_client_auth(),
        Some(ca) => {
            let verifier = rustls::server::WebPkiClientVerifier::builder(Arc::new(ca.roots())).build().unwrap();
            ServerConfig::builder().with_client_cert_verifier(verifier)
        }
    };
    let (chain, key) = signed.read();
    let config = Arc::new(builder.with_single_cert(chain, key).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, config) = (patiently(stream.unwrap()), config.clone());
            std::thread::spawn(move || serve(StreamOwned::new(ServerConnection::new(config).unwrap(), stream)));
        }
    });
    address
}

/// Sends back what comes, and close_notify after close_notify.
pub fn echo(mut stream: Server) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            stream.conn.send_close_notify();
            return stream.flush();
        }
        stream.write_all(&buffer[..read])?;
        stream.flush()?;
    }
}

/// Says a line and closes without close_notify.
pub fn cut(mut stream: Server) -> io::Result<()> {
    stream.write_all(b"only the beg")?;
    stream.flush()
}
