//! Where things are: the repository, the build's output, the files under version control.
//!
//! Look here for a path. No other file reads `CARGO_TARGET_DIR` or asks git.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The folder with the workspace's `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    // cargo sets it at run time; the compiled-in value would go stale when a checkout is moved.
    let xtask = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    xtask.parent().map_or_else(|| xtask.clone(), Path::to_path_buf)
}

/// cargo's output folder.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        // A relative one counts from the folder cargo was called in; an absolute one replaces it.
        Some(dir) => std::env::current_dir().unwrap_or_else(|_| root()).join(dir),
        None => root().join("target"),
    }
}

/// The server as `cargo build` leaves it, with `--release` or without.
pub(crate) fn server_binary(release: bool) -> PathBuf {
    let profile = if release { "release" } else { "debug" };
    target_dir().join(profile).join(format!("headwater{}", std::env::consts::EXE_SUFFIX))
}

/// A virtual environment of Python by its name.
pub(crate) fn python_env(name: &str) -> PathBuf {
    target_dir().join(name)
}

/// The cargo that runs this program.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// All files that are committed or could be (not ignored), relative to the root, sorted.
pub(crate) fn files() -> Result<Vec<PathBuf>, String> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .map_err(|error| format!("git cannot be run ({error}): install git"))?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr);
        return Err(format!("git cannot list the files of this checkout: {}", message.trim()));
    }
    let names = String::from_utf8(output.stdout)
        .map_err(|_| "a file in this checkout has a name that is not UTF-8".to_owned())?;
    let mut files: Vec<PathBuf> =
        names.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    files.sort();
    files.dedup();
    Ok(files)
}
