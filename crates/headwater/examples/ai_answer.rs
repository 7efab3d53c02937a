//! An AI's answer, streamed token by token, that survives a reload of the page and is seen on a second
//! device. Look here for rewind, resume, the end of a channel, and publishing that is safe to repeat.
//!
//! ```text
//! cargo run --example ai_answer                                       one process
//! REDIS_URL=redis://127.0.0.1:6379 cargo run --example ai_answer      any number of them
//! ```
//! Open <http://127.0.0.1:8000>, ask, and while the answer is being written: reload the page, open its
//! address somewhere else, or stop. The model is a fake; a real one replaces `tokens`.

use std::error::Error as StdError;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use headwater::{
    Channel, Error, ErrorKind, Event, EventSourceResponse, Hub, IdempotencyKey, LastEventId,
    MemoryBroker, Problem, Publish, RedisBroker, RetentionRules, Rewind,
};
use http::StatusCode;
use serde::Serialize;
use tokio::net::TcpListener;

/// How long an answer can be read again, and how long it may be.
const RETENTION: &str = "answer:* events=100000 age=1h bytes=8MiB";

#[derive(Serialize)]
struct PendingCommand {
    id: String,
}

/// Begins an answer. Nothing ties it to this request: whoever asked may go away and come back.
async fn ask(State(hub): State<Hub>, question: String) -> Json<PendingCommand> {
    // Whoever knows the id can read the answer. A real application asks who is there as well.
    let id = format!("{:016x}", fastrand::u64(..));
    tokio::spawn(write_answer(hub, id.clone(), question));
    Json(PendingCommand { id })
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
        // It was stopped: the channel takes no more, on whichever node that was asked for.
        Err(error) if error.kind() == ErrorKind::Ended => {}
        Err(error) => eprintln!("the answer {id} broke off: {error}"),
    }
}

/// Publishes one part of an answer, until the broker has taken it. The key makes that safe: a part that
/// was taken although its answer got lost is not published again.
async fn publish(
    hub: &Hub,
    id: &str,
    number: usize,
    event: Event,
    is_end: bool,
) -> Result<(), Error> {
    let key = IdempotencyKey::new(number.to_string())?;
    let part = Publish::new(channel(id)?, event).key(key).end(is_end);
    loop {
        match hub.publish_all([part.clone()]).await {
            Err(error) if error.kind() == ErrorKind::Unavailable => {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            result => return result.map(drop),
        }
    }
}

/// Streams an answer: from its beginning to those who come new, which a reloaded page is too, and from
/// where they left off to those who lost the connection. Who has everything gets `204`, and stays away.
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
    // Only now is it known whether there is anything to come.
    subscription.ready().await;
    Ok(EventSourceResponse::new(subscription))
}

/// Stops an answer because somebody says so. That a listener is gone says nothing.
async fn stop(State(hub): State<Hub>, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let event = Event::new("").with_name("stopped")?;
    match hub.publish_all([Publish::new(channel(&id)?, event).end(true)]).await {
        // It is complete, or was stopped before.
        Err(error) if error.kind() == ErrorKind::Ended => Ok(StatusCode::NO_CONTENT),
        result => Ok(result.map(|_| StatusCode::NO_CONTENT)?),
    }
}

fn channel(id: &str) -> Result<Channel, Error> {
    Channel::new(format!("answer:{id}"))
}

// === the fake model ===

fn tokens(question: &str) -> Vec<String> {
    let text = format!(
        "You asked: {question}\n\nA river begins at its headwater. What falls there is carried on, \
         drop by drop and in its order, and whoever stands at the bank sees all of it go by. Turn \
         away for a moment and come back: the river has kept what you missed, and nobody upstream \
         had to wait for you."
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
<form><input name="question" placeholder="Ask something" autofocus required> <button>Ask</button></form>
<p id="answer" style="white-space: pre-wrap"></p>
<p><span id="state"></span> <button id="stop" hidden>Stop</button></p>
<script type="module">
  const byId = (id) => document.getElementById(id);
  let source;

  function listen(id) {
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
    source = new EventSource(`answer/${id}`); // from the beginning; after a loss, from the last token
    source.onopen = () => show("Writing…", true);
    source.onerror = () => show("Reconnecting…", true);
    source.onmessage = ({ data }) => byId("answer").append(data);
    source.addEventListener("done", () => end("Complete."));
    source.addEventListener("stopped", () => end("Stopped."));
    source.addEventListener("headwater-gap", () => end("Part of this answer is no longer kept."));
    byId("stop").onclick = () => fetch(`answer/${id}/stop`, { method: "POST" });
  }

  document.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    const answer = await fetch("ask", { method: "POST", body: event.target.question.value });
    location.hash = (await answer.json()).id; // the address is all that a second device needs
  };
  addEventListener("hashchange", () => listen(location.hash.slice(1)));
  if (location.hash) listen(location.hash.slice(1));
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
                // Without a signal to wait for, it serves until it is killed.
                std::future::pending::<()>().await;
            }
            hub.drain();
        })
        .await?;
    Ok(())
}
