//! Reads an event stream as a browser does, from pieces cut anywhere. Look here when a client, a test
//! or another server's stream is read wrongly.
//!
//! The rules are those of the section "Server-sent events" of the HTML standard. Lines are cut as bytes
//! and decoded one by one, which gives the same text as decoding the whole stream: no line end is ever
//! part of a longer UTF-8 sequence.

use std::collections::VecDeque;
use std::mem;
use std::sync::Arc;
use std::time::Duration;

use memchr::{memchr, memchr2};

use crate::error::{Error, ErrorKind};
use crate::limits::DECODER_BYTES_MAX;

/// Longest id taken, in bytes. 8 KiB is what servers commonly accept as one header line, and every
/// event after the id carries a copy of it: unbounded, a few bytes on the wire would cost megabytes.
const ID_BYTES_MAX: usize = 8 << 10;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// The name of an event that was sent without one.
const NAME_DEFAULT: &str = "message";

/// Something complete that a [`Decoder`] found in a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Item {
    /// An event.
    Event(Message),
    /// One line of a comment, without its colon and without one space after it.
    Comment(String),
    /// The server asked to wait this long before connecting again.
    Retry(Duration),
}

/// An event as a client receives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// The event's name; `message` if it was sent without one.
    pub name: String,
    /// The data. Lines are separated by LF.
    pub data: String,
    /// The last id the stream had given when the event came: its own, or that of an event before it;
    /// empty if there was none.
    pub id: String,
}

/// Reads an event stream from pieces cut anywhere, as the HTML standard tells browsers to.
///
/// Push what arrives, then take items until there are none. The decoder holds the items of the pushes
/// since then, one unfinished line and one unfinished event. Bytes that are not UTF-8 become U+FFFD.
/// When the stream ends, drop the decoder: an event whose closing empty line never came is none.
///
/// ```
/// use headwater::{Decoder, Item};
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
    fault: Option<Fault>,
    /// How many bytes of a leading BOM were seen; all of them once it is settled whether there is one.
    bom_seen: usize,
    /// The last byte was a CR: an LF that comes next belongs to it.
    after_cr: bool,
    /// The beginning of a line that has not ended yet.
    line: Vec<u8>,
    /// The fields of the block that has not ended yet. The id stays from block to block.
    name: String,
    data: Option<String>,
    id: Arc<str>,
    last_event_id: Arc<str>,
    retry: Option<Duration>,
    items: VecDeque<Decoded>,
}

/// An [`Item`] that waits to be taken. Its id is shared until then, see [`ID_BYTES_MAX`].
#[derive(Debug)]
enum Decoded {
    Event { name: String, data: String, id: Arc<str> },
    Comment(String),
    Retry(Duration),
}

/// What was over its limit. The decoder reads no further.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Line,
    Data,
    Id,
}

impl Decoder {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self {
            limit_bytes: DECODER_BYTES_MAX,
            fault: None,
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

    /// Reads the next piece of the stream.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if a line or an event's data is longer than the limit, or an id longer
    /// than 8 KiB. What came before can still be taken, nothing after it is read, and every later push
    /// gives the same error: end the stream.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), Error> {
        if self.fault.is_none() {
            self.fault = self.read(chunk).err();
        }
        match self.fault {
            None => Ok(()),
            Some(fault) => Err(fault.error(self.limit_bytes)),
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

    /// What a reconnect must send as `Last-Event-ID`; empty if there is nothing to send.
    ///
    /// It moves when a block ends, also one that fires no event, and it is ahead of the items that were
    /// not taken yet.
    pub fn last_event_id(&self) -> &str {
        &self.last_event_id
    }

    /// How long the server last asked to wait before connecting again.
    pub fn retry(&self) -> Option<Duration> {
        self.retry
    }

    fn read(&mut self, chunk: &[u8]) -> Result<(), Fault> {
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

    /// What follows a leading BOM, as far as it is in this chunk.
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

    fn check_line(&self, tail: &[u8]) -> Result<(), Fault> {
        if self.line.len() + tail.len() > self.limit_bytes { Err(Fault::Line) } else { Ok(()) }
    }

    fn end_line(&mut self, tail: &[u8]) -> Result<(), Fault> {
        self.check_line(tail)?;
        if self.line.is_empty() {
            return self.take_line(tail);
        }
        let mut line = mem::take(&mut self.line);
        line.extend_from_slice(tail);
        self.take_line(&line)
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Fault> {
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

    fn take_data(&mut self, value: &[u8]) -> Result<(), Fault> {
        let data = match &mut self.data {
            None => self.data.insert(String::new()),
            Some(data) => {
                data.push('\n');
                data
            }
        };
        for piece in value.utf8_chunks() {
            if data.len() + piece.valid().len() > self.limit_bytes {
                return Err(Fault::Data);
            }
            data.push_str(piece.valid());
            if !piece.invalid().is_empty() {
                data.push(char::REPLACEMENT_CHARACTER);
            }
        }
        if data.len() > self.limit_bytes { Err(Fault::Data) } else { Ok(()) }
    }

    fn take_id(&mut self, value: &[u8]) -> Result<(), Fault> {
        if memchr(0, value).is_some() {
            return Ok(());
        }
        if value.len() > ID_BYTES_MAX {
            return Err(Fault::Id);
        }
        self.id = text(value).into();
        Ok(())
    }

    fn take_retry(&mut self, value: &[u8]) {
        if !value.iter().all(u8::is_ascii_digit) {
            return;
        }
        // Fails for no digits and for more than a u64 holds: both are ignored.
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

impl Fault {
    fn error(self, limit_bytes: usize) -> Error {
        let larger = "or give the decoder a larger limit";
        let (what, bytes_max, hint) = match self {
            Self::Line => ("a line", limit_bytes, larger),
            Self::Data => ("the data of an event", limit_bytes, larger),
            Self::Id => ("the id of an event", ID_BYTES_MAX, "no request could carry it back"),
        };
        let message = format!(
            "{what} in the event stream has more than {bytes_max} bytes: end the stream, and let its \
             sender write less, {hint}"
        );
        Error::new(ErrorKind::TooLarge, message)
    }
}

fn without_space(value: &[u8]) -> &[u8] {
    value.strip_prefix(b" ").unwrap_or(value)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
