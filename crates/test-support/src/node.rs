//! A real node: the binary `headwater` as a separate process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::process::send_signal;
use crate::wait::{eventually, wait_for};
use crate::{http, secrets};

/// Logs everything, including what the libraries log about headers.
const LOG_ALL: [&str; 2] = ["--log", "trace,h2=trace,hyper=trace,redis=trace,h2::hpack=trace"];

/// A running `headwater serve`; killed when dropped.
pub struct Node {
    process: Child,
    address: SocketAddr,
    log: Arc<Mutex<String>>,
    /// Reads the log; `None` once joined.
    reader: Option<JoinHandle<()>>,
}

impl Node {
    /// Starts `BINARY serve` on a free port with further arguments, and waits until it listens.
    ///
    /// # Panics
    /// With the log, when it does not start.
    pub fn start(binary: &str, arguments: &[&str]) -> Self {
        Self::start_on(binary, "127.0.0.1:0", arguments)
    }

    /// Like [`start`](Self::start), with the default log level: for tests that measure, which a
    /// full log would distort.
    ///
    /// # Panics
    /// With the log, when it does not start.
    pub fn start_quiet(binary: &str, arguments: &[&str]) -> Self {
        Self::spawn(binary, "127.0.0.1:0", &[], arguments)
    }

    /// Like [`start`](Self::start), on a given address. Everything is logged unless `--log` is
    /// among the arguments; the log is searched for secrets on drop.
    ///
    /// # Panics
    /// With the log, when it does not start.
    pub fn start_on(binary: &str, listen: &str, arguments: &[&str]) -> Self {
        Self::start_in(binary, listen, &[], arguments)
    }

    /// Like [`start_on`](Self::start_on), with additional environment variables.
    ///
    /// # Panics
    /// With the log, when it does not start.
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
        arguments.iter().copied().for_each(secrets::keep_from_argument);
        let mut process = Command::new(binary)
            .args(["serve", "--listen", listen, "--log-format", "json"])
            .args(arguments)
            .envs(environment.iter().copied())
            // For the tests only: it is not a setting of the server.
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
            assert!(exited.is_none() || address.is_some(), "the node exited: {exited:?}\n{log}");
            address.is_some()
        });
        let address = address.expect("waited for");
        Self { process, address, log, reader: Some(reader) }
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The admin address for health and metrics, if one is set.
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.log().lines().find_map(|line| address_in(line, "admin"))
    }

    /// The process id.
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// The log so far, one JSON object per line.
    ///
    /// # Panics
    /// When the thread that reads the log panicked.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log").clone()
    }

    /// Waits until the log contains a text.
    pub fn wait_for_log(&self, text: &str) {
        wait_for(&format!("the log contains {text:?}:\n{}", self.log()), || {
            self.log().contains(text)
        });
    }

    /// Where health and metrics are served without TLS.
    fn health_address(&self) -> SocketAddr {
        self.admin_address().unwrap_or(self.address)
    }

    /// Waits until `/health/ready` returns 200.
    pub async fn wait_until_ready(&self) {
        eventually("the node is ready", || async {
            http::get(self.health_address(), "/health/ready").await.status == 200
        })
        .await;
    }

    /// The value of a metric. Labels, if any, are part of the name.
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
    /// When it does not have the value in time.
    pub async fn wait_for_metric(&self, name: &str, value: f64) {
        eventually(&format!("{name} is {value}"), || async {
            (self.metric(name).await - value).abs() < f64::EPSILON
        })
        .await;
    }

    /// The resident memory of the process in bytes (`VmRSS`). Linux only.
    ///
    /// # Panics
    /// When the process has ended, or `/proc` is not available.
    pub fn memory_bytes(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most resident memory since [`forget_peak`](Self::forget_peak), in bytes (`VmHWM`). Linux
    /// only.
    ///
    /// # Panics
    /// As [`memory_bytes`](Self::memory_bytes).
    pub fn peak_bytes(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Lets the peak start again from what the process uses now.
    ///
    /// # Panics
    /// When `/proc` does not allow it.
    pub fn forget_peak(&self) {
        std::fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").expect("/proc");
    }

    fn memory(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))
            .expect("/proc and a running process");
        let kib = status.lines().find_map(|line| line.strip_prefix(name)).expect(name);
        1024 * kib.trim().trim_end_matches(" kB").parse::<u64>().expect("a number")
    }

    /// How much of a core the process has used since it started. Linux only.
    ///
    /// # Panics
    /// When the process has ended, or `/proc` is not available.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))
            .expect("/proc and a running process");
        // After the name in parentheses; in hundredths of a second on every platform in use.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
        let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
        Duration::from_millis(10 * (ticks(11) + ticks(12)))
    }

    /// Sends a signal by its name without SIG.
    pub fn signal(&self, signal: &str) {
        send_signal(self.process.id(), signal);
    }

    /// Whether the process is still running.
    ///
    /// # Panics
    /// When the status of the process is unknown.
    pub fn is_running(&mut self) -> bool {
        self.process.try_wait().expect("the process").is_none()
    }

    /// Waits until the process exits.
    ///
    /// # Panics
    /// With the log, when it does not exit in time.
    pub fn wait_for_end(&mut self, within: Duration) -> ExitStatus {
        let deadline = std::time::Instant::now() + within;
        loop {
            if let Some(status) = self.process.try_wait().expect("the process") {
                return status;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "the node did not exit within {within:?}\n{}",
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

/// An address in the log line `serving`.
fn address_in(line: &str, field: &str) -> Option<SocketAddr> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    if line["message"] != "serving" {
        return None;
    }
    line[field].as_str()?.parse().ok()
}
