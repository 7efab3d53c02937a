//! An event encoded once, shared by every stream that gets it. Look here for what goes on the wire.

use std::fmt;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;

use crate::channel::Channel;
use crate::event::{Decoder, Event, Item, encode};
use crate::gap::Gap;
use crate::position::{Key, Position};

/// An event, encoded once and immutable. A clone shares the bytes.
///
/// The bytes have two views: as published, and with the channel's name in `event:` where the publisher
/// gave no name of its own. Both are slices of one allocation.
#[derive(Clone)]
pub struct Frame(Arc<Inner>);

struct Inner {
    channel: Option<Channel>,
    position: Option<Position>,
    kind: Kind,
    /// When it was published, in milliseconds since 1970.
    time_ms: u64,
    /// The event as a block of the event stream, with `event: <channel>` before it where the event has
    /// no name and a channel is known.
    wire: Bytes,
    /// Where in `wire` the event as published begins.
    plain_from: usize,
}

enum Kind {
    Event {
        /// The publisher's own id, which stands in the place of the position.
        own_id: Option<Box<str>>,
        /// Whether it is the last of its channel.
        end: bool,
    },
    Gap(Gap),
    /// Moves the client's position and is no event.
    Marker,
}

/// What a broker knows of an event beside the event itself.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Published {
    pub(crate) position: Option<Position>,
    pub(crate) time_ms: u64,
    pub(crate) end: bool,
}

impl Frame {
    /// Encodes an event that belongs to no channel.
    pub(crate) fn new(event: &Event) -> Self {
        let own_id = own_id(event);
        Self::encode(None, event, Published::default(), Kind::Event { own_id, end: false })
    }

    /// Encodes an event of a channel.
    pub(crate) fn of_channel(channel: &Channel, event: &Event, published: Published) -> Self {
        let kind = Kind::Event { own_id: own_id(event), end: published.end };
        Self::encode(Some(channel), event, published, kind)
    }

    /// Announces a gap. With a position, the client's own moves there, so that it does not ask for the
    /// same again.
    pub(crate) fn of_gap(gap: Gap, position: Option<Position>) -> Self {
        let published = Published { position, time_ms: now_ms(), end: false };
        Self::encode(None, &gap.to_event(), published, Kind::Gap(gap))
    }

    /// Moves the client's position without an event.
    pub(crate) fn marker(position: Position) -> Self {
        let mut wire = Vec::new();
        encode::encode_id(&position.to_string(), &mut wire);
        Self(Arc::new(Inner {
            channel: None,
            position: Some(position),
            kind: Kind::Marker,
            time_ms: now_ms(),
            wire: wire.into(),
            plain_from: 0,
        }))
    }

    fn encode(channel: Option<&Channel>, event: &Event, published: Published, kind: Kind) -> Self {
        let mut wire = Vec::with_capacity(event.data().len() + 96);
        if let (Some(channel), None) = (channel, event.name()) {
            encode::encode_name(channel.as_str(), &mut wire);
        }
        let plain_from = wire.len();
        let id = published.position.map(|position| position.to_string());
        encode::encode(event, id.as_deref(), &mut wire);
        Self(Arc::new(Inner {
            channel: channel.cloned(),
            position: published.position,
            kind,
            time_ms: published.time_ms,
            wire: wire.into(),
            plain_from,
        }))
    }

    /// The channel that the event was published to; `None` for an event from a stream of your own, and
    /// for the announcement of a [gap](Self::gap).
    pub fn channel(&self) -> Option<&Channel> {
        self.0.channel.as_ref()
    }

    /// The place of the event in its log; `None` if its broker keeps none.
    pub fn position(&self) -> Option<Position> {
        self.0.position
    }

    /// Whether the event is the last of its channel.
    pub fn is_end(&self) -> bool {
        matches!(self.0.kind, Kind::Event { end: true, .. })
    }

    /// What is missing, if this is not an event but the announcement that some are.
    pub fn gap(&self) -> Option<&Gap> {
        match &self.0.kind {
            Kind::Gap(gap) => Some(gap),
            _ => None,
        }
    }

