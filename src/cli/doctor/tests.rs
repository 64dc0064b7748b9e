//! Each finding from facts that are made up: what is well, what is too little, and that what it says to type mends it.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::holder::{Holder, Who};
use super::*;
use crate::config::{Config, parse};

/// A host on which nothing is to be said, and a process with all rights.
fn host() -> Facts {
    let sysctls = [
        ("fs.file-max", "9223372036854775807"),
        ("fs.nr_open", "1073741816"),
        ("fs.pipe-user-pages-soft", "16384"),
        ("net.core.busy_poll", "0"),
        ("net.core.default_qdisc", "fq_codel"),
        ("net.core.rmem_max", "8388608"),
        ("net.core.somaxconn", "4096"),
        ("net.ipv4.ip_local_port_range", "1024\t65535"),
        ("net.ipv4.ip_local_reserved_ports", "1024-10000"),
        ("net.ipv4.ip_unprivileged_port_start", "1024"),
        ("net.ipv4.tcp_congestion_control", "cubic"),
        ("net.ipv4.tcp_fastopen", "3"),
        ("net.ipv4.tcp_max_syn_backlog", "4096"),
        ("net.ipv4.tcp_mem", "190000 2540000 3800000"),
        ("net.ipv4.tcp_syncookies", "1"),
        ("net.ipv4.tcp_tw_reuse", "1"),
    ];
    Facts {
        holder: Holder {
            who: Who::Shell,
            nofile: Some(1 << 20),
            rights: Some(u64::MAX),
            group: None,
            sockets: Vec::new(),
        },
        workers: 2,
        sysctls: sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        kernel: Some((6, 1)),
        memory: Some(32 << 30),
        absent: Vec::new(),
        is_synchronised: Some(true),
        now: std::time::UNIX_EPOCH + Duration::from_hours(500_000),
    }
}

fn with(settings: &[(&str, &str)]) -> Facts {
    let mut facts = host();
    facts.sysctls.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
    facts
}

fn file(process: &str, listener: &str, pool: &str) -> Config {
    let text = format!(
        "[process]\n{process}\n[listener.web]\nbind = \"127.0.0.1:5432\"\npool = \"app\"\n{listener}\n\
         [pool.app]\nbackends = [\"10.0.0.1:80\", \"10.0.0.2:80\"]\n{pool}\n"
    );
    parse("evener.toml", text.as_bytes()).unwrap_or_else(|report| panic!("{report}")).config
}

fn findings(config: &Config, facts: &Facts) -> Vec<Finding> {
    examine(&Plan::new(config, facts))
}

/// The one finding of a subject that is not well.
#[track_caller]
fn bad(subject: &str, config: &Config, facts: &Facts) -> Finding {
    let all = findings(config, facts);
    let bad: Vec<_> = all.iter().filter(|finding| finding.level > Level::Ok).collect();
    assert_eq!(bad.iter().map(|finding| finding.subject).collect::<Vec<_>>(), [subject], "{bad:?}");
    bad[0].clone()
}

/// The settings that the commands of findings make.
fn typed(findings: &[Finding]) -> BTreeMap<String, String> {
    let commands = findings.iter().flat_map(|finding| &finding.commands);
    let set = commands.filter_map(|command| {
        let (name, value) = command.strip_prefix("sysctl -w ")?.split_once('=')?;
        Some((name.to_owned(), value.trim_matches('"').to_owned()))
    });
    set.collect()
}

#[track_caller]
fn assert_mended(subject: &str, config: &Config, mut facts: Facts) {
    let finding = bad(subject, config, &facts);
    facts.sysctls.extend(typed(std::slice::from_ref(&finding)));
    let left: Vec<_> = findings(config, &facts).into_iter().filter(|finding| finding.level > Level::Ok).collect();
    assert!(left.is_empty(), "{finding:?} and then {left:?}");
}

