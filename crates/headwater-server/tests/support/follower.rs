//! A client that drops its stream and reconnects with its last id, and what it must have got then.
//! Look here for what "gapless" means in these tests.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use headwater::event::{Item, Message};
use headwater::stream::GAP_EVENT;
use headwater_test_support::{EventStream, Node, PATIENCE};
use tokio::time::timeout;

use crate::support::http2;

/// How a follower speaks to the node.
pub(crate) enum Wire {
    Http1,
    /// All its streams go over this connection, one after the other.
    Http2(http2::Connection),
}

enum Open {
    Http1(EventStream),
    Http2(http2::Stream),
}

enum Next {
    Event(Message),
    End,
}

/// A client that stores everything it received.
pub(crate) struct Follower {
    wire: Wire,
    address: SocketAddr,
    path: String,
    open: Option<Open>,
    last_id: String,
    /// Everything, over all its streams.
    pub(crate) got: Vec<Message>,
}

impl Follower {
    /// Opens a stream from now on.
    pub(crate) async fn open(node: &Node, wire: Wire, path: &str) -> Self {
        let (address, path) = (node.address(), path.to_owned());
        let (last_id, got) = (String::new(), Vec::new());
        let mut follower = Self { wire, address, path, open: None, last_id, got };
        follower.resume().await;
        follower
    }

    /// Disconnects. What the client had received by then is stored.
    pub(crate) fn go_away(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        while let Some(item) = open.take_received() {
            if let Item::Event(message) = item {
                self.got.push(message);
            }
        }
        let last_id = open.last_event_id();
        if !last_id.is_empty() {
            last_id.clone_into(&mut self.last_id);
        }
    }

    /// Reconnects and resumes.
    pub(crate) async fn resume(&mut self) {
        self.resume_at(self.address).await;
    }

    /// Reconnects to a node, as soon as there is one.
    pub(crate) async fn resume_at(&mut self, address: SocketAddr) {
        self.address = address;
        let deadline = Instant::now() + PATIENCE;
        let open = match &mut self.wire {
            Wire::Http1 => loop {
                let header = [("last-event-id", &*self.last_id)];
                let headers = if self.last_id.is_empty() { &[][..] } else { &header };
                match EventStream::try_open(address, &self.path, headers, None).await {
                    Ok(stream) => {
                        assert_eq!(stream.status, 200);
                        break Open::Http1(stream);
                    }
                    Err(error) => assert!(Instant::now() < deadline, "nobody listens: {error}"),
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            },
            Wire::Http2(connection) => {
                Open::Http2(connection.stream_after(&self.path, &self.last_id).await)
            }
        };
        self.open = Some(open);
    }

    /// The next event, or the stream's end, if either comes within the time.
    async fn next_within(&mut self, time: Duration) -> Option<Next> {
        let open = self.open.as_mut().expect("an open stream");
        let next = timeout(time, open.next()).await.ok()?;
        Some(next.map_or(Next::End, Next::Event))
    }

    /// Reads for a time.
    pub(crate) async fn read_for(&mut self, time: Duration) {
        let over = Instant::now() + time;
        while let Some(left) = over.checked_duration_since(Instant::now()) {
            match self.next_within(left).await {
                Some(Next::Event(message)) => self.got.push(message),
                Some(Next::End) => panic!("the stream ended\n{}", self.tail()),
                None => return,
            }
        }
    }

    /// Reads the next event.
    pub(crate) async fn next(&mut self) -> &Message {
        match self.next_within(PATIENCE).await {
            Some(Next::Event(message)) => self.got.push(message),
            Some(Next::End) => panic!("the stream ended\n{}", self.tail()),
            None => panic!("nothing came\n{}", self.tail()),
        }
        self.got.last().expect("pushed")
    }

    /// Reads until the event with this number has come. A stream that ends is resumed.
    pub(crate) async fn read_to(&mut self, number: u64) {
        let number = number.to_string();
        while self.got.last().is_none_or(|last| last.data != number) {
            match self.next_within(PATIENCE).await {
                Some(Next::Event(message)) => self.got.push(message),
                Some(Next::End) => {
                    self.go_away();
                    self.resume().await;
                }
                None => panic!("{number} did not come\n{}", self.tail()),
            }
        }
    }

    /// The numbers that it got, up to the last one, are all there are, each once and in order, and
    /// it received no gap event.
    #[track_caller]
    pub(crate) fn assert_gapless(&self, count: u64) {
        for (at, (expected, message)) in (0..count).zip(&self.got).enumerate() {
            let is_next = message.data == expected.to_string() && message.name == "message";
            let around = &self.got[at.saturating_sub(3)..(at + 3).min(self.got.len())];
            assert!(is_next, "expected {expected}, got {message:?}, among {around:#?}");
        }
        assert_eq!(self.got.len() as u64, count, "as many as there are");
    }

    /// The gaps that were reported to it, as channel and reason.
    pub(crate) fn gaps(&self) -> Vec<(String, String)> {
        self.got.iter().filter_map(gap_in).collect()
    }

    fn tail(&self) -> String {
        format!(
            "the last of {}: {:#?}",
            self.got.len(),
            self.got.iter().rev().take(3).collect::<Vec<_>>()
        )
    }
}

/// The channel and the reason of a gap, if an event announces one.
pub(crate) fn gap_in(message: &Message) -> Option<(String, String)> {
    (message.name == GAP_EVENT).then(|| {
        let gap: serde_json::Value = serde_json::from_str(&message.data).expect("JSON");
        let text = |field: &str| gap[field].as_str().expect("a text").to_owned();
        (text("channel"), text("reason"))
    })
}

impl Open {
    /// Cancel safe. `None` at the stream's end.
    async fn next(&mut self) -> Option<Message> {
        loop {
            let item = match self {
                Self::Http1(stream) => stream.read_item().await.ok()?,
                Self::Http2(stream) => stream.next_item().await?,
            };
            if let Item::Event(message) = item {
                return Some(message);
            }
        }
    }

    fn take_received(&mut self) -> Option<Item> {
        match self {
            Self::Http1(stream) => stream.take_received(),
            Self::Http2(stream) => stream.decoder.next_item(),
        }
    }

    fn last_event_id(&self) -> &str {
        match self {
            Self::Http1(stream) => stream.last_event_id(),
            Self::Http2(stream) => stream.decoder.last_event_id(),
        }
    }
}

/// Whether the tests are to run in their full length: HEADWATER_TEST_FULL=1. Without it they are
/// short enough for every change.
pub(crate) fn is_full() -> bool {
    std::env::var("HEADWATER_TEST_FULL").is_ok_and(|full| full == "1")
}
