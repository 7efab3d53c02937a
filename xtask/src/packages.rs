//! Packages of npm and of Python that tests need, exactly in the versions that are committed.
//!
//! Look here when an install step misbehaves. A folder that is up to date is left alone, so that
//! tests also run without a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::repo;
use crate::report::run;
use crate::tools::Tool;

/// The Python packages of the tests, each file with all of its versions pinned.
const OF_TESTS: [&str; 3] = [
    "tests/clients/requirements.txt",
    "examples/fastapi/requirements.txt",
    "examples/access/requirements.txt",
];

/// Those of the contender in the comparison, which wants a newer Python than the tests.
const OF_CONTENDER: [&str; 2] =
    ["examples/fastapi/requirements.txt", "bench/contenders/fastapi/requirements.txt"];

/// Installs the npm packages of a folder from its lock file.
pub(crate) fn npm(folder: &str) -> Result<(), String> {
    let folder = repo::root().join(folder);
    let lock = read(&folder.join("package-lock.json"))?;
    let stamp = folder.join("node_modules/.installed-lock");
    if fs::read_to_string(&stamp).is_ok_and(|installed| installed == lock) {
        return Ok(());
    }
    let npm = Tool::Npm.find()?;
    run(Command::new(npm).args(["ci", "--no-audit", "--no-fund"]).current_dir(&folder))?;
    // A package without dependencies leaves no folder behind.
    fs::create_dir_all(folder.join("node_modules"))
        .and_then(|()| fs::write(&stamp, lock))
        .map_err(|error| format!("{} cannot be written: {error}", stamp.display()))
}

/// Makes the virtual environment of the tests, and returns its interpreter.
pub(crate) fn python() -> Result<PathBuf, String> {
    python_in(&repo::python_env("python"), &OF_TESTS)
}

/// The same with the packages of the FastAPI contender.
pub(crate) fn python_of_contender() -> Result<PathBuf, String> {
    python_in(&repo::python_env("python-contender"), &OF_CONTENDER)
}

/// The same with servers of other versions of Redis and Valkey.
pub(crate) fn python_of_redis() -> Result<PathBuf, String> {
    python_in(&repo::python_env("python-redis"), &["tests/redis/requirements.txt"])
}

/// An environment with the packages of some files, and nothing else.
fn python_in(environment: &Path, requirements: &[&str]) -> Result<PathBuf, String> {
    let interpreter = environment.join("bin/python");
    let stamp = environment.join("installed-requirements");
    let files: Vec<PathBuf> = requirements.iter().map(|file| repo::root().join(file)).collect();
    let wanted = files.iter().map(|file| read(file)).collect::<Result<Vec<_>, _>>()?.concat();
    if interpreter.exists() && fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted)
    {
        return Ok(interpreter);
    }
    // `--clear`: an environment that was interrupted half way looks like a complete one.
    let python = Tool::Python.find()?;
    run(Command::new(python).args(["-m", "venv", "--clear"]).arg(environment))?;
    let mut install = Command::new(&interpreter);
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    for file in &files {
        install.arg("-r").arg(file);
    }
    run(&mut install)?;
    fs::write(&stamp, wanted)
        .map_err(|error| format!("{} cannot be written: {error}", stamp.display()))?;
    Ok(interpreter)
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{} cannot be read: {error}", file.display()))
}
