//! Any bytes as a file of backends: it is read whole or refused with a reason, and never holds two of one name.
//! `scripts/fuzz 60 list`

#![no_main]

use std::collections::HashSet;
use std::path::Path;

use evener::config::parse_list;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match parse_list(Path::new("fuzz"), bytes) {
        Ok(backends) => {
            let names: HashSet<&str> = backends.iter().map(|backend| backend.name.as_str()).collect();
            assert_eq!(names.len(), backends.len());
            // What a line cannot say: of names also a path, by which a unix socket without a name is called.
            let plain = |text: &str| !text.contains(|c: char| c.is_whitespace() || c == '#');
            let may_be_given = |name: &str| plain(name) && !name.contains('/');
            let lines: String = backends
                .iter()
                .filter(|backend| may_be_given(&backend.name) && plain(&backend.address.to_string()))
                .map(|b| format!("{} name={} weight={} tier={}\n", b.address, b.name, b.weight, b.tier))
                .collect();
            assert!(parse_list(Path::new("again"), lines.as_bytes()).is_ok(), "{lines}");
        }
        Err(why) => assert!(!why.is_empty() && !why.contains('\n')),
    }
});
