//! Decodes an event stream as a browser does, from chunks split at any byte. Look here when the
//! stream of a client, a test or another server is decoded wrongly.
//!
//! The rules are those of the section "Server-sent events" of the HTML standard. Lines are split as
//! bytes and decoded one by one, which yields the same text as decoding the whole stream: no line
//! end is part of a longer UTF-8 sequence.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use memchr::{memchr, memchr2};

use crate::error::{Error, ErrorKind};
use crate::limits::DECODER_BYTES_MAX;

/// Longest accepted id, in bytes. 8 KiB is what servers commonly accept as one header line. Every
/// later event carries a copy of it: unbounded, a few bytes on the wire would cost megabytes.
const ID_BYTES_MAX: usize = 8 << 10;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The name of an event without a name on the wire.
const NAME_DEFAULT: &str = "message";

/// A complete item of a stream, as a [`Decoder`] returns it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// An event.
    Event(Message),
    /// One line of a comment, without its colon and without one space after it.
    Comment(String),
    /// The server set the reconnect delay.
    Retry(Duration),
}

/// An event as a client receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The event's name; `message` if it has none on the wire.
    pub name: String,
    /// The data. Lines are separated by LF.
    pub data: String,
    /// The last event ID of the stream as of this event: its own, or that of an earlier event;
    /// empty if there was none.
    pub id: String,
}

/// Decodes an event stream from chunks split at any byte, as the HTML standard defines it.
///
/// Push each chunk, then take items until there are none. The decoder holds the items that were not
/// taken, one incomplete line and one incomplete event. Bytes that are not UTF-8 become U+FFFD.
/// When the stream ends, drop the decoder: an event without its closing empty line is discarded.
///
/// ```
/// use headwater::event::{Decoder, Item};
///
/// let mut decoder = Decoder::new();
/// decoder.push(b"id: 7\ndata: hel")?;
/// assert_eq!(decoder.next_item(), None);
/// decoder.push(b"lo\n\n")?;
/// let Some(Item::Event(message)) = decoder.next_item() else { panic!("no event") };
/// assert_eq!((message.name.as_str(), message.data.as_str()), ("message", "hello"));
/// assert_eq!(decoder.last_event_id(), "7");
/// # Ok::<(), headwater::Error>(())
/// ```
#[derive(Debug)]
pub struct Decoder {
    limit_bytes: usize,
    exceeded: Option<Exceeded>,
    /// How many bytes of a leading BOM were seen; all of them once no more of it can follow.
    bom_seen: usize,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// The start of an incomplete line.
    line: Vec<u8>,
    /// The fields of the incomplete block. The id persists from block to block.
    name: String,
    data: Option<String>,
    id: Arc<str>,
    last_event_id: Arc<str>,
    retry: Option<Duration>,
    items: VecDeque<Decoded>,
}

/// An [`Item`] that was not taken yet. Its id is shared until then, see [`ID_BYTES_MAX`].
#[derive(Debug)]
enum Decoded {
    Event { name: String, data: String, id: Arc<str> },
    Comment(String),
    Retry(Duration),
}

/// What exceeded its limit. The decoder reads no further.
#[derive(Debug, Clone, Copy)]
enum Exceeded {
    Line,
    Data,
    Id,
}

impl Decoder {
    /// A decoder at the start of a stream.
    pub fn new() -> Self {
        Self {
            limit_bytes: DECODER_BYTES_MAX,
            exceeded: None,
            bom_seen: 0,
            after_cr: false,
            line: Vec::new(),
            name: String::new(),
            data: None,
            id: Arc::default(),
            last_event_id: Arc::default(),
            retry: None,
            items: VecDeque::new(),
        }
    }

    /// Sets the longest line, and the longest data of one event, in bytes. The default is
    /// [`DECODER_BYTES_MAX`].
    #[must_use]
    pub fn with_limit(mut self, bytes: usize) -> Self {
        self.limit_bytes = bytes;
        self
    }

