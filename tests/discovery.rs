//! Backends that DNS or a file tells of: they come and go, and no failure takes one away.
#![allow(clippy::unwrap_used)]

#[path = "harness/dns.rs"]
mod dns;
mod harness;
#[path = "harness/servers.rs"]
mod servers;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use dns::{Dns, Says};
use harness::{
    ALWAYS_UP, Backend, Evener, Line, SOON, connect, exchange, holds_for, is_refused, read_name, require, require_root,
    try_connect, wait_until, who,
};
use serde_json::Value;
use servers::Unbound;

/// Long enough for an answer to be asked for again, after a failure too.
const LATER: Duration = Duration::from_secs(30);

/// Backends on one port of several addresses, which nobody else uses. They tell the last number of their address.
fn neighbours(count: u8) -> (u16, Vec<Backend>) {
    let host = |at: u8| format!("127.0.77.{at}");
    loop {
        let first = TcpListener::bind((host(1), 0)).unwrap();
        let port = first.local_addr().unwrap().port();
        let others: Vec<_> = (2..=count).map(|at| TcpListener::bind((host(at), port))).collect();
        if others.iter().all(Result::is_ok) {
            drop((first, others));
            let backend = |at: u8| Backend::named_at(&format!("{}:{port}", host(at)), &at.to_string());
            return (port, (1..=count).map(backend).collect());
        }
    }
}

/// A listener and a pool of this name.
fn pool(name: &str, keys: &str) -> String {
    format!("[listener.{name}]\nbind = \"127.0.0.1:0\"\npool = \"{name}\"\n[pool.{name}]\n{keys}\n{ALWAYS_UP}\n")
}

fn of_pool(evener: &Evener, pool: &str) -> Value {
    let status = evener.status();
    let pools = status["pools"].as_array().unwrap();
    pools.iter().find(|one| one["name"] == pool).unwrap().clone()
}

/// The names of a pool's backends, sorted.
fn backends(evener: &Evener, pool: &str) -> Vec<String> {
    let pool = of_pool(evener, pool);
    let names = pool["backends"].as_array().unwrap().iter().map(|backend| backend["name"].as_str().unwrap().to_owned());
    names.collect::<BTreeSet<String>>().into_iter().collect()
}

#[track_caller]
fn wait_for(evener: &Evener, pool: &str, names: &[String]) {
    wait_until(LATER, &format!("{pool} has {names:?}, not {:?}", backends(evener, pool)), || {
        backends(evener, pool) == names
    });
}

fn source(evener: &Evener, pool: &str) -> Value {
    of_pool(evener, pool)["discovery"][0].clone()
}

