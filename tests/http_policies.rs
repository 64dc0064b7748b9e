//! Who may send what: tokens, keys, passwords, limits, origins and addresses, asked by the binary in their fixed order.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use harness::http::{Message, Peer, get, listener, pool, reply, request, site};
use harness::{Backend, Evener, SOON, require, wait_until};
use sha2::{Digest, Sha256};

/// 2100.
const FAR: u64 = 4_102_444_800;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap()
}

#[track_caller]
fn asked(evener: &Evener, fields: &str) -> Message {
    Peer::of(evener.port("web")).ask(request("GET", "/", fields))
}

fn bearer(token: &str) -> String {
    format!("authorization: Bearer {token}\r\n")
}

/// Signs with openssl, which has nothing in common with what verifies.
fn signed(header: &str, claims: &str, sign: &[&str], folder: &Path) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let file = folder.join("message");
    fs::write(&file, &message).unwrap();
    let output =
        Command::new("openssl").args(["dgst", "-sha256"]).args(sign).arg("-binary").arg(&file).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    format!("{message}.{}", URL_SAFE_NO_PAD.encode(output.stdout))
}

/// A key of RSA in `folder`, and its public part as a JWK with this id.
fn rsa(folder: &Path, id: &str) -> String {
    let key = folder.join(id);
    let made = Command::new("openssl").args(["genrsa", "-out", key.to_str().unwrap(), "2048"]).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let shown =
        Command::new("openssl").args(["rsa", "-noout", "-modulus", "-in", key.to_str().unwrap()]).output().unwrap();
    let hex = String::from_utf8(shown.stdout).unwrap();
    let hex = hex.trim().strip_prefix("Modulus=").unwrap();
    let modulus: Vec<u8> =
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
    let modulus = URL_SAFE_NO_PAD.encode(modulus);
    format!("{{\"kty\":\"RSA\",\"use\":\"sig\",\"kid\":\"{id}\",\"n\":\"{modulus}\",\"e\":\"AQAB\"}}")
}