#[test]
fn a_good_host_is_well() {
    let config = file("max_connections = 10000", "", "");
    let all = findings(&config, &host());
    assert!(all.iter().all(|finding| finding.level == Level::Ok && finding.commands.is_empty()), "{all:?}");
    assert!(all.len() >= 12, "{all:?}");
}

#[test]
fn nothing_is_said_of_what_is_not_known() {
    let mut facts = Facts { sysctls: BTreeMap::new(), kernel: None, memory: None, is_synchronised: None, ..host() };
    facts.holder = Holder { nofile: None, rights: None, ..facts.holder };
    let all = findings(&file("max_connections = 10000", "fast_open = true", ""), &facts);
    assert!(all.iter().all(|finding| finding.level == Level::Ok), "{all:?}");
}

#[test]
fn too_few_descriptors_break_what_the_file_asks_for_and_the_number_that_is_named_is_enough() {
    for (process, listener, key) in [
        ("max_connections = 20000", "", "process.max_connections = 20000"),
        ("", "max_connections = 20000", "listener.web.max_connections = 20000"),
    ] {
        let config = file(process, listener, "");
        let mut facts = host();
        facts.holder.nofile = Some(1024);
        let finding = bad("file descriptors", &config, &facts);
        assert_eq!(finding.level, Level::Breaks);
        assert!(finding.needed.contains(key), "{finding:?}");
        let enough: u64 = finding.commands[0].split(' ').nth(2).unwrap().parse().expect("ulimit -n N");
        assert!((40_000..50_000).contains(&enough), "{finding:?}");
        facts.holder.nofile = Some(enough);
        assert!(findings(&config, &facts).iter().all(|finding| finding.level == Level::Ok));
    }
}

#[test]
fn a_unit_is_given_lines_and_a_process_without_one_prlimit() {
    let config = file("max_connections = 20000", "", "");
    let mut facts = host();
    facts.holder = Holder { who: Who::Running(7, Some("evener.service".into())), nofile: Some(1024), ..facts.holder };
    let commands = bad("file descriptors", &config, &facts).commands;
    assert!(commands[0].contains("/etc/systemd/system/evener.service.d/nofile.conf"), "{commands:?}");
    assert!(commands[0].contains("[Service]\\nLimitNOFILE=4"), "{commands:?}");
    assert!(commands[1].ends_with("systemctl restart evener.service"), "{commands:?}");
    facts.holder.who = Who::Running(7, None);
    assert!(bad("file descriptors", &config, &facts).commands[0].starts_with("prlimit --pid 7 "));
    facts.sysctls.insert("fs.nr_open".into(), "2048".into());
    let commands = bad("file descriptors", &config, &facts).commands;
    assert!(commands[0].starts_with("sysctl -w fs.nr_open="), "no limit is above it: {commands:?}");
}

#[test]
fn a_file_without_a_number_is_only_advised() {
    let mut facts = host();
    facts.holder.nofile = Some(1024);
    let finding = bad("file descriptors", &file("", "", ""), &facts);
    assert_eq!(finding.level, Level::Advice);
    assert!(finding.needed.contains("1024 descriptors allow"), "{finding:?}");
}

#[test]
fn flows_without_descriptors_or_ports_are_advised() {
    let config = file("", "protocol = \"udp\"\nudp = { max_flows = 50000 }", "");
    let mut facts = host();
    facts.holder.nofile = Some(30_000);
    let finding = bad("descriptors of flows", &config, &facts);
    assert!(finding.needed.contains("udp.max_flows allows 50000"), "{finding:?}");
    let ports = [("net.ipv4.ip_local_port_range", "32768 60999"), ("net.ipv4.ip_local_reserved_ports", "")];
    let finding = bad("ports of flows", &config, &with(&ports));
    assert!(finding.found.starts_with("28232 in "), "{finding:?}");
    assert_eq!(typed(&[finding])["net.ipv4.ip_local_port_range"], "1024 65535");
}

