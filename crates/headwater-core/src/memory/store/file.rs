//! Files of the store: atomic replacement, cutting, and syncing. Look here for how a full disk or a
//! missing permission is reported.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;

use crate::error::{Error, ErrorKind};
use crate::private_file;

pub(super) fn open_to_append(path: &Path, is_new: bool) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    let file = private_file::open(options.append(true).create(is_new), path);
    file.map_err(|error| io_error("open", path, error))
}

pub(super) fn cut(path: &Path, bytes: u64) -> Result<(), Error> {
    let cut = || OpenOptions::new().write(true).open(path)?.set_len(bytes);
    cut().map_err(|error| io_error("cut", path, error))
}

pub(super) fn remove_file(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_error("delete", path, error))
        }
        _ => Ok(()),
    }
}

/// Replaces a file atomically and syncs it: a reader finds either the old content or the new one.
pub(super) fn replace_file(path: &Path, new_path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let mut file = private_file::open(&mut options, new_path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(new_path, path)?;
    path.parent().map_or(Ok(()), sync_directory)
}

/// A file's content; `None` if there is no such file.
pub(super) fn read_if_there(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_error("read", path, error)),
    }
}

/// Makes new and renamed files survive a power failure. A directory can be opened on Unix only, so
/// this does nothing on other systems.
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) { File::open(directory)?.sync_all() } else { Ok(()) }
}

pub(super) fn io_error(doing: &str, path: &Path, error: io::Error) -> Error {
    let advice = match error.kind() {
        _ if is_full(&error) => ": free disk space, and publish again",
        io::ErrorKind::PermissionDenied => ": grant this user read and write permission",
        _ => "",
    };
    let message = format!("the store cannot {doing} {}: {error}{advice}", path.display());
    Error::new(ErrorKind::Unavailable, message).with_source(error)
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

pub(super) fn reject(kind: ErrorKind, path: &Path, why: &str) -> Error {
    Error::new(kind, format!("{} {why}", path.display()))
}
