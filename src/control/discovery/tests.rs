//! Tests: what is asked, and what comes of the answers, without a resolver.

use super::*;

/// Lets the system's resolvers tell the addresses of a name.
pub fn addresses(discovery: &mut Discovery, config: &Config, name: &str, ips: &[&str]) {
    tell(discovery, config, host(name, None), vec![ips_of(ips), Part::Nothing("the name has no address", LONG)]);
}

/// Lets them fail.
pub fn fails(discovery: &mut Discovery, config: &Config, name: &str, why: &str) {
    tell(discovery, config, host(name, None), vec![Part::Failed(why.to_owned()); 2]);
}

const LONG: Duration = Duration::from_secs(60);

fn ips_of(ips: &[&str]) -> Part {
    Part::Records(ips.iter().map(|ip| book::Record::Ip(ip.parse().expect("an address"))).collect(), LONG)
}

fn tell(discovery: &mut Discovery, config: &Config, question: Question, reply: Vec<Part>) {
    discovery.follow(config, now());
    discovery.hear(News(Topic::Answer(question, reply)), now(), wall_clock());
    discovery.settle(config, wall_clock());
    discovery.follow(config, now());
}

fn look(discovery: &mut Discovery, config: &Config, path: &str, content: &str) {
    discovery.follow(config, now());
    let found = Found::Content(config::parse_list(path.as_ref(), content.as_bytes()));
    discovery.hear(News(Topic::Look(path.into(), Seen::default(), found)), now(), wall_clock());
    discovery.settle(config, wall_clock());
    discovery.follow(config, now());
}

/// One pool with these keys.
fn config(keys: &str) -> Config {
    let text = format!("[listener.web]\nbind = \"127.0.0.1:0\"\npool = \"web\"\n[pool.web]\n{keys}\n");
    config::parse("test", text.as_bytes()).unwrap_or_else(|report| panic!("{report}")).config
}

fn shown(discovery: &Discovery, config: &Config) -> Vec<String> {
    let show = |c: Candidate| match c.place {
        Ok(_) => format!("{} {}", c.name, c.origin.as_str()),
        Err(why) => format!("{} ({why})", c.name),
    };
    discovery.backends(&config.pools[0]).into_iter().map(show).collect()
}

fn trouble(discovery: &Discovery, config: &Config) -> Option<String> {
    let report = discovery.reports(&config.pools[0]).into_iter().next().expect("a source");
    report.track.trouble().map(str::to_owned)
}

#[test]
fn a_pool_has_those_of_its_file_and_those_that_dns_tells_of_each_place_once() {
    let config = config("backends = [\"10.0.0.1:80\"]\ndiscover = { dns = \"web.test:80\", min = 2, max = 3 }");
    let mut discovery = Discovery::default();
    discovery.follow(&config, now());
    assert_eq!(shown(&discovery, &config), ["10.0.0.1:80 config"]);
    let web = || host("web.test", None);
    let none = || Part::Nothing("no such name", LONG);
    tell(&mut discovery, &config, web(), vec![ips_of(&["10.0.0.3", "10.0.0.1", "10.0.0.2"]), none()]);
    let three = ["10.0.0.1:80 config", "10.0.0.2:80 dns", "10.0.0.3:80 dns"];
    assert_eq!(shown(&discovery, &config), three);
    assert_eq!(trouble(&discovery, &config), None);
    for reply in [vec![Part::Failed("SERVFAIL".into()); 2], vec![none(), none()], vec![ips_of(&["10.0.0.9"]), none()]] {
        tell(&mut discovery, &config, web(), reply);
        assert_eq!(shown(&discovery, &config), three, "too little is not believed");
        assert!(trouble(&discovery, &config).is_some());
    }
    let many = ["10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"];
    tell(&mut discovery, &config, web(), vec![ips_of(&many), none()]);
    assert_eq!(
        shown(&discovery, &config),
        ["10.0.0.1:80 config", "10.0.0.3:80 dns", "10.0.0.4:80 dns", "10.0.0.5:80 dns"]
    );
    assert_eq!(trouble(&discovery, &config).as_deref(), Some("left out, for `max` is 3: 10.0.0.6:80"));
}