    pub(crate) fn is_marker(&self) -> bool {
        matches!(self.0.kind, Kind::Marker)
    }

    /// Where an event stands in the order of this node; `None` for what is not an event.
    pub(crate) fn key(&self) -> Option<Key> {
        match &self.0.kind {
            Kind::Event { .. } => self.0.position.map(Position::key),
            _ => None,
        }
    }

    pub(crate) fn own_id(&self) -> Option<&str> {
        match &self.0.kind {
            Kind::Event { own_id, .. } => own_id.as_deref(),
            _ => None,
        }
    }

    pub(crate) fn time_ms(&self) -> u64 {
        self.0.time_ms
    }

    /// The event as it goes on the wire: a whole block, ended by an empty line.
    pub fn bytes(&self) -> Bytes {
        self.0.wire.slice(self.0.plain_from..)
    }

    /// The same, with the channel's name as the event's name where the publisher gave none.
    pub fn bytes_named_by_channel(&self) -> Bytes {
        self.0.wire.clone()
    }

    /// How many bytes the frame keeps in memory for its event.
    pub(crate) fn len(&self) -> usize {
        self.0.wire.len()
    }

    /// The event, decoded from its bytes as a client would: line ends in its data are LF, and its id is
    /// the one that clients see.
    ///
    /// Decodes at each call. Programs that only pass frames on to clients do not need it.
    pub fn event(&self) -> Event {
        let mut decoder = Decoder::new().with_limit(usize::MAX);
        let mut data = String::new();
        let mut name = None;
        // What we encoded decodes; a limit of usize::MAX cannot be passed.
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
            event = event.clone().with_id(decoder.last_event_id()).unwrap_or(event);
        }
        match retry {
            Some(retry) => event.with_retry(retry),
            None => event,
        }
    }
}

fn own_id(event: &Event) -> Option<Box<str>> {
    event.id().map(|id| id.as_str().into())
}

/// Now, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("channel", &self.0.channel)
            .field("position", &self.0.position.map(|position| position.to_string()))
            .field("bytes", &self.0.wire.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::Epoch;

    #[test]
    fn one_encoding_has_both_views() {
        let channel = Channel::new("news").unwrap();
        let frame = Frame::of_channel(&channel, &Event::new("hello"), Published::default());
        assert_eq!(frame.bytes(), "data: hello\n\n");
        assert_eq!(frame.bytes_named_by_channel(), "event: news\ndata: hello\n\n");

        let own_name = Event::new("hello").with_name("greeting").unwrap();
        let frame = Frame::of_channel(&channel, &own_name, Published::default());
        assert_eq!(frame.bytes(), "event: greeting\ndata: hello\n\n");
        assert_eq!(frame.bytes_named_by_channel(), frame.bytes());
    }

    #[test]
    fn the_position_is_the_id_unless_the_publisher_gave_one() {
        let channel = Channel::new("news").unwrap();
        let position = Position::new(Epoch::from_bits(0xabc).unwrap(), 7);
        let published = Published { position: Some(position), ..Published::default() };
        let frame = Frame::of_channel(&channel, &Event::new("x"), published);
        assert_eq!(frame.bytes(), "id: abc-7\ndata: x\n\n");
        assert_eq!(frame.own_id(), None);
        let frame =
            Frame::of_channel(&channel, &Event::new("x").with_id("own").unwrap(), published);
        assert_eq!(frame.bytes(), "id: own\ndata: x\n\n");
        assert_eq!((frame.own_id(), frame.position()), (Some("own"), Some(position)));
        assert_eq!(Frame::marker(position).bytes(), "id: abc-7\n\n");
    }

    #[test]
    fn the_event_comes_back() {
        let event = Event::new("a\nb").with_name("n").unwrap().with_id("7").unwrap();
        let event = event.with_retry(std::time::Duration::from_millis(1500));
        assert_eq!(Frame::new(&event).event(), event);
    }
}
