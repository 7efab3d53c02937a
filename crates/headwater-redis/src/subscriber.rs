//! The one subscriber connection of a node: connect, serve a session, reconnect. Look here for the
//! pace of reconnecting.

use headwater_core::broker::Part;
use headwater_core::clock::now_ms;
use headwater_core::{Error, ErrorKind};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::connect::{Address, Backoff};
use crate::desired::Revocations;
use crate::limits::RECONCILE_RETRY;
use crate::node::{Carried, Node};
use crate::reconcile;
use crate::session::{Session, SessionEnd};

/// Maintains a node's subscriptions until its task is aborted.
pub(crate) struct Subscriber(pub(crate) Node);

impl Subscriber {
    pub(crate) async fn run(self) {
        let node = &self.0;
        let (tried, installed) = oneshot::channel();
        let subscribe = async {
            // So that the first session finds the log, if there can be one.
            let _ = timeout(RECONCILE_RETRY, installed).await;
            subscribe(node).await;
        };
        tokio::join!(reconcile::run(node, tried), subscribe);
    }
}

async fn subscribe(node: &Node) {
    let address = &node.address;
    let mut carried = Carried::new();
    let mut failures = Failures::default();
    loop {
        match address.open().await {
            Ok(connection) => {
                tracing::info!(%address, "connected to Redis");
                failures = Failures::default();
                let end = Session::new(connection, node, &mut carried).run().await;
                if matches!(
                    end,
                    SessionEnd::Silent | SessionEnd::Unconfirmed | SessionEnd::Unsubscribed
                ) {
                    // The name of Redis may lead to another server now.
                    node.commands.reset("the subscriber connection does not deliver");
                }
                if node.desired.revocations() == Revocations::Known {
                    carried.missed_since_ms = now_ms();
                }
                node.desired.end(&end.to_string(), node.heard());
                tracing::warn!(%address, "lost the connection to Redis, streams stay open: {end}");
            }
            Err(error) => {
                let part = Part::failed(format!("not connected to Redis: {error}"));
                node.desired.update_status(|status| {
                    status.delivers = part.clone();
                    status.access = part;
                });
                failures.log(address, &error);
            }
        }
        tokio::time::sleep(failures.backoff.next_wait()).await;
    }
}

/// Consecutive failed attempts.
#[derive(Default)]
struct Failures {
    backoff: Backoff,
    logged: Option<String>,
}

impl Failures {
    /// Logs a failure; a repeated one only at the level debug.
    fn log(&mut self, address: &Address, error: &Error) {
        let message = error.to_string();
        if self.logged.as_ref() == Some(&message) {
            tracing::debug!(%address, "Redis: {message}");
            return;
        }
        if error.kind() == ErrorKind::PermissionDenied {
            tracing::error!(%address, "Redis: {message}; retrying until it accepts them");
        } else {
            tracing::warn!(%address, "Redis: {message}; retrying, streams stay open");
        }
        self.logged = Some(message);
    }
}
