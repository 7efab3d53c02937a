//! `cargo xtask mutations`: makes faults in a copy of headwater-core, one at a time, and expects
//! its model tests to find each.
//!
//! Look here for how a fault is made. The list is in the file of `LIST`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::repo;
use crate::report::{Report, is_successful};

const LIST: &str = "crates/headwater-core/tests/nodes/mutations.txt";

/// How many cases each property runs: the rarest fault needs some hundreds.
const CASES: &str = "1000";

/// A test that hangs has found the fault. The tests need 5 s without one.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a build may take; the first one builds all dependencies.
const BUILD_LIMIT: Duration = Duration::from_secs(600);

/// A fault: text that is replaced in a file of `crates/headwater-core/src`.
#[derive(Debug, PartialEq, Eq)]
struct Mutation {
    name: String,
    file: String,
    before: String,
    after: String,
}

/// Makes each fault. A fault that no test finds fails its step.
pub(crate) fn run(report: &mut Report) {
    let mut list = Vec::new();
    let copied = report.step("copy of the sources", || {
        list = parse(&fs::read_to_string(repo::root().join(LIST)).map_err(|it| it.to_string())?)?;
        copy_sources()?;
        if builds().and_then(|()| test())? {
            Ok(())
        } else {
            Err("the tests fail without a fault".to_owned())
        }
    });
    if !copied {
        return;
    }
    for mutation in &list {
        report.step(&format!("mutation: {}", mutation.name), || check(mutation));
    }
}

fn directory() -> PathBuf {
    repo::root().join("target/mutations")
}

fn check(mutation: &Mutation) -> Result<(), String> {
    let path = directory().join("crates/headwater-core/src").join(&mutation.file);
    let source =
        fs::read_to_string(&path).map_err(|error| format!("{}: {error}", mutation.file))?;
    if source.matches(&mutation.before).count() != 1 {
        return Err(format!("{} must contain the text before once: mend {LIST}", mutation.file));
    }
    let write = |text: &str| fs::write(&path, text).map_err(|error| error.to_string());
    write(&source.replace(&mutation.before, &mutation.after))?;
    let passed = builds().and_then(|()| test());
    write(&source)?;
    if passed? { Err("no test finds it".to_owned()) } else { Ok(()) }
}

/// A fault that does not compile would be found for the wrong reason.
fn builds() -> Result<(), String> {
    if is_successful(BUILD_LIMIT, cargo().arg("--no-run"))? {
        Ok(())
    } else {
        Err("it does not compile".to_owned())
    }
}

/// Whether the model tests pass.
fn test() -> Result<bool, String> {
    is_successful(LIMIT, cargo().env("PROPTEST_CASES", CASES))
}

/// The command that runs the model tests.
fn cargo() -> std::process::Command {
    let mut cargo = repo::cargo();
    cargo.args(["test", "--quiet", "--package", "headwater-core", "--features", "testing"]);
    cargo.args(["--test", "nodes", "--test", "model"]).env("CARGO_PROFILE_DEV_DEBUG", "0");
    cargo.current_dir(directory()).env("CARGO_TARGET_DIR", directory().join("target"));
    // Faults may leave code unused.
    cargo.env("RUSTFLAGS", "--cap-lints allow");
    cargo
}

/// Copies what the crate needs to be built: the workspace, without its target folder.
fn copy_sources() -> Result<(), String> {
    fs::create_dir_all(directory()).map_err(|error| error.to_string())?;
    for name in ["Cargo.toml", "Cargo.lock", "crates", "xtask", "bench", "examples", "docs"] {
        copy(&repo::root().join(name), &directory().join(name))
            .map_err(|error| format!("cannot copy {name}: {error}"))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    if !from.is_dir() {
        // An unchanged file keeps its time, so that nothing is built again.
        let bytes = fs::read(from)?;
        if fs::read(to).is_ok_and(|old| old == bytes) {
            return Ok(());
        }
        return fs::write(to, bytes);
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let is_built = ["target", "node_modules"].iter().any(|it| entry.file_name() == *it);
        if !is_built {
            copy(&entry.path(), &to.join(entry.file_name()))?;
        }
    }
    Ok(())
}

/// Parses the list: blocks of `[NAME]`, a file, lines that begin with `-`, lines with `+`.
fn parse(text: &str) -> Result<Vec<Mutation>, String> {
    let mut list: Vec<Mutation> = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let part = |rest: &str| rest.strip_prefix(' ').unwrap_or(rest).to_owned();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let (file, before, after) = (String::new(), String::new(), String::new());
            list.push(Mutation { name: name.to_owned(), file, before, after });
            continue;
        }
        let Some(mutation) = list.last_mut() else {
            return Err(format!("line {}: begin with [NAME]", at + 1));
        };
        let (text, added) = match (line.strip_prefix('-'), line.strip_prefix('+')) {
            (Some(rest), _) => (&mut mutation.before, part(rest)),
            (None, Some(rest)) => (&mut mutation.after, part(rest)),
            (None, None) => (&mut mutation.file, line.to_owned()),
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&added);
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_well_formed_and_fits_the_sources() {
        let text = fs::read_to_string(repo::root().join(LIST)).unwrap();
        let list = parse(&text).unwrap();
        assert!(list.len() >= 12, "{}", list.len());
        for Mutation { name, file, before, after } in list {
            let source = repo::root().join("crates/headwater-core/src").join(&file);
            let source = fs::read_to_string(source).unwrap_or_default();
            assert_eq!(source.matches(&before).count(), 1, "{name}: {file}: {before}");
            assert_ne!(before, after, "{name}");
        }
    }
}
