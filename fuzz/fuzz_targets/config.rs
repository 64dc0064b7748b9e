//! Any bytes as a configuration file: it is read or refused, and what was read prints to a file that reads the same.
//! `scripts/fuzz 60 config`

#![no_main]

use evener::config::{parse, print};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match parse("fuzz", bytes) {
        Ok(loaded) => {
            let again = parse("printed", print(&loaded.config).as_bytes()).expect("what was printed reads");
            assert_eq!(again.config, loaded.config);
        }
        Err(report) => assert!(!report.render(true).is_empty()),
    }
});
