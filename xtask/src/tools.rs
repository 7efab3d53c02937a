//! Programs that tests need beside cargo: finds them, and with `--install` installs them on Debian
//! and Ubuntu.
//!
//! Look here when a test needs a new program. Packages of npm and Python are in `packages.rs`.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::report;

/// A program that some test or check starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    RedisServer,
    Chromium,
    Nginx,
    /// nginx with its module nchan.
    Nchan,
    Python,
    CppCompiler,
    Curl,
    Valgrind,
    /// An ACME server for tests.
    Pebble,
    Node,
    Npm,
}

/// The oldest Node.js that undici, one of the tested clients, runs on.
const NODE_AT_LEAST: [u32; 3] = [20, 18, 1];

/// Folders of system programs, which a normal user of Debian does not have on the PATH.
const SYSTEM_FOLDERS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

impl Tool {
    /// Names the program goes by; the first one that is found is taken.
    fn programs(self) -> &'static [&'static str] {
        match self {
            Self::RedisServer => &["redis-server"],
            Self::Chromium => {
                &["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
            }
            Self::Nginx | Self::Nchan => &["nginx"],
            Self::Python => &["python3"],
            Self::CppCompiler => &["g++", "c++", "clang++"],
            Self::Curl => &["curl"],
            Self::Valgrind => &["valgrind"],
            Self::Pebble => &["pebble"],
            Self::Node => &["node"],
            Self::Npm => &["npm"],
        }
    }

    /// Packages of Debian and Ubuntu that bring it, or none when theirs may be too old.
    fn packages(self, ubuntu: bool) -> &'static [&'static str] {
        match self {
            Self::RedisServer => &["redis-server"],
            // Ubuntu has it under this name only, as a snap.
            Self::Chromium if ubuntu => &["chromium-browser"],
            Self::Chromium => &["chromium"],
            Self::Nginx => &["nginx"],
            Self::Nchan => &["nginx", "libnginx-mod-nchan"],
            Self::Python => &["python3", "python3-venv"],
            Self::CppCompiler => &["g++"],
            Self::Curl => &["curl"],
            Self::Valgrind => &["valgrind"],
            Self::Pebble => &["pebble"],
            Self::Node | Self::Npm => &[],
        }
    }

    /// What a person has to do where we cannot.
    fn advice(self) -> String {
        match self {
            Self::RedisServer => "install Redis 7 or newer (`redis-server`)".to_owned(),
            Self::Chromium => "install Chromium or Google Chrome".to_owned(),
            Self::Nginx => "install nginx".to_owned(),
            Self::Nchan => "install nginx with its dynamic module nchan".to_owned(),
            Self::Python => "install Python 3.10 or newer with its `venv` module".to_owned(),
            Self::CppCompiler => "install a C++ compiler (g++ or clang++)".to_owned(),
            Self::Curl => "install curl".to_owned(),
            Self::Valgrind => "install valgrind".to_owned(),
            Self::Pebble => "install pebble, with pebble-challtestsrv".to_owned(),
            Self::Node | Self::Npm => {
                let [major, minor, patch] = NODE_AT_LEAST;
                format!("install Node.js {major}.{minor}.{patch} or newer, with npm")
            }
        }
    }

    /// Where the program is, or the sentence that says what is missing and what to do.
    pub(crate) fn find(self) -> Result<PathBuf, String> {
        let name = self.programs()[0];
        let path = self
            .programs()
            .iter()
            .find_map(|program| on_path(program))
            .ok_or_else(|| format!("{name} is missing: {}", self.advice()))?;
        match self {
            Self::Node => check_node(&path).map(|()| path),
            Self::Pebble if on_path("pebble-challtestsrv").is_none() => {
                Err(format!("pebble-challtestsrv is missing: {}", self.advice()))
            }
            Self::Nchan if !has_nchan() => Err(format!("nchan is missing: {}", self.advice())),
            Self::Python if !makes_environments(&path) => {
                Err(format!("{} has no working `venv` module: {}", path.display(), self.advice()))
            }
            _ => Ok(path),
        }
    }
}

/// `Err` names each tool that is missing, and its package when there is one.
pub(crate) fn require(tools: &[Tool]) -> Result<(), String> {
    let ubuntu = is_ubuntu();
    let error = |tool: &Tool| tool.find().err().map(|why| missing(&why, tool.packages(ubuntu)));
    let missing: Vec<String> = tools.iter().filter_map(error).collect();
    if missing.is_empty() { Ok(()) } else { Err(missing.join("\n")) }
}

fn missing(why: &str, packages: &[&str]) -> String {
    match packages {
        [] => why.to_owned(),
        packages => format!(
            "{why}\n  on Debian and Ubuntu: `apt-get install {}`, or pass `--install`",
            packages.join(" ")
        ),
    }
}

