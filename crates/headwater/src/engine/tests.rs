//! Tests of a failing shard: what it cuts, and that it restarts. Look in `tests/it/engine/` for the
//! tests of the engine over a server.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use headwater_test_support::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::access::Revocation;
use crate::{Channel, Event, EventSourceResponse, Hub};
use headwater_core::close::CloseReason;
use headwater_core::transport::{Attachment, HubRef, Key, Message, Progress};

fn channel() -> Channel {
    Channel::new("a").unwrap()
}

/// A hub behind a server with one shard.
struct Served {
    hub: Hub,
    hub_ref: HubRef,
    address: SocketAddr,
}

impl Served {
    /// The path names the user who owns a stream. `on_close` runs on the shard.
    async fn new(on_close: impl Fn(&str, CloseReason) + Clone + Send + Sync + 'static) -> Self {
        let hub = Hub::in_memory();
        let hub_ref = hub.subscribe([channel()]).unwrap().hub();
        let router_hub = hub.clone();
        let subscribe = move |Path(user): Path<String>| {
            let (hub, on_close) = (router_hub.clone(), on_close.clone());
            async move {
                let subscription = hub.subscribe([channel()]).unwrap();
                let mut subscription = subscription.owned_by(Some(&user), None);
                subscription.ready().await;
                let response = EventSourceResponse::new(subscription);
                response.on_close(move |reason| on_close(&user, reason))
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/{user}", get(subscribe));
        tokio::spawn(crate::serve(listener, router).shards(1).into_future());
        Self { hub, hub_ref, address }
    }

    async fn request_stream(&self, user: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET /{user} HTTP/1.1\r\nhost: h\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        socket
    }

    /// Opens a stream, and waits until the shard has it. There must be no other stream.
    async fn open(&self, user: &str) -> TcpStream {
        let mut socket = self.request_stream(user).await;
        eventually("the shard has the stream", || async {
            self.hub.shards().first().is_some_and(|it| it.streams == 1 && it.mailbox == 0)
        })
        .await;
        self.hub.publish(&channel(), Event::new(format!("for {user}"))).await.unwrap();
        read_until(&mut socket, Some(&format!("for {user}"))).await;
        assert_eq!(self.hub_ref.owned_streams(), 1);
        socket
    }

    fn poison(&self) {
        assert!(self.hub_ref.shards()[0].push(poison()).is_ok());
    }

    async fn wait_for_a_new_shard(&self, panics: u64) {
        eventually("the failed shard is replaced", || async {
            self.hub.streams() == 0
                && self.hub.subscribers(&channel()) == 0
                && self.hub.shards().first().is_some_and(|shard| shard.panics == panics)
        })
        .await;
        assert_eq!(self.hub.stats().streams_ended.by(CloseReason::Internal), panics);
        assert_eq!(self.hub_ref.owned_streams(), 0, "closed streams leave the registry");
    }
}

/// Reads until `text` was received, or to the end if it is `None`.
async fn read_until(socket: &mut TcpStream, text: Option<&str>) -> String {
    let (mut seen, mut buffer) = (String::new(), [0; 4096]);
    while !text.is_some_and(|text| seen.contains(text)) {
        match socket.read(&mut buffer).await {
            Ok(0) | Err(_) => break,
            Ok(read) => seen.push_str(&String::from_utf8_lossy(&buffer[..read])),
        }
    }
    seen
}

/// A message that makes a shard panic: the engine never sends such a payload.
fn poison() -> Message {
    Message::Attach(Box::new(Attachment {
        channels: Box::default(),
        waiting: std::collections::VecDeque::new(),
        progress: Progress { until: Key::default(), open: 1 },
        closed: None,
        number: 0,
        payload: Box::new("not the engine's"),
    }))
}

/// Whether the body ends cleanly, with its last chunk.
async fn ends_cleanly(socket: &mut TcpStream) -> bool {
    read_until(socket, None).await.ends_with("0\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_panics_cuts_its_streams_and_restarts() {
    let reasons: Arc<Mutex<Vec<CloseReason>>> = Arc::default();
    let recorded = Arc::clone(&reasons);
    let served = Served::new(move |_, reason| recorded.lock().unwrap().push(reason)).await;
    for round in 1..=3 {
        let mut stream = served.open("ann").await;
        served.poison();
        assert!(!ends_cleanly(&mut stream).await, "it is cut, not ended");
        served.wait_for_a_new_shard(round).await;
    }
    assert_eq!(*reasons.lock().unwrap(), [CloseReason::Internal; 3]);
    assert_eq!(served.hub.shards().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_restarted_shard_can_be_revoked() {
    let served = Served::new(|_, _| {}).await;
    let mut before = served.open("ann").await;
    served.poison();
    assert!(!ends_cleanly(&mut before).await, "it is cut, not ended");
    served.wait_for_a_new_shard(1).await;
    let mut after = served.open("ann").await;
    served.hub.revoke(&Revocation::User("bob".into())).await.unwrap();
    served.hub.revoke(&Revocation::User("ann".into())).await.unwrap();
    assert!(ends_cleanly(&mut after).await);
    eventually("its end is counted", || async {
        served.hub.stats().streams_ended.by(CloseReason::Revoked) == 1
    })
    .await;
    assert_eq!(served.hub_ref.owned_streams(), 0);
}

/// Messages that a shard took out of its mailbox and did not process are lost with it; their
/// streams must leave the registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_in_flight_to_a_shard_that_panics_leave_the_registry() {
    let (unblock, blocked) = mpsc::channel::<()>();
    let (is_blocked, blocked) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(blocked)));
    let on_shard = Arc::clone(&is_blocked);
    let served = Served::new(move |user, _| {
        if user == "blocker" {
            on_shard.store(true, Ordering::SeqCst);
            let _ = blocked.lock().unwrap().recv();
        }
    })
    .await;
    drop(served.open("blocker").await);
    eventually("the shard is blocked", || async { is_blocked.load(Ordering::SeqCst) }).await;
    served.poison();
    let mut late = served.request_stream("ann").await;
    eventually("the stream waits behind the poison", || async {
        served.hub.shards()[0].mailbox == 2 && served.hub_ref.owned_streams() == 1
    })
    .await;
    unblock.send(()).unwrap();
    assert!(!ends_cleanly(&mut late).await, "it is cut, not ended");
    served.wait_for_a_new_shard(1).await;
}
