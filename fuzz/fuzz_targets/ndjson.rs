//! Any batch: it is refused with a sentence that names a line, or gives one event per line. Never a panic.

#![no_main]

use headwater::Channel;
use headwater_server::sse::ndjson;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &str| {
    let fallback = Channel::new("fallback").expect("a good name");
    let lines = body.lines().filter(|line| !line.trim().is_empty()).count();
    match ndjson::parse(body, &fallback) {
        Ok(batch) => assert_eq!(batch.len(), lines),
        Err(sentence) => assert!(sentence.contains("the batch"), "{sentence}"),
    }
});
