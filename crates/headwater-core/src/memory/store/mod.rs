//! The log of the embedded broker on disk: durable events in the order of their offsets. Look here
//! for what survives a crash, a full disk, a power failure, and a damaged file.
//!
//! # Why a plain log
//! Events are appended in one order, read once at startup, and deleted from the front. A segmented
//! log does that in a few hundred lines that can be read and tested in full. It can be inconsistent
//! in one way only, a torn end, and a checksum detects that. An embedded database would add pages,
//! a cache, a journal, compaction, and a file format to migrate, and none of what it offers is
//! needed here: no lookup by key, no update in place, no transaction over several records.
//!
//! # The directory
//! - `OFFSET.log`: a segment: consecutive records, named by the lowest offset it can hold. A new
//!   one is started when a segment reaches [`SEGMENT_BYTES_MAX`].
//! - `marker`: the epoch, and how the store was left; replaced as a whole.
//! - `channels`: what is known of channels whose records were deleted; replaced as a whole.
//! - `lock`: locked while a process has the directory open.
//!
//! # What survives
//! - **A crash of the process**: every record whose `append` returned, because the operating system
//!   has it. A record that was being written is cut off at the next start; it was not acknowledged.
//! - **A full disk**: `append` fails, its partial write is cut off, and a later `append` can
//!   succeed.
//! - **A power failure**: records appended since the last `sync` may be lost, and subscribers may
//!   have received them. The store therefore takes a new epoch: clients that reconnect are notified
//!   that events may be missing, and no position can stand for two events. Records that are still
//!   there remain in the history. Where the system does not report when the machine started, a
//!   store that was not closed cleanly is assumed to have lost power.
//! - **A damaged file**: records after the damage in the same segment are lost. The epoch is new.
//!
//! Offsets never decrease, not even after every record was deleted.

mod active;
mod channels;
#[cfg(test)]
mod damage_tests;
mod file;
mod marker;
#[cfg(test)]
mod property_tests;
mod record;
mod segment;
#[cfg(test)]
pub(super) mod tests;
mod upkeep;
#[cfg(test)]
mod upkeep_tests;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use self::active::{Active, Closed};
pub(crate) use self::channels::{KnownChannel, KnownChannels};
use self::file::{cut, io_error, reject};
use self::marker::{Marker, State};
pub(crate) use self::record::Record;
use self::segment::End;
use self::upkeep::Forgetting;
pub(crate) use self::upkeep::{Done, Upkeep};
use crate::error::{Error, ErrorKind};
use crate::limits::SEGMENT_BYTES_MAX;
use crate::private_file;

const LOCK_FILE_NAME: &str = "lock";

/// A log in a directory that this process alone has open.
pub(crate) struct Store {
    directory: PathBuf,
    /// Holds the lock while it is open.
    lock: File,
    /// The id of the current boot of the machine, where the system reports one.
    boot: Option<String>,
    epoch: u64,
    last_offset: u64,
    /// Segments that accept no more records, oldest first.
    closed: VecDeque<Closed>,
    /// The segment that accepts records, if there is one.
    active: Option<Active>,
    /// Files with unsynced records, except the active one.
    unsynced: Vec<Arc<File>>,
    /// Whether a file was created since the last sync.
    directory_unsynced: bool,
    /// Reused by each `append`.
    buffer: Vec<u8>,
    bytes_max: u64,
}

/// The state of a directory when it was opened.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// 48 random bits, never 0.
    pub(crate) epoch: u64,
    /// The highest offset ever assigned; 0 if none was.
    pub(crate) last_offset: u64,
    /// Records up to this offset may have been forgotten, of channels that are not in `channels`.
    pub(crate) forgotten_to: u64,
    /// Channels whose records were deleted, and possibly others, as they were at that time.
    pub(crate) channels: Vec<KnownChannel>,
    /// The records, in order, for tests that need all of them at once.
    #[cfg(test)]
    pub(crate) records: Vec<Record>,
}

