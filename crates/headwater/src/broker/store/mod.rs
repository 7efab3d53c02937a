//! The log of the embedded broker on disk: durable events in the order of their offsets. Look here
//! for what survives a killed process, a full disk, a loss of power and a damaged file.
//!
//! # Why a plain log
//! What is stored is appended in one order, read once at start, and forgotten from the front. A
//! segmented log does that in a few hundred lines that can be read and tested in full: its only way to
//! be inconsistent is a torn end, and a checksum shows that. An embedded database brings pages, a
//! cache, a journal, compaction and a format of its own to update one day, and would give nothing for
//! it that is needed here: no look-up by key, no update in place, no transaction over several records.
//!
//! # The directory
//! - `OFFSET.log`: a segment: records in a row, named by the lowest offset in it. A new one begins when
//!   one has [`SEGMENT_BYTES_MAX`].
//! - `marker`: the epoch and how the store was left; replaced as a whole.
//! - `channels`: what is known of channels whose records were deleted; replaced as a whole.
//! - `lock`: locked while a process has the directory open.
//!
//! # What survives
//! - **A killed process**: every record whose `append` returned, because the operating system has it.
//!   A record that was being written is cut off at the next start; nobody was told that it was taken.
//! - **A full disk**: `append` fails, what it began to write is cut off, and a later one works again.
//! - **A loss of power**: what was appended since the last `sync` may be gone, and somebody may have
//!   seen it. So after one the epoch is new: clients that come back are told that events may be
//!   missing, and no position can mean two events. What is still there stays history. Where the system
//!   does not tell whether the machine was started again, every store that was not closed in order is
//!   taken for one after a loss of power.
//! - **A damaged file**: what follows the damage in the same segment is lost. The epoch is new.
//!
//! Offsets never go backwards, not even when every record was forgotten.

mod channels;
mod marker;
mod record;
mod segment;
#[cfg(test)]
pub(super) mod tests;
mod upkeep;
#[cfg(test)]
mod upkeep_tests;

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use self::channels::{KnownChannel, KnownChannels};
use self::marker::{Marker, State};
pub(crate) use self::record::Record;
use self::segment::End;
pub(crate) use self::upkeep::{Done, Upkeep};
use crate::error::{Error, ErrorKind};
use crate::limits::SEGMENT_BYTES_MAX;

const LOCK_FILE_NAME: &str = "lock";

/// A log in a directory that this process alone has open.
pub(crate) struct Store {
    directory: PathBuf,
    /// Locked as long as it is open.
    lock: File,
    /// Since when the machine runs, where the system tells.
    boot: Option<String>,
    epoch: u64,
    last_offset: u64,
    /// Segments that take no more, oldest first.
    closed: VecDeque<Closed>,
    /// The segment that takes more, if there is one.
    active: Option<Active>,
    /// Files with records that were not synced yet, beside the active one.
    unsynced: Vec<Arc<File>>,
    /// Whether a file was made since the last sync.
    directory_unsynced: bool,
    /// Reused by each append.
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
    /// The length up to which the file is good.
    bytes: u64,
    /// Whether the file may have more than its good bytes.
    is_torn: bool,
    is_unsynced: bool,
}

/// What a directory held when it was opened.
#[derive(Debug)]
pub(crate) struct Recovered {
    /// 48 random bits, never 0.
    pub(crate) epoch: u64,
    /// The highest offset that was ever given; 0 if none was.
    pub(crate) last_offset: u64,
    /// Of channels of which nothing is known, records up to this offset may have been forgotten.
    pub(crate) forgotten_to: u64,
    /// Channels whose records were deleted, and maybe others, as they were then.
    pub(crate) channels: Vec<KnownChannel>,
    /// The records, in order, for tests that want them all at once.
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

