//! Counts the events of an event stream, from pieces cut anywhere, and reads their stamps. Look
//! here when the generator counts wrongly.
//!
//! It stores no text, so it costs a fraction of what it measures. Its tests compare it with the
//! library's decoder, which stores everything. Unlike the decoder it does not remove a byte order
//! mark, and ignores ids.

use memchr::memchr2;

use crate::stamp::{STAMP_BYTES, Stamp};

const FIELD: &[u8] = b"data";

/// The state of reading an event stream.
#[derive(Debug)]
pub(crate) struct Scanner {
    line: Line,
    /// The last byte was a CR: a following LF belongs to it.
    after_cr: bool,
    /// The block has data, so it is an event.
    has_data: bool,
    stamp: Option<Stamp>,
}

/// The position in a line.
#[derive(Debug)]
enum Line {
    Start,
    /// This many bytes of `data` have matched.
    Field(usize),
    /// At the front of the data: the part of the stamp read so far, the only text that is ever
    /// stored.
    Front {
        stamp: [u8; STAMP_BYTES],
        bytes: u8,
        may_be_space: bool,
    },
    /// In the rest of a line, which is ignored.
    Rest,
}

impl Scanner {
    pub(crate) fn new() -> Self {
        Self { line: Line::Start, after_cr: false, has_data: false, stamp: None }
    }

    /// Reads the next piece, and reports each complete event, with its stamp if it has one.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut on_event: impl FnMut(Option<Stamp>)) {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            bytes = match &mut self.line {
                Line::Rest => self.rest(bytes),
                Line::Start if is_end(first) => {
                    if std::mem::take(&mut self.has_data) {
                        on_event(self.stamp.take());
                    }
                    self.after_cr = first == b'\r';
                    &bytes[1..]
                }
                Line::Start => self.start(bytes),
                Line::Field(_) | Line::Front { .. } => self.byte(first, &bytes[1..]),
            };
        }
    }

    /// Reads a line from its start. Most lines have their whole front in this piece.
    fn start<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if bytes[0] != FIELD[0] {
            self.line = Line::Rest;
            return self.rest(bytes);
        }
        let whole = FIELD.len() + 2 + STAMP_BYTES;
        if bytes.len() >= whole && bytes.starts_with(b"data: ") && !self.has_data {
            self.stamp = Stamp::read(&bytes[FIELD.len() + 2..]);
            self.has_data = true;
            self.line = Line::Rest;
            return &bytes[FIELD.len() + 2..];
        }
        self.line = Line::Field(0);
        bytes
    }

    fn rest<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        match memchr2(b'\r', b'\n', bytes) {
            None => &[],
            Some(at) => {
                self.line = Line::Start;
                self.after_cr = bytes[at] == b'\r';
                &bytes[at + 1..]
            }
        }
    }

    /// Reads one byte of the front of a line that was cut.
    fn byte<'a>(&mut self, byte: u8, after: &'a [u8]) -> &'a [u8] {
        let ends = is_end(byte);
        let line = std::mem::replace(&mut self.line, Line::Rest);
        self.line = match line {
            Line::Field(matched) if FIELD.get(matched) == Some(&byte) => Line::Field(matched + 1),
            Line::Field(matched) if matched == FIELD.len() && (byte == b':' || ends) => {
                let is_first = !std::mem::replace(&mut self.has_data, true);
                if is_first && !ends {
                    Line::Front { stamp: [0; STAMP_BYTES], bytes: 0, may_be_space: true }
                } else {
                    Line::Rest
                }
            }
            Line::Front { stamp, bytes: 0, may_be_space: true } if byte == b' ' => {
                Line::Front { stamp, bytes: 0, may_be_space: false }
            }
            Line::Front { mut stamp, bytes, .. } if !ends => {
                stamp[usize::from(bytes)] = byte;
                let bytes = bytes + 1;
                if usize::from(bytes) == STAMP_BYTES {
                    self.stamp = Stamp::read(&stamp);
                    Line::Rest
                } else {
                    Line::Front { stamp, bytes, may_be_space: false }
                }
            }
            _ => Line::Rest,
        };
        if ends {
            self.line = Line::Start;
            self.after_cr = byte == b'\r';
        }
        after
    }
}

fn is_end(byte: u8) -> bool {
    byte == b'\r' || byte == b'\n'
}

#[cfg(test)]
mod tests {
    use headwater::event::{Decoder, Item};
    use proptest::prelude::*;

    use super::*;

    /// The events of a stream, read in pieces of a length.
    fn scan(stream: &[u8], piece: usize) -> Vec<Option<Stamp>> {
        let mut scanner = Scanner::new();
        let mut events = Vec::new();
        for piece in stream.chunks(piece.max(1)) {
            scanner.feed(piece, |stamp| events.push(stamp));
        }
        events
    }

    /// The same with the library's decoder.
    fn decode(stream: &[u8]) -> Vec<Option<Stamp>> {
        let mut decoder = Decoder::new();
        decoder.push(stream).expect("a small stream");
        let mut events = Vec::new();
        while let Some(item) = decoder.next_item() {
            if let Item::Event(message) = item {
                let first = message.data.split('\n').next().unwrap_or_default();
                events.push(Stamp::read(first.as_bytes()));
            }
        }
        events
    }

    #[test]
    fn an_event_is_counted_once_and_its_stamp_is_read() {
        let data = "000000000000000a00000000000000ff....";
        let stream =
            format!(": hello\n\nretry: 9\n\nid: 1\ndata: {data}\n\ndata: x\r\n\r\nid: 2\n\n");
        let stamp = Stamp { sequence: 10, sent_at_ns: 255 };
        for piece in 1..=stream.len() {
            assert_eq!(scan(stream.as_bytes(), piece), [Some(stamp), None], "by {piece}");
        }
    }

    fn any_line() -> impl Strategy<Value = Vec<u8>> {
        let stamp = (any::<u64>(), any::<u64>()).prop_map(|(sequence, sent_at_ns)| {
            let mut data = [b'.'; STAMP_BYTES];
            Stamp { sequence, sent_at_ns }.write(&mut data);
            [b"data: ".as_slice(), &data].concat()
        });
        let word = prop::sample::select(vec![
            "data", "data:", "data: ", "data:  ", "dat", "dataX", "da", "id: 1", ": c", "event: e",
            "", "0f", "x", ":",
        ]);
        prop_oneof![
            3 => stamp,
            6 => prop::collection::vec(word, 1..4).prop_map(|words| words.concat().into_bytes()),
            1 => prop::collection::vec(prop::sample::select(b"data: 0\r\n".to_vec()), 0..50),
        ]
    }

    fn any_line_end() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec!["\n", "\r", "\r\n", "\n\n", ""])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]
        #[test]
        fn scanner_and_decoder_see_the_same_events(
            lines in prop::collection::vec((any_line(), any_line_end()), 0..20),
            piece in 1_usize..60,
        ) {
            let stream: Vec<u8> =
                lines.into_iter().flat_map(|(line, end)| [line, end.into()].concat()).collect();
            prop_assert_eq!(scan(&stream, piece), decode(&stream));
        }
    }
}