/// Who answers, of several clients.
fn answering(evener: &Evener, listener: &str) -> BTreeSet<String> {
    (0..8).map(|_| who(evener.port(listener)).unwrap()).collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[test]
fn backends_follow_the_addresses_of_a_name_and_the_long_connection_of_a_removed_one_goes_on() {
    let (port, _neighbours) = neighbours(3);
    let at = |number: u8| format!("127.0.77.{number}:{port}");
    let dns = Dns::start();
    dns.has("web.test", &["127.0.77.1"]);
    let keys = format!("discover = {{ dns = \"web.test:{port}\", resolver = \"{}\" }}", dns.address);
    let evener = Evener::start(&pool("web", &keys));
    assert_eq!(backends(&evener, "web"), [at(1)], "the first answer was waited for");
    let mut long = connect(evener.port("web"));
    assert_eq!(read_name(&mut long).unwrap(), "1");
    assert_eq!(answering(&evener, "web"), set(&["1"]));

    dns.has("web.test", &["127.0.77.1", "127.0.77.2"]);
    wait_for(&evener, "web", &[at(1), at(2)]);
    let total = evener.backend("web", &at(1))["connections"]["total"].as_u64().unwrap();
    assert!(total >= 9, "its counts are those of before: {total}");
    assert_eq!(answering(&evener, "web"), set(&["1", "2"]));
    evener.cli_ok(&["backend", &format!("web/{}", at(2)), "drain"]);

    dns.has("web.test", &["127.0.77.2", "127.0.77.3"]);
    wait_for(&evener, "web", &[at(2), at(3)]);
    assert_eq!(answering(&evener, "web"), set(&["3"]), "what an operator said of the second one still holds");
    assert_eq!(exchange(&mut long, b"still here").unwrap(), b"still here");
    assert_eq!(evener.backend("web", &at(3))["origin"], "dns");
    let source = source(&evener, "web");
    assert_eq!(
        (&source["ok"], &source["updates"], &source["backends"]),
        (&true.into(), &3.into(), &2.into()),
        "{source}"
    );
    let log = evener.log();
    assert!(log.contains("backends were discovered") && log.contains(&format!("\"removed\":\"{}\"", at(1))), "{log}");
    assert!(evener.cli_ok(&["status"]).contains(&format!("\ndns web.test:{port}: 2 backends, asked ")));
}

#[test]
fn whatever_a_resolver_does_wrong_nobody_goes() {
    let (port, _neighbours) = neighbours(2);
    let dns = Dns::start();
    let wrongs: [(&str, Says); 6] = [
        ("failed", Says::Code(2)),
        ("refused", Says::Code(5)),
        ("gone", Says::Code(3)),
        ("empty", Says::Code(0)),
        ("silent", Says::Silence),
        ("few", Says::Addresses(vec!["127.0.77.1".parse().unwrap()], 1)),
    ];
    let both = [1, 2].map(|number| format!("127.0.77.{number}:{port}"));
    let toml: String = wrongs
        .iter()
        .map(|(name, _)| {
            dns.has(&format!("{name}.test"), &["127.0.77.1", "127.0.77.2"]);
            let min = if *name == "few" { 2 } else { 1 };
            let keys = format!("dns = \"{name}.test:{port}\", resolver = \"{}\", min = {min}", dns.address);
            pool(name, &format!("discover = {{ {keys} }}"))
        })
        .collect();
    let evener = Evener::start(&toml);
    for (name, wrong) in &wrongs {
        wait_for(&evener, name, &both);
        dns.says(&format!("{name}.test"), wrong.clone());
    }
    for (name, _) in &wrongs {
        wait_until(LATER, &format!("{name} is noticed"), || source(&evener, name)["ok"] == false);
        assert_eq!(backends(&evener, name), both, "{name}");
        assert_eq!(answering(&evener, name), set(&["1", "2"]), "{name}");
        assert!(source(&evener, name)["last_error"]["why"].is_string());
        dns.has(&format!("{name}.test"), &["127.0.77.2"]);
    }
    assert!(evener.cli_ok(&["status"]).contains("! pool few: dns few.test"));
    for (name, _) in wrongs.iter().filter(|(name, _)| *name != "few") {
        wait_for(&evener, name, &both[1..]);
        assert_eq!(source(&evener, name)["ok"], true, "{name}");
    }
    assert_eq!(backends(&evener, "few"), both);
}

#[test]
fn a_start_without_a_resolver_serves_as_soon_as_there_is_one() {
    let (port, _neighbours) = neighbours(1);
    let dns = Dns::on("127.0.77.55:0");
    let address = dns.address;
    drop(dns);
    let keys = format!("discover = {{ dns = \"web.test:{port}\", resolver = \"{address}\" }}");
    let evener = Evener::start(&pool("web", &keys));
    assert!(backends(&evener, "web").is_empty());
    assert!(is_refused(try_connect(evener.port("web"))));
    evener.wait_for_endings(1, "no_backend");
    assert!(evener.log().contains("no backend has been discovered yet"), "{}", evener.log());
    let status = evener.cli_ok(&["status"]);
    assert!(
        status.contains("! pool web has no backend that takes clients") && status.contains("never answered"),
        "{status}"
    );
    let dns = Dns::on(&address.to_string());
    dns.has("web.test", &["127.0.77.1"]);
    wait_for(&evener, "web", &[format!("127.0.77.1:{port}")]);
    assert_eq!(who(evener.port("web")).unwrap(), "1");
}

#[test]
fn a_reload_without_a_resolver_keeps_what_was_discovered() {
    let (port, _neighbours) = neighbours(2);
    let dns = Dns::start();
    dns.has("web.test", &["127.0.77.1"]);
    dns.has("new.test", &["127.0.77.2"]);
    let keys = |name: &str, more: &str| {
        pool("web", &format!("discover = {{ dns = \"{name}.test:{port}\", resolver = \"{}\" }}\n{more}", dns.address))
    };
    let evener = Evener::start(&keys("web", ""));
    dns.says("web.test", Says::Silence);
    evener.reload(&keys("web", "balance = \"least_conn\""));
    assert_eq!(who(evener.port("web")).unwrap(), "1");
    evener.reload(&keys("new", ""));
    assert_eq!(who(evener.port("web")).unwrap(), "2", "a new name is waited for");
    evener.reload(&keys("web", ""));
    assert_eq!(who(evener.port("web")).unwrap(), "2", "until the other one answers");
}

#[test]
fn services_bring_their_ports_weights_and_tiers() {
    let (port, _neighbours) = neighbours(2);
    let spare = Backend::named("spare");
    let dns = Dns::start();
    let services = |services: &[(u16, u16, u16, &str)]| {
        let services =
            services.iter().map(|(priority, weight, port, host)| (*priority, *weight, *port, (*host).to_owned()));
        dns.says("_web._tcp.test", Says::Services(services.collect(), 1));
    };
    dns.has("one.test", &["127.0.77.1"]);
    dns.has("two.test", &["127.0.77.2"]);
    dns.has("spare.test", &["127.0.0.1"]);
    services(&[(10, 30, port, "one.test"), (10, 60, port, "two.test"), (20, 0, spare.address().port(), "spare.test")]);
    let keys = format!("discover = {{ dns = \"_web._tcp.test\", kind = \"srv\", resolver = \"{}\" }}", dns.address);
    let evener = Evener::start(&pool("web", &keys));
    let shown = |name: &str| {
        let file = evener.backend("web", name)["file"].clone();
        (file["weight"].as_u64(), file["tier"].as_u64())
    };
    let at = |number: u8| format!("127.0.77.{number}:{port}");
    assert_eq!((shown(&at(1)), shown(&at(2))), ((Some(30), Some(0)), (Some(60), Some(0))));
    assert_eq!(shown(&spare.address().to_string()), (Some(100), Some(1)));
    assert_eq!(answering(&evener, "web"), set(&["1", "2"]));
    services(&[(20, 7, spare.address().port(), "spare.test"), (30, 1, port, "gone.test")]);
    wait_until(LATER, "only the spare one serves", || shown(&spare.address().to_string()) == (Some(7), Some(0)));
    wait_until(LATER, "the others are gone", || answering(&evener, "web") == set(&["spare"]));
}

#[test]
fn a_real_resolver_may_die() {
    if !require("a_real_resolver_may_die", &["unbound"]) {
        return;
    }
    let (port, _neighbours) = neighbours(2);
    let records = [
        "web.test. 1 IN A 127.0.77.1".to_owned(),
        "web.test. 1 IN A 127.0.77.2".to_owned(),
        format!("_web._tcp.test. 1 IN SRV 5 50 {port} web.test."),
    ];
    let mut unbound = Unbound::start("127.0.77.53", &records).unwrap();
    let resolver = unbound.address;
    let by_name = pool("name", &format!("discover = {{ dns = \"web.test:{port}\", resolver = \"{resolver}\" }}"));
    let srv = format!("discover = {{ dns = \"_web._tcp.test.\", kind = \"srv\", resolver = \"{resolver}\", min = 2 }}");
    let evener = Evener::start(&(by_name + &pool("srv", &srv)));
    let both = [1, 2].map(|number| format!("127.0.77.{number}:{port}"));
    wait_for(&evener, "name", &both);
    wait_for(&evener, "srv", &both);
    unbound.kill();
    for name in ["name", "srv"] {
        wait_until(LATER, "it is noticed", || source(&evener, name)["ok"] == false);
        assert_eq!(answering(&evener, name), set(&["1", "2"]));
    }
}

#[test]
fn a_file_of_backends_is_read_when_it_changes_and_not_when_it_is_broken() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("list");
    let replace = |text: &str| {
        fs::write(folder.path().join("new"), text).unwrap();
        fs::rename(folder.path().join("new"), &list).unwrap();
    };
    let evener = Evener::start(&pool("web", &format!("discover = {{ file = \"{}\" }}", list.display())));
    let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert!(source(&evener, "web")["last_error"]["why"].as_str().unwrap().ends_with("there is no such file"));

    replace(&format!("# the web\n{} name=a weight=7\n", a.address()));
    wait_for(&evener, "web", &names(&["a"]));
    assert_eq!(evener.backend("web", "a")["file"]["weight"], 7);
    assert_eq!(evener.backend("web", "a")["origin"], "file");
    let mut long = connect(evener.port("web"));
    assert_eq!(read_name(&mut long).unwrap(), "a");

    let json = format!("[{{\"address\": \"{}\", \"name\": \"b\"}}, \"{}\"]\n", b.address(), a.address());
    replace(&json[..json.len() - 9]);
    wait_until(SOON, "half of it is refused", || source(&evener, "web")["ok"] == false);
    let error = source(&evener, "web")["last_error"]["why"].as_str().unwrap().to_owned();
    assert!(error.contains("list:1:") && error.contains("the file ends too early"), "{error}");
    assert_eq!(backends(&evener, "web"), ["a"]);
    assert_eq!(evener.log().matches("the file ends too early").count(), 1, "{}", evener.log());
    replace(&json);
    wait_for(&evener, "web", &[a.address().to_string(), "b".to_owned()]);
    assert_eq!(exchange(&mut long, b"on it goes").unwrap(), b"on it goes");

    replace("# nobody\n");
    wait_until(SOON, "too few are refused", || source(&evener, "web")["ok"] == false);
    assert_eq!(backends(&evener, "web").len(), 2);
    fs::write(&list, format!("{} name=in_place\n", b.address())).unwrap();
    wait_for(&evener, "web", &names(&["in_place"]));
    fs::remove_file(&list).unwrap();
    wait_until(SOON, "that it is gone is noticed", || source(&evener, "web")["ok"] == false);
    assert_eq!(who(evener.port("web")).unwrap(), "b");
}

