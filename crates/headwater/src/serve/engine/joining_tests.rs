//! Streams join a shard and leave it amid what is published, against a model: each gets what its channels got since it
//! began, once and in order. Look here when you doubt the hand-over. The shard has no thread here, so that each run
//! of a case is the same.

use std::collections::VecDeque;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use axum::body::Body;
use headwater_test_support::http::Chunks;
use mio::Poll;
use proptest::prelude::*;

use super::shard::Shard;
use super::{Luggage, attach};
use crate::close::CloseReason;
use crate::event::{Decoder, Item};
use crate::hub::Subscription;
use crate::hub::mailbox::Mailbox;
use crate::response::{Callbacks, Settings};
use crate::serve::slots::ConnectionSlots;
use crate::{Channel, Event, Hub};

const CHANNELS: usize = 4;

const SETTINGS: Settings = Settings {
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
    /// A stream begins: now, or after an event so far back.
    Subscribe {
        channels: Vec<usize>,
        back: Option<usize>,
    },
    /// The stream that began first and is not with the shard goes there.
    HandOver,
    /// The shard works off what its mailbox has.
    Turn,
    /// The shard sees that one of its streams' clients is gone.
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
        4 => Just(Step::HandOver),
        3 => Just(Step::Turn),
        2 => (0..8_usize).prop_map(|which| Step::Leave { which }),
    ]
}

/// A client's end of a stream.
struct Client {
    socket: TcpStream,
    channels: Vec<usize>,
    /// How many events there had been when it began.
    from: usize,
    has_left: bool,
}

/// A hub, a shard, and all that was ever published, as its channel and its id.
struct World {
    hub: Hub,
    mailbox: Arc<Mailbox>,
    shard: Shard,
    listener: TcpListener,
    published: Vec<(usize, String)>,
    begun: VecDeque<(Subscription, Client)>,
    clients: Vec<Client>,
}

fn channel(number: usize) -> Channel {
    Channel::new(format!("c{number}")).unwrap()
}

impl World {
    fn new() -> Self {
        let hub = Hub::in_memory();
        let inner = Arc::clone(hub.subscribe([channel(0)]).unwrap().hub());
        let mailbox = Arc::new(Mailbox::new(|| {}));
        inner.add_shard(Arc::clone(&mailbox), None);
        let shard = Shard::new(inner, Arc::clone(&mailbox), Poll::new().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (published, begun, clients) = Default::default();
        Self { hub, mailbox, shard, listener, published, begun, clients }
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
        self.begun.push_back((subscription, Client { socket, channels, from, has_left: false }));
    }

    /// What is replayed goes out first, as in the take-over; then the shard has the stream.
    async fn attach(&mut self) {
        let Some((mut subscription, client)) = self.begun.pop_front() else { return };
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
        let luggage = Luggage {
            socket,
            unsent,
            settings: SETTINGS,
            user: Callbacks::new(None, Body::empty()),
            place: ConnectionSlots::new(1).enter().await,
            stray_bytes: 0,
        };
        attach(subscription, &self.mailbox, luggage);
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

    /// Works off everything, and compares.
    async fn end(mut self) {
        while !self.begun.is_empty() {
            self.attach().await;
        }
        self.publish(0, 1).await;
        while self.mailbox.depth() > 0 {
            self.shard.turn();
        }
        for client in &mut self.clients {
            let got = client.read();
            let is_its_own = |number: &usize| client.channels.contains(&self.published[*number].0);
            let mut expected: Vec<usize> =
                (client.from..self.published.len()).filter(is_its_own).collect();
            if client.has_left {
                expected.truncate(got.len());
            }
            assert_eq!(got, expected, "channels {:?}, from {}", client.channels, client.from);
        }
    }
}

/// The key of the stream with this client, if it has been attached.
fn key_of(shard: &Shard, client: SocketAddr) -> Option<u32> {
    let is_its = |socket: &mio::net::TcpStream| socket.peer_addr().is_ok_and(|it| it == client);
    let (key, _) = shard.streams.iter().find(|(_, stream)| is_its(&stream.socket))?;
    u32::try_from(key).ok()
}

impl Client {
    /// The numbers of the events that have come.
    fn read(&mut self) -> Vec<usize> {
        let (mut chunks, mut decoder, mut bytes) = (Chunks::default(), Decoder::new(), Vec::new());
        // It is the end of the stream, or that nothing more is there.
        let _ = self.socket.read_to_end(&mut bytes);
        let mut got = Vec::new();
        chunks.push(&bytes, |content| decoder.push(content).unwrap());
        while let Some(item) = decoder.next_item() {
            if let Item::Event(event) = item {
                got.push(event.data.parse().unwrap());
            }
        }
        got
    }
}

async fn run(steps: Vec<Step>) {
    let mut world = World::new();
    for step in steps {
        match step {
            Step::Publish { channel, count } => world.publish(channel, count).await,
            Step::Subscribe { channels, back } => world.subscribe(channels, back).await,
            Step::HandOver => world.attach().await,
            Step::Turn => drop(world.shard.turn()),
            Step::Leave { which } => world.leave(which),
        }
    }
    world.end().await;
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn streams_that_join_get_everything_once_and_in_order(
        steps in proptest::collection::vec(step(), 1..50),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(run(steps));
    }
}
