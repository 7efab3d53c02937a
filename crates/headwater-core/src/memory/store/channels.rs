//! The file `channels`: the known channels whose records were deleted. Look here for how their ends
//! and last offsets survive a restart.
//!
//! ```text
//! title, covers to u64, forgotten to u64, number of channels u64,
//! per channel: last offset u64, time in ms u64, ended u8, length u16, name; CRC of all the above u32
//! ```
//! All numbers are little-endian. The file is replaced as a whole, and is on disk before the
//! records are deleted. A process that is killed in between leaves both, which agree.

use std::io;
use std::path::Path;

use super::file::{path_error, read_if_exists, replace_file};
use super::record::{take, take_text, take_u64};
use crate::channel::Channel;
use crate::error::{Error, ErrorKind};

pub(super) const FILE_NAME: &str = "channels";
pub(super) const NEW_FILE_NAME: &str = "channels.new";

/// The start of the file; the second-to-last byte is the format.
const TITLE: [u8; 8] = *b"HWTRCH1\n";
const FORMAT_AT: usize = 6;

const CRC_BYTES: usize = 4;

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct KnownChannels {
    /// The list has every known channel without a record above this offset.
    pub(crate) covers_to: u64,
    /// An unknown channel may have had events up to this offset.
    pub(crate) forgotten_to: u64,
    pub(crate) channels: Vec<KnownChannel>,
}

/// A channel that may have no record left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KnownChannel {
    pub(crate) channel: Channel,
    /// The offset of its last record.
    pub(crate) last: u64,
    /// When that record was published, in milliseconds since 1970.
    pub(crate) time_ms: u64,
    /// Whether that record ended the channel.
    pub(crate) ended: bool,
}

impl KnownChannels {
    /// Reads the file; `None` if there is none, or if it is damaged, which the store treats alike.
    ///
    /// # Errors
    /// If the file cannot be read, or has a newer format.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(FILE_NAME);
        let Some(bytes) = read_if_exists(&path)? else { return Ok(None) };
        let known = Self::decode(&bytes);
        if known.is_none() && is_newer(&bytes) {
            let why = "has a newer format than this version of Headwater supports: run the version \
                       that wrote it";
            return Err(path_error(ErrorKind::Invalid, &path, why));
        }
        if known.is_none() {
            tracing::warn!(
                file = %path.display(),
                "list of channels damaged: channels without retained events are unknown"
            );
        }
        Ok(known)
    }

    /// Replaces the file as a whole. It is on disk when this returns.
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
            // Always fits: a channel's name has at most 255 bytes.
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
    fn a_damaged_file_is_ignored_and_a_newer_one_is_rejected() {
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
        let error = KnownChannels::read(directory).unwrap_err();
        assert!(error.to_string().contains("channels has a newer format"), "{error}");
    }

    proptest! {
        #[test]
        fn channels_round_trip(channels: Vec<(String, u64, u64, bool)>) {
            let known = known(channels);
            prop_assert_eq!(KnownChannels::decode(&known.encode()), Some(known));
        }

        #[test]
        fn garbage_never_panics(garbage: Vec<u8>, has_crc: bool) {
            let mut bytes = [&TITLE[..], &garbage].concat();
            if has_crc {
                let crc = crc32fast::hash(&bytes);
                bytes.extend_from_slice(&crc.to_le_bytes());
            }
            let _ = KnownChannels::decode(&bytes);
        }
    }
}
