//! Streams are attached to a shard and leave it while events are published, checked against a
//! model: each stream receives the events of its channels since it started, once and in order. Look
//! here for the guarantees of attaching. The shard has no thread here, so that cases are
//! deterministic.

use std::collections::VecDeque;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use axum::body::Body;
use headwater_test_support::http::Chunks;
use mio::Poll;
use proptest::prelude::*;

use super::shard::Shard;
use super::stream::Stream;
use super::{ConnectionSlots, StreamParts, attach};
use crate::event::{Decoder, Item};
use crate::response::{Callbacks, StreamOptions};
use crate::{Channel, Event, Hub, Subscription};
use headwater_core::close::CloseReason;
use headwater_core::transport::Mailbox;

const CHANNELS: usize = 4;

const OPTIONS: StreamOptions = StreamOptions {
    heartbeat: None,
    retry: None,
    send_timeout: None,
    lifetime_max: None,
    expires_at: None,
    name_by_channel: false,
};

#[derive(Debug, Clone)]
enum Step {
    Publish {
        channel: usize,
        count: usize,
    },
    /// A stream starts: now, or after the event that is `back` events before the last one.
    Subscribe {
        channels: Vec<usize>,
        back: Option<usize>,
    },
    /// The earliest stream that is not attached is attached to the shard.
    Attach,
    /// The shard processes a turn.
    Turn,
    /// The shard detects that the client of one of its streams is gone.
    Leave {
        which: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let channels = proptest::sample::subsequence((0..CHANNELS).collect::<Vec<_>>(), 1..=3);
    let publish = |(channel, count)| Step::Publish { channel, count };
    prop_oneof![
        8 => (0..CHANNELS, 1..4_usize).prop_map(publish),
        1 => (0..CHANNELS, Just(300)).prop_map(publish),
        4 => (channels, proptest::option::of(0..20_usize))
            .prop_map(|(channels, back)| Step::Subscribe { channels, back }),
        4 => Just(Step::Attach),
        3 => Just(Step::Turn),
        2 => (0..8_usize).prop_map(|which| Step::Leave { which }),
    ]
}

/// The client of a stream.
struct Client {
    socket: TcpStream,
    channels: Vec<usize>,
    /// How many events had been published before the first that it must receive.
    from: usize,
    has_left: bool,
}

/// A hub, a shard, and all published events: the channel and the ID of each.
struct World {
    hub: Hub,
    mailbox: Arc<Mailbox>,
    shard: Shard,
    listener: TcpListener,
    published: Vec<(usize, String)>,
    unattached: VecDeque<(Subscription, Client)>,
    clients: Vec<Client>,
}

fn channel(number: usize) -> Channel {
    Channel::new(format!("c{number}")).unwrap()
}

impl World {
    fn new() -> Self {
        let hub = Hub::in_memory();
        let port = hub.subscribe([channel(0)]).unwrap().hub().open(None, || {});
        let mailbox = Arc::clone(port.mailbox());
        let shard = Shard::new(port, Poll::new().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (published, unattached, clients) = Default::default();
        Self { hub, mailbox, shard, listener, published, unattached, clients }
    }

    async fn publish(&mut self, number: usize, count: usize) {
        for _ in 0..count {
            let event = Event::new(self.published.len().to_string());
            if self.mailbox.is_full() {
                self.shard.turn();
            }
            let receipt = self.hub.publish(&channel(number), event).await.unwrap();
            self.published.push((number, receipt.id.unwrap().to_string()));
        }
    }

    async fn subscribe(&mut self, channels: Vec<usize>, back: Option<usize>) {
        let names = channels.iter().copied().map(channel);
        let mut subscription = self.hub.subscribe(names).unwrap();
        let mut from = self.published.len();
        if let Some(last) = back.and_then(|back| from.checked_sub(back + 1)) {
            subscription = subscription.after(self.published[last].1.clone());
            from = last + 1;
        } else {
            subscription.ready().await;
        }
        let socket = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let client = Client { socket, channels, from, has_left: false };
        self.unattached.push_back((subscription, client));
    }

    /// Replays first, as `serve::takeover` does; then attaches the stream.
    async fn attach(&mut self) {
        let Some((mut subscription, client)) = self.unattached.pop_front() else { return };
        let mut unsent = Vec::new();
        while !subscription.is_live() {
            subscription.ready().await;
            while let Some(frame) = subscription.take_replayed(usize::MAX) {
                unsent.extend_from_slice(frame.chunks(false));
            }
        }
        let (socket, _) = self.listener.accept().unwrap();
        assert_eq!(socket.peer_addr().unwrap(), client.socket.local_addr().unwrap());
        socket.set_nonblocking(true).unwrap();
        let parts = StreamParts {
            socket,
            unsent,
            options: OPTIONS,
            callbacks: Callbacks::new(None, Body::empty()),
            slot: ConnectionSlots::new(1).acquire().await,
            stray_bytes: 0,
        };
        attach(subscription, &self.mailbox, parts);
        self.clients.push(client);
    }

    fn leave(&mut self, which: usize) {
        let gone = self.clients.iter_mut().filter(|client| !client.has_left).nth(which);
        let Some(client) = gone else { return };
        let address = client.socket.local_addr().unwrap();
        let Some(key) = key_of(&self.shard, address) else { return };
        client.has_left = true;
        self.shard.finish(key, CloseReason::ClientGone);
    }

    /// Attaches and processes everything, and compares.
    async fn end(mut self) {
        while !self.unattached.is_empty() {
            self.attach().await;
        }
        self.publish(0, 1).await;
        while self.mailbox.depth() > 0 {
            self.shard.turn();
        }
        for client in &mut self.clients {
            let received = client.read();
            let subscribed = |number: &usize| client.channels.contains(&self.published[*number].0);
            let mut expected: Vec<usize> =
                (client.from..self.published.len()).filter(subscribed).collect();
            if client.has_left {
                expected.truncate(received.len());
            }
            assert_eq!(received, expected, "channels {:?}, from {}", client.channels, client.from);
        }
    }
}

/// The key of the stream with this client, if it has been attached.
fn key_of(shard: &Shard, client: SocketAddr) -> Option<u32> {
    let has_client = |stream: &Stream| stream.socket.peer_addr().is_ok_and(|it| it == client);
    let (key, _) = shard.streams.iter().find(|(_, stream)| has_client(stream))?;
    u32::try_from(key).ok()
}

impl Client {
    /// The numbers of the events received.
    fn read(&mut self) -> Vec<usize> {
        let (mut chunks, mut decoder, mut bytes) = (Chunks::default(), Decoder::new(), Vec::new());
        // It stops at the end of the stream, or when the socket would block.
        let _ = self.socket.read_to_end(&mut bytes);
        let mut received = Vec::new();
        chunks.push(&bytes, |content| decoder.push(content).unwrap());
        while let Some(item) = decoder.next_item() {
            if let Item::Event(event) = item {
                received.push(event.data.parse().unwrap());
            }
        }
        received
    }
}

async fn run(steps: Vec<Step>) {
    let mut world = World::new();
    for step in steps {
        match step {
            Step::Publish { channel, count } => world.publish(channel, count).await,
            Step::Subscribe { channels, back } => world.subscribe(channels, back).await,
            Step::Attach => world.attach().await,
            Step::Turn => drop(world.shard.turn()),
            Step::Leave { which } => world.leave(which),
        }
    }
    world.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attached_streams_receive_everything_once_and_in_order(
        steps in proptest::collection::vec(step(), 1..50),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(run(steps));
    }
}
