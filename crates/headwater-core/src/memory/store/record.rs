//! Encodes and decodes one record of the log. Look here for the layout on disk.
//!
//! ```text
//! frame    length u32, CRC of the payload u32, CRC of these eight bytes u32, payload
//! payload  offset u64, previous offset u64, time in ms u64, flags u8, [retry in ms u64],
//!          channel, [name], [id], [key]: each a length u16 and its bytes; the rest is the data
//! ```
//! All numbers are little-endian. A field in brackets is present if its flag is set. The length has
//! a separate CRC, which distinguishes a record that is cut short, as a crash leaves it, from one
//! whose length is damaged.

use crate::channel::Channel;
use crate::error::{Error, ErrorKind};
use crate::event::{Event, is_position};
use crate::limits::{EVENT_DATA_BYTES_MAX, EVENT_ID_BYTES_MAX, EVENT_NAME_BYTES_MAX};
use std::time::Duration;

/// A durable event as the log stores it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The offset in the log, from 1.
    pub(crate) offset: u64,
    /// The offset of the channel's previous record; 0 if there is none.
    pub(crate) prev: u64,
    /// When it was published, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// Whether the event ends its channel.
    pub(crate) end: bool,
    pub(crate) channel: Channel,
    pub(crate) event: Event,
    /// The idempotency key that the publisher set.
    pub(crate) key: Option<String>,
}

/// The length of the head, which precedes the payload: its length and two CRCs.
pub(super) const HEAD_BYTES: usize = 12;

/// The largest payload: the data, and ample room for the other fields.
pub(super) const PAYLOAD_BYTES_MAX: usize = EVENT_DATA_BYTES_MAX + (256 << 10);

const _: () = {
    assert!(EVENT_NAME_BYTES_MAX <= u16::MAX as usize && EVENT_ID_BYTES_MAX <= u16::MAX as usize);
    // Up to four texts of at most 64 KiB each, and 33 bytes of numbers. Only four texts of the full
    // length would not fit.
    assert!(EVENT_DATA_BYTES_MAX + 3 * (64 << 10) + 64 < PAYLOAD_BYTES_MAX);
    assert!(PAYLOAD_BYTES_MAX < u32::MAX as usize);
};

const END: u8 = 1;
const NAME: u8 = 2;
const ID: u8 = 4;
const RETRY: u8 = 8;
const KEY: u8 = 16;
const FLAGS: u8 = END | NAME | ID | RETRY | KEY;

impl Record {
    /// Appends the record to `out`.
    ///
    /// # Errors
    /// [`ErrorKind::TooLarge`] if a text exceeds 65,535 bytes or the data [`EVENT_DATA_BYTES_MAX`].
    /// `out` then ends with a partial record.
    pub(super) fn encode(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        let head_at = out.len();
        out.extend_from_slice(&[0; HEAD_BYTES]);
        let payload_at = out.len();
        let Self { offset, prev, time_ms, channel, event, key, .. } = self;
        for number in [offset, prev, time_ms] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.push(self.flags());
        if let Some(retry) = event.retry() {
            let retry_ms = u64::try_from(retry.as_millis()).unwrap_or(u64::MAX);
            out.extend_from_slice(&retry_ms.to_le_bytes());
        }
        let name = event.name().map(AsRef::as_ref);
        let id = event.id().map(AsRef::as_ref);
        for text in [Some(channel.as_str()), name, id, key.as_deref()].into_iter().flatten() {
            let length = u16::try_from(text.len()).map_err(|_| too_large(text.len()))?;
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(text.as_bytes());
        }
        if event.data().len() > EVENT_DATA_BYTES_MAX {
            return Err(too_large(event.data().len()));
        }
        out.extend_from_slice(event.data().as_bytes());
        let payload = &out[payload_at..];
        let length = u32::try_from(payload.len()).map_err(|_| too_large(payload.len()))?;
        let head = encode_head(length, crc32fast::hash(payload));
        out[head_at..payload_at].copy_from_slice(&head);
        Ok(())
    }

    fn flags(&self) -> u8 {
        let flag = |is_set, flag| if is_set { flag } else { 0 };
        flag(self.end, END)
            | flag(self.event.name().is_some(), NAME)
            | flag(self.event.id().is_some(), ID)
            | flag(self.event.retry().is_some(), RETRY)
            | flag(self.key.is_some(), KEY)
    }

    /// Decodes a payload whose CRC matches; `None` if it is not a valid record.
    pub(super) fn decode(payload: &[u8]) -> Option<Self> {
        let mut rest = payload;
        let [offset, prev, time_ms] =
            [take_u64(&mut rest)?, take_u64(&mut rest)?, take_u64(&mut rest)?];
        let [flags] = take(&mut rest)?;
        if flags & !FLAGS != 0 {
            return None;
        }
        let has = |flag| flags & flag != 0;
        let retry_ms = if has(RETRY) { Some(take_u64(&mut rest)?) } else { None };
        let channel = Channel::new(take_text(&mut rest)?).ok()?;
        let name = if has(NAME) { Some(take_text(&mut rest)?) } else { None };
        let id = if has(ID) { Some(take_text(&mut rest)?) } else { None };
        let key = if has(KEY) { Some(take_text(&mut rest)?.to_owned()) } else { None };
        let mut event = Event::new(str::from_utf8(rest).ok()?);
        if let Some(name) = name {
            event = event.with_stored_name(name).ok()?;
        }
        // Older versions let publishers choose an id that is written as a position.
        if let Some(id) = id.filter(|id| !is_position(id)) {
            event = event.with_id(id).ok()?;
        }
        if let Some(retry_ms) = retry_ms {
            event = event.with_retry(Duration::from_millis(retry_ms));
        }
        Some(Self { offset, prev, time_ms, end: has(END), channel, event, key })
    }
}

