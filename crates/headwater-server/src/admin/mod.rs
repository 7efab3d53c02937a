//! The endpoints for operators: health, and ending streams of others.

pub(crate) mod health;
pub(crate) mod streams;
