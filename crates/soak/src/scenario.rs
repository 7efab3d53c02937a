//! The scenarios: what is started, who publishes and listens, what breaks, and what is allowed. Look
//! here to add one.

use std::time::Duration;

use crate::check::{Gaps, Rules};
use crate::log::Protocol;

/// A scenario, at its full length.
#[derive(Debug, Clone, Copy)]
pub struct Scenario {
    /// What it is called on the command line.
    pub name: &'static str,
    /// What carries the events.
    pub broker: Broker,
    /// How many nodes share it.
    pub nodes: usize,
    /// Channels with durable events.
    pub durable_channels: usize,
    /// Channels with plain events.
    pub plain_channels: usize,
    /// Over all channels.
    pub events_per_second: u32,
    /// How long events are published.
    pub duration: Duration,
    /// Who listens.
    pub clients: &'static [Group],
    /// What breaks, and how often; at random times.
    pub faults: &'static [(Fault, u32)],
    /// Whether some events have an id of their own.
    pub own_ids: bool,
    /// How much history is kept.
    pub history: History,
    /// What clients may be told.
    pub rules: Rules,
}

/// What carries the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broker {
    /// A Redis whose data survives `kill -9` of its process.
    RedisKeeps,
    /// A Redis that begins empty every time.
    RedisForgets,
    /// The node itself.
    Memory,
    /// The node itself, with `--data`.
    DataDirectory,
}

/// How much history is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// All of a round.
    Long,
    /// So little that clients who were away miss some.
    Short,
}

/// Clients that behave alike.
#[derive(Debug, Clone, Copy)]
pub struct Group {
    /// How many.
    pub count: usize,
    /// What each of them listens to.
    pub channels: Channels,
    /// What they speak.
    pub protocol: Protocol,
    /// How they read.
    pub pace: Pace,
    /// How often each of them drops its stream.
    pub drops: u32,
    /// The longest time that they stay away.
    pub away_max: Duration,
    /// Whether they come back on any node, or on the one they were on.
    pub moves: bool,
}

/// What a client listens to: a random choice of so many channels.
#[derive(Debug, Clone, Copy)]
pub enum Channels {
    /// Of those with durable events.
    Durable(usize),
    /// Of those with plain events.
    Plain(usize),
    /// Of all.
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

/// Something that breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `CLIENT KILL TYPE pubsub`.
    KillSubscribers,
    /// `kill -9` of Redis, and a new one on the same port.
    RestartRedis,
    /// `SIGSTOP` of Redis, and `SIGCONT`.
    FreezeRedis,
    /// `kill -9` of a node, and a new one on the same port.
    RestartNode,
}

const STRICT: Rules = Rules { durable: Gaps::Never, plain: Gaps::Never, new_epochs: false };
const PLAIN_MAY_MISS: Rules = Rules { plain: Gaps::Allowed, ..STRICT };

/// A client that stays.
const STEADY: Group = Group {
    count: 1,
    channels: Channels::Durable(1),
    protocol: Protocol::Http1,
    pace: Pace::Fast,
    drops: 0,
    away_max: Duration::from_millis(300),
    moves: false,
};
/// A little more than the 100 drops that are promised, since a stream takes time to open.
const DROPPING: Group = Group { drops: 120, ..STEADY };

/// 2,000 events a second for 20 s on one node with Redis.
const DROPS: Scenario = Scenario {
    name: "drops",
    broker: Broker::RedisKeeps,
    nodes: 1,
    durable_channels: 1,
    plain_channels: 0,
    events_per_second: 2_000,
    duration: Duration::from_secs(20),
    clients: &[STEADY, DROPPING],
    faults: &[],
    own_ids: true,
    history: History::Long,
    rules: STRICT,
};

