//! Encodes events, comments and the other blocks of a stream. Look here for what `data: ` lines are
//! made of; nothing else writes them.
//!
//! Every block ends with an empty line, and every line with LF. A field's colon is always followed
//! by one space, the one that clients remove: data that begins with a space keeps it. That includes
//! empty data, which is written as `data: `.

use std::time::Duration;

use memchr::memchr2;

use crate::event::{Event, EventId, whole_ms};

const NAME: &[u8] = b"event: ";
const ID: &[u8] = b"id: ";
const RETRY: &[u8] = b"retry: ";
const DATA: &[u8] = b"data: ";

/// Maximum number of decimal digits of an event's retry, which is at most `RETRY_MAX`.
const RETRY_DIGITS_MAX: usize = 6;

impl Event {
    /// Encodes the event in wire format: one block of lines that ends with an empty line.
    ///
    /// ```
    /// use headwater::Event;
    ///
    /// let event = Event::new("one\ntwo").with_name("count")?;
    /// assert_eq!(event.encode(), b"event: count\ndata: one\ndata: two\n\n");
    /// # Ok::<(), headwater::Error>(())
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        encode(self, None, &mut out);
        out
    }
}

/// Appends an event. The name comes first: the hub names an event without one after its channel by
/// prepending [`encode_name`], without encoding it again.
///
/// The id is the publisher's, else `position`, if there is one.
pub fn encode(event: &Event, position: Option<&str>, out: &mut Vec<u8>) {
    out.reserve(encoded_len_max(event, position));
    if let Some(name) = &event.name {
        encode_name(name.as_str(), out);
    }
    if let Some(id) = event.id.as_ref().map(EventId::as_str).or(position) {
        field(ID, id, out);
    }
    if let Some(retry) = event.retry {
        retry_line(retry, out);
    }
    for line in Lines::of(event.data()) {
        field(DATA, line, out);
    }
    out.push(b'\n');
}

/// Appends the line that names an event. The name must be the checked name of an event or a
/// channel: a line end in it would inject a field.
pub fn encode_name(name: &str, out: &mut Vec<u8>) {
    debug_assert!(!name.contains(['\r', '\n']), "{name:?} was not checked");
    field(NAME, name, out);
}

/// The number of bytes that [`encode_name`] appends.
pub fn encoded_name_len(name: &str) -> usize {
    NAME.len() + name.len() + 1
}

/// Appends a comment: a `:` on each of its lines, and a space before text that is not empty.
pub fn encode_comment(text: &str, out: &mut Vec<u8>) {
    for line in Lines::of(text) {
        field(if line.is_empty() { b":" } else { b": " }, line, out);
    }
    out.push(b'\n');
}

/// Appends a block that only sets the client's reconnect delay.
pub fn encode_retry(retry: Duration, out: &mut Vec<u8>) {
    retry_line(retry, out);
    out.push(b'\n');
}

/// Appends a block that moves the client's position and dispatches no event, in place of events
/// that were filtered out.
pub fn encode_id(id: &str, out: &mut Vec<u8>) {
    field(ID, id, out);
    out.push(b'\n');
}

fn retry_line(retry: Duration, out: &mut Vec<u8>) {
    field(RETRY, &whole_ms(retry).to_string(), out);
}