impl Store {
    /// Opens a directory and collects its records.
    #[cfg(test)]
    pub(crate) fn open(directory: &Path) -> Result<(Self, Recovered), Error> {
        Self::open_in_boot(marker::boot(), directory)
    }

    #[cfg(test)]
    fn open_in_boot(boot: Option<String>, directory: &Path) -> Result<(Self, Recovered), Error> {
        let mut records = Vec::new();
        let mut each = |record| records.push(record);
        let (store, recovered) = Self::open_each_in_boot(boot, directory, &mut each)?;
        Ok((store, Recovered { records, ..recovered }))
    }

    /// Opens a directory, and creates it if it does not exist. Passes each record to `each` instead
    /// of collecting them, because the log can be much larger than what the retention rules need.
    ///
    /// # Errors
    /// - [`ErrorKind::PermissionDenied`] if another process has the directory open.
    /// - [`ErrorKind::Invalid`] if it holds foreign files, or files of a newer format.
    /// - [`ErrorKind::Unavailable`] if the operating system reports an error.
    pub(crate) fn open_each(
        directory: &Path,
        each: &mut dyn FnMut(Record),
    ) -> Result<(Self, Recovered), Error> {
        Self::open_each_in_boot(marker::boot(), directory, each)
    }

    fn open_each_in_boot(
        boot: Option<String>,
        directory: &Path,
        each: &mut dyn FnMut(Record),
    ) -> Result<(Self, Recovered), Error> {
        create_directory(directory)?;
        reject_foreign_files(directory)?;
        let lock = lock(directory)?;
        let marker = Marker::read(directory)?;
        let known = KnownChannels::read(directory)?.unwrap_or_default();
        let mut store = Self {
            directory: directory.to_owned(),
            lock,
            boot,
            epoch: 0,
            last_offset: 0,
            closed: VecDeque::new(),
            active: None,
            unsynced: Vec::new(),
            directory_unsynced: true,
            buffer: Vec::new(),
            bytes_max: SEGMENT_BYTES_MAX,
        };
        let first_offset = store.read_segments(marker.as_ref(), known.covers_to, each)?;
        let deleted_to = first_offset.map_or(store.last_offset, |first| first.saturating_sub(1));
        // Segments that were deleted without a new list, by hand or because the disk was full, may
        // have had more channels.
        let is_complete = deleted_to <= known.covers_to;
        let (epoch, last_offset) = (store.epoch, store.last_offset);
        let recovered = Recovered {
            epoch,
            last_offset,
            forgotten_to: if is_complete { known.forgotten_to } else { deleted_to },
            channels: if is_complete { known.channels } else { Vec::new() },
            #[cfg(test)]
            records: Vec::new(),
        };
        Ok((store, recovered))
    }

    /// Appends records with one write. Once it returns, they survive a crash of the process.
    ///
    /// # Errors
    /// After an error none of the records is in the log.
    /// - [`ErrorKind::Invalid`] if the offsets do not increase.
    /// - [`ErrorKind::TooLarge`] if a part of an event exceeds its bound.
    /// - [`ErrorKind::Unavailable`] if the operating system reports an error. A retry can succeed.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<(), Error> {
        let mut last_offset = self.last_offset;
        self.buffer.clear();
        for record in records {
            if record.offset <= last_offset || record.prev >= record.offset {
                return Err(Error::invalid(format!(
                    "offset {} after offset {last_offset} is out of order: \
                     this is a bug in Headwater, please report it",
                    record.offset
                )));
            }
            last_offset = record.offset;
            record.encode(&mut self.buffer)?;
        }
        let Some(first) = records.first() else { return Ok(()) };
        self.make_room(first.offset)?;
        if let Some(active) = &mut self.active {
            active.write(&self.buffer)?;
            self.last_offset = last_offset;
        }
        // The next event is rarely as large.
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    /// Whether the records that were rejected last would be accepted now. Nothing is kept of them.
    ///
    /// # Errors
    /// As for [`append`](Self::append).
    pub(crate) fn try_again(&mut self) -> Result<(), Error> {
        self.make_room(self.last_offset + 1)?;
        match &mut self.active {
            Some(active) => active.try_write(&self.buffer),
            None => Ok(()),
        }
    }

