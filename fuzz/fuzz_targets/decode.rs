//! Any bytes, cut anywhere, under any limit: the decoder never panics, and its items do not depend
//! on the cuts. Look here when a stream is decoded differently from one run to the next.

#![no_main]

use std::time::Duration;

use headwater::event::{Decoder, Item};
use headwater::limits::DECODER_BYTES_MAX;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

#[derive(Debug, Arbitrary)]
struct Input<'a> {
    /// Small, so that a few bytes exceed it; or the default.
    limit_bytes: Option<u8>,
    chunk_bytes: Vec<u8>,
    stream: Vec<Piece<'a>>,
}

/// Part of a stream. From bytes alone the fuzzer hardly ever creates a field.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Piece<'a> {
    Data,
    Event,
    Id,
    Retry,
    Comment,
    Space,
    Cr,
    Lf,
    CrLf,
    Bom,
    HalfBom,
    Nul,
    Bytes(&'a [u8]),
}

/// What a client decodes from a stream, and the error that ended it.
#[derive(Debug, PartialEq)]
struct Decoded {
    items: Vec<Item>,
    retry: Option<Duration>,
    last_event_id: String,
    error: Option<String>,
}

fuzz_target!(|input: Input| {
    let limit_bytes = input.limit_bytes.map_or(DECODER_BYTES_MAX, usize::from);
    let stream: Vec<u8> = input.stream.iter().flat_map(|piece| piece.bytes()).copied().collect();
    let whole = decode(limit_bytes, [stream.as_slice()]);
    assert_eq!(decode(limit_bytes, cut(&stream, &input.chunk_bytes)), whole);
    assert_eq!(decode(limit_bytes, stream.chunks(1)), whole);
    check_bounds(limit_bytes, &whole.items);
});

impl<'a> Piece<'a> {
    fn bytes(self) -> &'a [u8] {
        match self {
            Self::Data => b"data:",
            Self::Event => b"event:",
            Self::Id => b"id:",
            Self::Retry => b"retry:7",
            Self::Comment => b":",
            Self::Space => b" ",
            Self::Cr => b"\r",
            Self::Lf => b"\n",
            Self::CrLf => b"\r\n",
            Self::Bom => b"\xEF\xBB\xBF",
            Self::HalfBom => b"\xEF\xBB",
            Self::Nul => b"\0",
            Self::Bytes(bytes) => bytes,
        }
    }
}

fn decode<'a>(limit_bytes: usize, chunks: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
    let mut decoder = Decoder::new().with_limit(limit_bytes);
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
                    "a failed decoder keeps its error"
                );
                assert_eq!(items.len(), before, "a failed decoder returns no items");
            }
        }
    }
    let last_event_id = decoder.last_event_id().to_owned();
    Decoded { items, retry: decoder.retry(), last_event_id, error }
}

/// Cuts the stream into pieces of these sizes; the rest is the last piece.
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

fn check_bounds(limit_bytes: usize, items: &[Item]) {
    for item in items {
        let Item::Event(message) = item else { continue };
        assert!(message.data.len() <= limit_bytes);
        assert!(!message.data.contains('\r') && !message.id.contains(['\r', '\n', '\0']));
        assert!(!message.name.is_empty() && !message.name.contains(['\r', '\n']));
    }
}
