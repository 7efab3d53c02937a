//! The envelope: the form in which an event of the log, or an event with a name, an ID or a retry,
//! is sent through Redis. It has header lines, an empty line, and the data unchanged. Look here for
//! its format; other programs need not know it.
//!
//! ```text
//! epoch: 5f3a9c01d2e7
//! offset: 1042
//! prev: 1037
//! time: 1790000000000
//! event: price
//! id: 42
//! retry: 1500
//!
//! the data, any bytes, to the end
//! ```
//! Only an event of the log has the first four headers: its position, the offset of its channel's
//! previous event, and its publish time. `end: 1` means that the event ends its channel.
//!
//! Names and IDs cannot contain a line end. Unknown headers are skipped, so that nodes of different
//! versions can share a Redis.

use std::borrow::Cow;
use std::time::Duration;

use headwater_core::Error;
use headwater_core::Event;
use headwater_core::event::is_position;
use headwater_core::log::{Epoch, Position};

/// Maximum size of all headers, with room for those of newer nodes.
pub(crate) const HEADERS_BYTES_MAX: usize = 4096;

pub(crate) fn encode(event: &Event) -> Vec<u8> {
    let mut envelope = Vec::with_capacity(event.data().len() + 64);
    let mut header = |name: &str, value: &str| {
        for part in [name, ": ", value, "\n"] {
            envelope.extend_from_slice(part.as_bytes());
        }
    };
    if let Some(name) = event.name() {
        header("event", name.as_str());
    }
    if let Some(id) = event.id() {
        header("id", id.as_str());
    }
    if let Some(retry) = event.retry() {
        header("retry", &retry.as_millis().to_string());
    }
    envelope.push(b'\n');
    envelope.extend_from_slice(event.data().as_bytes());
    envelope
}

/// The content of an envelope.
#[derive(Debug, PartialEq)]
pub(crate) struct Decoded {
    pub(crate) event: Event,
    /// Whether invalid UTF-8 in its data was replaced.
    pub(crate) sanitized: bool,
    /// Set for an event of the log.
    pub(crate) log: Option<LogHeaders>,
}

/// The headers that only an event of the log has.
#[derive(Debug, PartialEq, Clone, Copy)]
pub(crate) struct LogHeaders {
    pub(crate) position: Position,
    pub(crate) previous: u64,
    pub(crate) time_ms: u64,
    pub(crate) end: bool,
}

pub(crate) fn decode(mut envelope: &[u8]) -> Result<Decoded, Error> {
    let broken = || Error::invalid("an envelope needs header lines and an empty line");
    let number = |value: &str| value.parse::<u64>().map_err(|_| broken());
    let (mut name, mut id, mut retry) = (None, None, None);
    let (mut epoch, mut offset, mut previous, mut time_ms, mut end) = (None, None, 0, 0, false);
    loop {
        let at = memchr::memchr(b'\n', envelope).ok_or_else(broken)?;
        let line = std::str::from_utf8(&envelope[..at]).map_err(|_| broken())?;
        envelope = &envelope[at + 1..];
        match line.split_once(": ") {
            Some(("epoch", value)) => epoch = Some(value.parse::<Epoch>()?),
            Some(("offset", value)) => offset = Some(number(value)?),
            Some(("prev", value)) => previous = number(value)?,
            Some(("time", value)) => time_ms = number(value)?,
            Some(("end", value)) => end = value == "1",
            Some(("event", value)) => name = Some(value),
            Some(("id", value)) => id = Some(value),
            Some(("retry", value)) => retry = Some(Duration::from_millis(number(value)?)),
            Some(_) => {}
            None if line.is_empty() => break,
            None => return Err(broken()),
        }
    }
    let data = String::from_utf8_lossy(envelope);
    let sanitized = matches!(data, Cow::Owned(_));
    let mut event = Event::new(data);
    if let Some(name) = name {
        event = event.with_stored_name(name)?;
    }
    // Others may send any id; one that is written as a position would move clients there.
    if let Some(id) = id.filter(|id| !is_position(id)) {
        event = event.with_id(id)?;
    }
    if let Some(retry) = retry {
        event = event.with_retry(retry);
    }
    let log = epoch.zip(offset).map(|(epoch, offset)| LogHeaders {
        position: Position::new(epoch, offset),
        previous,
        time_ms,
        end,
    });
    Ok(Decoded { event, sanitized, log })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_events_are_decoded_unchanged() {
        for data in ["", "x", "\n", "\n\nid: no", "event: no\n", "ü\0\u{2028}"] {
            let only_data = Event::new(data);
            let named = only_data.clone().with_name("a: b").unwrap();
            let all = named.clone().with_id("1").unwrap().with_retry(Duration::from_millis(1500));
            for event in [only_data, named, all] {
                let decoded = Decoded { event: event.clone(), sanitized: false, log: None };
                assert_eq!(decode(&encode(&event)).unwrap(), decoded);
            }
        }
    }

    #[test]
    fn unknown_headers_are_skipped_and_malformed_ones_rejected() {
        let decoded = decode(b"later: 1\nevent: n\n\nd").unwrap();
        assert_eq!(decoded.event, Event::new("d").with_name("n").unwrap());
        let decoded = decode(b"epoch: ab\noffset: 7\nprev: 5\ntime: 9\nend: 1\n\nd").unwrap();
        let position = Position::new(Epoch::from_bits(0xab).unwrap(), 7);
        assert_eq!(decoded.log, Some(LogHeaders { position, previous: 5, time_ms: 9, end: true }));
        for broken in
            [&b""[..], b"event: n", b"event: n\n", b"no colon\n\n", b"retry: x\n\n", b"id: \n\n"]
        {
            assert!(decode(broken).is_err(), "{:?}", String::from_utf8_lossy(broken));
        }
    }

    #[test]
    fn what_other_programs_wrote_is_bounded() {
        let decoded = decode(b"event: error\nretry: 4294967295\n\nd").unwrap();
        assert_eq!(decoded.event, Event::new("d").with_retry(Duration::from_secs(300)));
        let decoded = decode(b"event: open\nretry: 0\n\nd").unwrap();
        assert_eq!(decoded.event, Event::new("d").with_retry(Duration::from_millis(100)));
    }

    #[test]
    fn an_id_that_is_written_as_a_position_is_ignored() {
        for id in ["ab-7", "ab-0", "5f3a9c01d2e7-1042~9be1-17"] {
            let decoded = decode(format!("event: n\nid: {id}\n\nd").as_bytes()).unwrap();
            assert_eq!(decoded.event, Event::new("d").with_name("n").unwrap(), "{id}");
        }
    }

    #[test]
    fn data_that_is_not_utf8_is_sanitized_and_reported() {
        let decoded = decode(b"\na\xffb").unwrap();
        assert_eq!((decoded.event.data(), decoded.sanitized), ("a\u{fffd}b", true));
    }
}
