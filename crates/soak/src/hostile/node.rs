//! A node in little memory, and the tokens of its clients. Look here for how a process is confined.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use headwater_test_support::Node;
use tempfile::TempDir;

use super::attacks::Target;

const SECRET: &str = "hostile-hostile-hostile-hostile-";

/// A node in a memory cgroup of its own, if this process may create one.
pub(super) struct ConfinedNode {
    node: Node,
    group: Option<Group>,
    good_token: String,
    hostile_token: String,
    _directory: TempDir,
}

impl ConfinedNode {
    pub(super) fn start(binary: &Path, memory_bytes: u64) -> Result<Self, String> {
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let secret = directory.path().join("secret");
        write(&secret, SECRET, 0o600)?;
        let token = |rights: &[&str]| {
            let secret = secret.to_string_lossy();
            let arguments = ["token", "--secret-file", &secret, "--ttl", "24h"];
            let output = Command::new(binary).args(arguments).args(rights).output();
            let output = output.map_err(|error| error.to_string())?;
            let token = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            if token.is_empty() {
                Err(String::from_utf8_lossy(&output.stderr).into())
            } else {
                Ok(token)
            }
        };
        let good_token: Result<_, String> =
            token(&["--user", "ann", "--subscribe", "quiet.*", "--publish", "quiet.*"]);
        let hostile_token: Result<_, String> =
            token(&["--user", "mallory", "--subscribe", "m*", "--publish", "m*"]);
        let group = Group::create(memory_bytes);
        let wrapper = match &group {
            Some(group) => {
                let wrapper = directory.path().join("headwater");
                let procs = group.path.join("cgroup.procs");
                let text = format!(
                    "#!/bin/sh\necho $$ > '{}' && exec '{}' \"$@\"\n",
                    procs.display(),
                    binary.display()
                );
                write(&wrapper, &text, 0o700)?;
                wrapper
            }
            None => binary.to_owned(),
        };
        let (secret, wrapper) = (secret.to_string_lossy(), wrapper.to_string_lossy());
        // A full log would be most of what is measured.
        let node =
            Node::start_quiet(&wrapper, &["--jwt-secret-file", &secret, "--public", "public"]);
        Ok(Self {
            node,
            group,
            good_token: good_token?,
            hostile_token: hostile_token?,
            _directory: directory,
        })
    }

    pub(super) async fn wait_until_ready(&self) {
        self.node.wait_until_ready().await;
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.node.address()
    }

    pub(super) fn good_token(&self) -> &str {
        &self.good_token
    }

    pub(super) fn target(&self) -> Target {
        Target { address: self.address(), token: self.hostile_token.clone() }
    }

    pub(super) fn is_running(&mut self) -> bool {
        self.node.is_running()
    }

    pub(super) fn is_confined(&self) -> bool {
        self.group.is_some()
    }

    /// The most memory that the node has used since the last call.
    pub(super) fn peak_bytes(&self) -> u64 {
        self.group.as_ref().and_then(Group::take_peak).unwrap_or_else(|| self.node.memory_bytes())
    }
}

/// A cgroup, version 1 or 2.
struct Group {
    path: PathBuf,
    peak: &'static str,
}

impl Group {
    fn create(memory_bytes: u64) -> Option<Self> {
        let name = format!("headwater-hostile-{}", std::process::id());
        let versions = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            ("/sys/fs/cgroup", "memory.max", "memory.peak"),
        ];
        versions.into_iter().find_map(|(root, limit, peak)| {
            let path = Path::new(root).join(&name);
            fs::create_dir_all(&path).ok()?;
            let group = Self { path, peak };
            fs::write(group.path.join(limit), memory_bytes.to_string()).ok()?;
            group.path.join("cgroup.procs").exists().then_some(group)
        })
    }

    fn take_peak(&self) -> Option<u64> {
        let file = self.path.join(self.peak);
        let peak = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
        // Version 1, and version 2 since Linux 6.12; without it, the peak is of all attacks so far.
        let _ = fs::write(file, "0");
        Some(peak)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // It can be removed once its process is gone.
        for _ in 0..50 {
            if fs::remove_dir(&self.path).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), String> {
    fs::write(path, text)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(mode)))
        .map_err(|error| format!("{}: {error}", path.display()))
}
