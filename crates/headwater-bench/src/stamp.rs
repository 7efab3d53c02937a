//! The stamp at the front of each event's data: its number on the channel and its time of sending.
//! Look here for how the generator knows what is missing, and how late an event is.

use std::time::{SystemTime, UNIX_EPOCH};

const DIGITS: usize = 16;

/// The length of a stamp: two numbers of 16 hexadecimal digits.
pub(crate) const STAMP_BYTES: usize = 2 * DIGITS;

/// The number of an event and its time of sending.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    /// The number of the event on its channel, from 0.
    pub(crate) sequence: u64,
    /// When it was sent, by [`now_ns`].
    pub(crate) sent_at_ns: u64,
}

impl Stamp {
    /// Overwrites the front of the data with the stamp.
    pub(crate) fn write(self, data: &mut [u8]) {
        write_hex(self.sequence, &mut data[..DIGITS]);
        write_hex(self.sent_at_ns, &mut data[DIGITS..STAMP_BYTES]);
    }

    /// The stamp at the front of a line, if there is one.
    pub(crate) fn read(data: &[u8]) -> Option<Self> {
        let sequence = read_hex(data.get(..DIGITS)?)?;
        let sent_at_ns = read_hex(data.get(DIGITS..STAMP_BYTES)?)?;
        Some(Self { sequence, sent_at_ns })
    }
}

/// The system time in nanoseconds. Not the monotonic clock, because publisher and streams are in
/// different processes, and the standard library can compare monotonic times within a process only.
pub(crate) fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

fn write_hex(mut number: u64, digits: &mut [u8]) {
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789abcdef"[usize::from(number as u8 & 0xf)];
        number >>= 4;
    }
}

fn read_hex(digits: &[u8]) -> Option<u64> {
    let mut number = 0;
    for digit in digits {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        number = number << 4 | u64::from(value);
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_survives_a_round_trip() {
        let mut data = [b'.'; 40];
        let stamp = Stamp { sequence: 0x0123_4567_89ab_cdef, sent_at_ns: u64::MAX };
        stamp.write(&mut data);
        assert_eq!(&data, b"0123456789abcdefffffffffffffffff........");
        assert_eq!(Stamp::read(&data), Some(stamp));
    }

    #[test]
    fn other_data_is_not_a_stamp() {
        for data in [&b""[..], b"hello", b"0123456789ABCDEF0000000000000000", &[b'0'; 31]] {
            assert_eq!(Stamp::read(data), None);
        }
    }
}
