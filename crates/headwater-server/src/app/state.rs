//! What handlers share.

use std::sync::Arc;

use headwater::Hub;
use headwater::broker::{BrokerStatus, Part};
use headwater::budget::Share;

use super::body::BodyRoom;
use super::turns::Turns;
use crate::access::Access;
use crate::client::ClientLimits;
use crate::settings::{LimitSettings, ReadyParts, StreamSettings};

/// What handlers share.
#[derive(Clone)]
pub(crate) struct App {
    pub(crate) hub: Hub,
    pub(crate) access: Arc<Access>,
    pub(crate) limits: Arc<ClientLimits>,
    pub(crate) streams: Arc<StreamSettings>,
    /// The room for the bodies in flight.
    pub(crate) body_room: BodyRoom,
    /// The turns of large batches, and of events for many channels.
    pub(crate) turns: Turns,
    pub(crate) broker_name: &'static str,
    /// The parts that `/health/ready` requires.
    pub(crate) ready_requires: Arc<ReadyParts>,
}

impl App {
    pub(crate) fn new(
        hub: Hub,
        access: Access,
        streams: &StreamSettings,
        limits: &LimitSettings,
        broker_name: &'static str,
        ready_requires: ReadyParts,
    ) -> Self {
        let bodies = hub.budget().account(Share::Bodies).clone();
        Self {
            hub,
            access: Arc::new(access),
            limits: Arc::new(ClientLimits::new(limits)),
            streams: Arc::new(streams.clone()),
            body_room: BodyRoom::new(bodies, limits.max_body_bytes),
            turns: Turns::new(),
            broker_name,
            ready_requires: Arc::new(ready_requires),
        }
    }

    /// The state of the broker, and of what the access rules need.
    pub(crate) fn status(&self) -> BrokerStatus {
        let mut status = self.hub.status();
        if status.access.is_ok()
            && let Some(reason) = self.access.failure()
        {
            status.access = Part::failed(reason);
        }
        status
    }
}
