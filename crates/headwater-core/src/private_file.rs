//! Files and directories that only their owner can read: the one way in which this project writes
//! to disk. Look here for the modes, and for what happens to files that were created with others.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::path::Path;

/// Opens a file; one that is created has mode 0600, and one that is there gets it if its owner is
/// this process's user. On systems without modes, the directory's permissions apply.
///
/// # Errors
/// Those of [`OpenOptions::open`].
pub fn open(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    let file = options.open(path)?;
    protect(&file);
    Ok(file)
}

/// Creates a directory and those above it, with mode 0700; one that is there stays as it is.
///
/// # Errors
/// Those of [`DirBuilder::create`].
pub fn create_directory(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Takes a file from everyone but its owner.
#[cfg(unix)]
pub fn protect(file: &File) {
    use std::os::unix::fs::PermissionsExt as _;
    let Ok(metadata) = file.metadata() else { return };
    let mut permissions = metadata.permissions();
    if metadata.is_file() && permissions.mode() & 0o077 != 0 {
        permissions.set_mode(permissions.mode() & 0o700);
        // Fails for another user's file, which this process may use all the same.
        let _ = file.set_permissions(permissions);
    }
}

/// Takes a file from everyone but its owner.
#[cfg(not(unix))]
pub fn protect(_file: &File) {}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn whatever_is_opened_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = directory.path().join("new");
        open(OpenOptions::new().write(true).create(true), &path).unwrap();
        assert_eq!(mode(&path), 0o600);
        for (before, after) in [(0o644, 0o600), (0o666, 0o600), (0o640, 0o600), (0o400, 0o400)] {
            fs::set_permissions(&path, Permissions::from_mode(before)).unwrap();
            open(OpenOptions::new().read(true), &path).unwrap();
            assert_eq!(mode(&path), after, "{before:o}");
        }
        let nested = directory.path().join("a/b");
        create_directory(&nested).unwrap();
        assert_eq!((mode(&nested), mode(nested.parent().unwrap())), (0o700, 0o700));
    }
}
