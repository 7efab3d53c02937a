//! The broker over a real Redis, as one binary. Needs a `redis-server`.

mod function;
mod healing;
mod suite;
