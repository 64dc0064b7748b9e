//! Against a server that says what the test wants.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{EncodingKey, Header};
use rustls::pki_types::PrivateKeyDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::config::http::keys::Algorithm;
use crate::gateway::policy::jwt::Tokens;

const LONG: Duration = Duration::from_secs(3600);
const SHORT: Duration = Duration::from_millis(120);

/// Gives one answer after the other, the last one again and again.
struct Server {
    url: Uri,
    asked: Arc<AtomicUsize>,
    answers: Arc<Mutex<Vec<String>>>,
}

impl Server {
    async fn start(answers: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys?a=b", listener.local_addr().unwrap()).parse().unwrap();
        let (asked, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(answers.to_vec())));
        let (count, queue) = (asked.clone(), answers.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                count.fetch_add(1, SeqCst);
                let answer = {
                    let mut queue = queue.lock().unwrap();
                    if queue.len() > 1 { queue.remove(0) } else { queue[0].clone() }
                };
                tokio::spawn(async move { serve(&mut stream, &answer).await });
            }
        });
        Self { url, asked, answers }
    }

    fn count(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

async fn serve(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), answer: &str) {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(stream.read_u8().await.unwrap());
    }
    let request = String::from_utf8(request).unwrap();
    assert!(request.starts_with("GET /keys?a=b HTTP/1.1\r\nhost: "), "{request}");
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn pem() -> String {
    rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap().public_key_pem()
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

fn table(url: &Uri, refresh: Duration, cooldown: Duration) -> Arc<Jwt> {
    Arc::new(Jwt {
        name: "main".into(),
        issuer: None,
        audience: Vec::new(),
        algorithms: vec![Algorithm::EdDSA],
        keys: KeySource::Url { url: url.clone(), refresh, cooldown },
        leeway: Duration::ZERO,
        require: Vec::new(),
        claims_to_headers: Vec::new(),
    })
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { timeout(Duration::from_secs(20), test).await.expect("in time") });
}

async fn until(mut is: impl FnMut() -> bool) {
    while !is() {
        sleep(Duration::from_millis(5)).await;
    }
}

#[test]
fn keys_are_fetched_at_the_start_and_again_in_time() {
    run(async {
        let (one, other) = (pem(), pem());
        let server = Server::start(&[ok(&one), ok(&one), ok(&other)]).await;
        let mut sources = Sources::default();
        let source = sources.renew(&[table(&server.url, SHORT, SHORT)])[0].clone().unwrap();
        assert!(source.keys().load().is_empty(), "nothing counts before");
        sources.fetched().await;
        let first = source.keys().load_full();
        assert_eq!(*first, parse_jwks(one.as_bytes()).unwrap());
        until(|| server.count() >= 2).await;
        assert!(Arc::ptr_eq(&first, &source.keys().load_full()), "the same keys are the same set");
        until(|| **source.keys().load() == parse_jwks(other.as_bytes()).unwrap()).await;
    });
}

#[test]
fn an_unknown_key_asks_once_and_not_more_often_than_the_cooldown() {
    run(async {
        let server = Server::start(&[ok(&pem())]).await;
        let mut sources = Sources::default();
        let source = sources.renew(&[table(&server.url, LONG, SHORT)])[0].clone().unwrap();
        sources.fetched().await;
        assert_eq!(server.count(), 1);
        for round in 2..4 {
            (0..1000).for_each(|_| source.ask());
            until(|| server.count() >= round).await;
            sleep(SHORT * 3).await;
            assert_eq!(server.count(), round, "many asks are one fetch");
        }
    });
}

#[test]
fn a_signature_of_no_known_key_asks_unless_its_token_names_one_of_them() {
    run(async {
        let [old, new] = [(); 2].map(|()| rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap());
        let signed = |key: &rcgen::KeyPair, id: Option<&str>| {
            let header = Header { kid: id.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
            let claims = serde_json::json!({ "exp": 2 });
            jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(key.serialized_der())).unwrap()
        };
        let jwk = |id: &str| {
            let x = URL_SAFE_NO_PAD.encode(old.public_key_raw());
            format!("{{\"kty\":\"OKP\",\"crv\":\"Ed25519\",{id}\"x\":\"{x}\"}}")
        };
        let (named, unnamed) = (jwk("\"kid\":\"k1\","), jwk(""));
        let sets =
            [old.public_key_pem(), format!("{{\"keys\":[{named}]}}"), format!("{{\"keys\":[{named},{unnamed}]}}")];
        for (set, id, asks) in
            [(0, None, true), (0, Some("k2"), true), (1, None, true), (1, Some("k1"), false), (2, Some("k2"), true)]
        {
            let server = Server::start(&[ok(&sets[set])]).await;
            let mut sources = Sources::default();
            let jwt = table(&server.url, LONG, SHORT);
            let source = sources.renew(std::slice::from_ref(&jwt))[0].clone().unwrap();
            sources.fetched().await;
            let tokens = Tokens::new(&jwt, Some(source.clone()));
            let check = |key, id| tokens.check(signed(key, id).as_bytes(), Duration::ZERO);
            let asked = source.shared.asked.subscribe();
            assert!(check(&old, None).is_ok() && !asked.has_changed().unwrap());
            assert!(check(&new, id).is_err());
            assert_eq!(asked.has_changed().unwrap(), asks, "{set} {id:?}");
            server.answers.lock().unwrap()[0] = ok(&new.public_key_pem());
            if asks {
                until(|| check(&new, id).is_ok()).await;
            }
        }
    });
}

