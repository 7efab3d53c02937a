//! The scenarios: what is started, which clients and publishers run, which faults are injected, and
//! what is allowed. Look here to add one.

use std::time::Duration;

use crate::check::{Gaps, Rules};
use crate::fault::Fault;
use crate::log::Protocol;

/// A scenario, at its full length.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// The name on the command line.
    pub name: &'static str,
    /// The broker.
    pub broker: Broker,
    /// The number of nodes that share the broker.
    pub nodes: usize,
    /// Channels with durable events.
    pub durable_channels: usize,
    /// Channels with ephemeral events.
    pub ephemeral_channels: usize,
    /// How many of the channels with ephemeral events share their name with one with durable
    /// events: both kinds are published to the same channel.
    pub mixed_channels: usize,
    /// The publishing rate over all channels.
    pub events_per_second: u32,
    /// How long events are published.
    pub duration: Duration,
    /// The clients.
    pub clients: &'static [Group],
    /// The faults and their counts; the times are random.
    pub faults: &'static [(Fault, u32)],
    /// If not 0: only so many are drawn, of those of the network and of the others each; the counts
    /// are their weights.
    pub drawn: u32,
    /// Whether some events have an id set by the publisher.
    pub publisher_ids: bool,
    /// The retention of the log.
    pub history: History,
    /// What clients may receive.
    pub rules: Rules,
}

/// A broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// A Redis whose data survives `kill -9` of its process.
    RedisDurable,
    /// A Redis that starts empty every time.
    RedisInMemory,
    /// A Redis with a replica, both reached through proxies.
    RedisReplicated,
    /// The embedded broker.
    Memory,
    /// The embedded broker with `--data`.
    DataDirectory,
}

/// The retention of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// All events of a round.
    Long,
    /// So few events that clients miss some while they are disconnected.
    Short,
}

/// Clients that behave alike.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// The number of clients.
    pub count: usize,
    /// The channels of each client.
    pub channels: Channels,
    /// The protocol.
    pub protocol: Protocol,
    /// How they read.
    pub pace: Pace,
    /// How often each client drops its stream.
    pub drops: u32,
    /// The longest time that they stay disconnected.
    pub away_max: Duration,
    /// Whether they reconnect to any node, or to the same one.
    pub moves: bool,
    /// Whether they start over at times: from now on, or from any id that was ever given out.
    pub restarts: bool,
}

/// The channels of a client: a random choice of this many.
#[derive(Debug, Clone, Copy)]
pub enum Channels {
    /// Among those with durable events.
    Durable(usize),
    /// Among those with ephemeral events.
    Ephemeral(usize),
    /// Among all.
    Any(usize),
}

/// How a client reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// As fast as it can.
    Fast,
    /// A little at a time, with a small buffer in the kernel.
    Slow,
}

const STRICT: Rules = Rules { durable: Gaps::Never, ephemeral: Gaps::Never, new_epochs: false };
const EPHEMERAL_MAY_MISS: Rules = Rules { ephemeral: Gaps::Allowed, ..STRICT };

/// A client that never drops its stream.
pub const STEADY: Group = Group {
    count: 1,
    channels: Channels::Durable(1),
    protocol: Protocol::Http1,
    pace: Pace::Fast,
    drops: 0,
    away_max: Duration::from_millis(300),
    moves: false,
    restarts: false,
};
/// More than the 100 drops that the documentation promises, since a stream takes time to open.
const DROPPING: Group = Group { drops: 120, ..STEADY };

/// 2,000 events a second for 20 s on one node with Redis.
const DROPS: Scenario = Scenario {
    name: "drops",
    broker: Broker::RedisDurable,
    nodes: 1,
    durable_channels: 1,
    ephemeral_channels: 0,
    mixed_channels: 0,
    events_per_second: 2_000,
    duration: Duration::from_secs(20),
    clients: &[STEADY, DROPPING],
    faults: &[],
    drawn: 0,
    publisher_ids: true,
    history: History::Long,
    rules: STRICT,
};

