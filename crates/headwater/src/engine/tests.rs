//! The failure and restart of a shard. Look here for what a panic costs; the engine's other tests
//! use real servers and are in `tests/it/engine/`.

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
use headwater_core::transport::{Attachment, HubRef, Message, StreamStart};

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
    /// A stream is owned by the user that its path names; `on_close` runs on the shard.
    async fn new(on_close: impl Fn(&str, CloseReason) + Clone + Send + Sync + 'static) -> Self {
        let hub = Hub::in_memory();
        let hub_ref = hub.subscribe([channel()]).unwrap().hub();
        let handler_hub = hub.clone();
        let subscribe = move |Path(user): Path<String>| {
            let (hub, on_close) = (handler_hub.clone(), on_close.clone());
            async move {
                let subscription = hub.subscribe([channel()]).unwrap();
                let mut subscription = subscription.owned_by(Some(&user), None);
                subscription.ready().await;
                EventSourceResponse::new(subscription).on_close(move |why| on_close(&user, why))
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

    /// Opens a stream, and waits until it is the only one of the shard.
    async fn open(&self, user: &str) -> TcpStream {
        let mut socket = self.request_stream(user).await;
        eventually("the stream is attached", || async {
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

    async fn wait_for_restart(&self, panics: u64) {
        eventually("the streams are cleaned up and the shard restarts", || async {
            self.hub.streams() == 0
                && self.hub.subscribers(&channel()) == 0
                && self.hub.shards().first().is_some_and(|shard| shard.panics == panics)
        })
        .await;
        assert_eq!(self.hub.stats().streams_ended.by(CloseReason::Internal), panics);
        assert_eq!(self.hub_ref.owned_streams(), 0, "a closed stream has no owner");
    }
}

/// Reads up to a text, or to the end of the stream if it is `None`.
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

/// An attachment that makes the shard panic: its payload is not `StreamParts`.
fn poison() -> Message {
    Message::Attach(Box::new(Attachment {
        start: StreamStart::Replaying(Box::new(|_| None)),
        number: 0,
        payload: Box::new("not the engine's"),
    }))
}

/// Whether the body was completed by its last chunk.
async fn is_complete(socket: &mut TcpStream) -> bool {
    read_until(socket, None).await.ends_with("0\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_closes_the_streams_of_a_shard_and_restarts_it() {
    let reasons: Arc<Mutex<Vec<CloseReason>>> = Arc::default();
    let recorded = Arc::clone(&reasons);
    let served = Served::new(move |_, reason| recorded.lock().unwrap().push(reason)).await;
    for round in 1..=3 {
        let mut stream = served.open("ann").await;
        served.poison();
        assert!(!is_complete(&mut stream).await, "closed without a last chunk");
        served.wait_for_restart(round).await;
    }
    assert_eq!(*reasons.lock().unwrap(), [CloseReason::Internal; 3]);
    assert_eq!(served.hub.shards().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_restarted_shard_can_be_revoked() {
    let served = Served::new(|_, _| {}).await;
    let mut before = served.open("ann").await;
    served.poison();
    assert!(!is_complete(&mut before).await, "closed without a last chunk");
    served.wait_for_restart(1).await;
    let mut after = served.open("ann").await;
    served.hub.revoke(&Revocation::User("bob".into())).await.unwrap();
    served.hub.revoke(&Revocation::User("ann".into())).await.unwrap();
    assert!(is_complete(&mut after).await);
    eventually("the end is counted", || async {
        served.hub.stats().streams_ended.by(CloseReason::Revoked) == 1
    })
    .await;
    assert_eq!(served.hub_ref.owned_streams(), 0);
}

/// Messages that a shard took out of its mailbox and did not process are lost with it; the registry
/// must not retain their streams.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_in_flight_to_a_shard_that_panics_leave_the_registry() {
    let (release, released) = mpsc::channel::<()>();
    let released = Arc::new(Mutex::new(released));
    let is_blocked = Arc::new(AtomicBool::new(false));
    let blocked = Arc::clone(&is_blocked);
    let served = Served::new(move |user, _| {
        if user == "blocker" {
            blocked.store(true, Ordering::SeqCst);
            let _ = released.lock().unwrap().recv();
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
    release.send(()).unwrap();
    assert!(!is_complete(&mut late).await, "closed without a last chunk");
    served.wait_for_restart(1).await;
}