fn field(prefix: &[u8], value: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(prefix);
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// The maximum length of an encoded event, in bytes. Exact except for CRLF, which counts as two
/// lines, and retry, which counts as its longest: frames stay in the rings for long, so they should
/// not carry spare capacity.
pub fn encoded_len_max(event: &Event, position: Option<&str>) -> usize {
    let name = event.name.as_ref().map_or(0, |name| NAME.len() + name.as_str().len() + 1);
    let id = event.id.as_ref().map(EventId::as_str).or(position);
    let id = id.map_or(0, |id| ID.len() + id.len() + 1);
    let retry = event.retry.map_or(0, |_| RETRY.len() + RETRY_DIGITS_MAX + 1);
    let data = (line_ends(event.data().as_bytes()) + 1) * DATA.len() + event.data().len() + 1;
    name + id + retry + data + 1
}

/// How many line ends are searched for. To search for each takes ten times as long as to look at
/// all bytes, where there is nothing else.
const LINE_ENDS_SEARCHED_MAX: usize = 64;

/// How many bytes end a line.
fn line_ends(mut data: &[u8]) -> usize {
    for found in 0..LINE_ENDS_SEARCHED_MAX {
        match memchr2(b'\r', b'\n', data) {
            Some(at) => data = &data[at + 1..],
            None => return found,
        }
    }
    let is_end = |byte: &u8| u8::from(matches!(byte, b'\r' | b'\n'));
    // No chunk has more than a byte can count, so that the compiler adds vectors of bytes.
    let chunks = data.chunks(u8::MAX.into());
    let rest: usize = chunks.map(|chunk| usize::from(chunk.iter().map(is_end).sum::<u8>())).sum();
    LINE_ENDS_SEARCHED_MAX + rest
}

/// The lines of a text: CR, LF and CRLF each end a line, and the rest after the last one is a line
/// too.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::{Decoder, Item};

    fn appended(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = b"before ".to_vec();
        write(&mut out);
        let out = String::from_utf8(out).unwrap();
        out.strip_prefix("before ").expect("the buffer is appended to").to_owned()
    }

    #[track_caller]
    fn check(event: &Event, expected: &str) {
        assert_eq!(appended(|out| encode(event, None, out)), expected);
        assert_eq!(event.encode(), expected.as_bytes());
    }

    #[test]
    fn an_event_is_one_block() {
        check(&Event::new("a"), "data: a\n\n");
        check(&Event::new(""), "data: \n\n");
        check(&Event::new(" a "), "data:  a \n\n");
        check(&Event::new("a").with_id("7").unwrap(), "id: 7\ndata: a\n\n");
        check(&Event::new("a").with_retry(Duration::ZERO), "retry: 100\ndata: a\n\n");
        check(
            &Event::new("a")
                .with_retry(Duration::from_secs(3))
                .with_id("7")
                .unwrap()
                .with_name("n")
                .unwrap(),
            "event: n\nid: 7\nretry: 3000\ndata: a\n\n",
        );
    }

    #[test]
    fn every_line_of_data_is_a_field() {
        check(&Event::new("a\nb"), "data: a\ndata: b\n\n");
        check(&Event::new("a\rb\r\nc"), "data: a\ndata: b\ndata: c\n\n");
        check(&Event::new("\n"), "data: \ndata: \n\n");
        check(&Event::new("a\n\r"), "data: a\ndata: \ndata: \n\n");
        check(&Event::new("\r\r\n"), "data: \ndata: \ndata: \n\n");
        check(&Event::new("grüße\n🌊"), "data: grüße\ndata: 🌊\n\n");
        check(&Event::new("\u{FEFF}\u{2028}\0\u{B}"), "data: \u{FEFF}\u{2028}\0\u{B}\n\n");
    }

    #[test]
    fn a_name_can_be_prepended_to_an_encoded_event() {
        let event = Event::new("a").with_id("7").unwrap();
        let renamed = appended(|out| {
            encode_name("orders", out);
            encode(&event, None, out);
        });
        assert_eq!(renamed.as_bytes(), event.with_name("orders").unwrap().encode());
    }

    #[test]
    fn retry_is_in_whole_milliseconds_rounded_up() {
        let check = |retry, expected: &str| {
            let line = format!("retry: {expected}\n");
            assert_eq!(appended(|out| encode_retry(retry, out)), line.clone() + "\n");
        };
        check(Duration::ZERO, "0");
        check(Duration::from_nanos(1), "1");
        check(Duration::from_millis(2500), "2500");
        check(Duration::from_micros(2_500_001), "2501");
        check(Duration::from_millis(u64::MAX), "18446744073709551615");
        check(Duration::MAX, "18446744073709551615");
    }

    #[test]
    fn the_retry_of_an_event_is_bounded() {
        for (retry, ms) in [
            (Duration::ZERO, 100),
            (Duration::from_millis(99), 100),
            (Duration::from_micros(100_001), 101),
            (Duration::from_secs(300), 300_000),
            (Duration::from_millis(300_001), 300_000),
            (Duration::from_millis(u32::MAX.into()), 300_000),
            (Duration::MAX, 300_000),
        ] {
            check(&Event::new("a").with_retry(retry), &format!("retry: {ms}\ndata: a\n\n"));
        }
    }

    #[test]
    fn no_comment_dispatches_an_event() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            let comment = appended(|out| encode_comment(text, out));
            assert_eq!(comment, expected);

            let mut decoder = Decoder::new();
            decoder.push(comment.as_bytes()).unwrap();
            let read: Vec<_> = std::iter::from_fn(|| decoder.next_item()).collect();
            let lines: Vec<_> = Lines::of(text).map(|line| Item::Comment(line.into())).collect();
            assert_eq!(read, lines);
            assert_eq!((decoder.last_event_id(), decoder.retry()), ("", None));
        }

        check("", ":\n\n");
        check("ping", ": ping\n\n");
        check(" a", ":  a\n\n");
        check(":", ": :\n\n");
        check("a\n\nb", ": a\n:\n: b\n\n");
        check("a\r\ndata: b\rid: 1\nretry: 1", ": a\n: data: b\n: id: 1\n: retry: 1\n\n");
        check("a\n", ": a\n:\n\n");
    }

    #[test]
    fn an_id_alone_is_a_block() {
        let id = EventId::new("7").unwrap();
        assert_eq!(appended(|out| encode_id(id.as_str(), out)), "id: 7\n\n");
    }

    #[test]
    fn the_buffer_is_reserved_once() {
        let check = |event: Event, spare_bytes_max: usize| {
            let mut out = Vec::new();
            encode(&event, None, &mut out);
            let len_max = encoded_len_max(&event, None);
            assert!(out.len() <= len_max, "{event:?} exceeds the reserved capacity");
            assert!(out.capacity() <= len_max.max(8), "{event:?} makes the buffer grow");
            assert!(len_max - out.len() <= spare_bytes_max, "{event:?} wastes capacity");
        };
        check(Event::new(""), 0);
        check(Event::new("a\nb\rc\n"), 0);
        check(Event::new("\n".repeat(1_000)), 0);
        check(Event::new("grüße").with_name("🌊").unwrap().with_id("7").unwrap(), 0);
        check(Event::new("a\r\nb"), DATA.len() + 1);
        check(Event::new("").with_retry(Duration::MAX), 0);
        check(Event::new("").with_retry(Duration::ZERO), RETRY_DIGITS_MAX - 3);
    }
}
