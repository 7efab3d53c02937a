//! axum's `Sse` as its documentation shows it, with one `tokio::sync::broadcast` per channel. Look
//! here when its figures look unfair: this is the whole program.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, Sse};
use axum::routing::{get, post};
use futures_util::Stream;
use serde::Deserialize;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

/// The same allocator as headwater, so that allocators are not compared.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Events that may wait for the slowest client of a channel. Small where channels are many, because
/// the ring of a channel is allocated at once; large enough to lose nothing at the loads of the
/// comparison.
const BACKLOG_DEFAULT: usize = 1024;

/// An event is shared by all its receivers, as a careful program would do.
type Channels = Arc<Mutex<HashMap<String, broadcast::Sender<Arc<str>>>>>;

#[derive(Clone)]
struct App {
    channels: Channels,
    backlog: usize,
}

#[derive(Deserialize)]
struct Parameters {
    channel: String,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), String> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: headwater-contender-axum ADDRESS:PORT [BACKLOG]";
    let listen: SocketAddr =
        arguments.next().and_then(|text| text.parse().ok()).ok_or(usage.to_owned())?;
    let backlog = match arguments.next() {
        None => BACKLOG_DEFAULT,
        Some(text) => text.parse().ok().filter(|backlog| *backlog > 0).ok_or(usage.to_owned())?,
    };
    let listener = tokio::net::TcpListener::bind(listen)
        .await
        .map_err(|error| format!("cannot listen on {listen}: {error}"))?;
    let router = Router::new()
        .route("/sse/stream", get(stream))
        .route("/sse/publish", post(publish))
        .with_state(App { channels: Channels::default(), backlog });
    axum::serve(listener, router).await.map_err(|error| error.to_string())
}

async fn stream(
    State(app): State<App>,
    Query(parameters): Query<Parameters>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let mut channels = app.channels.lock().expect("no poisoned lock");
    let sender =
        channels.entry(parameters.channel).or_insert_with(|| broadcast::Sender::new(app.backlog));
    let receiver = sender.subscribe();
    Sse::new(futures_util::stream::unfold(receiver, |mut receiver| async move {
        loop {
            match receiver.recv().await {
                Ok(data) => return Some((Ok(Event::default().data(&*data)), receiver)),
                // The client loses these events: the generator counts them as missing.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    }))
}

async fn publish(
    State(app): State<App>,
    Query(parameters): Query<Parameters>,
    data: String,
) -> StatusCode {
    let channels = app.channels.lock().expect("no poisoned lock");
    if let Some(sender) = channels.get(&parameters.channel) {
        // An error only means that there are no subscribers.
        let _ = sender.send(data.into());
    }
    StatusCode::NO_CONTENT
}