#[test]
fn services_are_believed_when_their_hosts_are_known() {
    let config = config("discover = { dns = \"_web._tcp.test\", kind = \"srv\", resolver = \"127.0.0.1:8600\" }");
    let resolver = Some("127.0.0.1:8600".parse().expect("an address"));
    let mut discovery = Discovery::default();
    let service =
        |port, host: &str| book::Record::Service(book::Service { priority: 1, weight: 7, port, host: host.to_owned() });
    let services = |services: Vec<book::Record>| vec![Part::Records(services, LONG)];
    let none = || Part::Nothing("the name has no address", LONG);
    tell(
        &mut discovery,
        &config,
        super::services("_web._tcp.test", resolver),
        services(vec![service(80, "a"), service(81, "b")]),
    );
    assert_eq!(shown(&discovery, &config), [""; 0]);
    tell(&mut discovery, &config, host("a", resolver), vec![ips_of(&["10.0.0.1"]), none()]);
    assert_eq!(shown(&discovery, &config), ["10.0.0.1:80 dns"], "what is known serves already");
    tell(&mut discovery, &config, host("b", resolver), vec![ips_of(&["10.0.0.2"]), none()]);
    assert_eq!(shown(&discovery, &config), ["10.0.0.1:80 dns", "10.0.0.2:81 dns"]);

    tell(&mut discovery, &config, super::services("_web._tcp.test", resolver), services(vec![service(82, "c")]));
    assert_eq!(shown(&discovery, &config).len(), 2, "they stay until the new one is known");
    tell(&mut discovery, &config, host("c", resolver), vec![Part::Failed("SERVFAIL".into()); 2]);
    assert_eq!(shown(&discovery, &config).len(), 2);
    assert_eq!(trouble(&discovery, &config).as_deref(), Some("SERVFAIL"));
    tell(&mut discovery, &config, host("c", resolver), vec![ips_of(&["10.0.0.3"]), none()]);
    assert_eq!(shown(&discovery, &config), ["10.0.0.3:82 dns"]);
    discovery.forget(&config);
    assert_eq!(discovery.book.len(), 2, "the services and the one host that is left");
}

#[test]
fn a_file_may_have_host_names_and_what_cannot_be_reached_is_left_out() {
    let config = config("discover = { file = \"/run/web\", max_connections = 5 }\nsource = \"127.0.0.1\"");
    let mut discovery = Discovery::default();
    look(&mut discovery, &config, "/run/web", "10.0.0.1:80 name=one max_connections=9\n[::1]:80\ndb.test:80 name=db\n");
    assert_eq!(shown(&discovery, &config), ["one file", "db (not resolved yet)"]);
    addresses(&mut discovery, &config, "db.test", &["10.0.0.7", "::7"]);
    assert_eq!(shown(&discovery, &config), ["one file", "db file"]);
    let limit = |c: &Candidate| c.file.max_connections.map_or(0, std::num::NonZeroU32::get);
    let limits: Vec<u32> = discovery.backends(&config.pools[0]).iter().map(limit).collect();
    assert_eq!(limits, [9, 5]);
    assert_eq!(trouble(&discovery, &config).as_deref(), Some("left out, for this pool cannot reach it: 1"));
    look(&mut discovery, &config, "/run/web", "10.0.0.1:80\n10.0.0.2");
    assert_eq!(shown(&discovery, &config).len(), 2);
    look(&mut discovery, &config, "/run/web", "# nobody\n");
    assert_eq!(shown(&discovery, &config).len(), 2, "an empty file is fewer than `min`");
    let names: Vec<String> = discovery.reports(&config.pools[0]).into_iter().map(|report| report.name).collect();
    assert_eq!(names, ["/run/web", "db.test"]);
}

