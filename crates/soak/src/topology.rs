//! A primary and a replica of Redis, which nodes and programs reach through proxies only: one for
//! each node, one for all programs. Look here for how the primary changes.

use std::net::SocketAddr;
use std::sync::Arc;

use headwater_test_support::{Proxy, RedisServer};

/// Data survives the kill of the process. A replica synchronizes without delay.
const ARGUMENTS: &[&str] = &[
    "--save",
    "",
    "--appendonly",
    "yes",
    "--appendfsync",
    "no",
    "--repl-diskless-sync-delay",
    "0",
    // Allows DEBUG settings, such as the one that slows down loading.
    "--enable-debug-command",
    "local",
];

/// The servers, and the network to the primary.
pub struct Topology {
    servers: [RedisServer; 2],
    primary: usize,
    network: Arc<Network>,
}

/// The proxies to the primary.
pub struct Network {
    /// One for each node.
    pub nodes: Vec<Proxy>,
    /// The one of all programs that publish in Redis.
    pub programs: Proxy,
}

impl Topology {
    /// Starts the servers and a proxy for each node.
    ///
    /// # Panics
    /// When a server does not start.
    pub fn start(nodes: usize) -> Self {
        let primary = RedisServer::start_with(ARGUMENTS);
        let replica = RedisServer::start_replica_of(&primary, ARGUMENTS);
        let target = address(&primary);
        let network = Network {
            nodes: (0..nodes).map(|_| Proxy::start(target)).collect(),
            programs: Proxy::start(target),
        };
        Self { servers: [primary, replica], primary: 0, network: Arc::new(network) }
    }

    /// The network.
    pub fn network(&self) -> Arc<Network> {
        Arc::clone(&self.network)
    }

    /// The primary.
    pub fn primary(&mut self) -> &mut RedisServer {
        &mut self.servers[self.primary]
    }

    /// The replica.
    pub fn replica(&self) -> &RedisServer {
        &self.servers[1 - self.primary]
    }

    /// From now on the replica counts as the primary: new connections go there.
    pub fn switch(&mut self) {
        self.primary = 1 - self.primary;
        let target = address(&self.servers[self.primary]);
        for proxy in self.network.all() {
            proxy.set_target(target);
        }
    }

    /// Makes the other server a replica of the primary.
    pub fn demote_other(&self) {
        self.servers[1 - self.primary].demote_to(&self.servers[self.primary]);
    }

    /// The server that is not the primary, to be restarted.
    pub fn other(&mut self) -> &mut RedisServer {
        &mut self.servers[1 - self.primary]
    }
}

impl Network {
    /// All proxies.
    pub fn all(&self) -> impl Iterator<Item = &Proxy> {
        self.nodes.iter().chain([&self.programs])
    }
}

fn address(server: &RedisServer) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], server.port()))
}
