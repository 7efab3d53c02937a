//! An HTTP/2 client whose connection carries several streams. Look here for what a test can do with
//! one.

use bytes::Bytes;
use headwater::event::{Decoder, Item, Message};
use headwater_test_support::{Node, PATIENCE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// One connection, with prior knowledge.
pub(crate) struct Connection {
    pub(crate) requests: SendRequest<Empty<Bytes>>,
    pub(crate) origin: String,
}

impl Connection {
    pub(crate) async fn open(node: &Node) -> Self {
        let socket = TcpStream::connect(node.address()).await.expect("the server listens");
        Self::over(socket, format!("http://{}", node.address())).await
    }

    /// On a socket that is open already.
    pub(crate) async fn over<S>(socket: S, origin: String) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let shaken = handshake(TokioExecutor::new(), TokioIo::new(socket)).await;
        let (requests, connection) = shaken.expect("the server speaks HTTP/2");
        tokio::spawn(connection);
        Self { requests, origin }
    }

    pub(crate) async fn get(&mut self, path: &str) -> (HeaderMap, Incoming) {
        self.get_after(path, "").await
    }

    pub(crate) async fn get_after(
        &mut self,
        path: &str,
        last_event_id: &str,
    ) -> (HeaderMap, Incoming) {
        let mut request = Request::get(format!("{}{path}", self.origin));
        if !last_event_id.is_empty() {
            request = request.header("last-event-id", last_event_id);
        }
        let request = request.body(Empty::new()).expect("a request");
        let answer = timeout(PATIENCE, self.requests.send_request(request)).await;
        let (head, body) = answer.expect("an answer in time").expect("an answer").into_parts();
        assert_eq!(head.status, 200);
        assert_eq!(head.version, http::Version::HTTP_2);
        (head.headers, body)
    }

    /// The status for a publish of nothing.
    pub(crate) async fn post(&mut self, path: &str, headers: &[(&str, &str)]) -> StatusCode {
        let mut request = Request::post(format!("{}{path}", self.origin));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).expect("a request");
        let answer = timeout(PATIENCE, self.requests.send_request(request)).await;
        answer.expect("an answer in time").expect("an answer").status()
    }

    pub(crate) async fn stream(&mut self, path: &str) -> Stream {
        self.stream_after(path, "").await
    }

    pub(crate) async fn stream_after(&mut self, path: &str, last_event_id: &str) -> Stream {
        let (headers, body) = self.get_after(path, last_event_id).await;
        let mut stream = Stream { headers, body, decoder: Decoder::new() };
        assert!(matches!(stream.next_item().await, Some(Item::Comment(_))));
        stream
    }
}

pub(crate) struct Stream {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Incoming,
    pub(crate) decoder: Decoder,
}

impl Stream {
    /// `None` is a clean end. Cancel safe.
    pub(crate) async fn next_item(&mut self) -> Option<Item> {
        loop {
            if let Some(item) = self.decoder.next_item() {
                return Some(item);
            }
            let frame = timeout(PATIENCE, self.body.frame()).await.expect("something in time")?;
            let data = frame.expect("the stream is not reset").into_data().unwrap_or_default();
            self.decoder.push(&data).expect("an event stream");
        }
    }

    pub(crate) async fn next(&mut self) -> Option<Message> {
        loop {
            if let Item::Event(event) = self.next_item().await? {
                return Some(event);
            }
        }
    }
}
