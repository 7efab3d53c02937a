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
use super::marker::{Marker, State};
use super::{Closed, Store, io_error, is_full, remove_file, sync_directory};
use crate::error::Error;

/// Work that was collected.
pub(crate) struct Upkeep {
    directory: PathBuf,
    /// To be synced.
    files: Vec<Arc<File>>,
    is_directory_unsynced: bool,
    forgetting: Option<Forgetting>,
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
    left: Upkeep,
    synced: Result<(), Error>,
    /// The last offset that was deleted.
    forgotten: Result<Option<u64>, Error>,
}

impl Store {
    /// Collects what there is to sync, and, up to this offset, to delete. What is known of the channels
    /// that have no record above the offset that `known` is given is kept in their place.
    pub(crate) fn begin_upkeep(
        &mut self,
        forget_before: u64,
        known: impl FnOnce(u64) -> KnownChannels,
    ) -> Upkeep {
        let forgetting = self.begin_forgetting(forget_before, known);
        let mut files = std::mem::take(&mut self.unsynced);
        if let Some(active) = self.active.as_mut().filter(|active| active.is_unsynced) {
            files.push(active.file.clone());
            active.is_unsynced = false;
        }
        let is_directory_unsynced = std::mem::take(&mut self.directory_unsynced);
        Upkeep { directory: self.directory.clone(), files, is_directory_unsynced, forgetting }
    }

    fn begin_forgetting(
        &mut self,
        before: u64,
        known: impl FnOnce(u64) -> KnownChannels,
    ) -> Option<Forgetting> {
        let is_old = |closed: &Closed| closed.last_offset < before;
        if self.last_offset < before && self.closed.iter().all(is_old) {
            self.retire_active();
        }
        let old: Vec<&Closed> = self.closed.iter().take_while(|closed| is_old(closed)).collect();
        let paths: Vec<PathBuf> = old.iter().map(|closed| closed.path.clone()).collect();
        let newer = self.closed.get(paths.len()).map(|closed| closed.first_offset);
        let first_kept = newer.or(self.active.as_ref().map(|active| active.first_offset));
        let covers_to = first_kept.map_or(self.last_offset, |first| first.saturating_sub(1));
        let marker =
            first_kept.is_none().then(|| self.marker(State::Open { boot: self.boot.clone() }));
        (!paths.is_empty()).then(|| Forgetting { channels: known(covers_to), marker, paths })
    }

    /// Notes what was done. The first result is of syncing, the second of deleting; what failed is work
    /// for the next time.
    pub(crate) fn end_upkeep(&mut self, done: Done) -> (Result<(), Error>, Result<(), Error>) {
        self.unsynced.extend(done.left.files);
        self.directory_unsynced |= done.left.is_directory_unsynced;
        let forgotten = done.forgotten.map(|forgotten_to| {
            let is_deleted = |last_offset: u64| forgotten_to.is_some_and(|to| last_offset <= to);
            self.closed.retain(|closed| !is_deleted(closed.last_offset));
        });
        (done.synced, forgotten)
    }
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
