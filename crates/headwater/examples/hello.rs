//! One stream, and one route that publishes to it: `cargo run --example hello`, then
//! `curl -N 127.0.0.1:8000/events` here, and `curl -d hello 127.0.0.1:8000/publish` there.

use axum::{Router, extract::State, routing::get, routing::post};
use headwater::{Channel, Event, EventSourceResponse, Hub, Problem};

async fn events(State(hub): State<Hub>) -> Result<EventSourceResponse, Problem> {
    Ok(EventSourceResponse::new(hub.subscribe([Channel::new("news")?])?))
}

async fn publish(State(hub): State<Hub>, data: String) -> Result<(), Problem> {
    hub.publish(&Channel::new("news")?, Event::new(data)).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let app = Router::new().route("/events", get(events)).route("/publish", post(publish));
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:8000".into());
    let listener = tokio::net::TcpListener::bind(address).await?;
    headwater::serve(listener, app.with_state(Hub::in_memory())).await
}
