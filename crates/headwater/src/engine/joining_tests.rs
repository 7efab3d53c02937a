//! A model test of the hand-over: streams join and leave a shard while events are published, and
//! each must receive every event of its channels since its start, once and in order. Look here when
//! a stream misses or repeats events around its attachment. The shard has no thread here, so that
//! every run of a case is the same.

use std::collections::VecDeque;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use axum::body::Body;
use headwater_test_support::http::Chunks;
use mio::Poll;
use proptest::prelude::*;

use super::shard::Shard;
use super::{ConnectionSlots, StreamParts, attach};
use crate::event::{Decoder, Item};
use crate::limits::{
    EVENT_DATA_BYTES_MAX, MAILBOX_BYTES_MAX, MAILBOX_MESSAGES_FULL, TURN_BYTES_MAX,
};
use crate::response::{Callbacks, StreamOptions};
use crate::{Channel, Event, Hub, Subscription};
use headwater_core::close::CloseReason;
use headwater_core::frame::Frame;
use headwater_core::transport::{Mailbox, Message};

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
    /// Starts a stream: now, or after the event that lies `back` events in the past.
    Subscribe {
        channels: Vec<usize>,
        back: Option<usize>,
    },
    /// Attaches the oldest stream that the shard does not have yet.
    Attach,
    /// Runs one turn of the shard.
    Turn,
    /// The shard finds that a client is gone.
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
    /// How many events had been published before the stream's start.
    from: usize,
    has_left: bool,
}

/// A hub, a shard without a thread, and the record of what was published.
struct World {
    hub: Hub,
    mailbox: Arc<Mailbox>,
    shard: Shard,
    listener: TcpListener,
    /// The channel and id of every event.
    published: Vec<(usize, String)>,
    /// Streams that are not attached yet.
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

    /// Hands a stream to the shard, as `serve::takeover` does. One that resumes has not begun its
    /// replay, or has read a page ahead.
    async fn attach(&mut self) {
        let Some((mut subscription, client)) = self.unattached.pop_front() else { return };
        if self.clients.len().is_multiple_of(2) {
            subscription.ready().await;
        }
        let (socket, _) = self.listener.accept().unwrap();
        assert_eq!(socket.peer_addr().unwrap(), client.socket.local_addr().unwrap());
        socket.set_nonblocking(true).unwrap();
        let parts = StreamParts {
            socket,
            head: Vec::new(),
            options: OPTIONS,
            callbacks: Callbacks::new(None, Body::empty()),
            slot: ConnectionSlots::new(1).acquire().await,
            stray_bytes: 0,
        };
        attach(subscription, &self.mailbox, parts);
        self.clients.push(client);
    }

    /// Runs one turn of the shard, and then the tasks that read for its streams.
    async fn turn(&mut self) {
        self.shard.turn();
        tokio::task::yield_now().await;
    }

    fn leave(&mut self, which: usize) {
        let gone = self.clients.iter_mut().filter(|client| !client.has_left).nth(which);
        let Some(client) = gone else { return };
        let address = client.socket.local_addr().unwrap();
        let Some(key) = key_of(&self.shard, address) else { return };
        client.has_left = true;
        self.shard.finish(key, CloseReason::ClientGone);
    }

    /// Attaches all streams, processes all messages, and compares what each client received.
    async fn finish(mut self) {
        while !self.unattached.is_empty() {
            self.attach().await;
        }
        self.publish(0, 1).await;
        while self.mailbox.depth() > 0 || !self.shard.replays.is_empty() {
            self.turn().await;
        }
        for client in &mut self.clients {
            let received = client.read();
            let is_subscribed =
                |number: &usize| client.channels.contains(&self.published[*number].0);
            let mut expected: Vec<usize> =
                (client.from..self.published.len()).filter(is_subscribed).collect();
            if client.has_left {
                expected.truncate(received.len());
            }
            assert_eq!(received, expected, "channels {:?}, from {}", client.channels, client.from);
        }
        // A stream that left while it was about to join its channels has left them, too.
        self.shard.close_all(CloseReason::ClientGone);
        for number in 0..CHANNELS {
            assert_eq!(self.hub.subscribers(&channel(number)), 0, "channel {number}");
        }
        assert_eq!(self.hub.streams(), 0);
    }
}

/// The key of the stream with this client, if it is attached.
fn key_of(shard: &Shard, client: SocketAddr) -> Option<u32> {
    let has_client = |socket: &mio::net::TcpStream| socket.peer_addr().is_ok_and(|it| it == client);
    let (key, _) = shard.streams.iter().find(|(_, stream)| has_client(&stream.socket))?;
    u32::try_from(key).ok()
}

impl Client {
    /// The numbers of the events received so far.
    fn read(&mut self) -> Vec<usize> {
        let (mut chunks, mut decoder, mut bytes) = (Chunks::default(), Decoder::new(), Vec::new());
        // Ends at the end of the stream, or with `WouldBlock` once everything has been read.
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
            Step::Turn => world.turn().await,
            Step::Leave { which } => world.leave(which),
        }
    }
    world.finish().await;
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn attached_streams_receive_every_event_once_and_in_order(
        steps in proptest::collection::vec(step(), 1..50),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.unwrap().block_on(run(steps));
    }
}

#[tokio::test]
async fn pages_that_wait_for_their_turn_do_not_make_publishers_wait() {
    let mut world = World::new();
    let frame = Frame::new(&Event::new("x".repeat(TURN_BYTES_MAX)));
    for replay in 0..MAILBOX_MESSAGES_FULL as u64 {
        let (frames, (written, _)) = (vec![frame.clone()], tokio::sync::oneshot::channel());
        assert!(world.mailbox.push(Message::Page { replay, frames, written }).is_ok());
    }
    assert!(world.mailbox.is_full());
    world.shard.turn();
    assert_eq!(world.shard.pages.len(), MAILBOX_MESSAGES_FULL - 1, "one each turn");
    assert!(!world.mailbox.is_full());
    assert_eq!(world.mailbox.depth(), 0);
}

/// Other channels' events that are queued behind a flood arrive, and their streams stay open.
#[tokio::test]
async fn a_flood_of_a_channel_closes_the_streams_of_this_channel_only() {
    let mut world = World::new();
    for channels in [vec![0], vec![1], vec![1, 2]] {
        world.subscribe(channels, None).await;
        world.attach().await;
    }
    world.shard.turn();
    // Publishers of this node would wait: these events come from another one.
    let slot = world.shard.streams[0].channels.as_slice()[0].slot;
    let frame = Frame::new(&Event::new("x".repeat(EVENT_DATA_BYTES_MAX)));
    for _ in 0..2 * MAILBOX_BYTES_MAX / EVENT_DATA_BYTES_MAX {
        let frame = frame.clone();
        assert!(world.mailbox.push(Message::Deliver { slot, frame }).is_ok());
    }
    assert!(world.mailbox.is_overrun());
    world.publish(1, 1).await;
    // About to join during the flood.
    world.subscribe(vec![0, 1], None).await;
    world.attach().await;
    while world.mailbox.depth() > 0 {
        world.shard.turn();
    }
    assert!(!world.mailbox.is_overrun());
    let mut is_open = Vec::new();
    for client in &world.clients {
        let key = key_of(&world.shard, client.socket.local_addr().unwrap());
        is_open.push(key.is_some_and(|key| world.shard.streams[key as usize].state.is_open()));
    }
    assert_eq!(is_open, [false, true, true, true]);
    for client in &mut world.clients[1..3] {
        assert_eq!(client.read(), [0]);
    }
}
