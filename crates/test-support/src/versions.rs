//! Servers of several versions: the oldest Redis that is supported, newer ones, and Valkey. Look
//! here to run a test on all of them; `cargo xtask test --install` installs them.

use std::path::{Path, PathBuf};

use crate::redis_server::RedisServer;

/// A version of Redis or Valkey that tests run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisVersion {
    /// Has no functions, and replicates scripts.
    Redis6,
    /// The `redis-server` of the system: Redis 7 or newer.
    System,
    /// Redis 8.2.
    Redis8,
    /// Valkey 8.0.
    Valkey8,
    /// Valkey 9.1.
    Valkey9,
}

impl RedisVersion {
    /// All versions, the oldest first.
    pub const ALL: [Self; 5] =
        [Self::Redis6, Self::System, Self::Redis8, Self::Valkey8, Self::Valkey9];

    /// Whether the version has functions.
    pub fn has_functions(self) -> bool {
        self != Self::Redis6
    }

    /// Its server.
    ///
    /// # Panics
    /// When it is not installed.
    pub fn program(self) -> PathBuf {
        let name = match self {
            Self::System => return "redis-server".into(),
            Self::Redis6 => "redis-6.2",
            Self::Redis8 => "redis-8.2",
            Self::Valkey8 => "valkey-8.0",
            Self::Valkey9 => "valkey-9.1",
        };
        let program = folder().join(name);
        assert!(
            program.exists(),
            "{} is missing: try `cargo xtask test --install`",
            program.display()
        );
        program
    }

    /// Starts a server with these arguments.
    ///
    /// # Panics
    /// When it is not installed or does not start.
    pub fn start(self, arguments: &[&str]) -> RedisServer {
        RedisServer::start_program(self.program(), arguments)
    }
}

/// Where `cargo xtask` installs the servers.
fn folder() -> PathBuf {
    match std::env::var_os("TEST_REDIS_SERVERS") {
        Some(folder) => folder.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/redis-servers"),
    }
}
