//! The slow work on a store's files: syncing, and deleting old segments. Look here for what runs
//! without the log's lock, and in which order.
//!
//! A slow disk takes seconds for it. So the work is collected under the lock, runs without it, and
//! its result is recorded under the lock again. The next upkeep covers what is appended meanwhile.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::channels::KnownChannels;
use super::file::{io_error, is_full, remove_file, sync_directory};
use super::marker::Marker;
use crate::error::Error;

/// Collected work.
pub(crate) struct Upkeep {
    pub(super) directory: PathBuf,
    /// The files to sync.
    pub(super) files: Vec<Arc<File>>,
    pub(super) is_directory_unsynced: bool,
    pub(super) forgetting: Option<Forgetting>,
}

/// The deletion of old segments, which need no sync.
pub(super) struct Forgetting {
    pub(super) channels: KnownChannels,
    /// Written if no segment remains, since only the marker has the last offset then.
    pub(super) marker: Option<Marker>,
    pub(super) paths: Vec<PathBuf>,
}

/// The result of an upkeep.
pub(crate) struct Done {
    /// The work that is left to do.
    pub(super) left: Upkeep,
    pub(super) synced: Result<(), Error>,
    /// The last offset that was deleted.
    pub(super) forgotten: Result<Option<u64>, Error>,
}

impl Upkeep {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.is_directory_unsynced && self.forgetting.is_none()
    }

    /// Does the work, as far as the disk permits.
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
    /// Deletes the segments, after the marker and the channels known from them are on disk.
    fn run(&self, directory: &Path) -> Result<u64, Error> {
        if let Some(marker) = &self.marker {
            marker.write(directory)?;
        }
        let failed = |error| io_error("write the list of channels to", directory, error);
        match self.channels.write(directory) {
            // On a full disk, the segments are deleted first to free space.
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