/// Clients of all kinds, for the scenarios in which something breaks.
const ALL_KINDS: &[Group] = &[
    Group { count: 2, channels: Channels::Durable(3), ..STEADY },
    // Plain events are numbered by their node: who listens to them comes back to the same one.
    Group { count: 2, channels: Channels::Any(5), drops: 20, ..STEADY },
    Group { count: 2, channels: Channels::Durable(3), moves: true, drops: 20, ..STEADY },
    Group { channels: Channels::Durable(2), protocol: Protocol::Http2, drops: 20, ..STEADY },
    Group { channels: Channels::Durable(2), pace: Pace::Slow, drops: 5, ..STEADY },
    Group { channels: Channels::Plain(1), ..STEADY },
    Group { channels: Channels::Plain(1), drops: 20, ..STEADY },
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
        plain_channels: 1,
        clients: &[
            Group { channels: Channels::Plain(1), ..STEADY },
            // 2,000 events/s must fit the node's ring of the channel for as long as it is away.
            Group {
                channels: Channels::Plain(1),
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
        plain_channels: 1,
        clients: ALL_KINDS,
        faults: &[(Fault::KillSubscribers, 20)],
        rules: PLAIN_MAY_MISS,
        ..DROPS
    },
    Scenario {
        name: "redis-restart-with-data",
        nodes: 2,
        durable_channels: 4,
        plain_channels: 1,
        clients: ALL_KINDS,
        faults: &[(Fault::RestartRedis, 3)],
        rules: PLAIN_MAY_MISS,
        events_per_second: 1_000,
        ..DROPS
    },
    Scenario {
        name: "redis-restart-without-data",
        broker: Broker::RedisForgets,
        nodes: 2,
        durable_channels: 4,
        plain_channels: 1,
        clients: ALL_KINDS,
        faults: &[(Fault::RestartRedis, 3)],
        rules: Rules { durable: Gaps::Allowed, plain: Gaps::Allowed, new_epochs: true },
        events_per_second: 1_000,
        ..DROPS
    },
    Scenario {
        name: "node-restart",
        nodes: 2,
        durable_channels: 4,
        plain_channels: 1,
        clients: ALL_KINDS,
        faults: &[(Fault::RestartNode, 4)],
        rules: PLAIN_MAY_MISS,
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
        own_ids: false,
        ..DROPS
    },
    Scenario {
        name: "mix",
        nodes: 2,
        durable_channels: 6,
        plain_channels: 2,
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
        rules: PLAIN_MAY_MISS,
        events_per_second: 1_000,
        duration: Duration::from_secs(30),
        ..DROPS
    },
];

/// Scenarios that run only when they are asked for: what they ask is more than is promised.
pub const ON_DEMAND: &[Scenario] = &[Scenario {
    // Two nodes number plain events differently: none may be lost silently all the same.
    name: "plain-between-nodes",
    nodes: 2,
    durable_channels: 2,
    plain_channels: 2,
    clients: &[Group { count: 4, channels: Channels::Any(4), ..MOVING }],
    rules: PLAIN_MAY_MISS,
    events_per_second: 1_000,
    ..DROPS
}];

const EMBEDDED: &[Group] = &[
    Group { count: 2, channels: Channels::Durable(3), ..STEADY },
    Group { count: 3, channels: Channels::Durable(4), ..DROPPING },
    Group { channels: Channels::Durable(2), protocol: Protocol::Http2, ..DROPPING },
    Group { channels: Channels::Durable(2), pace: Pace::Slow, drops: 10, ..DROPPING },
];

/// Drops and comes back anywhere.
const MOVING: Group = Group { drops: 25, moves: true, ..STEADY };

/// Long enough to miss what is trimmed in the scenario with a short history, at 1,000 events/s of each
/// channel: more than a node's ring of 1,024 too.
const AWAY: Duration = Duration::from_secs(3);

impl Scenario {
    /// The scenario with this name, or those whose names begin with it and a hyphen too.
    pub fn find(name: &str) -> Vec<&'static Self> {
        let begins = |scenario: &&Self| {
            let rest = scenario.name.strip_prefix(name);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        };
        ALL.iter().chain(ON_DEMAND).filter(begins).collect()
    }

    /// A shorter version, for CI: as much happens in a second, and everything at least once.
    #[must_use]
    pub fn lasting(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// How often something happens that happens so often in the full length.
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
    fn names_are_unique_and_groups_have_their_channels() {
        let all: Vec<&Scenario> = ALL.iter().chain(ON_DEMAND).collect();
        for (at, scenario) in all.iter().enumerate() {
            assert!(all[..at].iter().all(|other| other.name != scenario.name), "{}", scenario.name);
            for group in scenario.clients {
                let (wanted, there) = match group.channels {
                    Channels::Durable(count) => (count, scenario.durable_channels),
                    Channels::Plain(count) => (count, scenario.plain_channels),
                    Channels::Any(count) => {
                        (count, scenario.durable_channels + scenario.plain_channels)
                    }
                };
                assert!((1..=there).contains(&wanted), "{}: {group:?}", scenario.name);
            }
        }
    }

    #[test]
    fn scenarios_are_found_and_made_short() {
        assert_eq!(Scenario::find("drops").len(), 4);
        assert_eq!(Scenario::find("mix").len(), 1);
        assert!(Scenario::find("m").is_empty());
        let short = ALL[0].lasting(Duration::from_secs(4));
        assert_eq!((short.scaled(100), short.scaled(1), short.scaled(0)), (20, 1, 0));
        assert_eq!(ON_DEMAND[0].scaled(25), 25);
    }
}
