//! The file `channels`: the channels whose records were deleted. Look here for how their last
//! offsets and ends survive a restart.
//!
//! ```text
//! title, covers to u64, forgotten to u64, number of channels u64,
//! for each: last offset u64, time in ms u64, ended u8, length u16, name;
//! then the CRC of all of it u32
//! ```
//! All numbers are little-endian. The file is replaced as a whole and synced before the records are
//! deleted. A crash in between leaves both, which agree.

use std::io;
use std::path::Path;

use super::file::{read_if_there, reject, replace_file};
use super::record::{take, take_text, take_u64};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind};

pub(super) const FILE_NAME: &str = "channels";
pub(super) const NEW_FILE_NAME: &str = "channels.new";

/// The first bytes of the file; the last character but one is the format.
const TITLE: [u8; 8] = *b"HWTRCH1\n";
const FORMAT_AT: usize = 6;

const CRC_BYTES: usize = 4;

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct KnownChannels {
    /// The list has every known channel without a record above this offset.
    pub(crate) covers_to: u64,
    /// Events up to this offset may have been forgotten, of channels that are not known.
    pub(crate) forgotten_to: u64,
    pub(crate) channels: Vec<KnownChannel>,
}

/// A channel that may have no records any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownChannel {
    pub(crate) channel: Channel,
    /// The offset of its last record.
    pub(crate) last: u64,
    /// When its last event was published, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// Whether that event ended the channel.
    pub(crate) ended: bool,
}

impl KnownChannels {
    /// Reads the file; `None` if it is missing or damaged, which the store treats alike.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file has a newer format, [`ErrorKind::Unavailable`] if it
    /// cannot be read.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(FILE_NAME);
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        let known = Self::decode(&bytes);
        if known.is_none() && is_newer(&bytes) {
            let why = "has a newer format than this version of Headwater supports: \
                       run the version that wrote it";
            return Err(reject(ErrorKind::Invalid, &path, why));
        }
        if known.is_none() {
            tracing::warn!(
                file = %path.display(),
                "file damaged: the ends and last offsets of channels without records are lost"
            );
        }
        Ok(known)
    }

    /// Replaces the file atomically and syncs it.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let path = directory.join(FILE_NAME);
        replace_file(&path, &directory.join(NEW_FILE_NAME), &self.encode())
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = TITLE.to_vec();
        for number in [self.covers_to, self.forgotten_to, self.channels.len() as u64] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        for KnownChannel { channel, last, time_ms, ended } in &self.channels {
            let name = channel.as_str();
            // Never skips one: a channel's name has at most 255 bytes.
            let Ok(length) = u16::try_from(name.len()) else { continue };
            out.extend_from_slice(&last.to_le_bytes());
            out.extend_from_slice(&time_ms.to_le_bytes());
            out.push(u8::from(*ended));
            out.extend_from_slice(&length.to_le_bytes());
            out.extend_from_slice(name.as_bytes());
        }
        let crc = crc32fast::hash(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (body, crc) = bytes.split_last_chunk::<CRC_BYTES>()?;
        let mut rest = body.strip_prefix(&TITLE)?;
        if u32::from_le_bytes(*crc) != crc32fast::hash(body) {
            return None;
        }
        let [covers_to, forgotten_to, count] =
            [take_u64(&mut rest)?, take_u64(&mut rest)?, take_u64(&mut rest)?];
        let mut channels = Vec::new();
        for _ in 0..count {
            let (last, time_ms) = (take_u64(&mut rest)?, take_u64(&mut rest)?);
            let [ended] = take(&mut rest)?;
            let channel = Channel::new(take_text(&mut rest)?).ok()?;
            channels.push(KnownChannel { channel, last, time_ms, ended: ended != 0 });
        }
        rest.is_empty().then_some(Self { covers_to, forgotten_to, channels })
    }
}

fn is_newer(bytes: &[u8]) -> bool {
    let Some(found) = bytes.first_chunk::<{ TITLE.len() }>() else { return false };
    let mut known = TITLE;
    known[FORMAT_AT] = found[FORMAT_AT];
    *found == known && *found != TITLE && found[FORMAT_AT].is_ascii_digit()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use tempfile::TempDir;

    use super::*;

    fn known(channels: Vec<(String, u64, u64, bool)>) -> KnownChannels {
        let known = |(name, last, time_ms, ended): (String, u64, u64, bool)| {
            let channel = Channel::new(name).ok()?;
            Some(KnownChannel { channel, last, time_ms, ended })
        };
        let channels = channels.into_iter().filter_map(known).collect();
        KnownChannels { covers_to: 7, forgotten_to: 3, channels }
    }

    #[test]
    fn a_damaged_file_counts_as_missing_and_a_newer_one_is_rejected() {
        let directory = TempDir::new().unwrap();
        let directory = directory.path();
        assert_eq!(KnownChannels::read(directory).unwrap(), None);
        let two = known(vec![("a".to_owned(), 5, 17, true), ("gr\u{fc}n".to_owned(), 7, 0, false)]);
        two.write(directory).unwrap();
        assert_eq!(KnownChannels::read(directory).unwrap(), Some(two));
        let path = directory.join(FILE_NAME);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            fs::write(&path, &whole[..at]).unwrap();
            assert_eq!(KnownChannels::read(directory).unwrap(), None, "{at} bytes");
            let mut flipped = whole.clone();
            flipped[at] ^= 64;
            fs::write(&path, &flipped).unwrap();
            assert_eq!(KnownChannels::read(directory).unwrap(), None, "byte {at}");
        }
        let mut newer = whole;
        newer[FORMAT_AT] = b'2';
        fs::write(&path, &newer).unwrap();
        let rejected = KnownChannels::read(directory).unwrap_err();
        assert!(rejected.to_string().contains("channels has a newer format"), "{rejected}");
    }

    proptest! {
        #[test]
        fn all_channels_survive_a_round_trip(channels: Vec<(String, u64, u64, bool)>) {
            let known = known(channels);
            prop_assert_eq!(KnownChannels::decode(&known.encode()), Some(known));
        }

        #[test]
        fn garbage_does_not_panic(garbage: Vec<u8>, has_valid_crc: bool) {
            let mut bytes = [&TITLE[..], &garbage].concat();
            if has_valid_crc {
                let crc = crc32fast::hash(&bytes);
                bytes.extend_from_slice(&crc.to_le_bytes());
            }
            let _ = KnownChannels::decode(&bytes);
        }
    }
}
