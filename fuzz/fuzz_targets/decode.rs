//! Any bytes, cut anywhere, under any limit: the decoder never panics, and what it reads does not
//! depend on the cuts. Look here when a stream is read differently from one run to the next.

#![no_main]

use std::time::Duration;

use headwater::{Decoder, Item};
use libfuzzer_sys::fuzz_target;

/// All that a client learns from a stream, and the error that ended it.
#[derive(Debug, PartialEq)]
struct Learned {
    items: Vec<Item>,
    retry: Option<Duration>,
    last_event_id: String,
    error: Option<String>,
}

fuzz_target!(|input: (u16, Vec<u8>, &[u8])| {
    let (limit_bytes, chunk_bytes, stream) = input;
    let whole = learn(limit_bytes, [stream]);
    assert_eq!(learn(limit_bytes, cut(stream, &chunk_bytes)), whole);
    assert_eq!(learn(limit_bytes, stream.chunks(1)), whole);
    check_bounds(limit_bytes, &whole.items);
});

fn learn<'a>(limit_bytes: u16, chunks: impl IntoIterator<Item = &'a [u8]>) -> Learned {
    let mut decoder = Decoder::new().with_limit(limit_bytes.into());
    let mut items = Vec::new();
    let mut error: Option<String> = None;
    for chunk in chunks {
        let result = decoder.push(chunk);
        let before = items.len();
        items.extend(std::iter::from_fn(|| decoder.next_item()));
        match (&error, result) {
            (None, result) => error = result.err().map(|error| error.to_string()),
            (Some(first), result) => {
                assert_eq!(
                    result.unwrap_err().to_string(),
                    *first,
                    "a failed decoder stays failed"
                );
                assert_eq!(items.len(), before, "a failed decoder reads nothing");
            }
        }
    }
    let last_event_id = decoder.last_event_id().to_owned();
    Learned { items, retry: decoder.retry(), last_event_id, error }
}

/// The stream in pieces of these sizes, and what is left as the last piece.
fn cut<'a>(mut stream: &'a [u8], chunk_bytes: &[u8]) -> Vec<&'a [u8]> {
    let mut chunks = Vec::new();
    for &bytes in chunk_bytes {
        let (chunk, rest) = stream.split_at(stream.len().min(bytes.into()));
        chunks.push(chunk);
        stream = rest;
    }
    chunks.push(stream);
    chunks
}

fn check_bounds(limit_bytes: u16, items: &[Item]) {
    for item in items {
        let Item::Event(message) = item else { continue };
        assert!(message.data.len() <= limit_bytes.into());
        assert!(!message.data.contains('\r') && !message.id.contains(['\r', '\n', '\0']));
        assert!(!message.name.is_empty() && !message.name.contains(['\r', '\n']));
    }
}
