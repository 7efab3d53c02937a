//! A shard that fails: what it costs, and that it begins anew. The rest of the engine's tests go over real servers,
//! in `tests/it/engine/`.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use headwater_test_support::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::close::CloseReason;
use crate::hub::HubInner;
use crate::hub::mailbox::{Given, Message, Newcomer};
use crate::position::Key;
use crate::{Channel, Event, EventSourceResponse, Hub, Revocation};

fn channel() -> Channel {
    Channel::new("a").unwrap()
}

/// A hub behind a server with one shard.
struct Served {
    hub: Hub,
    inner: Arc<HubInner>,
    address: SocketAddr,
}

impl Served {
    /// A stream is its path's user's; `on_close` runs on the shard.
    async fn new(on_close: impl Fn(&str, CloseReason) + Clone + Send + Sync + 'static) -> Self {
        let hub = Hub::in_memory();
        let inner = Arc::clone(hub.subscribe([channel()]).unwrap().hub());
        let its_hub = hub.clone();
        let listen = move |Path(user): Path<String>| {
            let (hub, on_close) = (its_hub.clone(), on_close.clone());
            async move {
                let subscription = hub.subscribe([channel()]).unwrap();
                let mut subscription = subscription.owned_by(Some(&user), None);
                subscription.ready().await;
                EventSourceResponse::new(subscription).on_close(move |why| on_close(&user, why))
            }
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/{user}", get(listen));
        tokio::spawn(crate::serve(listener, router).shards(1).into_future());
        Self { hub, inner, address }
    }

    async fn ask_for_stream(&self, user: &str) -> TcpStream {
        let mut socket = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET /{user} HTTP/1.1\r\nhost: h\r\n\r\n");
        socket.write_all(request.as_bytes()).await.unwrap();
        socket
    }

    /// Opens a stream, and waits until the shard has it: it is then the only one.
    async fn open(&self, user: &str) -> TcpStream {
        let mut socket = self.ask_for_stream(user).await;
        eventually("the shard has it", || async {
            self.hub.shards().first().is_some_and(|it| it.streams == 1 && it.mailbox == 0)
        })
        .await;
        self.hub.publish(&channel(), Event::new(format!("for {user}"))).await.unwrap();
        read_until(&mut socket, Some(&format!("for {user}"))).await;
        assert_eq!(self.inner.owned_streams(), 1);
        socket
    }

    fn poison(&self) {
        assert!(self.inner.shards()[0].push(poison()).is_ok());
    }

    async fn wait_for_a_new_shard(&self, panics: u64) {
        eventually("all is cleared up, and there is a new shard", || async {
            self.hub.streams() == 0
                && self.hub.subscribers(&channel()) == 0
                && self.hub.shards().first().is_some_and(|shard| shard.panics == panics)
        })
        .await;
        assert_eq!(self.hub.stats().streams_ended.by(CloseReason::Internal), panics);
        assert_eq!(self.inner.owned_streams(), 0, "what is dead has no owner");
    }
}

/// Reads until there is a text, or to the end if there is none.
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

/// What no engine would send.
fn poison() -> Message {
    Message::Attach(Box::new(Newcomer {
        channels: Box::default(),
        waiting: std::collections::VecDeque::new(),
        given: Given { until: Key::default(), open: 1 },
        closed: None,
        number: 0,
        luggage: Box::new("not the engine's"),
    }))
}

/// Whether the body ended as it should, with its last chunk.
async fn ends_well(socket: &mut TcpStream) -> bool {
    read_until(socket, None).await.ends_with("0\r\n\r\n")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_panics_loses_its_streams_and_begins_anew() {
    let reasons: Arc<Mutex<Vec<CloseReason>>> = Arc::default();
    let noted = Arc::clone(&reasons);
    let served = Served::new(move |_, reason| noted.lock().unwrap().push(reason)).await;
    for round in 1..=3 {
        let mut stream = served.open("ann").await;
        served.poison();
        assert!(!ends_well(&mut stream).await, "it is cut, not ended");
        served.wait_for_a_new_shard(round).await;
    }
    assert_eq!(*reasons.lock().unwrap(), [CloseReason::Internal; 3]);
    assert_eq!(served.hub.shards().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_of_a_shard_that_began_anew_can_be_revoked() {
    let served = Served::new(|_, _| {}).await;
    let mut before = served.open("ann").await;
    served.poison();
    assert!(!ends_well(&mut before).await, "it is cut, not ended");
    served.wait_for_a_new_shard(1).await;
    let mut after = served.open("ann").await;
    served.hub.revoke(&Revocation::User("bob".into())).await.unwrap();
    served.hub.revoke(&Revocation::User("ann".into())).await.unwrap();
    assert!(ends_well(&mut after).await);
    eventually("its end is counted", || async {
        served.hub.stats().streams_ended.by(CloseReason::Revoked) == 1
    })
    .await;
    assert_eq!(served.inner.owned_streams(), 0);
}

/// What a shard took out of its mailbox and did not work off goes with it; its streams must not stay in the registry.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_on_their_way_to_a_shard_that_panics_are_forgotten() {
    let (let_go, held) = mpsc::channel::<()>();
    let (is_held, held) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(held)));
    let begun = Arc::clone(&is_held);
    let served = Served::new(move |user, _| {
        if user == "holder" {
            begun.store(true, Ordering::SeqCst);
            let _ = held.lock().unwrap().recv();
        }
    })
    .await;
    drop(served.open("holder").await);
    eventually("the shard is held up", || async { is_held.load(Ordering::SeqCst) }).await;
    served.poison();
    let mut late = served.ask_for_stream("ann").await;
    eventually("the stream waits behind the poison", || async {
        served.hub.shards()[0].mailbox == 2 && served.inner.owned_streams() == 1
    })
    .await;
    let_go.send(()).unwrap();
    assert!(!ends_well(&mut late).await, "it is cut, not ended");
    served.wait_for_a_new_shard(1).await;
}
