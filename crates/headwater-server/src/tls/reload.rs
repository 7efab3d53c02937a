//! Keeps the certificate as its files are: looks every few seconds, and at SIGHUP. Look here for
//! when a change is taken.

use std::sync::Arc;

use super::certificates::{Certificates, Content};
use crate::limits::CERTIFICATE_LOOK_INTERVAL;
use crate::signals::Reloads;

/// Why the files are looked at.
enum Look {
    /// It is time. Files that change just now are left alone until they have settled.
    Routine,
    /// Somebody said that they are ready.
    Asked,
}

/// Keeps the certificate as the files are. Never returns.
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

/// Files that cannot be read are a content too: it is logged once.
fn hash(content: &anyhow::Result<Content>) -> u64 {
    content.as_ref().map_or(0, Content::hash)
}