#[test]
fn the_last_good_set_is_kept_whatever_the_server_says() {
    run(async {
        let good = pem();
        let server = Server::start(&[ok(&good), "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_owned()]).await;
        let mut sources = Sources::default();
        let source = sources.renew(&[table(&server.url, SHORT, SHORT)])[0].clone().unwrap();
        for answer in [ok("{\"keys\":[]}"), ok("no keys"), "nonsense".to_owned(), String::new()] {
            let count = server.count();
            until(|| server.count() >= count + 2).await;
            assert_eq!(**source.keys().load(), parse_jwks(good.as_bytes()).unwrap());
            server.answers.lock().unwrap()[0] = answer;
        }
        let next = pem();
        server.answers.lock().unwrap()[0] = ok(&next);
        until(|| **source.keys().load() == parse_jwks(next.as_bytes()).unwrap()).await;
    });
}

#[test]
fn redirects_and_endless_answers_are_refused() {
    run(async {
        let redirect = "HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n";
        let server = Server::start(&[redirect.to_owned(), ok(&" ".repeat(ANSWER_BYTES_MAX + 1))]).await;
        assert!(fetch(&server.url).await.unwrap_err().contains("302"));
        assert!(fetch(&server.url).await.unwrap_err().contains("limit"));
        assert!(fetch(&"http://127.0.0.1:1/".parse().unwrap()).await.unwrap_err().contains("no connection"));
    });
}

#[test]
fn a_reload_keeps_what_was_fetched_while_name_and_url_are_the_same() {
    run(async {
        let server = Server::start(&[ok(&pem())]).await;
        let mut sources = Sources::default();
        let source = sources.renew(&[table(&server.url, LONG, LONG)])[0].clone().unwrap();
        sources.fetched().await;
        let same = sources.renew(&[table(&server.url, LONG, LONG)])[0].clone().unwrap();
        assert!(Arc::ptr_eq(&source, &same));
        let slower = sources.renew(&[table(&server.url, LONG * 2, LONG)])[0].clone().unwrap();
        assert!(Arc::ptr_eq(&source.keys().load_full(), &slower.keys().load_full()), "with another pace");
        let other: Uri = server.url.to_string().replace("keys", "other").parse().unwrap();
        assert!(sources.renew(&[table(&other, LONG, LONG)])[0].clone().unwrap().keys().load().is_empty());
        assert!(sources.renew(&[]).is_empty() && sources.0.is_empty());
    });
}

#[test]
fn a_server_is_believed_only_with_a_certificate_for_its_name() {
    run(async {
        let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let chain = vec![certified.cert.der().clone()];
        let config = builder.unwrap().with_no_client_auth().with_single_cert(chain, key).unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let body = pem();
        let answer = ok(&body);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                if let Ok(mut stream) = acceptor.accept(stream).await {
                    serve(&mut stream, &answer).await;
                }
            }
        });
        let url = |host: &str| format!("https://{host}:{port}/keys?a=b").parse::<Uri>().unwrap();
        let trusting = |certificates: &[&rcgen::Certificate]| {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(certificates.iter().map(|certificate| certificate.der().clone()));
            client(roots).unwrap()
        };
        let fetched = fetch_tls(&url("localhost"), trusting(&[&certified.cert])).await;
        assert_eq!(fetched.unwrap(), parse_jwks(body.as_bytes()).unwrap());
        let foreign = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        for (host, roots) in [("127.0.0.1", &certified.cert), ("localhost", &foreign.cert)] {
            let error = fetch_tls(&url(host), trusting(&[roots])).await.unwrap_err();
            assert!(error.starts_with("TLS: "), "{host}: {error}");
        }
    });
}