    /// Syncs appended records to disk, so that they survive a power failure too. After an error the
    /// next call tries again.
    fn sync(&mut self) -> Result<(), Error> {
        let work = self.begin_upkeep(0, |_| KnownChannels::default());
        self.end_upkeep(work.run()).0
    }

    /// Reads all segments, repairs them, and decides on the epoch. Returns the lowest offset that
    /// the log can hold.
    fn read_segments(
        &mut self,
        marker: Option<&Marker>,
        known_to: u64,
        each: &mut dyn FnMut(Record),
    ) -> Result<Option<u64>, Error> {
        let segments = segment::list(&self.directory)?;
        let mut cuts = Vec::new();
        let mut may_lack_records = false;
        for (index, (first_offset, path)) in segments.iter().enumerate() {
            let last_offset = self.last_offset.max(first_offset.saturating_sub(1));
            let outcome = segment::read(path, last_offset, each)?;
            let is_last = index + 1 == segments.len();
            may_lack_records |= outcome.end == End::Damaged || outcome.end == End::Torn && !is_last;
            if outcome.valid_bytes < outcome.file_bytes {
                cuts.push((path, outcome.valid_bytes, outcome.file_bytes - outcome.valid_bytes));
            }
            self.last_offset = outcome.last_offset;
            let (path, first_offset, last_offset) =
                (path.clone(), *first_offset, outcome.last_offset);
            self.closed.push_back(Closed { path, first_offset, last_offset });
        }
        let marked_offset = marker.map_or(0, |marker| marker.last_offset).max(known_to);
        let ends_too_early = !segments.is_empty() && self.last_offset < marked_offset;
        may_lack_records |= ends_too_early;
        self.last_offset = self.last_offset.max(marked_offset);
        self.epoch = self.decide_epoch(marker, &segments, may_lack_records);
        // Before any segment is cut: after a crash in between, the next start must find the new
        // epoch.
        self.marker(State::Open { boot: self.boot.clone() }).write(&self.directory)?;
        for (path, valid_bytes, cut_bytes) in cuts {
            cut(path, valid_bytes)?;
            tracing::warn!(
                file = %path.display(),
                bytes = cut_bytes,
                damaged = may_lack_records,
                "cut off the end of a segment: not a complete record"
            );
        }
        self.active = self.closed.pop_back().map(Active::reopen).transpose()?;
        if ends_too_early {
            // Its name says where the log continues, so that the next start sees no missing
            // records.
            self.start_segment(self.last_offset + 1)?;
        }
        Ok(segments.first().map(|(first_offset, _)| *first_offset))
    }

    /// Ensures that there is an active segment with room for the buffer.
    fn make_room(&mut self, first_offset: u64) -> Result<(), Error> {
        let is_full = |active: &Active| {
            active.bytes > segment::TITLE.len() as u64
                && active.bytes + self.buffer.len() as u64 > self.bytes_max
        };
        if self.active.as_ref().is_some_and(|active| !is_full(active)) {
            return Ok(());
        }
        self.start_segment(first_offset)
    }

    fn start_segment(&mut self, first_offset: u64) -> Result<(), Error> {
        if let Some(full) = &mut self.active {
            // A torn end counts as damage in a segment that is not the last.
            full.cut_torn_end()?;
        }
        let path = self.directory.join(segment::file_name(first_offset));
        let next = Active::create(path, first_offset)?;
        self.directory_unsynced = true;
        self.close_active();
        self.active = Some(next);
        Ok(())
    }

    /// Closes the active segment if it has records and its end is valid; the next append starts
    /// another. An empty segment stays active, because its successor would have the same name.
    fn retire_active(&mut self) {
        let has_records = |active: &&mut Active| active.bytes > segment::TITLE.len() as u64;
        if let Some(active) = self.active.as_mut().filter(has_records)
            && active.cut_torn_end().is_ok()
        {
            self.close_active();
        }
    }

