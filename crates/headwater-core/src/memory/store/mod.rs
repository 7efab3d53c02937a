//! The log of the embedded broker on disk: durable events in the order of their offsets. Look here
//! for what survives a killed process, a full disk, a power failure and a damaged file.
//!
//! # Why a segmented log
//! Records are appended in one order, read once at start, and deleted from the front. A segmented
//! log does that in a few hundred lines that can be read and tested in full: it can be inconsistent
//! in one way only, a torn end, and a checksum detects that. An embedded database brings pages, a
//! cache, a journal, compaction and a format that needs migrations, for features that are not
//! needed here: look-up by key, update in place, transactions over several records.
//!
//! # The directory
//! - `OFFSET.log`: a segment: consecutive records, named by the lowest offset in it. A new segment
//!   starts when one reaches [`SEGMENT_BYTES_MAX`].
//! - `marker`: the epoch, and how the store was left; replaced as a whole.
//! - `channels`: the known channels whose records were deleted; replaced as a whole.
//! - `lock`: locked while a process has the directory open.
//!
//! # What survives
//! - **A killed process**: every record whose `append` returned, because the operating system has
//!   it. A record that was being written is cut off at the next start; it was not acknowledged.
//! - **A full disk**: `append` fails, its partial write is cut off, and a later append works again.
//! - **A power failure**: records since the last sync may be gone, although clients may have
//!   received them. So the epoch is new afterwards: reconnecting clients receive a gap event, and
//!   no position can denote two events. Surviving records remain in the history. Where the
//!   operating system does not report whether the machine was restarted, a store that was not
//!   closed in order is treated as after a power failure.
//! - **A damaged file**: the records after the damage in the same segment are lost. The epoch is
//!   new.
//!
//! Offsets never go backwards, not even when every record was deleted.

mod channels;
mod directory;
mod file;
mod marker;
#[cfg(test)]
mod model_tests;
mod record;
mod segment;
#[cfg(test)]
pub(super) mod tests;
mod upkeep;
#[cfg(test)]
mod upkeep_tests;

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::channels::{KnownChannel, KnownChannels};
use self::file::{io_error, open_to_append, truncate};
use self::marker::{Marker, State};
pub(crate) use self::record::Record;
use self::segment::End;
use self::upkeep::Forgetting;
pub(crate) use self::upkeep::{Done, Upkeep};
use crate::error::Error;
use crate::limits::SEGMENT_BYTES_MAX;

/// A log in a directory that this process alone has open.
pub(crate) struct Store {
    directory: PathBuf,
    /// Locked while it is open.
    lock: File,
    /// The id of the machine's current boot, where the system reports one.
    boot: Option<String>,
    epoch: u64,
    last_offset: u64,
    /// Segments that accept no more records, oldest first.
    closed: VecDeque<Closed>,
    /// The segment that records are appended to, if there is one.
    active: Option<Active>,
    /// Files with records that are not synced yet, besides the active one.
    unsynced: Vec<Arc<File>>,
    /// Whether a file was created since the last sync.
    directory_unsynced: bool,
    /// Reused by every append.
    buffer: Vec<u8>,
    bytes_max: u64,
}

struct Closed {
    path: PathBuf,
    /// The lowest offset that can be in it.
    first_offset: u64,
    last_offset: u64,
}

struct Active {
    path: PathBuf,
    first_offset: u64,
    /// Shared with the upkeep that syncs it.
    file: Arc<File>,
    /// The length of the valid part of the file.
    bytes: u64,
    /// Whether the file may be longer than its valid part.
    is_torn: bool,
    is_unsynced: bool,
}

/// The content of a directory when it was opened.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// 48 random bits, never 0.
    pub(crate) epoch: u64,
    /// The highest offset that was ever assigned; 0 if there was none.
    pub(crate) last_offset: u64,
    /// An unknown channel may have had records up to this offset.
    pub(crate) forgotten_to: u64,
    /// The channels that were known when segments were deleted. Those that still have records may
    /// be outdated.
    pub(crate) channels: Vec<KnownChannel>,
    /// The records, in order, for tests that need them all at once.
    #[cfg(test)]
    pub(crate) records: Vec<Record>,
}

impl Store {
    /// Opens a directory and collects its records.
    #[cfg(test)]
    pub(crate) fn open(directory: &Path) -> Result<(Self, Recovered), Error> {
        Self::open_since(marker::boot(), directory)
    }

    #[cfg(test)]
    fn open_since(boot: Option<String>, directory: &Path) -> Result<(Self, Recovered), Error> {
        let mut records = Vec::new();
        let mut each = |record| records.push(record);
        let (store, recovered) = Self::open_each_since(boot, directory, &mut each)?;
        Ok((store, Recovered { records, ..recovered }))
    }

    /// Opens a directory, and creates it if there is none. Passes each record to `each` instead of
    /// collecting them: the log can be much larger than what the retention rules select from it.
    ///
    /// # Errors
    /// `ErrorKind::PermissionDenied` if another process has it open; `ErrorKind::Invalid` if it
    /// contains foreign files, or files of a newer format; `ErrorKind::Unavailable` if the
    /// operating system fails.
    pub(crate) fn open_each(
        directory: &Path,
        each: &mut dyn FnMut(Record),
    ) -> Result<(Self, Recovered), Error> {
        Self::open_each_since(marker::boot(), directory, each)
    }