fn encode_head(length: u32, payload_crc: u32) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..4].copy_from_slice(&length.to_le_bytes());
    head[4..8].copy_from_slice(&payload_crc.to_le_bytes());
    let crc = crc32fast::hash(&head[..8]);
    head[8..].copy_from_slice(&crc.to_le_bytes());
    head
}

/// The length and CRC of the payload; `None` if the head is damaged.
pub(super) fn decode_head(head: [u8; HEAD_BYTES]) -> Option<(usize, u32)> {
    let mut rest = &head[..];
    let [length, payload_crc, crc] =
        [take_u32(&mut rest)?, take_u32(&mut rest)?, take_u32(&mut rest)?];
    let length = usize::try_from(length).ok()?;
    (crc == crc32fast::hash(&head[..8]) && length <= PAYLOAD_BYTES_MAX)
        .then_some((length, payload_crc))
}

pub(super) fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (first, remaining) = rest.split_first_chunk()?;
    *rest = remaining;
    Some(*first)
}

fn take_u32(rest: &mut &[u8]) -> Option<u32> {
    take(rest).map(u32::from_le_bytes)
}

pub(super) fn take_u64(rest: &mut &[u8]) -> Option<u64> {
    take(rest).map(u64::from_le_bytes)
}

pub(super) fn take_text<'a>(rest: &mut &'a [u8]) -> Option<&'a str> {
    let length = u16::from_le_bytes(take(rest)?);
    let (text, remaining) = rest.split_at_checked(usize::from(length))?;
    *rest = remaining;
    str::from_utf8(text).ok()
}

fn too_large(bytes: usize) -> Error {
    Error::new(
        ErrorKind::TooLarge,
        format!("a part of an event has {bytes} bytes, more than the store accepts: shorten it"),
    )
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::memory::store::tests::record;

    fn round_trip(record: &Record) {
        let mut bytes = b"before".to_vec();
        record.encode(&mut bytes).unwrap();
        let (head, payload) = bytes[6..].split_first_chunk().unwrap();
        assert_eq!(decode_head(*head), Some((payload.len(), crc32fast::hash(payload))));
        assert_eq!(Record::decode(payload).as_ref(), Some(record));
        for end in 0..payload.len().min(60) {
            // A cut within the numbers or texts leaves no record, a cut after them less data.
            assert_ne!(Record::decode(&payload[..end]).as_ref(), Some(record));
        }
    }

    #[test]
    fn all_fields_survive_a_round_trip() {
        round_trip(&record(1, "a", ""));
        let event =
            Event::new("d\r\n\u{1f30a}").with_name("n\u{fc}").unwrap().with_id("7").unwrap();
        let event = event.with_retry(Duration::from_millis(u64::MAX));
        let full = Record {
            offset: (1 << 53) - 1,
            prev: (1 << 53) - 2,
            time_ms: u64::MAX,
            end: true,
            event,
            key: Some(String::new()),
            ..record(1, "gr\u{fc}\u{df}e", "")
        };
        round_trip(&full);
        round_trip(&Record { key: Some("k".repeat(65_535)), ..full });
        round_trip(&record(1, "a", &"x".repeat(EVENT_DATA_BYTES_MAX)));
    }

    #[test]
    fn an_id_that_is_written_as_a_position_is_ignored() {
        let own = Record { event: Event::new("d").with_id("xx-7").unwrap(), ..record(1, "a", "") };
        let mut bytes = Vec::new();
        own.encode(&mut bytes).unwrap();
        let at = bytes.windows(4).position(|bytes| bytes == b"xx-7").unwrap();
        bytes[at..at + 2].copy_from_slice(b"ab");
        let decoded = Record::decode(&bytes[HEAD_BYTES..]).unwrap();
        assert_eq!(decoded.event, Event::new("d"));
    }

    #[test]
    fn too_large_parts_are_rejected() {
        let mut out = Vec::new();
        let large = Record { key: Some("k".repeat(65_536)), ..record(1, "a", "") };
        assert_eq!(large.encode(&mut out).unwrap_err().kind(), ErrorKind::TooLarge);
        let large = record(1, "a", &"x".repeat(EVENT_DATA_BYTES_MAX + 1));
        assert_eq!(large.encode(&mut out).unwrap_err().kind(), ErrorKind::TooLarge);
    }

    #[test]
    fn an_unknown_flag_is_no_record() {
        let mut bytes = Vec::new();
        record(1, "a", "x").encode(&mut bytes).unwrap();
        let payload = &mut bytes[HEAD_BYTES..];
        assert!(Record::decode(payload).is_some());
        payload[24] |= 32;
        assert_eq!(Record::decode(payload), None);
    }

    #[test]
    fn zeros_are_no_head() {
        // File systems can leave zeros after a power failure.
        assert_eq!(decode_head([0; HEAD_BYTES]), None);
    }

    proptest! {
        #[test]
        fn garbage_does_not_panic(payload: Vec<u8>, head: [u8; HEAD_BYTES]) {
            let _ = Record::decode(&payload);
            let _ = decode_head(head);
        }
    }
}
