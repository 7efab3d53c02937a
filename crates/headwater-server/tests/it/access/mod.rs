//! Who may subscribe and publish, tested from outside over real sockets: one file per theme. Keys
//! and tokens are in `support/access.rs`.

mod application;
mod commands;
mod endpoints;
mod expiry;
mod key_sets;
mod limits;
mod loopback;
mod matrix;
mod pages;
mod questions;
mod revocation;
mod settings;
mod tickets;
