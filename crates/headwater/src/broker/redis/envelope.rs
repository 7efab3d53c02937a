//! How an event with a name, an id or a retry travels through Redis: header lines, an empty line, the
//! data as it is. Look here for its form; other programs need not know it.
//!
//! ```text
//! event: price
//! id: 42
//! retry: 1500
//!
//! the data, any bytes, to the end
//! ```
//! Names and ids cannot hold a line end. Headers that a node does not know are passed over, so nodes
//! of different versions can share a Redis.

use std::borrow::Cow;
use std::time::Duration;

use crate::error::Error;
use crate::event::Event;

/// Longest headers that we write, with room for those of newer nodes.
pub(super) const HEADERS_BYTES_MAX: usize = 4096;

pub(super) fn encode(event: &Event) -> Vec<u8> {
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

/// The event, and whether bytes that are not UTF-8 were replaced in its data.
pub(super) fn decode(mut envelope: &[u8]) -> Result<(Event, bool), Error> {
    let broken = || Error::invalid("an envelope needs header lines and an empty line");
    let mut name = None;
    let mut id = None;
    let mut retry = None;
    loop {
        let end = memchr::memchr(b'\n', envelope).ok_or_else(broken)?;
        let line = std::str::from_utf8(&envelope[..end]).map_err(|_| broken())?;
        envelope = &envelope[end + 1..];
        match line.split_once(": ") {
            Some(("event", value)) => name = Some(value),
            Some(("id", value)) => id = Some(value),
            Some(("retry", value)) => {
                retry = Some(Duration::from_millis(value.parse().map_err(|_| broken())?));
            }
            Some(_) => {}
            None if line.is_empty() => break,
            None => return Err(broken()),
        }
    }
    let data = String::from_utf8_lossy(envelope);
    let replaced = matches!(data, Cow::Owned(_));
    let mut event = Event::new(data);
    if let Some(name) = name {
        event = event.with_name(name)?;
    }
    if let Some(id) = id {
        event = event.with_id(id)?;
    }
    if let Some(retry) = retry {
        event = event.with_retry(retry);
    }
    Ok((event, replaced))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out() {
        for data in ["", "x", "\n", "\n\nid: no", "event: no\n", "ü\0\u{2028}"] {
            let plain = Event::new(data);
            let named = plain.clone().with_name("a: b").unwrap();
            let all = named.clone().with_id("1").unwrap().with_retry(Duration::from_millis(7));
            for event in [plain, named, all] {
                assert_eq!(decode(&encode(&event)).unwrap(), (event, false));
            }
        }
    }

    #[test]
    fn unknown_headers_are_passed_over_and_broken_ones_refused() {
        let (event, _) = decode(b"later: 1\nevent: n\n\nd").unwrap();
        assert_eq!(event, Event::new("d").with_name("n").unwrap());
        for broken in
            [&b""[..], b"event: n", b"event: n\n", b"no colon\n\n", b"retry: x\n\n", b"id: \n\n"]
        {
            assert!(decode(broken).is_err(), "{:?}", String::from_utf8_lossy(broken));
        }
    }

    #[test]
    fn data_that_is_not_utf8_is_replaced_and_told() {
        let (event, replaced) = decode(b"\na\xffb").unwrap();
        assert_eq!((event.data(), replaced), ("a\u{fffd}b", true));
    }
}