    /// Opens a directory, and makes it if it is not there. Gives each record to `each` instead of
    /// collecting them: the log can be much larger than what the rules of retention want of it.
    ///
    /// # Errors
    /// [`ErrorKind::PermissionDenied`] if another process has it open; [`ErrorKind::Invalid`] if it holds files
    /// that are not Headwater's, or of a newer format; [`ErrorKind::Unavailable`] if the system fails.
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
        make_directory(directory)?;
        refuse_foreign_files(directory)?;
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
        // Segments that went without it, by hand or because the disk was full, may have had more.
        let is_all = deleted_to <= known.covers_to;
        let (epoch, last_offset) = (store.epoch, store.last_offset);
        let recovered = Recovered {
            epoch,
            last_offset,
            forgotten_to: if is_all { known.forgotten_to } else { deleted_to },
            channels: if is_all { known.channels } else { Vec::new() },
            #[cfg(test)]
            records: Vec::new(),
        };
        Ok((store, recovered))
    }

    /// Appends records, whose offsets must rise, with one write. When it returns, they survive a
    /// killed process. After an error none of them is in the log, and trying again makes sense if the
    /// kind is [`ErrorKind::Unavailable`].
    pub(crate) fn append(&mut self, records: &[Record]) -> Result<(), Error> {
        let mut last_offset = self.last_offset;
        self.buffer.clear();
        for record in records {
            if record.offset <= last_offset || record.prev >= record.offset {
                return Err(Error::invalid(format!(
                    "offset {} after offset {last_offset} is out of order: this is a bug of Headwater",
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
        // The room for a large event is not needed for the next one.
        self.buffer.shrink_to(1 << 20);
        Ok(())
    }

    /// Puts on disk what was appended, so that it survives a loss of power too. After an error it is
    /// tried again by the next call.
    fn sync(&mut self) -> Result<(), Error> {
        let work = self.begin_upkeep(0, |_| KnownChannels::default());
        self.end_upkeep(work.run()).0
    }

    /// Reads all there is, repairs what needs it, and decides on the epoch. Returns the lowest offset
    /// that can be in the log.
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
            if outcome.good_bytes < outcome.all_bytes {
                cuts.push((path, outcome.good_bytes, outcome.all_bytes - outcome.good_bytes));
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
        // Before anything is cut: a process killed in between must find the new epoch.
        self.marker(State::Open { boot: self.boot.clone() }).write(&self.directory)?;
        for (path, good_bytes, cut_bytes) in cuts {
            cut(path, good_bytes)?;
            tracing::warn!(
                file = %path.display(),
                bytes = cut_bytes,
                damaged = may_lack_records,
                "cut off the end of a segment, which was no whole record"
            );
        }
        self.active = self.closed.pop_back().map(Active::reopen).transpose()?;
        if ends_too_early {
            // Its name says where the log goes on, so that the next start finds nothing amiss.
            self.begin_segment(self.last_offset + 1)?;
        }
        Ok(segments.first().map(|(first_offset, _)| *first_offset))
    }

    /// Makes sure that there is an active segment, and that it has room.
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
            // In a segment that is not the last, a torn end would be damage.
            full.cut_torn_end()?;
        }
        let path = self.directory.join(segment::file_name(first_offset));
        let next = Active::create(path, first_offset)?;
        self.directory_unsynced = true;
        self.close_active();
        self.active = Some(next);
        Ok(())
    }

    /// Closes the active segment if it has records and its end is known to be good; the next append
    /// begins another. An empty one stays, because the next one would have its name.
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

    /// The epoch of the marker, or a new one if a client could miss events without being told.
    fn decide_epoch(
        &self,
        marker: Option<&Marker>,
        segments: &[(u64, PathBuf)],
        may_lack_records: bool,
    ) -> u64 {
        let why = match marker {
            None if segments.is_empty() => None,
            None => Some("its marker is missing or damaged"),
            Some(_) if may_lack_records => Some("a file of it is damaged"),
            Some(Marker { state: State::Open { boot: None }, .. }) => {
                Some("it was not closed, and this system does not tell if the machine stopped")
            }
            Some(Marker { state: State::Open { boot }, .. }) if *boot != self.boot => {
                Some("the machine stopped before it was closed")
            }
            Some(marker) => return marker.epoch,
        };
        if let Some(why) = why {
            tracing::warn!(
                directory = %self.directory.display(),
                "events may be missing from the store, because {why}: clients that come back are told"
            );
        }
        // The first of its twelve hexadecimal digits is not 0.
        fastrand::u64(1 << 44..1 << 48)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let synced = self.sync();
        let closed = synced.and_then(|()| self.marker(State::Closed).write(&self.directory));
        if let Err(error) = closed {
            tracing::warn!(%error, "the store could not be closed, and is as after a killed process");
        }
        // Closing the file does it too, but not while a child process that is being started has it.
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

    /// Writes records, with the title in front if it is missing, or leaves the file as it was.
    fn write(&mut self, records: &[u8]) -> Result<(), Error> {
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
                // If this fails, the next write tries it again before it writes.
                let _ = self.cut_torn_end();
                Err(io_error("write", &self.path, error))
            }
        }
    }

    fn cut_torn_end(&mut self) -> Result<(), Error> {
        if self.is_torn {
            // The file is open to append, so the next write goes to its new end.
            let cut = self.file.set_len(self.bytes);
            cut.map_err(|error| io_error("cut", &self.path, error))?;
            self.is_torn = false;
        }
        Ok(())
    }
}

fn make_directory(directory: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    // Events are nobody else's business.
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(|error| io_error("make the directory", directory, error))
}

/// A directory that holds something else was probably named by mistake. Nothing in it is touched.
fn refuse_foreign_files(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(|error| io_error("read", directory, error))? {
        let entry = entry.map_err(|error| io_error("read", directory, error))?;
        let name = entry.file_name();
        let is_ours = name.to_str().is_some_and(|name| {
            // The second one is the file system's own, where the directory is a mount point.
            [LOCK_FILE_NAME, "lost+found"].contains(&name)
                || [marker::FILE_NAME, marker::NEW_FILE_NAME].contains(&name)
                || [channels::FILE_NAME, channels::NEW_FILE_NAME].contains(&name)
                || segment::parse_file_name(name).is_some()
        });
        if !is_ours {
            let why = "is not a file of Headwater: give Headwater a directory of its own";
            return Err(refuse(ErrorKind::Invalid, &entry.path(), why));
        }
    }
    Ok(())
}

fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join(LOCK_FILE_NAME);
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.map_err(|error| io_error("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(refuse(
            ErrorKind::PermissionDenied,
            directory,
            "is in use by another process: stop that one, or give this one another directory",
        )),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path, error)),
    }
}