#[test]
fn a_reload_keeps_what_is_known_and_another_source_takes_over_once_it_has_spoken() {
    let [blue, green] =
        ["blue", "green"].map(|name| config(&format!("discover = {{ dns = \"{name}.test:80\", min = 1 }}")));
    let mut discovery = Discovery::default();
    addresses(&mut discovery, &blue, "blue.test", &["10.0.0.1"]);
    for _ in 0..2 {
        discovery.follow(&blue, now());
        discovery.settle(&blue, wall_clock());
        discovery.forget(&blue);
        assert_eq!(shown(&discovery, &blue), ["10.0.0.1:80 dns"]);
    }
    fails(&mut discovery, &green, "green.test", "SERVFAIL");
    discovery.forget(&green);
    assert_eq!(shown(&discovery, &green), ["10.0.0.1:80 dns"]);
    tell(&mut discovery, &green, host("green.test", None), vec![Part::Nothing("no such name", LONG); 2]);
    assert_eq!(shown(&discovery, &green), [""; 0], "those of the other source are not this one's");
    addresses(&mut discovery, &green, "green.test", &["10.0.0.2"]);
    assert_eq!(shown(&discovery, &green), ["10.0.0.2:80 dns"]);
}

#[test]
fn the_addresses_of_a_name_are_kept_when_there_are_none_any_more() {
    let config = config("backends = [\"db.test:80\"]");
    let mut discovery = Discovery::default();
    discovery.follow(&config, now());
    assert_eq!(shown(&discovery, &config), ["db.test:80 (not resolved yet)"]);
    addresses(&mut discovery, &config, "db.test", &["10.0.0.1"]);
    tell(&mut discovery, &config, host("db.test", None), vec![Part::Nothing("no such name", LONG); 2]);
    assert_eq!(shown(&discovery, &config), ["db.test:80 config"]);
    assert_eq!(trouble(&discovery, &config).as_deref(), Some("no such name"));
}

#[test]
fn a_successor_begins_with_what_was_believed_and_decides_by_what_it_was_told_itself() {
    let keys = "discover = { dns = \"web.test:80\" }";
    let config = config(keys);
    let web = || host("web.test", None);
    let none = || Part::Nothing("no such name", LONG);
    let mut old = Discovery::default();
    tell(&mut old, &config, web(), vec![ips_of(&["10.0.0.1", "10.0.0.2"]), none()]);
    let known = old.bequeath();
    let before = ["10.0.0.1:80 dns", "10.0.0.2:80 dns"];
    let after = ["10.0.0.2:80 dns", "10.0.0.3:80 dns"];
    let replies: [(Option<Vec<Part>>, [&str; 2]); 4] = [
        (None, before),
        (Some(vec![Part::Failed("SERVFAIL".into()); 2]), before),
        (Some(vec![none(), none()]), before), // too few
        (Some(vec![ips_of(&["10.0.0.2", "10.0.0.3"]), none()]), after),
    ];
    for (reply, expected) in replies {
        let mut new = Discovery::default();
        new.follow(&config, now());
        if let Some(reply) = reply {
            tell(&mut new, &config, web(), reply);
        }
        new.inherit(&config, &known, wall_clock());
        assert_eq!(shown(&new, &config), expected);
    }
    let other = self::config(&format!("{keys}\nsource = \"::1\""));
    let mut new = Discovery::default();
    new.inherit(&other, &known, wall_clock());
    assert_eq!(shown(&new, &other), [""; 0], "the pool cannot reach them any more");
}

#[test]
fn host_names_that_a_successor_inherits_are_asked_for_again() {
    let config = config("discover = { file = \"/backends\" }");
    let mut old = Discovery::default();
    look(&mut old, &config, "/backends", "db.test:80\n");
    addresses(&mut old, &config, "db.test", &["10.0.0.1"]);
    let mut new = Discovery::default();
    new.inherit(&config, &old.bequeath(), wall_clock());
    assert_eq!(shown(&new, &config), ["db.test:80 file"]);
    assert!(new.book.contains_key(&host("db.test", None)));
}
