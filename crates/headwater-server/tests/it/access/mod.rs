//! Who may listen and publish, tested from outside over real sockets: one file per theme. Look here
//! for keys and tokens.

mod application;
mod commands;
mod endpoints;
mod expiry;
mod key_sets;
mod limits;
mod pages;
mod revocation;
mod settings;
mod tickets;