fn sha256(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn only_a_token_that_counts_passes_and_the_backend_is_told_whose_it_is() {
    if !require("only_a_token_that_counts_passes_and_the_backend_is_told_whose_it_is", &["openssl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let secret = "a secret that nobody could guess, 42";
    fs::write(folder.path().join("secret"), secret).unwrap();
    let backend = Backend::webs("a");
    let jwt = format!(
        "[jwt.main]\nsecret_file = \"{}\"\nalgorithms = [\"HS256\"]\nissuer = \"us\"\naudience = [\"api\"]\n\
         require = {{ scope = [\"read\"] }}\nclaims_to_headers = {{ sub = \"x-user\" }}\n",
        folder.path().join("secret").display()
    );
    let evener = Evener::start(&(site("", "auth = { jwt = \"main\" }", "", &[&backend]) + &jwt));
    let token = |claims: &str| signed("{\"alg\":\"HS256\"}", claims, &["-hmac", secret], folder.path());
    let good = format!("{{\"iss\":\"us\",\"aud\":\"api\",\"sub\":\"ada\",\"scope\":\"read write\",\"exp\":{FAR}}}");

    let response = asked(&evener, &(bearer(&token(&good)) + "x-user: mallory\r\n"));
    assert_eq!(response.status(), 200);
    assert_eq!(backend.requests()[0].all("x-user"), ["ada"], "and what the client said of itself is gone");

    let refused = |fields: &str, status: u16| {
        let response = asked(&evener, fields);
        assert_eq!(response.status(), status, "{fields}");
        assert_eq!(response.field("content-type"), Some("application/problem+json"));
        assert_eq!(json(&response.text())["status"], status);
        assert!(status != 401 || response.field("www-authenticate").is_some());
    };
    refused("", 401);
    refused("authorization: Bearer\r\n", 401);
    refused(&bearer("a.b.c"), 401);
    refused(&bearer(&token(&good.replace(&FAR.to_string(), "1000"))), 401);
    refused(&bearer(&token(&good.replace(&format!(",\"exp\":{FAR}"), ""))), 401);
    refused(&bearer(&token(&good.replace("\"us\"", "\"them\""))), 401);
    refused(&bearer(&token(&good.replace("\"api\"", "\"web\""))), 401);
    refused(&bearer(&token(&good.replace("read write", "write"))), 403);
    let other =
        signed("{\"alg\":\"HS256\"}", &good, &["-hmac", "another secret of no less than 32 bytes"], folder.path());
    refused(&bearer(&other), 401);
    let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode("{\"alg\":\"none\"}"), URL_SAFE_NO_PAD.encode(&good));
    refused(&bearer(&none), 401);
    let critical = signed("{\"alg\":\"HS256\",\"crit\":[\"x\"]}", &good, &["-hmac", secret], folder.path());
    refused(&bearer(&critical), 401);
    assert_eq!(backend.requests().len(), 1, "nothing else has reached it");
    let is_forbidden = |event: &serde_json::Value| event["refusal"] == "forbidden" && event["route"] == "all";
    wait_until(SOON, "the log says which policy it was", || evener.events().iter().any(is_forbidden));
}

#[test]
fn keys_are_fetched_fetched_again_when_a_new_one_signs_and_kept_while_their_server_is_gone() {
    let name = "keys_are_fetched_fetched_again_when_a_new_one_signs_and_kept_while_their_server_is_gone";
    if !require(name, &["openssl"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (first, second) = (rsa(folder.path(), "k1"), rsa(folder.path(), "k2"));
    let served = Arc::new(Mutex::new(Some(format!("{{\"keys\":[{first}]}}"))));
    let shared = served.clone();
    let issuer = Backend::web("issuer", move |_, stream| match &*shared.lock().unwrap() {
        Some(keys) => stream.write_all(reply("200 OK", keys).as_bytes()),
        None => stream.write_all(reply("500 Internal Server Error", "").as_bytes()),
    });
    let backend = Backend::webs("a");
    let jwt = format!(
        "[jwt.main]\nkeys_url = \"http://{}/jwks\"\nalgorithms = [\"RS256\"]\nrefresh = \"1s\"\ncooldown = \"100ms\"\n",
        issuer.address()
    );
    let evener = Evener::start(&(site("", "auth = { jwt = \"main\" }", "", &[&backend]) + &jwt));
    let token = |id: &str| {
        let key = folder.path().join(id);
        let header = format!("{{\"alg\":\"RS256\",\"kid\":\"{id}\"}}");
        signed(&header, &format!("{{\"sub\":\"ada\",\"exp\":{FAR}}}"), &["-sign", key.to_str().unwrap()], folder.path())
    };
    let (old, new) = (bearer(&token("k1")), bearer(&token("k2")));
    wait_until(SOON, "the keys are there", || asked(&evener, &old).status() == 200);
    assert_eq!(asked(&evener, &new).status(), 401);
    *served.lock().unwrap() = Some(format!("{{\"keys\":[{second}]}}"));
    wait_until(SOON, "the new key is there", || asked(&evener, &new).status() == 200);
    wait_until(SOON, "the old one has gone", || asked(&evener, &old).status() == 401);
    *served.lock().unwrap() = None;
    let before = issuer.requests().len();
    wait_until(SOON, "it was asked in vain", || issuer.requests().len() > before + 1);
    assert_eq!(asked(&evener, &new).status(), 200);
}

#[test]
fn consumers_are_known_by_keys_and_passwords_of_which_the_file_has_only_hashes() {
    let backend = Backend::webs("a");
    let consumers = format!(
        "[consumer.acme]\nkeys = [\"sha256:{}\"]\n[consumer.ada]\npassword = \"sha256:{}\"\n",
        sha256("key of acme"),
        sha256("correct horse")
    );
    let auth = "auth = { api_key = { header = \"x-key\", hide = true }, basic = true }";
    let evener = Evener::start(&(site("", auth, "", &[&backend]) + &consumers));
    let basic = |pair: &str| {
        let pair = base64::engine::general_purpose::STANDARD.encode(pair);
        format!("authorization: Basic {pair}\r\n")
    };
    assert_eq!(asked(&evener, "x-key: key of acme\r\nX_Key: key of acme\r\nx_keys: 1\r\n").status(), 200);
    let seen = &backend.requests()[0];
    let keys = ["x-key", "x_key", "x_keys"].map(|name| seen.field(name));
    assert_eq!(keys, [None, None, Some("1")], "it is hidden from the backend");
    assert_eq!(asked(&evener, &basic("ada:correct horse")).status(), 200);
    for fields in ["", "x-key: key of Acme\r\n", &basic("ada:wrong"), &basic("acme:correct horse"), &basic("ada")] {
        assert_eq!(asked(&evener, fields).status(), 401, "{fields}");
    }
    let is_known = |event: &serde_json::Value| event["consumer"] == "acme" && event["status"] == 200;
    wait_until(SOON, "the log says who it was", || evener.events().iter().any(is_known));
}

#[test]
fn a_limit_holds_for_its_key_and_says_when_to_come_back() {
    let backend = Backend::webs("a");
    let limit = "rate_limit = { limit = 2, per = \"1h\", burst = 2, key = [\"header:x-tenant\"] }";
    let text = site("", limit, "", &[&backend]);
    let evener = Evener::start(&text);
    let by = |tenant: &str| asked(&evener, &format!("x-tenant: {tenant}\r\n"));
    assert_eq!([by("a").status(), by("a").status()], [200, 200]);
    let refused = by("a");
    assert_eq!(refused.status(), 429);
    let wait: u64 = refused.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=1800).contains(&wait), "{wait}");
    assert!(refused.field("ratelimit").is_some() && refused.field("ratelimit-policy").is_some(), "{refused:?}");
    assert_eq!(by("b").status(), 200, "another key has its own");
    evener.reload(&(text + "\n# the same\n"));
    assert_eq!(by("a").status(), 429, "a reload gives nothing back");
}

#[test]
fn browsers_are_answered_before_anybody_asks_for_credentials() {
    let backend = Backend::webs("a");
    let consumer = format!("[consumer.acme]\nkeys = [\"sha256:{}\"]\n", sha256("key of acme"));
    let keys = "auth = { api_key = true }\ncors = { origins = [\"https://app.example.com\"], methods = [\"GET\", \"PUT\"], \
                headers = [\"x-api-key\"], credentials = true, max_age = \"10m\" }";
    let evener = Evener::start(&(site("", keys, "", &[&backend]) + &consumer));
    let preflight = |origin: &str| {
        let fields = format!("origin: {origin}\r\naccess-control-request-method: PUT\r\n");
        Peer::of(evener.port("web")).ask(request("OPTIONS", "/", &fields))
    };
    let allowed = preflight("https://app.example.com");
    assert_eq!(allowed.status(), 204);
    assert_eq!(allowed.field("access-control-allow-origin"), Some("https://app.example.com"));
    assert_eq!(allowed.field("access-control-allow-credentials"), Some("true"));
    assert_eq!(allowed.field("access-control-max-age"), Some("600"));
    assert_eq!(preflight("https://evil.example.com").field("access-control-allow-origin"), None);
    assert!(backend.requests().is_empty());
    let response = asked(&evener, "origin: https://app.example.com\r\n");
    assert_eq!(response.status(), 401);
    assert_eq!(
        response.field("access-control-allow-origin"),
        Some("https://app.example.com"),
        "or no page could read it"
    );
    let response = asked(&evener, "origin: https://app.example.com\r\nx-api-key: key of acme\r\n");
    assert_eq!((response.status(), response.field("vary")), (200, Some("origin")));
}

#[test]
fn a_browsers_question_takes_the_route_of_the_method_that_it_asks_about() {
    let backend = Backend::webs("a");
    let route = |name: &str, keys: &str| format!("[[route]]\nname = \"{name}\"\nlistener = \"web\"\n{keys}\n");
    let text = listener("")
        + &route(
            "orders",
            "match = { path_prefix = \"/orders\", method = [\"GET\", \"PUT\"] }\npool = \"web\"\n\
             cors = { origins = [\"https://app.example.com\"], methods = [\"PUT\"] }",
        )
        + &route("bare", "match = { path_prefix = \"/bare\", method = \"PUT\" }\npool = \"web\"")
        + &pool("web", "", &[&backend]);
    let other = route("other", "reply = { status = 418 }");
    let evener = Evener::start(&text);
    let ask = |path: &str, fields: &str| Peer::of(evener.port("web")).ask(request("OPTIONS", path, fields));
    let origin = "origin: https://app.example.com\r\n";
    let about = |method: &str| format!("{origin}access-control-request-method: {method}\r\n");
    let check = |without: u16| {
        let answer = ask("/orders/7", &about("PUT"));
        assert_eq!(answer.status(), 204);
        assert_eq!(answer.field("access-control-allow-origin"), Some("https://app.example.com"));
        assert_eq!(answer.field("access-control-allow-methods"), Some("PUT"));
        for (path, fields, why) in [
            ("/orders/7", about("DELETE"), "it does not take such a request either"),
            ("/orders/7", about("PUT") + "access-control-request-method: GET\r\n", "nobody knows which one"),
            ("/orders/7", origin.to_owned(), "it is no question"),
            ("/orders/7", "access-control-request-method: PUT\r\n".to_owned(), "it is no question"),
            ("/bare", about("PUT"), "it has no cors"),
        ] {
            assert_eq!(ask(path, &fields).status(), without, "{path} {why}");
        }
    };
    check(404);
    evener.reload(&(text + &other));
    check(418);
    assert!(backend.requests().is_empty());
}

#[test]
fn none_takes_the_default_of_the_listener_away_and_nothing_else_does() {
    let backend = Backend::webs("a");
    let consumer = format!("[consumer.acme]\nkeys = [\"sha256:{}\"]\n", sha256("key of acme"));
    let route = |name: &str, keys: &str| {
        format!("[[route]]\nname = \"{name}\"\npool = \"web\"\nmatch = {{ path_prefix = \"/{name}\" }}\n{keys}\n")
    };
    let text = listener("auth = { api_key = true }")
        + &route("closed", "cors = { origins = \"*\" }\nrate_limit = []")
        + &route("open", "auth = \"none\"")
        + &route("far", "auth = \"none\"\nallow = [\"10.0.0.0/8\"]")
        + &pool("web", "", &[&backend])
        + &consumer;
    let evener = Evener::start(&text);
    let ask = |path: &str| Peer::of(evener.port("web")).ask(get(path)).status();
    assert_eq!([ask("/closed"), ask("/open"), ask("/far")], [401, 200, 403]);
    assert_eq!([ask("/open/../closed"), ask("/open/%2e%2e/closed"), ask("//closed")], [401, 401, 401]);
    assert_eq!(ask("/open/..%2fclosed"), 400);
}
