//! The end-to-end checker over Redis, in a short version. It is a test binary of its own, so that
//! its load disturbs no test that measures times.

#[path = "../support/soak.rs"]
mod soak;

soak::scenarios! {
    Broker::RedisDurable | Broker::RedisInMemory,
    drops: "drops",
    drops_with_five_channels: "drops-five-channels",
    drops_of_ephemeral_events: "drops-plain",
    drops_over_http2: "drops-http2",
    two_nodes: "two-nodes",
    redis_kills_the_subscriber: "redis-kill-subscriber",
    redis_restarts_with_data: "redis-restart-with-data",
    redis_restarts_without_data: "redis-restart-without-data",
    a_node_restarts: "node-restart",
    trimmed: "trimmed",
    mix: "mix",
}