#[test]
fn settings_that_are_too_small_are_mended_by_what_is_typed() {
    let plain = file("max_connections = 10000", "", "");
    let udp = file("", "protocol = \"udp\"\nudp = { max_flows = 1000 }", "");
    let fast = file("max_connections = 10000", "fast_open = true", "");
    let no_rights = |mut facts: Facts| {
        facts.holder.rights = Some(0);
        facts
    };
    assert_mended("backlog", &plain, with(&[("net.core.somaxconn", "128")]));
    assert_mended(
        "half-open connections",
        &plain,
        with(&[("net.ipv4.tcp_syncookies", "0"), ("net.ipv4.tcp_max_syn_backlog", "128")]),
    );
    assert_mended("TCP Fast Open", &fast, with(&[("net.ipv4.tcp_fastopen", "1")]));
    assert_mended("receive buffers", &udp, no_rights(with(&[("net.core.rmem_max", "212992")])));
    assert_mended("pipes", &plain, no_rights(host()));
    assert_mended("memory of TCP", &plain, with(&[("net.ipv4.tcp_mem", "1 2 3")]));
    assert_mended("ports of listeners", &plain, with(&[("net.ipv4.ip_local_reserved_ports", "8080,9000-9010")]));
    assert_mended("ports in TIME-WAIT", &plain, with(&[("net.ipv4.tcp_tw_reuse", "2")]));
    assert_mended("ports in TIME-WAIT", &plain, with(&[("net.ipv4.tcp_timestamps", "0")]));
    assert_mended(
        "connection tracking",
        &plain,
        with(&[("net.netfilter.nf_conntrack_max", "16384"), ("net.netfilter.nf_conntrack_count", "0")]),
    );
    assert_mended("congestion control", &plain, with(&[("net.ipv4.tcp_congestion_control", "bbr")]));
    assert_mended("congestion control", &plain, with(&[("net.ipv4.tcp_congestion_control", "reno")]));
    assert_mended("busy polling", &plain, with(&[("net.core.busy_poll", "50")]));
    assert_mended("files of the host", &plain, with(&[("fs.file-max", "10000")]));
    let ports = with(&[("net.ipv4.ip_local_port_range", "32768 34767")]);
    assert_mended("ports to backends", &plain, ports);
}

#[test]
fn a_full_table_of_a_firewall_that_tracks_breaks_and_one_that_nobody_uses_does_not() {
    let config = file("max_connections = 10000", "", "");
    let level = |count| {
        let facts = with(&[("net.netfilter.nf_conntrack_max", "16384"), ("net.netfilter.nf_conntrack_count", count)]);
        bad("connection tracking", &config, &facts).level
    };
    assert_eq!((level("0"), level("12")), (Level::Advice, Level::Breaks));
    let all = findings(&config, &host());
    assert!(all.iter().any(|finding| finding.subject == "connection tracking" && finding.found == "not loaded"));
}

#[test]
fn rights_make_quotas_and_buffers_no_concern() {
    let facts = with(&[("net.core.rmem_max", "212992"), ("fs.pipe-user-pages-soft", "16")]);
    for listener in ["", "protocol = \"udp\"\nudp = { max_flows = 1000 }"] {
        let all = findings(&file("", listener, ""), &facts);
        assert!(all.iter().all(|finding| finding.level == Level::Ok), "{all:?}");
    }
}

