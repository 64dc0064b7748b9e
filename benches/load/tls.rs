//! TLS 1.3, as a client: the same key exchange and cipher for every proxy, and no session is taken up again.

use std::io::{self, BufReader, Read, Write};
use std::sync::Arc;

use mio::net::TcpStream;
use rcgen::CertifiedKey;
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::version::TLS13;
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};
use serde_json::json;

/// Who the certificate is for.
const NAME: &str = "localhost";
/// A session reads 4 KiB at a time.
const READ_BYTES: usize = 32 * 1024;

/// A certificate for the proxies, with its key: ECDSA P-256, signed by itself.
pub fn certificate() -> io::Result<serde_json::Value> {
    let CertifiedKey { cert, signing_key } =
        rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(io::Error::other)?;
    Ok(json!({"certificate": cert.pem(), "key": signing_key.serialize_pem()}))
}

pub fn config() -> io::Result<Arc<ClientConfig>> {
    let cipher_suites = vec![TLS13_AES_128_GCM_SHA256];
    let provider = CryptoProvider { cipher_suites, kx_groups: vec![kx_group::X25519], ..default_provider() };
    let trust = Trust(provider.signature_verification_algorithms);
    let mut config = ClientConfig::builder_with_provider(provider.into())
        .with_protocol_versions(&[&TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(trust))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    Ok(config.into())
}

/// Believes everybody: whom it speaks to is known, and the time goes to the proxy.
#[derive(Debug)]
struct Trust(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}

/// A connection, which tells the other end when it is over.
pub struct Tls(StreamOwned<ClientConnection, Wide>);

impl Tls {
    pub fn new(config: &Arc<ClientConfig>, stream: TcpStream) -> io::Result<Self> {
        let name = ServerName::try_from(NAME).map_err(io::Error::other)?;
        let session = ClientConnection::new(config.clone(), name).map_err(io::Error::other)?;
        Ok(Self(StreamOwned::new(session, Wide(BufReader::with_capacity(READ_BYTES, stream)))))
    }

    pub fn socket(&mut self) -> &mut TcpStream {
        self.0.sock.0.get_mut()
    }
}

impl Read for Tls {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Tls {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

impl Drop for Tls {
    fn drop(&mut self) {
        self.0.conn.send_close_notify();
        // The end itself says the same.
        let _ = self.0.conn.write_tls(&mut self.0.sock);
    }
}

/// A socket that is read by more than a session asks for.
struct Wide(BufReader<TcpStream>);

impl Read for Wide {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Wide {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.get_mut().write(bytes)
    }

    fn write_vectored(&mut self, pieces: &[io::IoSlice<'_>]) -> io::Result<usize> {
        self.0.get_mut().write_vectored(pieces)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