    /// Decodes the next chunk of the stream.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if a line or an event's data is longer than the limit, or an id
    /// longer than 8 KiB. Earlier items can still be taken, nothing after them is read, and every
    /// later push returns the same error: close the stream.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if self.exceeded.is_none() {
            self.exceeded = self.read(chunk).err();
        }
        match self.exceeded {
            None => Ok(()),
            Some(exceeded) => Err(exceeded.error(self.limit_bytes)),
        }
    }

    /// Takes the next item; `None` until more is pushed.
    pub fn next_item(&mut self) -> Option<Item> {
        Some(match self.items.pop_front()? {
            Decoded::Event { name, data, id } => {
                Item::Event(Message { name, data, id: String::from(&*id) })
            }
            Decoded::Comment(text) => Item::Comment(text),
            Decoded::Retry(retry) => Item::Retry(retry),
        })
    }

    /// The id to send as `Last-Event-ID` on a reconnect; empty if there is none.
    ///
    /// It moves at the end of every block, even one that dispatches no event, and so is ahead of
    /// the items that were not taken yet.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// The reconnect delay that the server set last.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn read(&mut self, chunk: &[u8]) -> Result<(), Exceeded> {
        let mut rest = self.skip_bom(chunk);
        while let Some(&first) = rest.first() {
            if mem::take(&mut self.after_cr) && first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let Some(at) = memchr2(b'\r', b'\n', rest) else {
                self.check_line(rest)?;
                self.line.extend_from_slice(rest);
                break;
            };
            self.end_line(&rest[..at])?;
            self.after_cr = rest[at] == b'\r';
            rest = &rest[at + 1..];
        }
        Ok(())
    }

    /// The part of this chunk after a leading BOM.
    fn skip_bom<'a>(&mut self, mut chunk: &'a [u8]) -> &'a [u8] {
        while self.bom_seen < BOM.len() {
            match chunk.split_first() {
                None => break,
                Some((&byte, rest)) if byte == BOM[self.bom_seen] => {
                    self.bom_seen += 1;
                    chunk = rest;
                }
                Some(_) => {
                    self.line.extend_from_slice(&BOM[..self.bom_seen]);
                    self.bom_seen = BOM.len();
                }
            }
        }
        chunk
    }

    fn check_line(&self, tail: &[u8]) -> Result<(), Exceeded> {
        if self.line.len() + tail.len() > self.limit_bytes { Err(Exceeded::Line) } else { Ok(()) }
    }

    fn end_line(&mut self, tail: &[u8]) -> Result<(), Exceeded> {
        self.check_line(tail)?;
        if self.line.is_empty() {
            return self.take_line(tail);
        }
        let mut line = mem::take(&mut self.line);
        line.extend_from_slice(tail);
        self.take_line(&line)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Exceeded> {
        let (field, value) = match memchr(b':', line) {
            Some(at) => (&line[..at], without_space(&line[at + 1..])),
            None => (line, &[][..]),
        };
        match field {
            b"" if line.is_empty() => self.end_block(),
            b"" => self.items.push_back(Decoded::Comment(text(value))),
            b"data" => self.take_data(value)?,
            b"event" => self.name = text(value),
            b"id" => self.take_id(value)?,
            b"retry" => self.take_retry(value),
            _ => {}
        }
        Ok(())
    }

    fn take_data(&mut self, value: &[u8]) -> Result<(), Exceeded> {
        let data = match &mut self.data {
            None => self.data.insert(String::new()),
            Some(data) => {
                data.push('\n');
                data
            }
        };
        for piece in value.utf8_chunks() {
            data.push_str(piece.valid());
            if !piece.invalid().is_empty() {
                data.push(char::REPLACEMENT_CHARACTER);
            }
        }
        if data.len() > self.limit_bytes { Err(Exceeded::Data) } else { Ok(()) }
    }

    fn take_id(&mut self, value: &[u8]) -> Result<(), Exceeded> {
        if memchr(0, value).is_some() {
            return Ok(());
        }
        if value.len() > ID_BYTES_MAX {
            return Err(Exceeded::Id);
        }
        self.id = text(value).into();
        Ok(())
    }

    fn take_retry(&mut self, value: &[u8]) {
        if !value.iter().all(u8::is_ascii_digit) {
            return;
        }
        // Fails without digits and on overflow: both are ignored.
        if let Ok(ms) = text(value).parse() {
            let retry = Duration::from_millis(ms);
            self.retry = Some(retry);
            self.items.push_back(Decoded::Retry(retry));
        }
    }

    fn end_block(&mut self) {
        self.last_event_id = Arc::clone(&self.id);
        let mut name = mem::take(&mut self.name);
        let Some(data) = self.data.take() else { return };
        if name.is_empty() {
            NAME_DEFAULT.clone_into(&mut name);
        }
        self.items.push_back(Decoded::Event { name, data, id: Arc::clone(&self.id) });
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Exceeded {
    fn error(self, limit_bytes: usize) -> Error {
        let (what, bytes_max) = match self {
            Self::Line => ("a line", limit_bytes),
            Self::Data => ("the data of an event", limit_bytes),
            Self::Id => ("the id of an event", ID_BYTES_MAX),
        };
        let remedy = match self {
            Self::Line | Self::Data => "raise the decoder's limit, or make the sender write less",
            Self::Id => "make the sender use ids that fit a request header",
        };
        let message =
            format!("{what} in the event stream has more than {bytes_max} bytes: {remedy}");
        Error::new(ErrorKind::TooLarge, message)
    }
}

fn without_space(value: &[u8]) -> &[u8] {
    value.strip_prefix(b" ").unwrap_or(value)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(decoder: &mut Decoder) -> Vec<Item> {
        std::iter::from_fn(|| decoder.next_item()).collect()
    }

    fn event(name: &str, data: &str, id: &str) -> Item {
        Item::Event(Message { name: name.into(), data: data.into(), id: id.into() })
    }

    fn comment(text: &str) -> Item {
        Item::Comment(text.into())
    }

    fn retry(ms: u64) -> Item {
        Item::Retry(Duration::from_millis(ms))
    }

    /// Decodes a stream as one chunk and byte by byte.
    #[track_caller]
    fn check(stream: &[u8], expected: &[Item]) {
        let mut whole = Decoder::new();
        whole.push(stream).unwrap();
        assert_eq!(drain(&mut whole), expected, "whole");

        let mut split = Decoder::new();
        for byte in stream {
            split.push(&[*byte]).unwrap();
            split.push(b"").unwrap();
        }
        assert_eq!(drain(&mut split), expected, "byte by byte");
        assert_eq!(split.last_event_id(), whole.last_event_id());
        assert_eq!(split.retry(), whole.retry());
    }

    #[test]
    fn items_are_in_the_order_of_the_stream() {
        check(
            b":a\ndata: 1\nretry: 5\n: b\n\n:\nid: x\nevent: n\ndata: 2\n\n",
            &[
                comment("a"),
                retry(5),
                comment("b"),
                event("message", "1", ""),
                comment(""),
                event("n", "2", "x"),
            ],
        );
    }

    #[test]
    fn a_comment_loses_its_colon_and_one_space() {
        check(b":\n", &[comment("")]);
        check(b": \n", &[comment("")]);
        check(b":  a: b \r\n", &[comment(" a: b ")]);
        check(b": unfinished", &[]);
        check(b" : no comment\n", &[]);
    }

    #[test]
    fn bytes_that_are_not_utf8_become_replacement_characters() {
        check(b"data: a\xFFb\n\n", &[event("message", "a\u{FFFD}b", "")]);
        check(b"data: \xE2\x82\ndata: \xAC\n\n", &[event("message", "\u{FFFD}\n\u{FFFD}", "")]);
        check(b"data: \xF0\x9F\x8C\r\r", &[event("message", "\u{FFFD}", "")]);
        check(b"data: \xF0\x9F\x8C\x8A\r\r", &[event("message", "\u{1F30A}", "")]);
        check(b"data: \xED\xA0\x80\n\n", &[event("message", "\u{FFFD}\u{FFFD}\u{FFFD}", "")]);
        check(b"event: \xC0\nid: \x80\ndata\n\n", &[event("\u{FFFD}", "", "\u{FFFD}")]);
        check(b": \xC3\n", &[comment("\u{FFFD}")]);
        check(b"data\xFF: a\n\n", &[]);
    }

    #[test]
    fn only_a_complete_bom_at_the_start_is_removed() {
        check(b"\xEF\xBB\xBFdata: a\n\n", &[event("message", "a", "")]);
        check(b"\xEF\xBBdata: a\n\n", &[]);
        check(b"\xEF\xBB\ndata: a\n\n", &[event("message", "a", "")]);
        check(b"\xEF\xEF\xBB\xBFdata: a\n\n", &[]);
        check(b"\xBB\xBB\xBFdata: a\n\n", &[]);
        check(b"\n\xEF\xBB\xBFdata: a\n\n", &[]);
        check(b"\xEF\xBB\xBF: a\n", &[comment("a")]);
    }

    #[test]
    fn retry_accepts_digits_within_64_bits() {
        check(b"retry: 0\n", &[retry(0)]);
        check(b"retry:0000000000000000000000000012\n", &[retry(12)]);
        check(b"retry: 18446744073709551615\n", &[retry(u64::MAX)]);
        check(b"retry: 18446744073709551616\n", &[]);
        check(format!("retry: {}\n", "9".repeat(1000)).as_bytes(), &[]);
        for ignored in ["", " ", "+1", "-1", "1.5", "1 ", "  1", "1e3", "0x1", "\u{661}"] {
            check(format!("retry: {ignored}\n").as_bytes(), &[]);
        }
    }

    #[test]
    fn the_id_is_committed_when_its_block_ends() {
        let mut decoder = Decoder::new();
        let mut check = |chunk: &str, expected: &str| {
            decoder.push(chunk.as_bytes()).unwrap();
            assert_eq!(decoder.last_event_id(), expected, "after {chunk:?}");
        };
        check("id: 1\n", "");
        check("\n", "1");
        check("id: 2\nid: 3\ndata: a", "1");
        check("\r", "1");
        check("\r", "3");
        check("\nid: a\0b\n\n", "3");
        check("data: b\n\n", "3");
        check("id\n", "3");
        check("\n", "");
    }

    #[test]
    fn an_unfinished_block_is_discarded() {
        check(b"data: a\n", &[]);
        check(b"data: a\n\ndata: b\r\n", &[event("message", "a", "")]);
        check(b"id: 1\n\nid: 2\ndata: a\n", &[]);
    }

    /// Expects these items before the error, as one chunk and byte by byte, and the error's start.
    #[track_caller]
    fn check_limit(limit_bytes: usize, stream: &[u8], expected: Result<&[Item], (&[Item], &str)>) {
        for size in [stream.len(), 1] {
            let mut decoder = Decoder::new().with_limit(limit_bytes);
            let result = stream.chunks(size).try_for_each(|chunk| decoder.push(chunk));
            let items = drain(&mut decoder);
            match (result, expected) {
                (Ok(()), Ok(expected)) => assert_eq!(items, expected),
                (Err(error), Err((expected, beginning))) => {
                    assert_eq!(items, expected);
                    assert_eq!(error.kind(), ErrorKind::TooLarge);
                    assert!(error.to_string().starts_with(beginning), "{error}");
                    let later = decoder.push(b"data: later\n\n").unwrap_err();
                    assert_eq!(later.to_string(), error.to_string());
                    assert_eq!(drain(&mut decoder), []);
                }
                (result, expected) => panic!("got {result:?} and {items:?}, expected {expected:?}"),
            }
        }
    }

    #[test]
    fn lines_data_and_ids_are_limited() {
        let a = [event("message", "a", "")];
        let long_id = |len| format!("id: {}\ndata: a\n\n", "i".repeat(len));

        check_limit(7, b"data: a\n\n", Ok(&a));
        check_limit(6, b"data: a\n\n", Err((&[], "a line in the event stream has more than 6 ")));
        check_limit(7, b"data: a\n\ndata: bc", Err((&a, "a line")));
        check_limit(7, b"data: a\n\n:2345678\n", Err((&a, "a line")));
        check_limit(0, b"\n\r\n", Ok(&[]));
        check_limit(0, b"\xEF\xBB\xBF\n", Ok(&[]));
        check_limit(0, b"\xEFa", Err((&[], "a line")));

        let lines = [event("message", "a\nb\nc\nd", "")];
        check_limit(7, b"data:a\ndata:b\ndata:c\ndata:d\n\n", Ok(&lines));
        check_limit(
            7,
            b"data:a\n\ndata:a\ndata:b\ndata:c\ndata:de\n\n",
            Err((&a, "the data of an event in the event stream has more than 7 ")),
        );
        check_limit(4, &b"data\n".repeat(5), Ok(&[]));
        check_limit(4, &b"data\n".repeat(6), Err((&[], "the data")));
        // Three bytes on the wire, nine as text.
        check_limit(8, b"data:\xFF\xFF\xFF\n", Err((&[], "the data")));

        let id = "i".repeat(ID_BYTES_MAX);
        check_limit(1 << 20, long_id(ID_BYTES_MAX).as_bytes(), Ok(&[event("message", "a", &id)]));
        check_limit(1 << 20, long_id(ID_BYTES_MAX + 1).as_bytes(), Err((&[], "the id")));
    }

    #[test]
    fn the_default_limit_is_the_documented_one() {
        let mut decoder = Decoder::default();
        decoder.push(&vec![b'x'; DECODER_BYTES_MAX]).unwrap();
        let error = decoder.push(b"x").unwrap_err();
        assert!(error.to_string().contains(&DECODER_BYTES_MAX.to_string()), "{error}");
    }
}