/// Makes sure that all are there: with `install`, by installing what is missing where that is
/// possible. `Err` says what is missing still.
pub(crate) fn provide(tools: &[Tool], install: bool) -> Result<(), String> {
    if !install {
        return require(tools);
    }
    let ubuntu = is_ubuntu();
    let absent = tools.iter().filter(|tool| tool.find().is_err());
    let mut packages: Vec<&str> = Vec::new();
    for package in absent.flat_map(|tool| tool.packages(ubuntu)) {
        if !packages.contains(package) {
            packages.push(package);
        }
    }
    if packages.is_empty() {
        return require(tools);
    }
    let names = packages.join(" ");
    match AptGet::available() {
        Some(apt_get) => {
            println!("installing packages with apt-get: {names}");
            apt_get.install(&packages)?;
        }
        None => println!("`--install` needs apt-get, and root or sudo without a password: {names}"),
    }
    require(tools)
}

/// The PATH for programs that we start: ours, and the folders of system programs at its end.
pub(crate) fn search_path() -> OsString {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(SYSTEM_FOLDERS.iter().map(PathBuf::from));
    // It fails only on a folder with a separator in its name, which cannot come out of a PATH.
    env::join_paths(folders).unwrap_or(path)
}

pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = search_path();
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| is_executable(file))
}

fn is_executable(file: &Path) -> bool {
    #[cfg(unix)]
    let permitted = |data: &fs::Metadata| {
        std::os::unix::fs::PermissionsExt::mode(&data.permissions()) & 0o111 != 0
    };
    #[cfg(not(unix))]
    let permitted = |_: &fs::Metadata| true;
    fs::metadata(file).is_ok_and(|data| data.is_file() && permitted(&data))
}

fn check_node(node: &Path) -> Result<(), String> {
    let output = Command::new(node)
        .arg("--version")
        .output()
        .map_err(|error| format!("{} cannot be run: {error}", node.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = version(&text);
    if version.is_some_and(|found| found >= NODE_AT_LEAST) {
        return Ok(());
    }
    let advice = Tool::Node.advice();
    Err(format!("{} is version {}, which is too old: {advice}", node.display(), text.trim()))
}

/// `v20.18.1` as numbers, which compare as versions do.
fn version(text: &str) -> Option<[u32; 3]> {
    let release = text.trim().trim_start_matches('v').split('-').next()?;
    let mut numbers = release.split('.').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some([next()?, next()?, next()?])
}

/// Debian splits `venv` off Python: the module is there, and fails for want of `ensurepip`.
fn makes_environments(python: &Path) -> bool {
    succeeds(Command::new(python).args(["-c", "import venv, ensurepip"]))
}

/// Folders where packages of nginx put dynamic modules. The comparison looks in the same.
const NGINX_MODULES: [&str; 3] =
    ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules", "/usr/local/lib/nginx/modules"];

fn has_nchan() -> bool {
    NGINX_MODULES.iter().any(|folder| Path::new(folder).join("ngx_nchan_module.so").exists())
}

fn is_ubuntu() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release.lines().any(|line| line == "ID=ubuntu" || line.starts_with("ID_LIKE=\"ubuntu"))
}

/// `apt-get`, run by root or with a sudo that asks for no password.
struct AptGet {
    sudo: bool,
}

impl AptGet {
    fn available() -> Option<Self> {
        on_path("apt-get")?;
        let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
        let sudo = !root && succeeds(Command::new("sudo").args(["-n", "true"]));
        (root || sudo).then_some(Self { sudo })
    }

    fn install(&self, packages: &[&str]) -> Result<(), String> {
        report::run(self.command().arg("update"))?;
        let mut install = self.command();
        report::run(install.args(["install", "-y", "--no-install-recommends"]).args(packages))
    }

    fn command(&self) -> Command {
        // `env` sets the variable also behind sudo, which clears the environment.
        let words = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get"];
        let mut command = Command::new(if self.sudo { "sudo" } else { words[0] });
        if self.sudo {
            command.args(["-n", words[0]]);
        }
        command.args(&words[1..]).stdin(Stdio::null());
        command
    }
}

fn succeeds(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_node_compare_by_number() {
        let check = |text: &str, enough: bool| {
            assert_eq!(version(text).is_some_and(|found| found >= NODE_AT_LEAST), enough, "{text}");
        };
        check("v20.18.1\n", true);
        check("v20.18.0", false);
        check("v18.99.99", false);
        check("v22.2.0", true);
        check("v100.0.0-nightly20260101", true);
        check("", false);
        check("node", false);
    }

    #[test]
    fn a_missing_program_is_named_with_its_package() {
        let check = |packages: &[&str], expected: &str| {
            assert_eq!(missing("valgrind is missing: install valgrind", packages), expected);
        };
        check(&[], "valgrind is missing: install valgrind");
        check(
            &["valgrind"],
            "valgrind is missing: install valgrind\n  \
             on Debian and Ubuntu: `apt-get install valgrind`, or pass `--install`",
        );
    }

    #[test]
    fn every_tool_says_what_to_install() {
        use Tool::{
            Chromium, CppCompiler, Curl, Nchan, Nginx, Node, Npm, Pebble, Python, RedisServer,
            Valgrind,
        };
        let tools = [
            RedisServer,
            Chromium,
            Nginx,
            Nchan,
            Python,
            CppCompiler,
            Curl,
            Valgrind,
            Pebble,
            Node,
            Npm,
        ];
        for tool in tools {
            assert!(tool.advice().starts_with("install "), "{tool:?}");
            assert!(!tool.programs().is_empty(), "{tool:?}");
        }
    }
}