/// Clients of all kinds, for the scenarios with faults.
const ALL_KINDS: &[Group] = &[
    Group { count: 2, channels: Channels::Durable(3), ..STEADY },
    // Ephemeral events are numbered by each node: their subscribers reconnect to the same one.
    Group { count: 2, channels: Channels::Any(5), drops: 20, ..STEADY },
    Group { count: 2, channels: Channels::Durable(3), moves: true, drops: 20, ..STEADY },
    Group { channels: Channels::Durable(2), protocol: Protocol::Http2, drops: 20, ..STEADY },
    Group { channels: Channels::Durable(2), pace: Pace::Slow, drops: 5, ..STEADY },
    Group { channels: Channels::Ephemeral(1), ..STEADY },
    Group { channels: Channels::Ephemeral(1), drops: 20, ..STEADY },
];

/// All scenarios, in the order in which they run.
pub const ALL: &[Scenario] = &[
    DROPS,
    Scenario {
        name: "drops-five-channels",
        durable_channels: 5,
        clients: &[
            Group { channels: Channels::Durable(5), ..STEADY },
            Group { channels: Channels::Durable(5), ..DROPPING },
        ],
        ..DROPS
    },
    Scenario {
        name: "drops-plain",
        durable_channels: 0,
        ephemeral_channels: 1,
        clients: &[
            Group { channels: Channels::Ephemeral(1), ..STEADY },
            // The node's ring must hold 2,000 events/s for as long as the client is disconnected.
            Group {
                channels: Channels::Ephemeral(1),
                away_max: Duration::from_millis(100),
                ..DROPPING
            },
        ],
        ..DROPS
    },
    Scenario {
        name: "drops-http2",
        durable_channels: 3,
        clients: &[
            Group { channels: Channels::Durable(3), protocol: Protocol::Http2, ..STEADY },
            Group { channels: Channels::Durable(3), protocol: Protocol::Http2, ..DROPPING },
        ],
        ..DROPS
    },
    Scenario {
        name: "two-nodes",
        nodes: 2,
        durable_channels: 5,
        clients: &[
            Group { count: 2, channels: Channels::Durable(5), ..STEADY },
            Group { count: 2, channels: Channels::Durable(5), moves: true, ..DROPPING },
            Group {
                channels: Channels::Durable(2),
                moves: true,
                protocol: Protocol::Http2,
                ..DROPPING
            },
            Group {
                channels: Channels::Durable(2),
                moves: true,
                pace: Pace::Slow,
                drops: 20,
                ..DROPPING
            },
        ],
        ..DROPS
    },
    Scenario {
        name: "redis-kill-subscriber",
        durable_channels: 4,
        ephemeral_channels: 1,
        clients: ALL_KINDS,
        faults: &[(Fault::KillSubscribers, 20)],
        rules: EPHEMERAL_MAY_MISS,
        ..DROPS
    },
    Scenario {
        name: "redis-restart-with-data",
        nodes: 2,
        durable_channels: 4,
        ephemeral_channels: 1,
        clients: ALL_KINDS,
        faults: &[(Fault::RestartRedis, 3)],
        rules: EPHEMERAL_MAY_MISS,
        events_per_second: 1_000,
        ..DROPS
    },
    Scenario {
        name: "redis-restart-without-data",
        broker: Broker::RedisInMemory,
        nodes: 2,
        durable_channels: 4,
        ephemeral_channels: 1,
        clients: ALL_KINDS,
        faults: &[(Fault::RestartRedis, 3)],
        rules: Rules { durable: Gaps::Allowed, ephemeral: Gaps::Allowed, new_epochs: true },
        events_per_second: 1_000,
        ..DROPS
    },
    Scenario {
        name: "node-restart",
        nodes: 2,
        durable_channels: 4,
        ephemeral_channels: 1,
        clients: ALL_KINDS,
        faults: &[(Fault::RestartNode, 4)],
        rules: EPHEMERAL_MAY_MISS,
        events_per_second: 1_000,
        ..DROPS
    },
    Scenario {
        name: "node-restart-data",
        broker: Broker::DataDirectory,
        durable_channels: 4,
        clients: EMBEDDED,
        faults: &[(Fault::RestartNode, 4)],
        events_per_second: 1_000,
        ..DROPS
    },
    Scenario {
        name: "embedded",
        broker: Broker::Memory,
        durable_channels: 4,
        clients: EMBEDDED,
        ..DROPS
    },
    Scenario {
        name: "trimmed",
        nodes: 2,
        durable_channels: 2,
        clients: &[
            Group { channels: Channels::Durable(2), ..STEADY },
            Group { count: 2, away_max: AWAY, ..MOVING },
            Group { count: 2, channels: Channels::Durable(2), away_max: AWAY, ..MOVING },
        ],
        history: History::Short,
        rules: Rules { durable: Gaps::Missing, ..STRICT },
        publisher_ids: false,
        ..DROPS
    },
    Scenario {
        name: "mix",
        nodes: 2,
        durable_channels: 6,
        ephemeral_channels: 2,
        clients: &[
            Group { count: 2, channels: Channels::Any(5), ..STEADY },
            Group { count: 2, channels: Channels::Any(5), moves: false, ..MOVING },
            Group { count: 4, channels: Channels::Durable(5), ..MOVING },
            Group { channels: Channels::Any(3), protocol: Protocol::Http2, moves: false, ..MOVING },
            Group { channels: Channels::Durable(3), protocol: Protocol::Http2, ..MOVING },
            Group { channels: Channels::Any(2), pace: Pace::Slow, moves: false, ..MOVING },
            Group { channels: Channels::Durable(2), pace: Pace::Slow, ..MOVING },
        ],
        faults: &[
            (Fault::KillSubscribers, 3),
            (Fault::RestartRedis, 1),
            (Fault::FreezeRedis, 2),
            (Fault::RestartNode, 2),
        ],
        rules: EPHEMERAL_MAY_MISS,
        events_per_second: 1_000,
        duration: Duration::from_secs(30),
        ..DROPS
    },
    // What moving between nodes alone does.
    Scenario { name: "moving", faults: &[], ..OUTAGES },
    OUTAGES,
    Scenario {
        name: "failovers",
        faults: &[
            (Fault::PromoteReplica, 4),
            (Fault::RestoreRedis, 2),
            (Fault::ReadOnlyRedis, 1),
            (Fault::FlushRedis, 1),
            (Fault::EvictKey, 2),
            (Fault::RestartRedis, 1),
            (Fault::FreezeRedis, 1),
            (Fault::LoadSlowly, 1),
            (Fault::FillRedis, 1),
            (Fault::DenyPublish, 1),
            (Fault::Swallow, 8),
            (Fault::Delay, 2),
            (Fault::Cut, 2),
            (Fault::Refuse, 2),
        ],
        rules: Rules { durable: Gaps::Allowed, ephemeral: Gaps::Allowed, new_epochs: true },
        ..OUTAGES
    },
];

