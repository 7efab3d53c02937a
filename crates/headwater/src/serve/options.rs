//! The connection limit and timeouts of a server. Look here for their defaults.

use std::time::Duration;

use crate::limits::{CONNECTIONS_MAX, HEADER_TIMEOUT_DEFAULT, SEND_TIMEOUT_DEFAULT};

#[derive(Clone, Copy)]
pub(super) struct ServeOptions {
    pub(super) connections_max: usize,
    pub(super) header_timeout: Duration,
    pub(super) send_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            connections_max: CONNECTIONS_MAX,
            header_timeout: HEADER_TIMEOUT_DEFAULT,
            send_timeout: SEND_TIMEOUT_DEFAULT,
        }
    }
}
