//! The real processes: Redis and nodes, started, killed and restarted here. All are killed when the
//! world is dropped, also after a panic. Look here for the arguments of a node.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use headwater_test_support::{Node, Proxy, RedisServer, http, stable_port};
use tempfile::TempDir;
use tokio::time::{Instant, sleep, timeout};

use crate::scenario::{Broker, History, Scenario};
use crate::topology::Topology;

/// Data survives the kill of the process, because the kernel has it by then. `always` would also
/// wait for the disk, which only protects against a crash of the machine.
const REDIS_DURABLE: &[&str] = &["--save", "", "--appendonly", "yes", "--appendfsync", "no"];
const REDIS_IN_MEMORY: &[&str] = &["--save", "", "--appendonly", "no"];

/// How long a response of the readiness check may take, and how often it is asked for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const READY_INTERVAL: Duration = Duration::from_millis(100);

/// The linger of a node that forgets channels soon: less than a client stays.
const SHORT_LINGER: &str = "300ms";

/// Log lines of a node in a report, at most.
const LOG_LINES: usize = 40;

/// All processes of a round.
pub struct World {
    redis: Option<RedisServer>,
    topology: Option<Topology>,
    nodes: Vec<Option<Node>>,
    binary: String,
    arguments: Vec<String>,
    /// Those of one node only.
    own_arguments: Vec<Vec<String>>,
    addresses: Vec<SocketAddr>,
    /// The logs of killed nodes.
    past_logs: Vec<String>,
    _data: Option<TempDir>,
}

impl World {
    /// Starts the processes of a scenario.
    ///
    /// # Errors
    /// When the data directory cannot be created.
    ///
    /// # Panics
    /// When a process does not start.
    pub fn start(binary: &Path, scenario: &Scenario) -> Result<Self, String> {
        let redis = match scenario.broker {
            Broker::RedisDurable => Some(RedisServer::start_with(REDIS_DURABLE)),
            Broker::RedisInMemory => Some(RedisServer::start_with(REDIS_IN_MEMORY)),
            Broker::RedisReplicated | Broker::Memory | Broker::DataDirectory => None,
        };
        let topology =
            (scenario.broker == Broker::RedisReplicated).then(|| Topology::start(scenario.nodes));
        let mut arguments = arguments(scenario.history);
        let mut data = None;
        let of_url = |url| vec!["--redis".to_owned(), url];
        let own_arguments = match (&redis, &topology) {
            (Some(redis), _) => vec![of_url(redis.url()); scenario.nodes],
            (None, Some(topology)) => {
                // Published over HTTP, events of these channels are ephemeral.
                arguments.splice(0..0, ["--retention", "soak.p* off"].map(str::to_owned));
                let urls = topology.network();
                let mut own: Vec<_> = urls.nodes.iter().map(url).map(of_url).collect();
                // The last node subscribes to few channels at a time, and so knows less of the log.
                if let Some(last) = own.last_mut() {
                    last.extend(["--linger", SHORT_LINGER].map(str::to_owned));
                }
                own
            }
            (None, None) => Vec::new(),
        };
        if scenario.broker == Broker::DataDirectory {
            let directory =
                tempfile::tempdir().map_err(|error| format!("no data directory: {error}"))?;
            arguments.extend(["--data".to_owned(), directory.path().display().to_string()]);
            data = Some(directory);
        }
        let addresses = (0..scenario.nodes)
            .map(|_| SocketAddr::from(([127, 0, 0, 1], stable_port())))
            .collect::<Vec<_>>();
        let mut world = Self {
            redis,
            topology,
            nodes: addresses.iter().map(|_| None).collect(),
            binary: binary.display().to_string(),
            arguments,
            own_arguments,
            addresses,
            past_logs: vec![String::new(); scenario.nodes],
            _data: data,
        };
        for node in 0..scenario.nodes {
            world.start_node(node);
        }
        Ok(world)
    }

    /// The addresses of the nodes.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The URL of Redis, if there is one.
    pub fn redis_url(&self) -> Option<String> {
        let topology = self.topology.as_ref().map(|topology| url(&topology.network().programs));
        topology.or_else(|| self.redis.as_ref().map(RedisServer::url))
    }

    /// Starts a node that is not running.
    pub fn start_node(&mut self, node: usize) {
        let mut arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        if let Some(own) = self.own_arguments.get(node) {
            arguments.extend(own.iter().map(String::as_str));
        }
        let listen = self.addresses[node].to_string();
        self.nodes[node] = Some(Node::start_on(&self.binary, &listen, &arguments));
    }

    /// Kills a node with SIGKILL.
    pub fn kill_node(&mut self, node: usize) {
        if let Some(killed) = self.nodes[node].take() {
            killed.signal("KILL");
            self.past_logs[node] += &killed.log();
            self.past_logs[node] += "--- killed\n";
        }
    }

    /// Redis, if there is one: the primary, if there are several.
    pub fn redis(&mut self) -> Option<&mut RedisServer> {
        let primary = self.topology.as_mut().map(Topology::primary);
        primary.or(self.redis.as_mut())
    }

    /// Primary, replica and network, if there are any.
    pub fn topology(&mut self) -> Option<&mut Topology> {
        self.topology.as_mut()
    }

    /// What the nodes respond that are not ready within a time.
    pub async fn unready(&self, within: Duration) -> Vec<String> {
        let deadline = Instant::now() + within;
        let mut unready = Vec::new();
        for (node, address) in self.addresses.iter().enumerate() {
            loop {
                let answer = timeout(ANSWER_TIMEOUT, http::get(*address, "/health/ready")).await;
                if answer.as_ref().is_ok_and(|answer| answer.status == 200) {
                    break;
                }
                if Instant::now() > deadline {
                    let answer = answer.map_or("no response".to_owned(), |answer| answer.text());
                    unready.push(format!(
                        "node {node} is NOT READY {} s after the last fault: {answer}",
                        within.as_secs()
                    ));
                    break;
                }
                sleep(READY_INTERVAL).await;
            }
        }
        unready
    }

    /// Waits until all nodes are ready.
    ///
    /// # Panics
    /// When a node is not ready in time.
    pub async fn wait_until_ready(&self) {
        for node in self.nodes.iter().flatten() {
            node.wait_until_ready().await;
        }
    }

    /// The nodes that exited by themselves.
    pub fn exited_nodes(&mut self) -> Vec<usize> {
        let nodes = self.nodes.iter_mut().enumerate();
        let has_exited =
            |node: &mut Option<Node>| node.as_mut().is_some_and(|node| !node.is_running());
        nodes.filter_map(|(at, node)| has_exited(node).then_some(at)).collect()
    }

    /// The complete logs of the nodes.
    pub fn node_logs(&self) -> Vec<String> {
        let now = self.nodes.iter().map(|node| node.as_ref().map(Node::log).unwrap_or_default());
        self.past_logs.iter().zip(now).map(|(past, now)| format!("{past}{now}")).collect()
    }

    /// The last warnings and errors of the nodes.
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

    /// The nodes' metrics with a name prefix.
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

fn url(proxy: &Proxy) -> String {
    format!("redis://{}", proxy.address())
}

fn arguments(history: History) -> Vec<String> {
    let retention = match history {
        History::Long => "soak.* events=1000000 age=1h bytes=1GiB",
        History::Short => "soak.* events=150 age=1h",
    };
    // The full log of an hour would not fit in memory.
    let arguments = ["--heartbeat", "1s", "--retention", retention, "--log", "info"];
    arguments.map(str::to_owned).to_vec()
}

/// The longest outage of Redis or a node.
pub const DOWN_MAX: Duration = Duration::from_millis(1_500);
