//! Any query string: it is rejected with a message, or parsed into checked values. Never a panic.

#![no_main]

use headwater_server::sse::query::{PublishQuery, StreamQuery};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|query: &str| {
    match StreamQuery::parse(query, 100) {
        Ok(parsed) => {
            assert!((1..=100).contains(&parsed.channels.len()));
            for (at, channel) in parsed.channels.iter().enumerate() {
                assert!(!parsed.channels[..at].contains(channel));
            }
        }
        Err(message) => assert!(!message.is_empty()),
    }
    if let Ok(parsed) = PublishQuery::parse(query) {
        match parsed.event("data".to_owned()) {
            Ok(event) => assert_eq!(event.data(), "data"),
            Err(message) => assert!(!message.is_empty()),
        }
    }
});
