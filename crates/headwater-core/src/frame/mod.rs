//! An event encoded once, shared by every stream that receives it. Look here for what is written to
//! the wire.

mod chunk;

use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use bytes::Bytes;

use crate::channel::Channel;
use crate::clock::now_ms;
use crate::event::{Event, EventId, is_dispatched_by_browsers};
use crate::gap::Gap;
use crate::limits::KEPT_UNENCODED_BYTES_MIN;
use crate::log::{Key, Position};
use crate::sse::{Decoder, Item, encode};
pub use chunk::{LAST_CHUNK, chunk, push_chunk};
use chunk::{chunk_around, chunk_len_max, offset};

/// An event, encoded once and immutable. A clone shares the bytes.
///
/// The bytes have two views: as published, and with the channel's name in `event:` unless the
/// publisher set a name. Both are in one allocation, framed as HTTP/1.1 chunks, so that the engine
/// writes either of them unchanged:
///
/// ```text
/// d\r\n event: news\n \r\n     only where the event has no name and a channel is known
/// d\r\n data: hello\n\n \r\n
/// ```
#[derive(Clone)]
pub struct Frame(Arc<Inner>);

/// The event as published, of a frame that lives as long.
struct Body(Frame);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        &self.0.0.wire[to_usize(&self.0.0.body)]
    }
}

/// A frame, if anybody still has it.
#[derive(Default)]
pub(crate) struct WeakFrame(Weak<Inner>);

impl WeakFrame {
    pub(crate) fn upgrade(&self) -> Option<Frame> {
        self.0.upgrade().map(Frame)
    }
}

struct Inner {
    channel: Option<Channel>,
    position: Option<Position>,
    kind: Kind,
    /// When the event was published, in milliseconds since 1970.
    time_ms: u64,
    /// The two chunks.
    wire: Bytes,
    /// The line that names the event after its channel, without its chunk's framing; may be empty.
    name: Range<u32>,
    /// The event as published, without its chunk's framing.
    body: Range<u32>,
    /// Where the chunk of the event as published starts.
    chunk_start: u32,
    /// The number of backlogs that hold the frame.
    held: AtomicU32,
}

enum Kind {
    Event {
        /// The publisher's id, which replaces the position on the wire.
        publisher_id: Option<Box<str>>,
        /// Whether the event ends its channel.
        end: bool,
    },
    Gap(Gap),
    /// Moves the client's position without an event.
    Marker,
}

/// What a broker knows of an event besides its parts.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, Default)]
pub struct Published {
    pub position: Option<Position>,
    pub time_ms: u64,
    pub end: bool,
}

impl Frame {
    /// Encodes an event without a channel.
    #[doc(hidden)]
    pub fn new(event: &Event) -> Self {
        let publisher_id = publisher_id(event);
        Self::encode(None, event, Published::default(), Kind::Event { publisher_id, end: false })
    }

    /// Encodes an event of a channel.
    #[doc(hidden)]
    pub fn of_channel(channel: &Channel, event: &Event, published: Published) -> Self {
        let kind = Kind::Event { publisher_id: publisher_id(event), end: published.end };
        Self::encode(Some(channel), event, published, kind)
    }

    /// Reports a gap. With a position, the client's position moves there, so that a reconnect does
    /// not report the gap again.
    pub(crate) fn of_gap(gap: Gap, position: Option<Position>) -> Self {
        let published = Published { position, time_ms: now_ms(), end: false };
        Self::encode(None, &gap.to_event(), published, Kind::Gap(gap))
    }

    /// Moves the client's position without an event.
    pub(crate) fn marker(position: Position) -> Self {
        let id = position.to_string();
        let published = Published { position: Some(position), time_ms: now_ms(), end: false };
        let wire = Wire::new(0, 32 + id.len(), |_| {}, |out| encode::encode_id(&id, out));
        Self::new_inner(None, published, Kind::Marker, wire)
    }

