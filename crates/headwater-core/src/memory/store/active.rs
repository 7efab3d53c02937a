//! The segments of an open store: closed ones, and the one that accepts records. Look here for how
//! a partial write is undone.

use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use super::file::{io_error, open_to_append};
use super::segment;
use crate::error::Error;

/// A segment that accepts no more records.
pub(super) struct Closed {
    pub(super) path: PathBuf,
    /// The lowest offset that the segment can hold.
    pub(super) first_offset: u64,
    pub(super) last_offset: u64,
}

/// The segment at the end of the log, which accepts records.
pub(super) struct Active {
    pub(super) path: PathBuf,
    pub(super) first_offset: u64,
    /// Shared with the upkeep that syncs it.
    pub(super) file: Arc<File>,
    /// The length of the valid part of the file.
    pub(super) bytes: u64,
    /// Whether the file may be longer than its valid part.
    pub(super) is_torn: bool,
    pub(super) is_unsynced: bool,
}

impl Active {
    pub(super) fn create(path: PathBuf, first_offset: u64) -> Result<Self, Error> {
        let file = open_to_append(&path, true)?.into();
        Ok(Self { path, first_offset, file, bytes: 0, is_torn: false, is_unsynced: true })
    }

    pub(super) fn reopen(closed: Closed) -> Result<Self, Error> {
        let Closed { path, first_offset, .. } = closed;
        let file = open_to_append(&path, false)?;
        let bytes = file.metadata().map_err(|error| io_error("read", &path, error))?.len();
        let file = file.into();
        Ok(Self { path, first_offset, file, bytes, is_torn: false, is_unsynced: true })
    }

    /// Writes records, preceded by the title if the file is empty. After an error the valid part of
    /// the file is unchanged.
    pub(super) fn write(&mut self, records: &[u8]) -> Result<(), Error> {
        self.cut_torn_end()?;
        let titled;
        let bytes = if self.bytes == 0 {
            titled = [&segment::TITLE[..], records].concat();
            &titled
        } else {
            records
        };
        self.is_unsynced = true;
        match (&*self.file).write_all(bytes) {
            Ok(()) => {
                self.bytes += bytes.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.is_torn = true;
                // If this fails, the next write retries it first.
                let _ = self.cut_torn_end();
                Err(io_error("write", &self.path, error))
            }
        }
    }

    /// Writes records and cuts them off again.
    pub(super) fn try_write(&mut self, records: &[u8]) -> Result<(), Error> {
        let bytes = self.bytes;
        self.write(records)?;
        self.bytes = bytes;
        self.is_torn = true;
        self.cut_torn_end()
    }

    pub(super) fn cut_torn_end(&mut self) -> Result<(), Error> {
        if self.is_torn {
            // The file is open in append mode, so the next write goes to its new end.
            let cut = self.file.set_len(self.bytes);
            cut.map_err(|error| io_error("cut", &self.path, error))?;
            self.is_torn = false;
        }
        Ok(())
    }
}
