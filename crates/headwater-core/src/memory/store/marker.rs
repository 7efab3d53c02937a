//! The file `marker`: the epoch, the last offset, and how the store was left. Look here for its
//! content and for how a power failure is distinguished from a crash of the process.

use std::fs;
use std::path::Path;

use super::file::{io_error, read_if_there, reject, replace_file};
use crate::error::{Error, ErrorKind};

pub(super) const FILE_NAME: &str = "marker";
pub(super) const NEW_FILE_NAME: &str = "marker.new";

const TITLE: &str = "headwater-store";
const FORMAT: u32 = 1;

/// Written in place of an unknown boot id.
const UNKNOWN_BOOT: &str = "unknown";

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marker {
    /// 48 random bits, never 0.
    pub(super) epoch: u64,
    /// Offsets up to this one are never assigned again. The records can have higher offsets.
    pub(super) last_offset: u64,
    pub(super) state: State,
}

/// How the store was left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum State {
    /// All records were synced and the store was closed; `last_offset` is exact.
    Closed,
    /// A process has the store open, or crashed while it had, in the boot of the machine with this
    /// id; `None` where the system does not report one.
    Open { boot: Option<String> },
}

impl Marker {
    /// Reads the file; `None` if it is missing or damaged.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the file has another format or is not a marker,
    /// [`ErrorKind::Unavailable`] if it cannot be read.
    pub(super) fn read(directory: &Path) -> Result<Option<Self>, Error> {
        let path = directory.join(FILE_NAME);
        let Some(bytes) = read_if_there(&path)? else { return Ok(None) };
        let text = String::from_utf8_lossy(&bytes);
        let format = text
            .strip_prefix(TITLE)
            .and_then(|rest| rest.lines().next()?.trim().parse::<u32>().ok());
        match format {
            Some(FORMAT) => Ok(Self::parse(&text)),
            Some(newer) => Err(reject(
                ErrorKind::Invalid,
                directory,
                &format!(
                    "has format {newer}, but this version of Headwater supports format {FORMAT}: \
                     run the version that wrote it, or use another directory"
                ),
            )),
            None => Err(reject(
                ErrorKind::Invalid,
                &path,
                "is not a Headwater marker: use a separate directory for Headwater",
            )),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (body, crc) = text.split_once("crc ")?;
        if u32::from_str_radix(crc.strip_suffix('\n')?, 16).ok()?
            != crc32fast::hash(body.as_bytes())
        {
            return None;
        }
        let mut lines = body.lines().skip(1);
        let epoch = u64::from_str_radix(lines.next()?.strip_prefix("epoch ")?, 16).ok()?;
        let last_offset = lines.next()?.strip_prefix("last ")?.parse().ok()?;
        let state = match lines.next()?.strip_prefix("state ")? {
            "closed" => State::Closed,
            open => {
                let boot = open.strip_prefix("open ")?;
                State::Open { boot: (boot != UNKNOWN_BOOT).then(|| boot.to_owned()) }
            }
        };
        (epoch != 0).then_some(Self { epoch, last_offset, state })
    }

    fn text(&self) -> String {
        let Self { epoch, last_offset, state } = self;
        let state = match state {
            State::Closed => "closed",
            State::Open { boot } => &format!("open {}", boot.as_deref().unwrap_or(UNKNOWN_BOOT)),
        };
        let body =
            format!("{TITLE} {FORMAT}\nepoch {epoch:012x}\nlast {last_offset}\nstate {state}\n");
        let crc = crc32fast::hash(body.as_bytes());
        format!("{body}crc {crc:08x}\n")
    }

    /// Replaces the file atomically and syncs it.
    pub(super) fn write(&self, directory: &Path) -> Result<(), Error> {
        let (path, new_path) = (directory.join(FILE_NAME), directory.join(NEW_FILE_NAME));
        let written = replace_file(&path, &new_path, self.text().as_bytes());
        written.map_err(|error| io_error("write", &path, error))
    }
}

/// The id of the current boot of the machine; `None` where the system does not report one.
pub(super) fn boot() -> Option<String> {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let word = text.trim();
    let is_word = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
    (is_word && word != UNKNOWN_BOOT).then(|| word.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_survives_a_round_trip_and_a_damaged_one_counts_as_missing() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path();
        assert_eq!(Marker::read(directory).unwrap(), None);
        for state in [State::Closed, State::Open { boot: boot() }, State::Open { boot: None }] {
            let marker = Marker { epoch: 0xa1b2_c3d4_e5f6, last_offset: 17, state };
            marker.write(directory).unwrap();
            assert_eq!(Marker::read(directory).unwrap(), Some(marker));
        }
        let whole = fs::read(directory.join(FILE_NAME)).unwrap();
        let body_at = TITLE.len() + 3;
        for at in body_at..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            fs::write(directory.join(FILE_NAME), &flipped).unwrap();
            assert_eq!(Marker::read(directory).unwrap(), None, "byte {at}");
            fs::write(directory.join(FILE_NAME), &whole[..at]).unwrap();
            assert_eq!(Marker::read(directory).unwrap(), None, "{at} bytes");
        }
    }
}
