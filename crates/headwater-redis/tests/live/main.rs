//! Tests of the broker over a real Redis, as one binary. They need a `redis-server`.

mod failover;
mod function;
mod healing;
mod identity;
mod refusals;
mod suite;