    fn open_each_since(
        boot: Option<String>,
        directory: &Path,
        each: &mut dyn FnMut(Record),
    ) -> Result<(Self, Recovered), Error> {
        directory::create(directory)?;
        directory::check_for_foreign_files(directory)?;
        let lock = directory::lock(directory)?;
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
        // Segments deleted without an update of the list, by hand or on a full disk, may have had
        // more channels.
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

    /// Appends records, whose offsets must ascend, with one write. When it returns, they survive a
    /// killed process.
    ///
    /// # Errors
    /// None of the records is in the log then. A retry may succeed if the kind is
    /// `ErrorKind::Unavailable`.
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<(), Error> {
        let mut last_offset = self.last_offset;
        self.buffer.clear();
        for record in records {
            if record.offset <= last_offset || record.prev >= record.offset {
                return Err(Error::invalid(format!(
                    "offset {} after offset {last_offset} is out of order: a bug in Headwater, please \
                     report it",
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
        // A large event should not hold its memory for good.
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    /// Syncs appended records to disk, so that they survive a power failure too. The next call
    /// retries after an error.
    fn sync(&mut self) -> Result<(), Error> {
        let work = self.begin_upkeep(0, |_| KnownChannels::default());
        self.end_upkeep(work.run()).0
    }

    /// Reads all segments, repairs them, and decides on the epoch. Returns the lowest offset that
    /// can be in the log.
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
            if outcome.valid_bytes < outcome.all_bytes {
                cuts.push((path, outcome.valid_bytes, outcome.all_bytes - outcome.valid_bytes));
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
        // Before any file is truncated: if the process is killed in between, the next one must find
        // the new epoch.
        self.marker(State::Open { boot: self.boot.clone() }).write(&self.directory)?;
        for (path, valid_bytes, cut_bytes) in cuts {
            truncate(path, valid_bytes)?;
            tracing::warn!(
                file = %path.display(),
                bytes = cut_bytes,
                damaged = may_lack_records,
                "truncated a segment after its last valid record"
            );
        }
        self.active = self.closed.pop_back().map(Active::reopen).transpose()?;
        if ends_too_early {
            // Its name records where the log continues, so that the next start finds nothing
            // missing.
            self.begin_segment(self.last_offset + 1)?;
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
        self.begin_segment(first_offset)
    }

    fn begin_segment(&mut self, first_offset: u64) -> Result<(), Error> {
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

    /// Closes the active segment if it has records and no torn end; the next append starts another.
    /// An empty segment stays, because the next one would have the same name.
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

    /// The epoch of the marker, or a new one if a client could miss events without a gap event.
    fn decide_epoch(
        &self,
        marker: Option<&Marker>,
        segments: &[(u64, PathBuf)],
        may_lack_records: bool,
    ) -> u64 {
        let why = match marker {
            None if segments.is_empty() => None,
            None => Some("marker missing or damaged"),
            Some(_) if may_lack_records => Some("segment damaged"),
            Some(Marker { state: State::Open { boot: None }, .. }) => Some(
                "store not closed, and the system does not report whether the machine restarted",
            ),
            Some(Marker { state: State::Open { boot }, .. }) if *boot != self.boot => {
                Some("machine restarted before the store was closed")
            }
            Some(marker) => return marker.epoch,
        };
        if let Some(why) = why {
            tracing::warn!(
                directory = %self.directory.display(),
                reason = why,
                "events may be missing from the store, new epoch: reconnecting clients receive gap events"
            );
        }
        // At least 2^44, so that it has twelve hexadecimal digits.
        fastrand::u64(1 << 44..1 << 48)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let synced = self.sync();
        let closed = synced.and_then(|()| self.marker(State::Closed).write(&self.directory));
        if let Err(error) = closed {
            tracing::warn!(%error, "store not closed: it is left as after a killed process");
        }
        // Closing the file is not enough while a child process that is being spawned has inherited
        // it.
        let _ = self.lock.unlock();
    }
}

impl Active {
    fn create(path: PathBuf, first_offset: u64) -> Result<Self, Error> {
        let file = open_to_append(&path, true)?.into();
        Ok(Self { path, first_offset, file, bytes: 0, is_torn: false, is_unsynced: true })
    }

    fn reopen(closed: Closed) -> Result<Self, Error> {
        let Closed { path, first_offset, .. } = closed;
        let file = open_to_append(&path, false)?;
        let bytes = file.metadata().map_err(|error| io_error("read", &path, error))?.len();
        let file = file.into();
        Ok(Self { path, first_offset, file, bytes, is_torn: false, is_unsynced: true })
    }

    /// Writes records, after the title in an empty file. After an error the file is as before.
    fn write(&mut self, records: &[u8]) -> Result<(), Error> {
        self.cut_torn_end()?;
        let with_title;
        let bytes = if self.bytes == 0 {
            with_title = [&segment::TITLE[..], records].concat();
            &with_title
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

    fn cut_torn_end(&mut self) -> Result<(), Error> {
        if self.is_torn {
            // The file is open in append mode, so the next write goes to its new end.
            let truncated = self.file.set_len(self.bytes);
            truncated.map_err(|error| io_error("truncate", &self.path, error))?;
            self.is_torn = false;
        }
        Ok(())
    }
}

impl Store {
    /// Collects the files to sync, and the segments to delete: those with offsets below
    /// `forget_before` only. `known` returns the channels without a record above an offset, which
    /// are stored in place of the deleted records.
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
        let first_retained = newer.or(self.active.as_ref().map(|active| active.first_offset));
        let covers_to = first_retained.map_or(self.last_offset, |first| first.saturating_sub(1));
        let marker =
            first_retained.is_none().then(|| self.marker(State::Open { boot: self.boot.clone() }));
        (!paths.is_empty()).then(|| Forgetting { channels: known(covers_to), marker, paths })
    }

    /// Records the result of an upkeep. Returns the results of syncing and of deleting; the next
    /// upkeep retries what failed.
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
