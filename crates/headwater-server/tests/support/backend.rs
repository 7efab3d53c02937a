//! A small HTTP server of a test's own, that answers what the test wants. Look here for what it
//! counts.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;

/// Answers every request in the same way until it is set to another.
pub(crate) struct Backend {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

#[derive(Default)]
struct Shared {
    answer: Mutex<String>,
    delay: Mutex<Duration>,
    requests: Mutex<Vec<String>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

/// An answer with a body.
pub(crate) fn answer(status: &str, content_type: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\nconnection: \
         close\r\n\r\n{body}",
        body.len()
    )
}

/// A yes.
pub(crate) fn json(body: &str) -> String {
    answer("200 OK", "application/json", body)
}

impl Backend {
    pub(crate) async fn start(answer: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared::default());
        answer.clone_into(&mut shared.answer.lock().expect("the answer"));
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve(socket, Arc::clone(&serving)));
            }
        });
        Self { address, shared, task: task.abort_handle() }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn answer_with(&self, answer: &str, after: Duration) {
        answer.clone_into(&mut self.shared.answer.lock().expect("the answer"));
        *self.shared.delay.lock().expect("the delay") = after;
    }

    /// The heads of the requests so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("the requests").clone()
    }

    pub(crate) fn most_at_once(&self) -> usize {
        self.shared.most_at_once.load(Ordering::SeqCst)
    }
}

impl Drop for Backend {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut socket: TcpStream, shared: Arc<Shared>) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if socket.read_buf(&mut head).await.unwrap_or(0) == 0 {
            return;
        }
    }
    let at_once = shared.at_once.fetch_add(1, Ordering::SeqCst) + 1;
    shared.most_at_once.fetch_max(at_once, Ordering::SeqCst);
    shared.requests.lock().expect("requests").push(String::from_utf8_lossy(&head).into_owned());
    // Decided at once, and sent late.
    let answer = shared.answer.lock().expect("the answer").clone();
    let delay = *shared.delay.lock().expect("the delay");
    tokio::time::sleep(delay).await;
    let _ = socket.write_all(answer.as_bytes()).await;
    shared.at_once.fetch_sub(1, Ordering::SeqCst);
}