/// Turns a link as Kubernetes and others do: another link takes its place.
fn turn(folder: &Path, to: &str) {
    let fresh = folder.join("fresh");
    symlink(to, &fresh).unwrap();
    fs::rename(fresh, folder.join("current")).unwrap();
}

#[test]
fn a_link_that_is_turned_to_another_folder_is_another_file() {
    let [a, b] = ["a", "b"].map(Backend::named);
    let folder = tempfile::tempdir().unwrap();
    for (version, backend) in [("v1", &a), ("v2", &b)] {
        fs::create_dir(folder.path().join(version)).unwrap();
        let text = format!("{} name={}", backend.address(), backend.name());
        fs::write(folder.path().join(version).join("list"), text).unwrap();
    }
    turn(folder.path(), "v1");
    symlink("current/list", folder.path().join("list")).unwrap();
    let file = folder.path().join("list");
    let evener = Evener::start(&pool("web", &format!("discover = {{ file = \"{}\" }}", file.display())));
    assert_eq!(who(evener.port("web")).unwrap(), "a");
    for (version, name) in [("v2", "b"), ("v1", "a")] {
        turn(folder.path(), version);
        wait_until(SOON, "the other one is read", || who(evener.port("web")).unwrap() == name);
    }
}

#[test]
fn host_names_are_asked_of_the_systems_resolvers_behind_its_hosts_file() {
    let test = "host_names_are_asked_of_the_systems_resolvers_behind_its_hosts_file";
    if !require_root(test, &["unshare", "mount"]) {
        return;
    }
    let (port, _neighbours) = neighbours(3);
    let dns = Dns::on("127.0.77.54:53");
    dns.has("db.corp.test", &["127.0.77.1"]);
    let folder = tempfile::tempdir().unwrap();
    let [conf, hosts] = ["resolv.conf", "hosts"].map(|name| folder.path().join(name));
    fs::write(&conf, "nameserver 127.0.77.54\nsearch corp.test\noptions timeout:1\n").unwrap();
    fs::write(&hosts, "127.0.77.3 listed\n").unwrap();
    let script = format!(
        "mount --bind {} /etc/resolv.conf && mount --bind {} /etc/hosts && exec \"$@\"",
        conf.display(),
        hosts.display()
    );
    let toml = pool("db", &format!("backends = [\"db:{port}\"]"))
        + &pool("listed", &format!("backends = [\"listed:{port}\"]"));
    let evener = Evener::plan(&toml).under(&["unshare", "-m", "sh", "-c", &script, "sh"]).start();
    let name = format!("db:{port}");
    assert_eq!(who(evener.port("db")).unwrap(), "1");
    assert_eq!(who(evener.port("listed")).unwrap(), "3");
    dns.has("db.corp.test", &["127.0.77.2"]);
    wait_until(LATER, "its new address is used", || who(evener.port("db")).unwrap() == "2");
    assert_eq!(evener.backend("db", &name)["address"], format!("127.0.77.2:{port}"));
    dns.says("db.corp.test", Says::Code(3));
    wait_until(LATER, "that it is gone is told", || source(&evener, "db")["ok"] == false);
    holds_for(Duration::from_millis(500), "it serves", || who(evener.port("db")).unwrap() == "2");
    fs::write(&hosts, "127.0.77.2 listed\n").unwrap();
    wait_until(LATER, "the hosts file is read again", || who(evener.port("listed")).unwrap() == "2");
    let asked = dns.asked("db.corp.test");
    evener.reload(&pool("db", &format!("backends = [\"127.0.77.1:{port}\"]")));
    assert_eq!(of_pool(&evener, "db").get("discovery"), None);
    holds_for(Duration::from_secs(2), "nobody asks any more", || dns.asked("db.corp.test") <= asked + 4);
}

#[test]
fn an_upgrade_takes_nobody_away_while_the_resolver_is_gone() {
    let (port, _neighbours) = neighbours(2);
    let dns = Dns::start();
    dns.has("web.test", &["127.0.77.1", "127.0.77.2"]);
    let keys = format!("discover = {{ dns = \"web.test:{port}\", resolver = \"{}\" }}", dns.address);
    let line = Line::start(&pool("web", &keys));
    let both = backends(&line, "web");
    assert_eq!(both.len(), 2);
    let resolver = dns.address.to_string();
    drop(dns);
    for _ in 0..2 {
        line.upgrade_wholly();
        assert_eq!(backends(&line, "web"), both);
        assert_eq!(answering(&line, "web"), set(&["1", "2"]));
    }
    let dns = Dns::on(&resolver);
    dns.has("web.test", &["127.0.77.2"]);
    wait_for(&line, "web", &both[1..]);
}