fn open_to_append(path: &Path, is_new: bool) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(is_new).open(path);
    file.map_err(|error| io_error("open", path, error))
}

fn cut(path: &Path, bytes: u64) -> Result<(), Error> {
    let cut = || OpenOptions::new().write(true).open(path)?.set_len(bytes);
    cut().map_err(|error| io_error("cut", path, error))
}

fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("delete", path, error))
        }
        _ => Ok(()),
    }
}

/// Replaces a file as a whole: whoever reads it finds the old one or the new one.
fn replace_file(path: &Path, new_path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(new_path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new_path, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// A file's content; `None` if there is no such file.
fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path, error)),
    }
}

/// Makes new and renamed files survive a loss of power. Other systems cannot open a directory, and do
/// without.
fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

fn io_error(doing: &str, path: &Path, error: io::Error) -> Error {
    let advice = match error.kind() {
        _ if is_full(&error) => ": make room there, and publish again",
        io::ErrorKind::PermissionDenied => ": give this user the right to read and write there",
        _ => "",
    };
    let message = format!("the store cannot {doing} {}: {error}{advice}", path.display());
    Error::new(ErrorKind::Unavailable, message).with_source(error)
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn refuse(kind: ErrorKind, path: &Path, why: &str) -> Error {
    Error::new(kind, format!("{} {why}", path.display()))
}
