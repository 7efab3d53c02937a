//! Headwater in an application: the hub and the Redis connection are injected into handlers, a page
//! listens, and Ctrl-C ends the streams in an orderly way. Look here for how the pieces meet.
//!
//! ```text
//! cargo run --example axum_app                                       events stay in this process
//! REDIS_URL=redis://127.0.0.1:6379 cargo run --example axum_app      events travel through Redis
//! ```
//! Then open <http://127.0.0.1:8000> twice. With Redis, `redis-cli PUBLISH lobby '{"text":"hi"}'`
//! arrives too.

use std::error::Error;

use axum::extract::{FromRef, Query, State};
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use headwater::{Channel, Event, EventSourceResponse, Hub, Problem, RedisBroker};
use redis::AsyncCommands;
use redis::aio::ConnectionManager;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// What handlers share. Each asks for the part that it needs.
#[derive(Clone)]
struct App {
    hub: Hub,
    /// The broker's own connection for commands, if there is a Redis.
    redis: Option<ConnectionManager>,
}

impl FromRef<App> for Hub {
    fn from_ref(app: &App) -> Self {
        app.hub.clone()
    }
}

impl FromRef<App> for Option<ConnectionManager> {
    fn from_ref(app: &App) -> Self {
        app.redis.clone()
    }
}

#[derive(Deserialize)]
struct Room {
    room: String,
}

#[derive(Deserialize, Serialize)]
struct Message {
    text: String,
}

#[derive(Serialize)]
struct Published {
    /// How many messages the room has had, if there is a Redis to count them in.
    count: Option<u64>,
}

async fn events(
    State(hub): State<Hub>,
    Query(Room { room }): Query<Room>,
) -> Result<EventSourceResponse, Problem> {
    let mut subscription = hub.subscribe([Channel::new(room)?])?;
    // Who publishes as soon as the stream is open gets their own message.
    subscription.ready().await;
    Ok(EventSourceResponse::new(subscription))
}

async fn publish(
    State(hub): State<Hub>,
    State(redis): State<Option<ConnectionManager>>,
    Query(Room { room }): Query<Room>,
    Json(message): Json<Message>,
) -> Result<Json<Published>, Problem> {
    let channel = Channel::new(room)?;
    hub.publish(&channel, Event::json(&message)?).await?;
    let count = match redis {
        // A lost count is no reason to say that the message was not published.
        Some(mut redis) => redis.incr(format!("messages:{channel}"), 1).await.ok(),
        None => None,
    };
    Ok(Json(Published { count }))
}

async fn page() -> Html<&'static str> {
    Html(PAGE)
}

const PAGE: &str = r#"<!doctype html>
<meta charset="utf-8">
<title>Lobby</title>
<form><input name="text" placeholder="Say something" autofocus> <button>Send</button></form>
<ul></ul>
<script type="module">
  const source = new EventSource("events?room=lobby");
  source.onmessage = ({ data }) => {
    const item = document.createElement("li");
    item.textContent = JSON.parse(data).text;
    document.querySelector("ul").prepend(item);
  };
  document.querySelector("form").onsubmit = (event) => {
    event.preventDefault();
    const body = JSON.stringify({ text: event.target.text.value });
    fetch("publish?room=lobby", { method: "POST", headers: { "Content-Type": "application/json" }, body });
    event.target.reset();
  };
</script>
"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (hub, redis) = match std::env::var("REDIS_URL") {
        Ok(url) => {
            let broker = RedisBroker::connect(&url)?;
            let redis = broker.connection();
            (Hub::new(broker), Some(redis))
        }
        Err(_) => (Hub::in_memory(), None),
    };
    let router = Router::new()
        .route("/", get(page))
        .route("/events", get(events))
        .route("/publish", post(publish))
        .with_state(App { hub: hub.clone(), redis });
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
