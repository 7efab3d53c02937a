//! The generator against servers that misbehave. Look here for what it must notice.

mod faulty;
mod session;
