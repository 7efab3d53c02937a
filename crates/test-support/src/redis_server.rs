//! A real Redis on a free port, without persistence unless requested.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use redis::{Connection, FromRedisValue};
use tempfile::TempDir;

use crate::ports::{cluster_port, stable_port};
use crate::process::send_signal;
use crate::secrets;
use crate::wait::wait_for;

/// A running `redis-server`; killed when dropped.
pub struct RedisServer {
    process: Child,
    program: PathBuf,
    port: u16,
    directory: TempDir,
    arguments: Vec<String>,
}

impl RedisServer {
    /// Starts a server without a password and without persistence.
    pub fn start() -> Self {
        Self::start_with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts a server with further arguments. A password among them is registered as a secret.
    ///
    /// # Panics
    /// When `redis-server` is not installed or does not start.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_program("redis-server".into(), arguments)
    }

    /// Starts another program with further arguments.
    pub(crate) fn start_program(program: PathBuf, arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().expect("a directory for Redis");
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
        let password = arguments.iter().skip_while(|argument| *argument != "--requirepass").nth(1);
        if let Some(password) = password {
            secrets::keep(password);
        }
        let is_cluster = arguments.iter().any(|argument| argument == "--cluster-enabled");
        let port = if is_cluster { cluster_port() } else { stable_port() };
        let process = spawn(&program, port, &directory, &arguments);
        let server = Self { process, program, port, directory, arguments };
        server.wait_until_up();
        server
    }

    /// Starts a server that replicates another one, and waits until it has its data.
    ///
    /// # Panics
    /// When it does not start, or does not synchronize in time.
    pub fn start_replica_of(primary: &Self, arguments: &[&str]) -> Self {
        let replica = Self::start_with(arguments);
        replica.demote_to(primary);
        replica.wait_until_in_sync();
        replica
    }

    /// Makes the server a primary.
    pub fn promote(&self) {
        self.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    }

    /// Makes the server a replica of another one, without waiting for the data.
    pub fn demote_to(&self, primary: &Self) {
        self.run::<()>(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
    }

    /// Waits until a replica has the data of its primary.
    ///
    /// # Panics
    /// When it does not in time.
    pub fn wait_until_in_sync(&self) {
        wait_for("the replica is in sync", || {
            self.run::<String>(&["INFO", "replication"]).contains("master_link_status:up")
        });
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL, without a password.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Adds a user with these ACL rules, and returns the URL to connect as this user.
    ///
    /// # Panics
    /// When Redis cannot be reached or rejects a rule.
    pub fn add_user(&self, name: &str, password: &str, rules: &[&str]) -> String {
        let password_rule = format!(">{password}");
        self.run::<()>(&[&["ACL", "SETUSER", name, "on", &password_rule], rules].concat());
        format!("redis://{name}:{password}@127.0.0.1:{}", self.port)
    }

    /// Runs a command and returns the reply.
    ///
    /// # Panics
    /// When Redis cannot be reached or answers with an error.
    pub fn run<T: FromRedisValue>(&self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.connection()).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Where it stores its data.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A connection, for many commands.
    ///
    /// # Panics
    /// When Redis cannot be reached.
    pub fn connection(&self) -> Connection {
        let client = redis::Client::open(self.url()).expect("a valid URL");
        client.get_connection().expect("a connection to Redis")
    }

    /// Publishes data with `PUBLISH`.
    pub fn publish(&self, channel: &str, data: &[u8]) {
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(channel).arg(data);
        publish.query::<i64>(&mut self.connection()).expect("PUBLISH");
    }

    /// Kills the process with SIGKILL.
    pub fn kill(&mut self) {
        send_signal(self.process.id(), "KILL");
        let _ = self.process.wait();
    }

    /// Restarts the server on the same port, after [`kill`](Self::kill).
    pub fn restart(&mut self) {
        self.restart_with(&[]);
    }

    /// Like [`restart`](Self::restart), with further arguments this time. Returns when the server
    /// has loaded its data.
    pub fn restart_with(&mut self, further: &[&str]) {
        let further = further.iter().map(|&argument| argument.to_owned());
        let arguments: Vec<String> = self.arguments.iter().cloned().chain(further).collect();
        self.process = spawn(&self.program, self.port, &self.directory, &arguments);
        self.wait_until_up();
    }

    /// Copies the files of the server, as a backup does.
    ///
    /// # Panics
    /// When they cannot be copied.
    pub fn copy_data(&self) -> TempDir {
        let copy = tempfile::tempdir().expect("a directory for the copy");
        copy_files(self.directory.path(), copy.path()).expect("a copy of the data");
        copy
    }

    /// Replaces the files of the server by a copy, after [`kill`](Self::kill).
    ///
    /// # Panics
    /// When they cannot be replaced.
    pub fn restore_data(&mut self, copy: &TempDir) {
        let directory = tempfile::tempdir().expect("a directory for Redis");
        copy_files(copy.path(), directory.path()).expect("a copy of the data");
        self.directory = directory;
    }

    /// Suspends the process with SIGSTOP: connections stay open, nothing is answered.
    pub fn freeze(&self) {
        send_signal(self.process.id(), "STOP");
    }

    /// Resumes the process, after [`freeze`](Self::freeze).
    pub fn thaw(&self) {
        send_signal(self.process.id(), "CONT");
    }

    fn wait_until_up(&self) {
        let client = redis::Client::open(self.url()).expect("a valid URL");
        wait_for("redis-server answers", || {
            // A server with a password rejects PING but is up.
            client.get_connection().map_or_else(
                |error| error.code() == Some("NOAUTH"),
                |mut connection| match redis::cmd("PING").query::<String>(&mut connection) {
                    Ok(_) => true,
                    Err(error) => error.code() == Some("NOAUTH"),
                },
            )
        });
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Copies a directory with its subdirectories. Files that vanish meanwhile are left out.
fn copy_files(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            std::fs::create_dir_all(&target)?;
            copy_files(&entry.path(), &target)?;
        } else if let Err(error) = std::fs::copy(entry.path(), target)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Ok(())
}

fn spawn(program: &Path, port: u16, directory: &TempDir, arguments: &[String]) -> Child {
    Command::new(program)
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1"])
        .arg("--dir")
        .arg(directory.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| {
            let program = program.display();
            panic!("{program} does not start ({error}): try `cargo xtask test --install`")
        })
}
