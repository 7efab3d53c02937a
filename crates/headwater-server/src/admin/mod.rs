//! The endpoints for operators: health, and closing other clients' streams.

pub(crate) mod health;
pub(crate) mod streams;
