//! The end-to-end checker with clients that move between nodes, while Redis and the network fail in
//! every way, in a short version.

#[path = "../support/soak.rs"]
mod soak;

soak::scenarios! {
    Broker::RedisReplicated,
    clients_move: "moving",
    redis_and_the_network_fail: "outages",
    redis_loses_data_and_fails_over: "failovers",
}