#[test]
fn ports_are_counted_for_each_backend_by_the_most_that_the_file_allows() {
    let narrow = || with(&[("net.ipv4.ip_local_port_range", "32768 60999"), ("net.ipv4.tcp_mem", "1 9000000 9000000")]);
    let even = file("max_connections = 60000", "", "");
    let finding = bad("ports to backends", &even, &narrow());
    assert_eq!(finding.level, Level::Breaks);
    assert!(finding.needed.starts_with("30000 for one backend of pool.app"), "{finding:?}");
    let of_backends = "[listener.a]\nbind = \"127.0.0.1:5432\"\npool = \"a\"\n[process]\nmax_connections = 60000\n\
        [pool.a]\nsource = \"127.0.0.1\"\nbackends = [{ address = \"10.0.0.1:80\", max_connections = 29000 }]\n";
    let config = parse("evener.toml", of_backends.as_bytes()).expect("valid").config;
    let finding = bad("ports to backends", &config, &narrow());
    assert!(finding.needed.contains("pool.a.backends.max_connections = 29000"), "{finding:?}");
    assert!(finding.needed.contains("pool.a.source = 127.0.0.1"), "{finding:?}");
    // A smaller number of clients brings fewer connections than a backend could take.
    let few = parse("evener.toml", of_backends.replace("60000", "500").as_bytes()).expect("valid").config;
    assert!(findings(&few, &narrow()).iter().all(|finding| finding.level == Level::Ok));
    // What a range can never have is not to be typed.
    let all = findings(&file("max_connections = 200000", "", ""), &host());
    let ports = all.iter().find(|finding| finding.subject == "ports to backends").expect("too many");
    assert_eq!(ports.level, Level::Breaks);
    assert!(ports.commands.last().is_some_and(|last| last.starts_with("# more backends")), "{ports:?}");
}

#[test]
fn ports_below_1024_take_a_right_or_a_lower_start() {
    let text = "[listener.a]\nbind = [\"127.0.0.1:443\", \"127.0.0.1:80\"]\npool = \"a\"\n[pool.a]\nbackends = [\"127.0.0.1:81\"]\n";
    let config = parse("evener.toml", text.as_bytes()).expect("valid").config;
    let subject = "ports below 1024";
    assert!(findings(&config, &host()).iter().any(|finding| finding.subject == subject && finding.level == Level::Ok));
    let mut facts = with(&[("fs.pipe-user-pages-soft", "0")]);
    facts.holder.rights = Some(0);
    let finding = bad(subject, &config, &facts);
    assert_eq!(finding.level, Level::Breaks);
    assert!(finding.needed.contains("listener.a binds 127.0.0.1:80"), "{finding:?}");
    assert_mended(subject, &config, facts.clone());
    facts.holder.who = Who::Unit("evener.service".into());
    let commands = bad(subject, &config, &facts).commands;
    assert!(commands[0].contains("AmbientCapabilities=CAP_NET_BIND_SERVICE"), "{commands:?}");
    facts.holder.sockets = vec!["a".to_owned()];
    let all = findings(&config, &facts);
    assert!(all.iter().all(|finding| finding.subject != subject), "systemd binds them: {all:?}");
}

#[test]
fn an_address_that_is_not_here_is_named_with_its_key() {
    let why = "Cannot assign requested address".to_owned();
    let absent = |ip: &str| Facts { absent: vec![(ip.parse().expect("an address"), why.clone())], ..host() };
    let config = file("metrics = \"10.0.0.9:9464\"", "", "source = \"10.0.0.8\"");
    for (ip, key) in
        [("127.0.0.1", "listener.web.bind"), ("10.0.0.8", "pool.app.source"), ("10.0.0.9", "process.metrics")]
    {
        let finding = bad("addresses", &config, &absent(ip));
        assert_eq!(finding.level, Level::Breaks);
        assert!(finding.needed.starts_with(key) && finding.found.contains(&why), "{finding:?}");
        assert!(finding.commands.contains(&"sysctl -w net.ipv4.ip_nonlocal_bind=\"1\"".to_owned()), "{finding:?}");
    }
    assert!(bad("addresses", &config, &absent("::")).commands[0].contains("no IPv6"));
}

#[test]
fn memory_is_held_against_the_clients_of_the_file() {
    let config = file("max_connections = 100000", "", "");
    let level = |megabytes: u64| {
        let facts = Facts { memory: Some(megabytes << 20), ..with(&[("net.ipv4.tcp_mem", "1 9000000 9000000")]) };
        let all = findings(&config, &facts);
        all.iter().find(|finding| finding.subject == "memory").map(|finding| finding.level)
    };
    assert_eq!([1000, 2000, 4000].map(level), [Some(Level::Breaks), Some(Level::Advice), Some(Level::Ok)]);
}

