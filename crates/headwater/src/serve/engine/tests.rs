//! A shard that fails: what it costs, and that it begins anew. The rest of the engine's tests go over real servers,
//! in `tests/it/engine/`.

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use headwater_test_support::eventually;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::closed::Closed;
use crate::hub::HubInner;
use crate::hub::mailbox::{Given, Message, Newcomer};
use crate::position::Key;
use crate::{Channel, Event, EventSourceResponse, Hub};

fn channel() -> Channel {
    Channel::new("a").unwrap()
}

async fn open(address: std::net::SocketAddr) -> TcpStream {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\nhost: h\r\n\r\n").await.unwrap();
    socket
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_panics_loses_its_streams_and_begins_anew() {
    let hub = Hub::in_memory();
    let inner: Arc<HubInner> = Arc::clone(hub.subscribe([channel()]).unwrap().hub());
    let reasons: Arc<std::sync::Mutex<Vec<Closed>>> = Arc::default();
    let (its_hub, noted) = (hub.clone(), Arc::clone(&reasons));
    let listen = move || {
        let (hub, noted) = (its_hub.clone(), Arc::clone(&noted));
        async move {
            let mut subscription = hub.subscribe([channel()]).unwrap();
            subscription.confirmed().await;
            EventSourceResponse::new(subscription)
                .on_close(move |reason| noted.lock().unwrap().push(reason))
        }
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = crate::serve(listener, Router::new().route("/", get(listen))).shards(1);
    tokio::spawn(server.into_future());

    for round in 1..=3 {
        let mut stream = open(address).await;
        eventually("the shard has it", || async {
            hub.shards().first().is_some_and(|shard| shard.streams == 1)
        })
        .await;
        hub.publish(&channel(), Event::new(format!("event {round}"))).await.unwrap();
        read_until(&mut stream, Some(&format!("event {round}"))).await;

        assert!(inner.shards()[0].push(poison()).is_ok());
        let rest = read_until(&mut stream, None).await;
        assert!(!rest.contains("0\r\n\r\n"), "cut, not ended: {rest}");
        eventually("all is cleared up, and there is a new shard", || async {
            hub.streams() == 0
                && hub.listeners(&channel()) == 0
                && hub.shards().first().is_some_and(|shard| shard.panics == round)
        })
        .await;
        assert_eq!(hub.stats().streams_ended.by(Closed::Failed), round);
    }
    assert_eq!(*reasons.lock().unwrap(), [Closed::Failed; 3]);
    assert_eq!(hub.shards().len(), 1);
}
