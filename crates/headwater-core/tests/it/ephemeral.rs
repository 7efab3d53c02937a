//! Ephemeral events while streams join: they are numbered by the node, and no stream may attach
//! between the number of an event and its delivery.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use headwater_core::broker::{Baseline, Broker, BrokerFuture, BrokerStatus, Sink};
use headwater_core::log::Epoch;
use headwater_core::{Channel, Error, Event, Hub, Publish, Receipt};

/// How often the client reconnects.
const RECONNECTS: usize = 3_000;

/// So many that encoding an event takes a while.
const DATA_BYTES: usize = 32 << 10;

/// A broker whose events the test delivers.
struct Delivers(Arc<OnceLock<Sink>>, AtomicBool);

impl Broker for Delivers {
    fn start(&mut self, sink: Sink) {
        sink.log(Epoch::random(), 0);
        assert!(self.0.set(sink).is_ok());
    }

    fn publish(&self, _: Vec<Publish>) -> BrokerFuture<'_, Result<Vec<Receipt>, Error>> {
        unreachable!("only the test publishes")
    }

    fn subscribe(&self, _: &Channel) {}

    fn unsubscribe(&self, _: &Channel) {}

    fn subscribed(&self, channel: &Channel) -> BrokerFuture<'_, Result<(), Error>> {
        // Once for all streams: a second baseline would report a lost connection.
        if !self.1.swap(true, Ordering::Relaxed) {
            let baseline = Baseline::new(0).with_ephemeral(true);
            self.0.get().expect("it was started").baseline(channel, baseline);
        }
        Box::pin(std::future::ready(Ok(())))
    }

    fn status(&self) -> BrokerStatus {
        BrokerStatus::ready()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_ephemeral_event_is_lost_while_a_stream_joins() {
    let (sink, is_over) = (Arc::default(), Arc::new(AtomicBool::new(false)));
    let hub = Hub::builder().build(Delivers(Arc::clone(&sink), AtomicBool::new(false)));
    let channel = Channel::new("a").unwrap();
    let mut stream = hub.subscribe([channel.clone()]).unwrap();
    stream.ready().await;
    let publisher = {
        let (sink, is_over, channel) = (Arc::clone(&sink), Arc::clone(&is_over), channel.clone());
        thread::spawn(move || {
            let mut number = 0_u64;
            while !is_over.load(Ordering::Relaxed) {
                let data = format!("{number:0>DATA_BYTES$}");
                sink.get().unwrap().ephemeral(&channel, &Event::new(data));
                number += 1;
                // Fewer than a ring holds while the client reconnects.
                thread::sleep(Duration::from_micros(50));
            }
        })
    };
    let (mut next, mut last_id) = (None, String::new());
    for _ in 0..RECONNECTS {
        for _ in 0..3 {
            // A stream that is not read in time is closed.
            let Some(frame) = stream.next().await else { break };
            // A gap event of a stream that resumes has none.
            last_id = frame.position().map_or(last_id, |position| position.to_string());
            if frame.gap().is_some() {
                next = None;
                continue;
            }
            let number: u64 = frame.event().data().parse().unwrap();
            assert!(next.is_none_or(|next| next == number), "{number} instead of {next:?}");
            next = Some(number + 1);
        }
        stream = hub.subscribe([channel.clone()]).unwrap().after(last_id.clone());
    }
    is_over.store(true, Ordering::Relaxed);
    publisher.join().unwrap();
}
