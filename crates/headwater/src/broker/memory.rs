//! The embedded broker: events stay in this process. Look here for what a broker must do at the least.

use super::{Broker, BrokerFuture, Health, Receipt, Sink};
use crate::channel::Channel;
use crate::error::Error;
use crate::event::Event;

/// Carries events within this process. The default, for one node.
#[derive(Default)]
pub struct MemoryBroker {
    sink: Option<Sink>,
}

impl MemoryBroker {
    /// An empty broker.
    pub fn new() -> Self {
        Self::default()
    }
}

impl Broker for MemoryBroker {
    fn start(&mut self, sink: Sink) {
        self.sink = Some(sink);
    }

    fn publish(
        &self,
        batch: Vec<(Channel, Event)>,
    ) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        let receipts = batch
            .into_iter()
            .map(|(channel, event)| {
                if let Some(sink) = &self.sink {
                    sink.deliver(&channel, &event);
                }
                Receipt::new(channel, &event)
            })
            .collect();
        Box::pin(std::future::ready(Ok(receipts)))
    }

    // The hub knows who listens; there is nobody else to tell.
    fn listen(&self, _channel: &Channel) {}

    fn unlisten(&self, _channel: &Channel) {}

    fn confirmed<'a>(&'a self, _channel: &'a Channel) -> BrokerFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }

    fn health(&self) -> Health {
        Health { ready: true, ..Health::default() }
    }
}
