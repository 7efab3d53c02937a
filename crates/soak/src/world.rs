//! The real parts: Redis and nodes, started, broken and ended here. Each ends when the world is
//! dropped, also by a panic. Look here for the arguments that a node is started with.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use headwater_test_support::{Node, RedisServer, http, stable_port};
use tempfile::TempDir;

use crate::scenario::{Broker, History, Scenario};

/// Keeps what was written when the process is killed: it is in the kernel by then. Waiting for the
/// disk, which `always` does, would guard against the machine's end only.
const REDIS_KEEPS: &[&str] = &["--save", "", "--appendonly", "yes", "--appendfsync", "no"];
const REDIS_FORGETS: &[&str] = &["--save", "", "--appendonly", "no"];

/// Most of a node's log that is kept for a report.
const LOG_LINES: usize = 40;

/// Everything that runs.
pub struct World {
    redis: Option<RedisServer>,
    nodes: Vec<Option<Node>>,
    binary: String,
    arguments: Vec<String>,
    addresses: Vec<SocketAddr>,
    /// Logs of nodes that were killed.
    past_logs: Vec<String>,
    _data: Option<TempDir>,
}

impl World {
    /// Starts what a scenario needs.
    ///
    /// # Errors
    /// When the data directory cannot be made.
    ///
    /// # Panics
    /// When something does not start.
    pub fn start(binary: &Path, scenario: &Scenario) -> Result<Self, String> {
        let redis = match scenario.broker {
            Broker::RedisKeeps => Some(RedisServer::start_with(REDIS_KEEPS)),
            Broker::RedisForgets => Some(RedisServer::start_with(REDIS_FORGETS)),
            Broker::Memory | Broker::DataDirectory => None,
        };
        let mut arguments = arguments(scenario.history);
        let mut data = None;
        if let Some(redis) = &redis {
            arguments.extend(["--redis".to_owned(), redis.url()]);
        }
        if scenario.broker == Broker::DataDirectory {
            let directory =
                tempfile::tempdir().map_err(|error| format!("no directory: {error}"))?;
            arguments.extend(["--data".to_owned(), directory.path().display().to_string()]);
            data = Some(directory);
        }
        let addresses = (0..scenario.nodes)
            .map(|_| SocketAddr::from(([127, 0, 0, 1], stable_port())))
            .collect::<Vec<_>>();
        let mut world = Self {
            redis,
            nodes: addresses.iter().map(|_| None).collect(),
            binary: binary.display().to_string(),
            arguments,
            addresses,
            past_logs: vec![String::new(); scenario.nodes],
            _data: data,
        };
        for node in 0..scenario.nodes {
            world.start_node(node);
        }
        Ok(world)
    }

    /// Where the nodes listen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where Redis is.
    pub fn redis_url(&self) -> Option<String> {
        self.redis.as_ref().map(RedisServer::url)
    }

    /// Starts a node, which must not run.
    pub fn start_node(&mut self, node: usize) {
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let listen = self.addresses[node].to_string();
        self.nodes[node] = Some(Node::start_on(&self.binary, &listen, &arguments));
    }

    /// Ends a node with `kill -9`.
    pub fn kill_node(&mut self, node: usize) {
        if let Some(killed) = self.nodes[node].take() {
            killed.signal("KILL");
            self.past_logs[node] += &killed.log();
            self.past_logs[node] += "--- killed\n";
        }
    }

    /// Redis, if there is one.
    pub fn redis(&mut self) -> Option<&mut RedisServer> {
        self.redis.as_mut()
    }

    /// Waits until all nodes are ready.
    ///
    /// # Panics
    /// When one is not in time.
    pub async fn wait_until_ready(&self) {
        for node in self.nodes.iter().flatten() {
            node.wait_until_ready().await;
        }
    }

    /// Nodes that ended by themselves.
    pub fn ended_nodes(&mut self) -> Vec<usize> {
        let nodes = self.nodes.iter_mut().enumerate();
        let has_ended =
            |node: &mut Option<Node>| node.as_mut().is_some_and(|node| !node.is_running());
        nodes.filter_map(|(at, node)| has_ended(node).then_some(at)).collect()
    }

    /// All that the nodes logged.
    pub fn node_logs(&self) -> Vec<String> {
        let now = self.nodes.iter().map(|node| node.as_ref().map(Node::log).unwrap_or_default());
        self.past_logs.iter().zip(now).map(|(past, now)| format!("{past}{now}")).collect()
    }

    /// Warnings and errors of the nodes, the last of them.
    pub fn node_warnings(&self) -> Vec<String> {
        let warning = |line: &&str| {
            line.starts_with("---") || line.contains("\"WARN\"") || line.contains("\"ERROR\"")
        };
        let mut warnings = Vec::new();
        for (node, log) in self.node_logs().iter().enumerate() {
            let lines: Vec<&str> = log.lines().filter(warning).collect();
            let last = lines.iter().skip(lines.len().saturating_sub(LOG_LINES));
            warnings.extend(last.map(|line| format!("node {node}: {line}")));
        }
        warnings
    }

    /// What the nodes measure, for a report.
    pub async fn metrics(&self, begins: &str) -> Vec<String> {
        let mut found = Vec::new();
        for (node, address) in self.addresses.iter().enumerate() {
            let text = http::get(*address, "/metrics").await.text();
            let lines = text.lines().filter(|line| line.starts_with(begins));
            found.extend(lines.map(|line| format!("node {node}: {line}")));
        }
        found
    }
}

fn arguments(history: History) -> Vec<String> {
    let retention = match history {
        History::Long => "soak.* events=1000000 age=1h bytes=1GiB",
        History::Short => "soak.* events=150 age=1h",
    };
    // A full log of an hour would not fit into the memory.
    let arguments = ["--heartbeat", "1s", "--retention", retention, "--log", "info"];
    arguments.map(str::to_owned).to_vec()
}

/// How long Redis or a node is gone, at most.
pub const DOWN_MAX: Duration = Duration::from_millis(1_500);
