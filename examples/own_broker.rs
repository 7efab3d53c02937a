//! A broker of your own, with a log. `Server` stands for NATS, Kafka or a database between nodes.

use std::{future::ready, sync::Arc, sync::Mutex};

use headwater_core::broker::{Baseline, Broker, BrokerFuture, BrokerStatus};
use headwater_core::broker::{History, LoggedEvent, ReadRange, Sink};
use headwater_core::log::{Epoch, Position};
use headwater_core::{Channel, Error, Publish, Receipt, clock::now_ms};

#[derive(Default)]
struct Server {
    log: Vec<(Publish, u64)>,
    nodes: Vec<Sink>,
}

struct OwnBroker {
    server: Arc<Mutex<Server>>,
    epoch: Epoch,
    sink: Option<Sink>,
}

/// The offsets of a channel's events: their places in the log, from 1.
fn offsets(log: &[(Publish, u64)], channel: &Channel) -> Vec<u64> {
    (1..).zip(log).filter(|(_, (it, _))| it.channel() == channel).map(|(at, _)| at).collect()
}

impl Broker for OwnBroker {
    fn start(&mut self, sink: Sink) {
        self.server.lock().unwrap().nodes.push(sink.clone());
        self.sink = Some(sink);
    }

    fn publish(&self, batch: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        let mut server = self.server.lock().unwrap();
        let receipts = batch.into_iter().map(|publish| {
            let (channel, event) = (publish.channel().clone(), publish.event().clone());
            let previous = offsets(&server.log, &channel).pop().unwrap_or(0);
            server.log.push((publish, now_ms()));
            let position = Position::new(self.epoch, server.log.len() as u64);
            let logged = LoggedEvent::new(&channel, &event, position, previous, now_ms());
            server.nodes.iter().for_each(|node| node.event(logged));
            Receipt::new(channel.clone(), &event, Some(position))
        });
        Box::pin(ready(Ok(receipts.collect())))
    }

    fn subscribe(&self, _: &Channel) {} // the hub ignores events of other channels
    fn unsubscribe(&self, _: &Channel) {}

    fn subscribed(&self, channel: &Channel) -> BrokerFuture<'_, Result<(), Error>> {
        let server = self.server.lock().unwrap();
        let sink = self.sink.as_ref().expect("the hub calls start first");
        sink.log(self.epoch, server.log.len() as u64);
        sink.baseline(channel, Baseline::new(offsets(&server.log, channel).pop().unwrap_or(0)));
        Box::pin(ready(Ok(())))
    }

    fn read(&self, of: &Channel, range: ReadRange) -> BrokerFuture<'_, Result<History, Error>> {
        let log = &self.server.lock().unwrap().log;
        let (all, mut found) = (offsets(log, of), History::new(log.len() as u64));
        let is_wanted = |at: &u64| range.select(&all).any(|it| it == *at);
        for (at, (it, ms)) in (1..).zip(log).filter(|(at, _)| is_wanted(at)) {
            let prev = all.iter().rfind(|it| **it < at).copied().unwrap_or(0);
            found.push(LoggedEvent::new(of, it.event(), Position::new(self.epoch, at), prev, *ms));
        }
        Box::pin(ready(Ok(found)))
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus::ready()
    }
}

#[tokio::main]
async fn main() {
    let (server, epoch) = (Arc::default(), Epoch::random());
    let node = async || OwnBroker { server: Arc::clone(&server), epoch, sink: None };
    headwater_core::testing::suite(node).await;
}