/// Two minutes in which Redis and the network to it fail in every way that loses no data, while
/// clients move between two nodes every 0.7 s.
const OUTAGES: Scenario = Scenario {
    name: "outages",
    broker: Broker::RedisReplicated,
    nodes: 2,
    // 12 names: 4 with durable events, 4 with ephemeral ones, 4 with both.
    durable_channels: 8,
    ephemeral_channels: 8,
    mixed_channels: 4,
    events_per_second: 240,
    duration: Duration::from_secs(120),
    clients: &[
        // Some on each node: open through all faults, and none may end mute. Neither node hears
        // all channels because of them.
        Group { count: 4, channels: Channels::Any(3), ..STEADY },
        Group { channels: Channels::Any(12), ..RESTLESS },
        Group { count: 4, channels: Channels::Any(3), ..RESTLESS },
        Group { count: 3, channels: Channels::Any(1), ..RESTLESS },
        Group { count: 2, channels: Channels::Durable(3), ..RESTLESS },
        Group { channels: Channels::Durable(6), protocol: Protocol::Http2, ..RESTLESS },
        Group { count: 2, channels: Channels::Ephemeral(2), ..RESTLESS },
    ],
    faults: &[
        (Fault::RestartRedis, 3),
        (Fault::FreezeRedis, 3),
        (Fault::LoadSlowly, 2),
        (Fault::FillRedis, 2),
        (Fault::TooFewReplicas, 1),
        (Fault::DenyPublish, 2),
        (Fault::KillSubscribers, 1),
        (Fault::Swallow, 8),
        (Fault::Delay, 2),
        (Fault::Cut, 2),
        (Fault::Refuse, 2),
    ],
    drawn: 15,
    rules: EPHEMERAL_MAY_MISS,
    ..DROPS
};

