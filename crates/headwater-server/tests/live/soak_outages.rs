//! The end-to-end checker while Redis and the network to it fail, in a short version. It is a test
//! binary of its own, since it takes as long as all other scenarios together.

#[path = "../support/soak.rs"]
mod soak;

soak::scenarios! {
    Broker::RedisReplicated,
    clients_move: "moving",
    outages: "outages",
    failovers: "failovers",
}
