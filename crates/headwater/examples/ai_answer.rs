//! An AI answer, streamed token by token, that survives a reload of the page and can be followed on
//! a second device. Look here for rewind, resume, the end of a channel, and idempotent publishing.
//!
//! ```text
//! cargo run --example ai_answer                                       one process
//! REDIS_URL=redis://127.0.0.1:6379 cargo run --example ai_answer      any number of processes
//! ```
//! Open <http://127.0.0.1:8000> and ask. While the answer is being written, reload the page, open
//! its address on another device, or stop the answer. The model is a stub: a real one replaces
//! `tokens`.

use std::error::Error as StdError;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use headwater::broker::MemoryBroker;
use headwater::event::IdempotencyKey;
use headwater::log::RetentionRules;
use headwater::{
    Channel, Error, ErrorKind, Event, EventSourceResponse, Hub, LastEventId, Problem, Publish,
    RedisBroker, Rewind,
};
use http::StatusCode;
use serde::Serialize;
use tokio::net::TcpListener;

/// How long an answer is retained, and how large it may be.
const RETENTION: &str = "answer:* events=100000 age=1h bytes=8MiB";

#[derive(Serialize)]
struct Asked {
    id: String,
}

/// Starts an answer. It does not depend on this request: the client may disconnect and reconnect.
async fn ask(State(hub): State<Hub>, question: String) -> Json<Asked> {
    // Any client that knows the ID can read the answer. A real application authorizes it as well.
    let id = format!("{:016x}", fastrand::u64(..));
    tokio::spawn(write_answer(hub, id.clone(), question));
    Json(Asked { id })
}

async fn write_answer(hub: Hub, id: String, question: String) {
    let written = async {
        let mut number = 0;
        for token in tokens(&question) {
            tokio::time::sleep(token_time()).await;
            publish(&hub, &id, number, Event::new(token), false).await?;
            number += 1;
        }
        publish(&hub, &id, number, Event::new("").with_name("done")?, true).await
    };
    match written.await {
        Ok(()) => {}
        // It was stopped: the channel has ended, on every node.
        Err(error) if error.kind() == ErrorKind::Ended => {}
        Err(error) => eprintln!("answer {id} failed: {error}"),
    }
}

/// Publishes one part of an answer, and retries until the broker accepts it. The key makes that
/// safe: a part that was accepted, but whose confirmation was lost, is not published again.
async fn publish(
    hub: &Hub,
    id: &str,
    number: usize,
    event: Event,
    is_end: bool,
) -> Result<(), Error> {
    let key = IdempotencyKey::new(number.to_string())?;
    let part = Publish::to(channel(id)?, event).with_key(key).with_end(is_end);
    loop {
        match hub.publish_all([part.clone()]).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            result => return result.map(drop),
        }
    }
}

/// Streams an answer: from its beginning for a new client or a reloaded page, and from the last
/// event for a client that lost its connection. A client that has everything gets `204` and does
/// not reconnect.
async fn answer(
    State(hub): State<Hub>,
    Path(id): Path<String>,
    LastEventId(last_event_id): LastEventId,
) -> Result<EventSourceResponse, Problem> {
    let subscription = hub.subscribe([channel(&id)?])?;
    let mut subscription = match last_event_id {
        None => subscription.rewind(Rewind::All),
        id => subscription.after(id),
    };
    // Then it is known whether there is anything to deliver.
    subscription.ready().await;
    Ok(EventSourceResponse::new(subscription))
}

/// Stops an answer on request. A client that disconnects does not stop it.
async fn stop(State(hub): State<Hub>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let event = Event::new("").with_name("stopped")?;
    match hub.publish_all([Publish::to(channel(&id)?, event).with_end(true)]).await {
        // It is complete, or was stopped already.
        Err(error) if error.kind() == ErrorKind::Ended => Ok(StatusCode::NO_CONTENT),
        result => Ok(result.map(|_| StatusCode::NO_CONTENT)?),
    }
}

fn channel(id: &str) -> Result<Channel, Error> {
    Channel::new(format!("answer:{id}"))
}

// === the stub model ===

fn tokens(question: &str) -> Vec<String> {
    let text = format!(
        "You asked: {question}\n\nA river starts at its headwater and flows in one direction. \
         This answer does the same: each token is published once, in order, to a channel. Reload \
         the page, or open it on another device: the tokens you missed are replayed, and the \
         publisher does not wait for you."
    );
    text.split_inclusive(' ').map(ToOwned::to_owned).collect()
}

fn token_time() -> Duration {
    let ms = std::env::var("TOKEN_MS").ok().and_then(|text| text.parse().ok());
    Duration::from_millis(ms.unwrap_or(120))
}

// === the page and the program ===

const PAGE: &str = r#"<!doctype html>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>An answer</title>
<form>
  <input name="question" placeholder="Ask something" autofocus required> <button>Ask</button>
</form>
<p id="answer" style="white-space: pre-wrap"></p>
<p><span id="state"></span> <button id="stop" hidden>Stop</button></p>
<script type="module">
  const byId = (id) => document.getElementById(id);
  let source;

  function subscribe(id) {
    const show = (state, isOpen) => {
      byId("state").textContent = state;
      byId("stop").hidden = !isOpen;
    };
    const end = (state) => {
      source.close();
      show(state, false);
    };
    source?.close();
    byId("answer").textContent = "";
    source = new EventSource(`answer/${id}`); // from the start; reconnects after the last token
    source.onopen = () => show("Writing…", true);
    source.onerror = () => show("Reconnecting…", true);
    source.onmessage = ({ data }) => byId("answer").append(data);
    source.addEventListener("done", () => end("Complete."));
    source.addEventListener("stopped", () => end("Stopped."));
    source.addEventListener("headwater-gap", () => end("Part of this answer has expired."));
    byId("stop").onclick = () => fetch(`answer/${id}/stop`, { method: "POST" });
  }

  document.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    const answer = await fetch("ask", { method: "POST", body: event.target.question.value });
    location.hash = (await answer.json()).id; // a second device opens this address
  };
  addEventListener("hashchange", () => subscribe(location.hash.slice(1)));
  if (location.hash) subscribe(location.hash.slice(1));
</script>
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    let rules = RetentionRules::new().with_rule(RETENTION)?;
    let hub = match std::env::var("REDIS_URL") {
        Ok(url) => Hub::new(RedisBroker::connect(&url)?.with_retention(rules)),
        Err(_) => Hub::new(MemoryBroker::with_retention(rules)),
    };
    let router = Router::new()
        .route("/", get(|| async { Html(PAGE) }))
        .route("/ask", post(ask))
        .route("/answer/{id}", get(answer))
        .route("/answer/{id}/stop", post(stop))
        .with_state(hub.clone());
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8000".into());
    let listener = TcpListener::bind(address).await?;
    println!("http://{}", listener.local_addr()?);
    headwater::serve(listener, router)
        .with_graceful_shutdown(async move {
            if tokio::signal::ctrl_c().await.is_err() {
                // Without signals, serve until the process is killed.
                std::future::pending::<()>().await;
            }
            hub.drain();
        })
        .await?;
    Ok(())
}
