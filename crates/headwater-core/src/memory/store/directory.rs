//! The directory of a store: creating, checking and locking it. Look here for which files it may
//! have.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::path::Path;

use super::file::{io_error, path_error};
use super::{channels, marker, segment};
use crate::error::{Error, ErrorKind};

const LOCK_FILE_NAME: &str = "lock";

/// Creates the directory, for this user only, and its parents if there is none.
pub(super) fn create(directory: &Path) -> Result<(), Error> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    // Events are private to this user.
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(directory).map_err(|error| io_error("create the directory", directory, error))
}

/// Rejects a directory with foreign files, which was probably named by mistake, and leaves it
/// untouched.
pub(super) fn check_for_foreign_files(directory: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(|error| io_error("read", directory, error))? {
        let entry = entry.map_err(|error| io_error("read", directory, error))?;
        let name = entry.file_name();
        let is_known = name.to_str().is_some_and(|name| {
            // `lost+found` is the file system's, if the directory is a mount point.
            [LOCK_FILE_NAME, "lost+found"].contains(&name)
                || [marker::FILE_NAME, marker::NEW_FILE_NAME].contains(&name)
                || [channels::FILE_NAME, channels::NEW_FILE_NAME].contains(&name)
                || segment::parse_file_name(name).is_some()
        });
        if !is_known {
            let why = "is not a file of Headwater: use a separate directory for Headwater";
            return Err(path_error(ErrorKind::Invalid, &entry.path(), why));
        }
    }
    Ok(())
}

/// Locks the directory for this process.
pub(super) fn lock(directory: &Path) -> Result<File, Error> {
    let path = directory.join(LOCK_FILE_NAME);
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let file = file.map_err(|error| io_error("open", &path, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(path_error(
            ErrorKind::PermissionDenied,
            directory,
            "is in use by another process: stop that process, or use another directory",
        )),
        Err(TryLockError::Error(error)) => Err(io_error("lock", &path, error)),
    }
}
