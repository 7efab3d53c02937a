//! Access rules with Redis: what nodes share, and what must not leak. Look here for tickets,
//! revocation and secrets.

mod commands;
mod redis_channels;
mod revocation;
mod secrets;
mod tickets;
