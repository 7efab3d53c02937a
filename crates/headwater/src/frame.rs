//! An event encoded once, shared by every stream that gets it. Look here for what goes on the wire.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::channel::Channel;
use crate::event::{Decoder, Event, Item, encode};

/// An event, encoded once and immutable. A clone shares the bytes.
///
/// The bytes have two views: as published, and with the channel's name in `event:` where the publisher
/// gave no name of its own. Both are slices of one allocation.
#[derive(Clone)]
pub struct Frame(Arc<Inner>);

struct Inner {
    channel: Option<Channel>,
    /// The event as a block of the event stream, with `event: <channel>` before it where the event has
    /// no name and a channel is known.
    wire: Bytes,
    /// Where in `wire` the event as published begins.
    plain_from: usize,
}

impl Frame {
    /// Encodes an event that belongs to no channel.
    pub(crate) fn new(event: &Event) -> Self {
        Self::encode(None, event)
    }

    /// Encodes an event of a channel.
    pub(crate) fn of_channel(channel: &Channel, event: &Event) -> Self {
        Self::encode(Some(channel), event)
    }

    fn encode(channel: Option<&Channel>, event: &Event) -> Self {
        let mut wire = Vec::with_capacity(event.data().len() + 64);
        if let (Some(channel), None) = (channel, event.name()) {
            encode::encode_name(channel.as_str(), &mut wire);
        }
        let plain_from = wire.len();
        encode::encode(event, &mut wire);
        Self(Arc::new(Inner { channel: channel.cloned(), wire: wire.into(), plain_from }))
    }

    /// The channel that the event was published to; `None` for an event from a stream of your own.
    pub fn channel(&self) -> Option<&Channel> {
        self.0.channel.as_ref()
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

    /// The event, decoded from its bytes as a client would: line ends in its data are LF.
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

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("channel", &self.0.channel)
            .field("bytes", &self.0.wire.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_encoding_has_both_views() {
        let channel = Channel::new("news").unwrap();
        let frame = Frame::of_channel(&channel, &Event::new("hello"));
        assert_eq!(frame.bytes(), "data: hello\n\n");
        assert_eq!(frame.bytes_named_by_channel(), "event: news\ndata: hello\n\n");

        let own_name = Event::new("hello").with_name("greeting").unwrap();
        let frame = Frame::of_channel(&channel, &own_name);
        assert_eq!(frame.bytes(), "event: greeting\ndata: hello\n\n");
        assert_eq!(frame.bytes_named_by_channel(), frame.bytes());
    }

    #[test]
    fn the_event_comes_back() {
        let event = Event::new("a\nb").with_name("n").unwrap().with_id("7").unwrap();
        let event = event.with_retry(std::time::Duration::from_millis(1500));
        assert_eq!(Frame::new(&event).event(), event);
    }
}
