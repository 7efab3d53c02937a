//! The generator against a misbehaving server. Look here for what it must detect.

mod faulty;
mod session;
