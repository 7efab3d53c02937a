//! The slow work on a store's files: syncing, and deleting old segments. Look here for what runs
//! without the log's lock, and in which order.
//!
//! On a slow disk the work takes seconds, so it is collected under the lock, run without it, and
//! its outcome recorded under the lock again. Records appended meanwhile are left to the next
//! upkeep.

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

/// The deletion of segments. Their records need not be synced.
pub(super) struct Forgetting {
    pub(super) channels: KnownChannels,
    /// Set if no segment remains, since only the marker then records the last offset.
    pub(super) marker: Option<Marker>,
    pub(super) paths: Vec<PathBuf>,
}

/// The outcome of the work.
pub(crate) struct Done {
    /// The work whose sync failed.
    pub(super) left: Upkeep,
    pub(super) synced: Result<(), Error>,
    /// The last offset before the remaining segments; `None` if nothing was to be deleted.
    pub(super) forgotten: Result<Option<u64>, Error>,
}

impl Upkeep {
    pub(crate) fn is_empty(&self) -> bool {
        self.files.is_empty() && !self.is_directory_unsynced && self.forgetting.is_none()
    }

    /// Runs the work. Syncing and deleting fail independently.
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
    /// Stores what the segments say of channels before it deletes them.
    fn run(&self, directory: &Path) -> Result<u64, Error> {
        if let Some(marker) = &self.marker {
            marker.write(directory)?;
        }
        let failed = |error| io_error("write the list of channels to", directory, error);
        match self.channels.write(directory) {
            // On a full disk, only deleting segments frees the space that the list needs.
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
