//! File operations of the store: atomic replacement, truncation, syncing, and I/O errors. Look here
//! for how a full disk or a missing permission is reported.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use crate::error::{Error, ErrorKind};

pub(super) fn open_to_append(path: &Path, is_new: bool) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    let file = options.append(true).create(is_new).open(path);
    file.map_err(|error| io_error("open", path, error))
}

pub(super) fn truncate(path: &Path, bytes: u64) -> Result<(), Error> {
    let truncate = || OpenOptions::new().write(true).open(path)?.set_len(bytes);
    truncate().map_err(|error| io_error("truncate", path, error))
}

pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("delete", path, error))
        }
        _ => Ok(()),
    }
}

/// Replaces a file atomically: a reader finds the old content or the new content. It is on disk
/// when this returns.
pub(super) fn replace_file(path: &Path, new_path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create(new_path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new_path, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// Reads a file; `None` if there is no such file.
pub(super) fn read_if_exists(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path, error)),
    }
}

/// Makes new and renamed files survive a power failure. Does nothing on other systems than Unix,
/// which cannot open a directory.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

pub(super) fn io_error(doing: &str, path: &Path, error: io::Error) -> Error {
    let advice = match error.kind() {
        _ if is_full(&error) => ": free some space there, then publish again",
        io::ErrorKind::PermissionDenied => ": allow this user to read and write there",
        _ => "",
    };
    let message = format!("the store cannot {doing} {}: {error}{advice}", path.display());
    Error::new(ErrorKind::Unavailable, message).with_source(error)
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// An error about a file or directory: its path, then `why`.
pub(super) fn path_error(kind: ErrorKind, path: &Path, why: &str) -> Error {
    Error::new(kind, format!("{} {why}", path.display()))
}
