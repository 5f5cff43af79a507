//! Whatever an upsd sends: its lines are read or refused, a list stays bounded, and what metis quotes reads back the same.
#![no_main]

use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use metisd::power::nut::{Conn, LineError, List, MAX_LIST_ROWS, Target, quote, words};
use metisd::power::reading_from_vars;
use tokio::io::AsyncWriteExt;

fuzz_target!(|data: &[u8]| {
    let mut list = List::new("VAR", &["ups"]);
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(words) = words(line) {
            for word in &words {
                let mut quoted = Vec::new();
                match quote(word.as_bytes(), &mut quoted) {
                    Ok(()) => assert_eq!(metisd::power::nut::words(&quoted), Ok(vec![word.clone()])),
                    Err(error) => assert!(matches!(error, LineError::Control | LineError::TooLong)),
                }
            }
        }
        let _ = list.feed(line);
    }
    assert!(list.into_rows().len() <= MAX_LIST_ROWS);
    let _ = String::from_utf8_lossy(data).parse::<Target>();
    converse(data);
});

/// The same bytes through a connection.
fn converse(data: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (near, mut far) = tokio::io::duplex(data.len().max(64) + 1024);
        far.write_all(data).await.expect("the pipe is large enough");
        far.shutdown().await.expect("shut down");
        let mut conn = Conn::over(Box::new(near), "fuzz".to_owned(), Duration::from_secs(5));
        if let Ok(vars) = conn.list_vars("ups").await {
            let reading = reading_from_vars(vars);
            assert!(reading.charge.is_none_or(|charge| (0.0..=100.0).contains(&charge)));
        }
        let _ = conn.version().await;
        let _ = conn.num_logins("ups").await;
    });
}
