//! The end-to-end checker with clients that move between nodes, in a short version. Those in which
//! Redis and the network fail are run by hand.

#[path = "../support/soak.rs"]
mod soak;

soak::scenarios! {
    Broker::RedisReplicated,
    clients_move: "moving",
}
