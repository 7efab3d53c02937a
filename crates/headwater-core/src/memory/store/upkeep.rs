//! The slow work on a store's files: syncing, and deleting what is old. Look here for what happens
//! without the log's lock, and in which order.
//!
//! A slow disk takes seconds for it. So the work is collected under the lock, done without it, and
//! noted under it again. What is appended meanwhile is work for the next time.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::channels::KnownChannels;
use super::file::{io_error, is_full, remove_file, sync_directory};
use super::marker::Marker;
use crate::error::Error;

/// Work that was collected.
pub(crate) struct Upkeep {
    pub(super) directory: PathBuf,
    /// To be synced.
    pub(super) files: Vec<Arc<File>>,
    pub(super) is_directory_unsynced: bool,
    pub(super) forgetting: Option<Forgetting>,
}

/// The deletion of segments, which need not be synced.
pub(super) struct Forgetting {
    pub(super) channels: KnownChannels,
    /// Where no segment stays, only the marker knows the last offset.
    pub(super) marker: Option<Marker>,
    pub(super) paths: Vec<PathBuf>,
}

/// Work that was done, or not.
pub(crate) struct Done {
    /// What is not on disk yet.
    pub(super) left: Upkeep,
    pub(super) synced: Result<(), Error>,
    /// The last offset that was deleted.
    pub(super) forgotten: Result<Option<u64>, Error>,
}

impl Upkeep {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.is_directory_unsynced && self.forgetting.is_none()
    }

    /// Does it, as far as the disk lets it.
    pub(crate) fn run(mut self) -> Done {
        let synced = self.sync().map_err(|error| io_error("sync", &self.directory, error));
        let forgotten = match &self.forgetting {
            Some(forgetting) => forgetting.run(&self.directory).map(Some),
            None => Ok(None),
        };
        Done { left: self, synced, forgotten }
    }

    fn sync(&mut self) -> io::Result<()> {
        while let Some(file) = self.files.last() {
            file.sync_data()?;
            self.files.pop();
        }
        if self.is_directory_unsynced {
            sync_directory(&self.directory)?;
            self.is_directory_unsynced = false;
        }
        Ok(())
    }
}

impl Forgetting {
    /// What was known from the segments is on disk before they go.
    fn run(&self, directory: &Path) -> Result<u64, Error> {
        if let Some(marker) = &self.marker {
            marker.write(directory)?;
        }
        let failed = |error| io_error("write what it knows of channels to", directory, error);
        match self.channels.write(directory) {
            // A full disk must not keep the segments that fill it.
            Err(error) if is_full(&error) => {
                self.delete()?;
                self.channels.write(directory).map_err(failed)?;
            }
            written => {
                written.map_err(failed)?;
                self.delete()?;
            }
        }
        Ok(self.channels.covers_to)
    }

    fn delete(&self) -> Result<(), Error> {
        self.paths.iter().try_for_each(|path| remove_file(path))
    }
}