#[test]
fn an_old_kernel_and_a_clock_that_nobody_keeps_are_told_to_those_who_need_them() {
    let old = |version| Facts { kernel: Some(version), ..host() };
    let udp = file("", "protocol = \"udp\"\nudp = { max_flows = 1000 }", "");
    assert!(bad("kernel", &udp, &old((4, 19))).needed.starts_with("5.0"));
    assert!(bad("kernel", &file("", "", "source = \"127.0.0.1\""), &old((4, 1))).needed.starts_with("4.2"));
    assert!(bad("kernel", &file("", "", ""), &old((5, 4))).needed.starts_with("5.10"));

    let adrift = Facts { is_synchronised: Some(false), ..host() };
    assert!(findings(&file("", "", ""), &adrift).iter().all(|finding| finding.level == Level::Ok));
    let tls = file("", "", "tls = { verify = false }");
    assert!(bad("clock", &tls, &adrift).needed.contains("certificates"));
}

#[test]
fn a_certificate_is_watched_for_thirty_days_before_its_end() {
    let tls = "tls = { certificate = \"tests/conf/tls/shop.pem\", key = \"tests/conf/tls/shop.key\" }";
    let config = file("", tls, "");
    let valid = config.listeners[0].tls.as_ref().expect("it has").certificates[0].validity().expect("dates");
    let day = Duration::from_hours(24);
    for (now, level, words) in [
        (valid.start - day, Level::Breaks, "holds from"),
        (valid.start + day, Level::Ok, "holds until"),
        (valid.end - 31 * day, Level::Ok, "holds until"),
        (valid.end - 29 * day, Level::Advice, "in 29 days"),
        (valid.end, Level::Advice, "in 0 days"),
        (valid.end + day, Level::Breaks, "ended on"),
    ] {
        let all = findings(&config, &Facts { now, ..host() });
        let finding = all.iter().find(|finding| finding.subject == "certificate").expect("judged");
        assert_eq!(finding.level, level, "{finding:?}");
        assert!(finding.found.contains(words), "{finding:?}");
    }
    assert!(warnings(&config).is_empty(), "{:?}", warnings(&config));
}

#[test]
fn people_and_machines_are_told_the_same_and_the_worst_first() {
    let config = file("max_connections = 20000", "", "");
    let mut facts = with(&[("net.core.somaxconn", "128")]);
    facts.holder.nofile = Some(1024);
    let findings = findings(&config, &facts);
    let text = people(&facts, &findings, Paper { coloured: false, width: None });
    let machine = machines(&facts, &findings);
    assert!(text.contains("breaks  file descriptors: 1024 for this shell\n"), "{text}");
    assert!(text.find("breaks  ") < text.find("advice  ") && text.find("advice  ") < text.find("ok      "), "{text}");
    assert!(text.contains("\n1 will break, 1 could be better, ") && !text.contains('\x1b'), "{text}");
    assert_eq!(machine["level"], "breaks");
    assert_eq!(machine["findings"].as_array().map(Vec::len), Some(findings.len()));
    assert_eq!(machine["findings"][0]["subject"], "file descriptors");
}

