//! Headwater in an application: handlers extract the hub and the Redis connection, a page
//! subscribes, and Ctrl-C drains the streams. Look here for shared state and graceful shutdown.
//!
//! ```text
//! cargo run --example axum_app                                       embedded broker
//! REDIS_URL=redis://127.0.0.1:6379 cargo run --example axum_app      broker over Redis
//! ```
//! Then open <http://127.0.0.1:8000> twice. With Redis, `redis-cli PUBLISH lobby '{"text":"hi"}'`
//! reaches the page too.

use std::error::Error;

use axum::extract::{FromRef, Query, State};
use axum::response::Html;
use axum::routing::{get, post};
use axum::{Json, Router};
use headwater::redis::RedisConnection;
use headwater::redis::client::AsyncCommands;
use headwater::{Channel, Event, EventSourceResponse, Hub, Problem, RedisBroker};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

/// The state that handlers share. Each extracts the part that it needs.
#[derive(Clone)]
struct App {
    hub: Hub,
    /// The broker's connection for commands; `None` without Redis.
    redis: Option<RedisConnection>,
}

impl FromRef<App> for Hub {
    fn from_ref(app: &App) -> Self {
        app.hub.clone()
    }
}

impl FromRef<App> for Option<RedisConnection> {
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
    /// Number of messages published to the room; `None` without Redis.
    count: Option<u64>,
}

async fn events(
    State(hub): State<Hub>,
    Query(Room { room }): Query<Room>,
) -> Result<EventSourceResponse, Problem> {
    let mut subscription = hub.subscribe([Channel::new(room)?])?;
    // A client that publishes as soon as its stream is open receives its own message.
    subscription.ready().await;
    Ok(EventSourceResponse::new(subscription))
}

async fn publish(
    State(hub): State<Hub>,
    State(redis): State<Option<RedisConnection>>,
    Query(Room { room }): Query<Room>,
    Json(message): Json<Message>,
) -> Result<Json<Published>, Problem> {
    let channel = Channel::new(room)?;
    hub.publish(&channel, Event::json(&message)?).await?;
    let count = match redis {
        // The message is published even if counting it fails.
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
    const headers = { "Content-Type": "application/json" };
    fetch("publish?room=lobby", { method: "POST", headers, body });
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
                // Without signals, serve until the process is killed.
                std::future::pending::<()>().await;
            }
            hub.drain();
        })
        .await?;
    Ok(())
}