    fn encode(channel: Option<&Channel>, event: &Event, published: Published, kind: Kind) -> Self {
        let id = published.position.map(|position| position.to_string());
        let name = channel.filter(|_| event.name().is_none()).map(Channel::as_str);
        // With `as=channel`, a channel's name becomes an event's.
        let name = name.filter(|name| !is_dispatched_by_browsers(name));
        let wire = Wire::new(
            name.map_or(0, encode::encoded_name_len),
            encode::encoded_len_max(event, id.as_deref()),
            |out| name.into_iter().for_each(|name| encode::encode_name(name, out)),
            |out| encode::encode(event, id.as_deref(), out),
        );
        Self::new_inner(channel.cloned(), published, kind, wire)
    }

    fn new_inner(channel: Option<Channel>, published: Published, kind: Kind, wire: Wire) -> Self {
        let Published { position, time_ms, .. } = published;
        let Wire { bytes, name, body, chunk_start } = wire;
        let (wire, held) = (bytes.into(), AtomicU32::new(0));
        let inner = Inner { channel, position, kind, time_ms, wire, name, body, chunk_start, held };
        Self(Arc::new(inner))
    }

    /// The same frame with another position.
    pub(crate) fn at(&self, position: Position) -> Self {
        let Inner { channel, time_ms, kind, .. } = &*self.0;
        let end = self.is_end();
        let published = Published { position: Some(position), time_ms: *time_ms, end };
        match kind {
            Kind::Event { publisher_id, .. } => {
                // The ID that clients see is the old position, unless the publisher assigned it.
                let mut event = self.event();
                event.id = event.id.filter(|_| publisher_id.is_some());
                let kind = Kind::Event { publisher_id: publisher_id.clone(), end };
                Self::encode(channel.as_ref(), &event, published, kind)
            }
            Kind::Gap(gap) => {
                let kind = Kind::Gap(gap.clone());
                Self::encode(None, &gap.to_event(), published, kind)
            }
            Kind::Marker => Self::marker(position),
        }
    }

    /// The channel that the event was published to; `None` for an event from an application's own
    /// stream, and for a [gap event](Self::gap).
    pub fn channel(&self) -> Option<&Channel> {
        self.0.channel.as_ref()
    }

    /// The position of the event; `None` without a log. A gap event may have one too.
    pub fn position(&self) -> Option<Position> {
        self.0.position
    }

    /// Whether the event ends its channel.
    pub fn is_end(&self) -> bool {
        matches!(self.0.kind, Kind::Event { end: true, .. })
    }

    /// The gap that this frame reports; `None` if it is an event.
    pub fn gap(&self) -> Option<&Gap> {
        match &self.0.kind {
            Kind::Gap(gap) => Some(gap),
            _ => None,
        }
    }

    #[doc(hidden)]
    pub fn is_marker(&self) -> bool {
        matches!(self.0.kind, Kind::Marker)
    }

    /// The place of an event in the order of this node; `None` if the frame is not an event.
    #[doc(hidden)]
    pub fn key(&self) -> Option<Key> {
        match &self.0.kind {
            Kind::Event { .. } => self.0.position.map(Position::key),
            _ => None,
        }
    }