    fn close_active(&mut self) {
        let Some(Active { path, first_offset, file, is_unsynced, .. }) = self.active.take() else {
            return;
        };
        if is_unsynced {
            self.unsynced.push(file);
        }
        self.closed.push_back(Closed { path, first_offset, last_offset: self.last_offset });
    }

    fn marker(&self, state: State) -> Marker {
        Marker { epoch: self.epoch, last_offset: self.last_offset, state }
    }

    /// Returns the epoch of the marker, or a new one if events could be missing, so that clients
    /// are notified.
    fn decide_epoch(
        &self,
        marker: Option<&Marker>,
        segments: &[(u64, PathBuf)],
        may_lack_records: bool,
    ) -> u64 {
        let reason = match marker {
            None if segments.is_empty() => None,
            None => Some("the marker is missing or damaged"),
            Some(_) if may_lack_records => Some("a segment is damaged or incomplete"),
            Some(Marker { state: State::Open { boot: None }, .. }) => {
                Some("not closed cleanly, and this system does not report restarts of the machine")
            }
            Some(Marker { state: State::Open { boot }, .. }) if *boot != self.boot => {
                Some("the machine stopped before the store was closed")
            }
            Some(marker) => return marker.epoch,
        };
        if let Some(reason) = reason {
            tracing::warn!(
                directory = %self.directory.display(),
                reason,
                "events may be missing from the store: new epoch, reconnecting clients are notified"
            );
        }
        // A range in which the first of the twelve hexadecimal digits is not 0.
        fastrand::u64(1 << 44..1 << 48)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let synced = self.sync();
        let closed = synced.and_then(|()| self.marker(State::Closed).write(&self.directory));
        if let Err(error) = closed {
            tracing::warn!(%error, "store not closed cleanly: the next start treats it as a crash");
        }
        // Closing the file is not enough while a child process that is being spawned has inherited
        // it.
        let _ = self.lock.unlock();
    }
}

impl Store {
    /// Collects the files to sync and the oldest segments, whose records are all below
    /// `forget_before`, to delete. If there are any, `known` is called with the last offset before
    /// the remaining segments, and returns the channels that have no record above it. That list
    /// replaces the deleted records.
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

    /// Records the outcome of the work. The first result is that of syncing, the second that of
    /// deleting. A later upkeep retries what failed.
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

fn create_directory(directory: &Path) -> Result<(), Error> {
    private_file::create_directory(directory)
        .map_err(|error| io_error("create the directory", directory, error))
}

/// Rejects a directory with other files, which was probably named by mistake, and leaves it
/// untouched.
fn reject_foreign_files(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(|error| io_error("read", directory, error))? {
        let entry = entry.map_err(|error| io_error("read", directory, error))?;
        let name = entry.file_name();
        let is_known = name.to_str().is_some_and(|name| {
            // The file system creates `lost+found` where the directory is a mount point.
            [LOCK_FILE_NAME, "lost+found"].contains(&name)
                || [marker::FILE_NAME, marker::NEW_FILE_NAME].contains(&name)
                || [channels::FILE_NAME, channels::NEW_FILE_NAME].contains(&name)
                || segment::parse_file_name(name).is_some()
        });
        if !is_known {
            let why = "is not a Headwater file: use a separate directory for Headwater";
            return Err(reject(ErrorKind::Invalid, &entry.path(), why));
        }
        // Older versions created files that other users could read.
        if entry.file_type().is_ok_and(|it| it.is_file())
            && let Ok(file) = File::open(entry.path())
        {
            private_file::protect(&file);
        }
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join(LOCK_FILE_NAME);
    let file = private_file::open(OpenOptions::new().create(true).append(true), &path);
    let file = file.map_err(|error| io_error("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(reject(
            ErrorKind::PermissionDenied,
            directory,
            "is in use by another process: stop that process, or use another directory",
        )),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path, error)),
    }
}
