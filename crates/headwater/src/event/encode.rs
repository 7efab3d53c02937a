//! Writes events, comments and the rest of the stream's format. The only place that knows `data: `.
//!
//! Whatever is written ends with an empty line, lines end with LF alone, and a field's colon is always
//! followed by one space, which is the one that clients remove: data that begins with a space keeps it.
//! Empty data is no exception and is written as `data: `.

use std::time::Duration;

use memchr::{memchr2, memchr2_iter};

use super::{Event, EventId};

const NAME: &[u8] = b"event: ";
const ID: &[u8] = b"id: ";
const RETRY: &[u8] = b"retry: ";
const DATA: &[u8] = b"data: ";

/// Most digits of a `u64`.
const RETRY_DIGITS_MAX: usize = 20;

/// Writes an event. A name comes first: the hub turns an event without one into an event named after
/// its channel by writing [`encode_name`] before it, without encoding it again.
pub(crate) fn encode(event: &Event, out: &mut Vec<u8>) {
    out.reserve(encoded_len_max(event));
    if let Some(name) = &event.name {
        encode_name(name.as_str(), out);
    }
    if let Some(id) = &event.id {
        field(ID, id.as_str(), out);
    }
    if let Some(retry) = event.retry {
        retry_line(retry, out);
    }
    for line in Lines::of(&event.data) {
        field(DATA, line, out);
    }
    out.push(b'\n');
}

/// Writes the one line that names an event. The name must be a checked one, of an event or a channel:
/// a line end in it would forge a field.
pub(crate) fn encode_name(name: &str, out: &mut Vec<u8>) {
    debug_assert!(!name.contains(['\r', '\n']), "{name:?} was not checked");
    field(NAME, name, out);
}

/// Writes a comment: a `:` on each of its lines, and a space before text that is there.
#[allow(dead_code, reason = "the stream's response writes it")]
pub(crate) fn encode_comment(text: &str, out: &mut Vec<u8>) {
    for line in Lines::of(text) {
        field(if line.is_empty() { b":" } else { b": " }, line, out);
    }
    out.push(b'\n');
}

/// Writes a block that tells the client how long to wait before it connects again, and nothing else.
#[allow(dead_code, reason = "the stream's response writes it")]
pub(crate) fn encode_retry(retry: Duration, out: &mut Vec<u8>) {
    retry_line(retry, out);
    out.push(b'\n');
}

/// Writes a block that moves the client's position and fires nothing: for events that were filtered
/// out.
#[allow(dead_code, reason = "resume writes it")]
pub(crate) fn encode_id(id: &EventId, out: &mut Vec<u8>) {
    field(ID, id.as_str(), out);
    out.push(b'\n');
}

/// The duration in whole milliseconds, rounded up, at most [`u64::MAX`].
pub(super) fn whole_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

fn retry_line(retry: Duration, out: &mut Vec<u8>) {
    field(RETRY, &whole_ms(retry).to_string(), out);
}

fn field(prefix: &[u8], value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// What an event takes on the wire. Exact but for CRLF, which counts as two lines, and retry, which
/// counts as its longest: frames live long in the rings, so they should not carry spare room.
fn encoded_len_max(event: &Event) -> usize {
    let name = event.name.as_ref().map_or(0, |name| NAME.len() + name.as_str().len() + 1);
    let id = event.id.as_ref().map_or(0, |id| ID.len() + id.as_str().len() + 1);
    let retry = event.retry.map_or(0, |_| RETRY.len() + RETRY_DIGITS_MAX + 1);
    let line_ends = memchr2_iter(b'\r', b'\n', event.data.as_bytes()).count();
    let data = (line_ends + 1) * DATA.len() + event.data.len() + 1;
    name + id + retry + data + 1
}

/// The lines of a text: CR, LF and CRLF each end one, and after the last end there is one more.
struct Lines<'a> {
    rest: Option<&'a str>,
}

impl<'a> Lines<'a> {
    fn of(text: &'a str) -> Self {
        Self { rest: Some(text) }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.rest?;
        let Some(at) = memchr2(b'\r', b'\n', text.as_bytes()) else {
            self.rest = None;
            return Some(text);
        };
        let (line, end) = text.split_at(at);
        self.rest = Some(end.strip_prefix("\r\n").unwrap_or(&end[1..]));
        Some(line)
    }
}