    pub(crate) fn publisher_id(&self) -> Option<&str> {
        match &self.0.kind {
            Kind::Event { publisher_id, .. } => publisher_id.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn time_ms(&self) -> u64 {
        self.0.time_ms
    }

    /// The event as published, in wire format: a block of lines that ends with an empty line.
    pub fn bytes(&self) -> Bytes {
        if self.0.body.len() >= KEPT_UNENCODED_BYTES_MIN {
            // A broker may have to encode it again once nobody has the frame.
            return Bytes::from_owner(Body(self.clone()));
        }
        self.0.wire.slice(to_usize(&self.0.body))
    }

    /// The event in wire format, with the channel's name as its name unless the publisher set one.
    /// In that case the bytes are copied.
    pub fn bytes_named_by_channel(&self) -> Bytes {
        if self.0.name.is_empty() {
            return self.bytes();
        }
        let mut bytes = Vec::with_capacity(self.len());
        bytes.extend_from_slice(&self.0.wire[to_usize(&self.0.name)]);
        bytes.extend_from_slice(&self.0.wire[to_usize(&self.0.body)]);
        bytes.into()
    }

    /// One of the two views, as HTTP/1.1 chunks.
    #[doc(hidden)]
    pub fn chunks(&self, name_by_channel: bool) -> &[u8] {
        let start = if name_by_channel { 0 } else { self.0.chunk_start as usize };
        &self.0.wire[start..]
    }

    /// The number of bytes in these chunks, without their framing.
    #[doc(hidden)]
    pub fn body_len(&self, name_by_channel: bool) -> usize {
        if name_by_channel { self.len() } else { self.0.body.len() }
    }

    /// The number of bytes of the event in its longer view, without framing.
    #[doc(hidden)]
    #[allow(clippy::len_without_is_empty, reason = "a frame is never empty")]
    pub fn len(&self) -> usize {
        self.0.name.len() + self.0.body.len()
    }

    pub(crate) fn downgrade(&self) -> WeakFrame {
        WeakFrame(Arc::downgrade(&self.0))
    }

    /// Records that one more backlog holds the frame. Returns the bytes that no backlog held
    /// before.
    #[doc(hidden)]
    pub fn hold(&self) -> usize {
        if self.0.held.fetch_add(1, Ordering::Relaxed) == 0 { self.0.wire.len() } else { 0 }
    }

    /// Records that a backlog no longer holds the frame. Returns the bytes that no backlog holds
    /// now.
    #[doc(hidden)]
    pub fn release(&self) -> usize {
        if self.0.held.fetch_sub(1, Ordering::Relaxed) == 1 { self.0.wire.len() } else { 0 }
    }

    /// The event, decoded from its bytes as a client would: line ends in its data are LF, and its
    /// id is the one that clients see.
    ///
    /// Every call decodes. Programs that only pass frames on to clients do not need it.
    pub fn event(&self) -> Event {
        let mut decoder = Decoder::new().with_limit(usize::MAX);
        let mut data = String::new();
        let mut name = None;
        // An encoded event decodes, and a limit of usize::MAX cannot be exceeded.
        let _ = decoder.push(&self.bytes());
        let retry = decoder.retry();
        while let Some(item) = decoder.next_item() {
            if let Item::Event(message) = item {
                name = (message.name != "message").then_some(message.name);
                data = message.data;
            }
        }
        let mut event = Event::new(data);
        if let Some(name) = name {
            event = event.clone().with_name(name).unwrap_or(event);
        }
        if !decoder.last_event_id().is_empty() {
            event.id = EventId::assigned(decoder.last_event_id()).ok();
        }
        match retry {
            Some(retry) => event.with_retry(retry),
            None => event,
        }
    }
}

/// The chunks of a frame under construction.
struct Wire {
    bytes: Vec<u8>,
    name: Range<u32>,
    body: Range<u32>,
    chunk_start: u32,
}

impl Wire {
    fn new(
        name_len_max: usize,
        body_len_max: usize,
        name: impl FnOnce(&mut Vec<u8>),
        body: impl FnOnce(&mut Vec<u8>),
    ) -> Self {
        let chunk_len = |len_max| if len_max == 0 { 0 } else { chunk_len_max(len_max) };
        let mut bytes = Vec::with_capacity(chunk_len(name_len_max) + chunk_len(body_len_max));
        let name = match name_len_max {
            0 => 0..0,
            _ => chunk_around(&mut bytes, name_len_max, name),
        };
        let chunk_start = offset(bytes.len());
        let body = chunk_around(&mut bytes, body_len_max, body);
        Self { bytes, name, body, chunk_start }
    }
}

fn to_usize(range: &Range<u32>) -> Range<usize> {
    range.start as usize..range.end as usize
}

fn publisher_id(event: &Event) -> Option<Box<str>> {
    event.id().map(|id| id.as_str().into())
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("channel", &self.0.channel)
            .field("position", &self.0.position.map(|position| position.to_string()))
            .field("bytes", &self.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::Epoch;

    #[test]
    fn a_frame_at_another_position_differs_in_its_id_only() {
        let epoch = Epoch::from_bits(0xab).unwrap();
        let (before, after) =
            (Position::ephemeral(epoch, 1, epoch, 7), Position::ephemeral(epoch, 3, epoch, 7));
        let channel = Channel::new("c").unwrap();
        let named = Event::new("d").with_name("n").unwrap();
        for (event, id) in [(named.clone(), "ab-3~ab-7"), (named.with_id("own").unwrap(), "own")] {
            let published = Published { position: Some(before), time_ms: 5, end: true };
            let frame = Frame::of_channel(&channel, &event, published).at(after);
            assert_eq!(frame.event().id().unwrap().as_str(), id);
            assert_eq!((frame.event().data(), frame.position()), ("d", Some(after)));
            assert!(frame.is_end() && frame.channel() == Some(&channel));
        }
    }

    #[test]
    fn one_encoding_has_both_views() {
        let channel = Channel::new("news").unwrap();
        let frame = Frame::of_channel(&channel, &Event::new("hello"), Published::default());
        assert_eq!(frame.bytes(), "data: hello\n\n");
        assert_eq!(frame.bytes_named_by_channel(), "event: news\ndata: hello\n\n");

        for reserved in ["error", "open"] {
            let channel = Channel::new(reserved).unwrap();
            let frame = Frame::of_channel(&channel, &Event::new("hello"), Published::default());
            assert_eq!(frame.bytes_named_by_channel(), frame.bytes(), "{reserved}");
        }
        let own_name = Event::new("hello").with_name("greeting").unwrap();
        let frame = Frame::of_channel(&channel, &own_name, Published::default());
        assert_eq!(frame.bytes(), "event: greeting\ndata: hello\n\n");
        assert_eq!(frame.bytes_named_by_channel(), frame.bytes());
    }

    #[test]
    fn the_position_is_the_id_unless_the_publisher_set_one() {
        let channel = Channel::new("news").unwrap();
        let position = Position::new(Epoch::from_bits(0xabc).unwrap(), 7);
        let published = Published { position: Some(position), ..Published::default() };
        let frame = Frame::of_channel(&channel, &Event::new("x"), published);
        assert_eq!(frame.bytes(), "id: abc-7\ndata: x\n\n");
        assert_eq!(frame.publisher_id(), None);
        let frame =
            Frame::of_channel(&channel, &Event::new("x").with_id("own").unwrap(), published);
        assert_eq!(frame.bytes(), "id: own\ndata: x\n\n");
        assert_eq!((frame.publisher_id(), frame.position()), (Some("own"), Some(position)));
        assert_eq!(Frame::marker(position).bytes(), "id: abc-7\n\n");
    }

    #[test]
    fn chunks_carry_both_views() {
        let channel = Channel::new("news").unwrap();
        let frame = Frame::of_channel(&channel, &Event::new("hello"), Published::default());
        assert_eq!(frame.chunks(false), b"d\r\ndata: hello\n\n\r\n");
        assert_eq!(frame.chunks(true), b"c\r\nevent: news\n\r\nd\r\ndata: hello\n\n\r\n");
        assert_eq!((frame.body_len(false), frame.body_len(true)), (13, 25));
        assert_eq!(frame.0.wire.len(), frame.chunks(true).len());
        // CRLF is reserved as two lines: the size has one digit more than needed, a leading zero.
        let frame = Frame::new(&Event::new("\r\n"));
        assert_eq!(frame.chunks(true), b"0f\r\ndata: \ndata: \n\n\r\n");
        for len in [1, 9, 10, 250, 4090, 4096, 70_000] {
            let frame = Frame::new(&Event::new("x".repeat(len)));
            let chunk = format!("{:x}\r\ndata: {}\n\n\r\n", len + 8, "x".repeat(len));
            assert_eq!(frame.chunks(false), chunk.as_bytes());
        }
    }

    #[test]
    fn the_event_round_trips() {
        let event = Event::new("a\nb").with_name("n").unwrap().with_id("7").unwrap();
        let event = event.with_retry(std::time::Duration::from_millis(1500));
        assert_eq!(Frame::new(&event).event(), event);
    }
}
