//! A real node: the binary `headwater` as a process of its own.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{http, secrets, send_signal, wait_for};

/// Everything that can be logged, also what libraries would say of the headers that they read.
const LOG_ALL: [&str; 2] = ["--log", "trace,h2=trace,hyper=trace,redis=trace,h2::hpack=trace"];

/// A running `headwater serve`; it ends when this is dropped.
pub struct Node {
    process: Child,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
    /// Reads the log; `None` when it was waited for.
    reader: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts the binary at a path with `serve`, a free port and further arguments, and waits until it
    /// listens.
    ///
    /// # Panics
    /// When it does not start; the log tells why.
    pub fn start(binary: &str, arguments: &[&str]) -> Self {
        Self::start_on(binary, "127.0.0.1:0", arguments)
    }

    /// The same with the log that users have: for a test that measures, because a full log would be measured too.
    ///
    /// # Panics
    /// When it does not start; the log tells why.
    pub fn start_quiet(binary: &str, arguments: &[&str]) -> Self {
        Self::spawn(binary, "127.0.0.1:0", &[], arguments)
    }

    /// The same on an address of the test's choice. Everything is logged, unless an argument says what; the log is
    /// searched for secrets when this is dropped.
    ///
    /// # Panics
    /// When it does not start; the log tells why.
    pub fn start_on(binary: &str, listen: &str, arguments: &[&str]) -> Self {
        Self::start_in(binary, listen, &[], arguments)
    }

    /// The same with some variables in its environment.
    ///
    /// # Panics
    /// When it does not start; the log tells why.
    pub fn start_in(
        binary: &str,
        listen: &str,
        environment: &[(&str, &str)],
        arguments: &[&str],
    ) -> Self {
        if arguments.contains(&"--log") {
            return Self::spawn(binary, listen, environment, arguments);
        }
        Self::spawn(binary, listen, environment, &[&LOG_ALL, arguments].concat())
    }

    fn spawn(binary: &str, listen: &str, environment: &[(&str, &str)], arguments: &[&str]) -> Self {
        arguments.iter().copied().for_each(secrets::keep_of_argument);
        let mut process = Command::new(binary)
            .args(["serve", "--listen", listen, "--log-format", "json"])
            .args(arguments)
            .envs(environment.iter().copied())
            // It is for the tests, and no setting.
            .env_remove("HEADWATER_TEST_FULL")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(process.stderr.take().expect("its standard error"));
        let lines = Arc::clone(&log);
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = lines.lock().expect("the log");
                log.push_str(&line);
                log.push('\n');
            }
        });
        let mut address = None;
        wait_for("the node listens", || {
            let log = log.lock().expect("the log");
            address = log.lines().find_map(|line| address_in(line, "listen"));
            let exited = process.try_wait().expect("the process");
            assert!(exited.is_none() || address.is_some(), "the node ended: {exited:?}\n{log}");
            address.is_some()
        });
        let address = address.expect("waited for");
        Self { process, address, log, reader: Some(reader) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves health and metrics, if it was given an address of its own for them.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.log().lines().find_map(|line| address_in(line, "admin"))
    }

    /// The id of the process.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// What it logged so far, one JSON object per line.
    ///
    /// # Panics
    /// When the thread that reads it panicked.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Waits until the log has a text.
    pub fn wait_for_log(&self, text: &str) {
        wait_for(&format!("the log says {text:?}:\n{}", self.log()), || self.log().contains(text));
    }

    /// Where health and metrics can be asked for without TLS.
    fn health_address(&self) -> SocketAddr {
        self.admin_address().unwrap_or(self.address)
    }

    /// Waits until it is ready.
    pub async fn wait_until_ready(&self) {
        crate::eventually("the node is ready", || async {
            http::get(self.health_address(), "/health/ready").await.status == 200
        })
        .await;
    }

    /// The value of a metric without labels, or with the labels that are part of the name.
    ///
    /// # Panics
    /// When there is no such metric.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = http::get(self.health_address(), "/metrics").await.text();
        secrets::search("the metrics", &text);
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        let value = value.unwrap_or_else(|| panic!("no metric {name} in\n{text}"));
        value.parse().expect("a number")
    }

    /// Waits until a metric has a value.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn wait_for_metric(&self, name: &str, value: f64) {
        crate::eventually(&format!("{name} is {value}"), || async {
            (self.metric(name).await - value).abs() < f64::EPSILON
        })
        .await;
    }

    /// The memory that the process holds, in bytes (VmRSS).
    ///
    /// # Panics
    /// When the process is gone.
    pub fn memory_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .expect("the process runs");
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        1024 * kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    }

    /// Sends a signal by its name without SIG.
    pub fn signal(&self, signal: &str) {
        send_signal(self.process.id(), signal);
    }

    /// Whether it has not ended.
    ///
    /// # Panics
    /// When the system does not know.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("the process").is_none()
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end within the time.
    pub fn wait_for_end(&mut self, within: Duration) -> ExitStatus {
        let deadline = std::time::Instant::now() + within;
        loop {
            if let Some(status) = self.process.try_wait().expect("the process") {
                return status;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "the node did not end within {within:?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        if std::thread::panicking() {
            return;
        }
        if let Some(reader) = self.reader.take() {
            wait_for("the end of the log", || reader.is_finished());
        }
        secrets::search("the log", &self.log());
    }
}

/// An address in the line that says where the node serves.
fn address_in(line: &str, field: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    if line["message"] != "serving" {
        return None;
    }
    line[field].as_str()?.parse().ok()
}