/// Moves to any node every 0.7 s of two minutes, with whatever id it has.
const RESTLESS: Group = Group { drops: 171, moves: true, restarts: true, ..STEADY };

/// Scenarios that run only on demand: they check more than the documentation promises.
pub const ON_DEMAND: &[Scenario] = &[Scenario {
    // Two nodes number ephemeral events differently; still none may be lost silently.
    name: "plain-between-nodes",
    nodes: 2,
    durable_channels: 2,
    ephemeral_channels: 2,
    clients: &[Group { count: 4, channels: Channels::Any(4), ..MOVING }],
    rules: EPHEMERAL_MAY_MISS,
    events_per_second: 1_000,
    ..DROPS
}];

const EMBEDDED: &[Group] = &[
    Group { count: 2, channels: Channels::Durable(3), ..STEADY },
    Group { count: 3, channels: Channels::Durable(4), ..DROPPING },
    Group { channels: Channels::Durable(2), protocol: Protocol::Http2, ..DROPPING },
    Group { channels: Channels::Durable(2), pace: Pace::Slow, drops: 10, ..DROPPING },
];

/// Drops its stream and reconnects to any node.
const MOVING: Group = Group { drops: 25, moves: true, ..STEADY };

/// Long enough to miss events that are trimmed in the scenario with a short history: at 1,000
/// events/s per channel this is also more than a node's ring of 1,024.
const AWAY: Duration = Duration::from_secs(3);

impl Scenario {
    /// The scenario with this name, and those whose names begin with it and a hyphen.
    pub fn find(name: &str) -> Vec<&'static Self> {
        let begins = |scenario: &&Self| {
            let rest = scenario.name.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        ALL.iter().chain(ON_DEMAND).filter(begins).collect()
    }

    /// A version of another duration, for CI: the same rates, and each fault at least once.
    #[must_use]
    pub fn lasting(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Scales a count of the full duration to this one.
    pub fn scaled(&self, count: u32) -> u32 {
        let full = ALL.iter().chain(ON_DEMAND).find(|full| full.name == self.name);
        let full = full.map_or(self.duration, |full| full.duration);
        let scaled = f64::from(count) * self.duration.as_secs_f64() / full.as_secs_f64();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small counts")]
        let scaled = scaled.round() as u32;
        scaled.max(count.min(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_groups_have_enough_channels() {
        let all: Vec<&Scenario> = ALL.iter().chain(ON_DEMAND).collect();
        for (at, scenario) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other.name != scenario.name), "{}", scenario.name);
            for group in scenario.clients {
                let (wanted, there) = match group.channels {
                    Channels::Durable(count) => (count, scenario.durable_channels),
                    Channels::Ephemeral(count) => (count, scenario.ephemeral_channels),
                    Channels::Any(count) => {
                        (count, scenario.durable_channels + scenario.ephemeral_channels)
                    }
                };
                assert!((1..=there).contains(&wanted), "{}: {group:?}", scenario.name);
            }
        }
    }

    #[test]
    fn scenarios_are_found_by_name_and_scaled_by_duration() {
        assert_eq!(Scenario::find("drops").len(), 4);
        assert_eq!(Scenario::find("mix").len(), 1);
        assert!(Scenario::find("m").is_empty());
        let short = ALL[0].lasting(Duration::from_secs(4));
        assert_eq!((short.scaled(100), short.scaled(1), short.scaled(0)), (20, 1, 0));
        assert_eq!(ON_DEMAND[0].scaled(25), 25);
    }
}