proptest! {
    /// Whatever the host says: no panic, no ok with a command, no other level without a reason.
    #[test]
    fn no_host_makes_it_panic(
        values in proptest::collection::vec("[a-z0-9 ,-]{0,12}|[0-9]{1,20}|[0-9]{1,6} [0-9]{1,6} [0-9]{1,6}", 20),
        nofile in any::<u64>(), rights in any::<u64>(), memory in any::<u64>(), workers in 1usize..1024,
        connections in 1u32.., flows in 1u32..10_000_000,
    ) {
        let udp = format!("protocol = \"udp\"\nudp = {{ max_flows = {flows} }}");
        for config in [file(&format!("max_connections = {connections}"), "fast_open = true", ""), file("", &udp, "")] {
            let mut facts = host();
            for (value, text) in facts.sysctls.values_mut().zip(&values) {
                text.clone_into(value);
            }
            facts.sysctls.insert("net.netfilter.nf_conntrack_max".into(), values[19].clone());
            facts.holder = Holder { nofile: Some(nofile), rights: Some(rights), ..facts.holder };
            facts.memory = Some(memory);
            facts.workers = workers;
            for finding in findings(&config, &facts) {
                prop_assert_eq!(finding.level == Level::Ok, finding.needed.is_empty(), "{:?}", finding);
                prop_assert!(finding.level > Level::Ok || finding.commands.is_empty(), "{:?}", finding);
            }
        }
    }

    /// More descriptors never make it worse.
    #[test]
    fn more_descriptors_are_never_worse(nofile in 0u64..200_000, more in 0u64..200_000, connections in 1u32..100_000) {
        let config = file(&format!("max_connections = {connections}"), "", "");
        let level = |nofile| {
            let mut facts = host();
            facts.holder.nofile = Some(nofile);
            findings(&config, &facts).iter().find(|finding| finding.subject == "file descriptors").map(|finding| finding.level)
        };
        prop_assert!(level(nofile + more) <= level(nofile));
    }
}

#[test]
fn a_listener_without_a_limit_takes_as_many_as_there_may_be() {
    let text = "[listener.a]\nbind = \"127.0.0.1:5432\"\npool = \"app\"\nmax_connections = 50\n\
                [listener.b]\nbind = \"127.0.0.1:5433\"\npool = \"app\"\n\
                [pool.app]\nbackends = [\"10.0.0.1:80\"]\n";
    let config = |text: &str| parse("evener.toml", text.as_bytes()).expect("a file").config;
    assert_eq!(Plan::new(&config(text), &host()).given, None);
    let most = format!("max_connections = {}", u32::MAX);
    let both = text.replace("max_connections = 50", &most).replace("5433\"", &format!("5433\"\n{most}"));
    let (config, facts) = (config(&both), host());
    let plan = Plan::new(&config, &facts);
    assert_eq!(plan.connections, u64::from(u32::MAX), "no more can be counted");
    assert!(findings(&config, &facts).iter().any(|finding| finding.level == Level::Breaks));
}

#[test]
fn ports_to_backends_are_counted_as_the_pool_shares_them() {
    let narrow = with(&[("net.ipv4.ip_local_port_range", "32768\t60999"), ("net.ipv4.ip_local_reserved_ports", "")]);
    let level = |pool: &str, facts: &Facts| {
        let config = file("max_connections = 50000", "", pool);
        let all = findings(&config, facts);
        all.into_iter().find(|finding| finding.subject == "ports to backends").expect("looked at").level
    };
    assert_eq!(level("", &narrow), Level::Ok, "25000 for each of two");
    assert_eq!(level("balance = \"first\"", &narrow), Level::Breaks, "all to the first one");
    let discovers = |more: &str| format!("discover = {{ dns = \"app.test:80\"{more} }}");
    let many = file("max_connections = 200000", "", &discovers(""));
    let all = findings(&many, &narrow);
    assert!(all.iter().all(|one| one.subject != "ports to backends" || one.level == Level::Ok), "{all:?}");
}

#[test]
fn all_commands_together_leave_nothing_to_be_mended() {
    let narrow = with(&[("net.ipv4.ip_local_port_range", "32768\t60999"), ("net.ipv4.ip_local_reserved_ports", "")]);
    let config = file("max_connections = 90000\nmetrics = \"127.0.0.1:40000\"", "", "");
    let mut facts = narrow;
    let subjects = |facts: &Facts| -> Vec<_> {
        findings(&config, facts).into_iter().filter(|one| one.level > Level::Ok).map(|one| one.subject).collect()
    };
    assert_eq!(subjects(&facts), ["ports to backends", "ports of listeners"]);
    let typed = typed(&findings(&config, &facts));
    assert_eq!(typed["net.ipv4.ip_local_reserved_ports"], "5432,40000");
    facts.sysctls.extend(typed);
    assert_eq!(subjects(&facts), [""; 0]);
}
