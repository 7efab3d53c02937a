//! Any batch: it is rejected with a message that names a line, or parsed into one event per line.
//! Never a panic.

#![no_main]

use headwater::Channel;
use headwater_server::sse::ndjson;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &str| {
    let fallback = Channel::new("fallback").expect("a valid name");
    let lines = body.lines().filter(|line| !line.trim().is_empty()).count();
    match ndjson::parse(body, &fallback) {
        Ok(batch) => assert_eq!(batch.len(), lines),
        Err(message) => assert!(message.contains("the batch"), "{message}"),
    }
});
