//! The end-to-end checker on the embedded broker, in a short version. It is a test binary of its
//! own, so that its load disturbs no test that measures times; scenarios over Redis are in
//! `live/soak.rs`.

#[path = "support/soak.rs"]
mod soak;

soak::scenarios! {
    Broker::Memory | Broker::DataDirectory,
    an_embedded_node_restarts: "node-restart-data",
    embedded: "embedded",
}
