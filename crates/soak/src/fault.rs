//! The faults that a scenario can inject. Look here for what each one is; `faults` makes the plan,
//! `outage` does them.

/// A fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `CLIENT KILL TYPE pubsub`.
    KillSubscribers,
    /// `kill -9` of Redis, and a restart on the same port.
    RestartRedis,
    /// `SIGSTOP` and later `SIGCONT` of Redis.
    FreezeRedis,
    /// `kill -9` of a node, and a restart on the same port.
    RestartNode,
    /// `kill -9` of Redis, and a restart that takes a while to load the data.
    LoadSlowly,
    /// `kill -9` of Redis, and a restart from a copy of its files that is a little older.
    RestoreRedis,
    /// The replica becomes the primary, and the primary its replica.
    PromoteReplica,
    /// `maxmemory` below what is used: writes give OOM.
    FillRedis,
    /// More replicas required than there are: writes give NOREPLICAS.
    TooFewReplicas,
    /// The primary is a replica of nothing for a while: writes give READONLY.
    ReadOnlyRedis,
    /// `PUBLISH` denied by the ACL, also inside of the function.
    DenyPublish,
    /// `FLUSHALL`.
    FlushRedis,
    /// One key of the log is deleted.
    EvictKey,
    /// The network to Redis swallows what is sent.
    Swallow,
    /// The network to Redis adds latency.
    Delay,
    /// Connections to Redis are reset.
    Cut,
    /// Connections to Redis are reset, and new ones are refused for a while.
    Refuse,
}

impl Fault {
    /// Whether the network fails, and not Redis or a node. Both kinds are injected side by side.
    pub fn is_network(self) -> bool {
        matches!(self, Self::Swallow | Self::Delay | Self::Cut | Self::Refuse)
    }
}
