//! `inventory.yaml` of arbitrary bytes: no panic, and the same answer twice.
#![no_main]

use libfuzzer_sys::fuzz_target;
use metisd::config::{check_report, from_bytes};

fuzz_target!(|data: &[u8]| {
    let loaded = from_bytes(b"", data);
    let report = check_report(&loaded);
    match &loaded {
        Ok(settings) => assert!(settings.files.len() == 2 && settings.digest.as_str().len() == 64),
        Err(all) => assert!(!all.is_empty() && all.is_sorted() && all.iter().all(|one| !one.message.is_empty())),
    }
    assert!(report.chars().all(|c| c == '\n' || !c.is_control()), "{report:?}");
    assert_eq!(report, check_report(&from_bytes(b"", data)));
});
