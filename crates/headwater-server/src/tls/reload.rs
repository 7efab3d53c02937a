//! Follows changes of the certificate files: checks every few seconds, and at SIGHUP. Look here for
//! when a change is loaded.

use std::sync::Arc;

use super::certificates::{Certificates, Content};
use crate::limits::CERTIFICATE_LOOK_INTERVAL;
use crate::signals::Reloads;

/// Why the files are checked.
enum Look {
    /// The interval has passed. Files that are still changing are ignored until they have settled.
    Routine,
    /// A signal: they are ready.
    Asked,
}

/// Follows the files. Never returns.
pub(crate) async fn keep_current(certificates: Arc<Certificates>, mut reloads: Reloads) {
    let mut interval = tokio::time::interval(CERTIFICATE_LOOK_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = hash(&read(&certificates).await);
    let mut tried = seen;
    loop {
        let look = tokio::select! {
            _ = interval.tick() => Look::Routine,
            () = reloads.next() => Look::Asked,
        };
        let content = read(&certificates).await;
        let now = hash(&content);
        let is_settled = match look {
            Look::Routine => now == seen && now != tried,
            Look::Asked => true,
        };
        seen = now;
        if is_settled {
            tried = now;
            certificates.take(content);
        }
    }
}

async fn read(certificates: &Arc<Certificates>) -> anyhow::Result<Content> {
    let certificates = Arc::clone(certificates);
    tokio::task::spawn_blocking(move || certificates.files().read())
        .await
        .unwrap_or_else(|error| Err(error.into()))
}

/// Unreadable files count as a content too, so that they are logged once.
fn hash(content: &anyhow::Result<Content>) -> u64 {
    content.as_ref().map_or(0, Content::hash)
}
