//! Encodes events, or delivers them to subscriptions, a given number of times. Look here for the
//! program whose instructions `tests/live/instructions.rs` counts.

use std::env;
use std::hint::black_box;

use headwater::{Channel, Event, Hub};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), headwater::Error> {
    let mut arguments = env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let mut number = || arguments.next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let (events, streams): (usize, usize) = (number(), number());
    match &*what {
        "encode" => (0..events).for_each(|_| drop(black_box(event().encode()))),
        "fan-out" => fan_out(events, streams).await?,
        _ => eprintln!("usage: instructions encode EVENTS | instructions fan-out EVENTS STREAMS"),
    }
    Ok(())
}

fn event() -> Event {
    Event::new("x".repeat(100))
}

/// Delivers every event to every subscription, one after the other, so that only the fan-out is
/// counted.
async fn fan_out(events: usize, streams: usize) -> Result<(), headwater::Error> {
    let hub = Hub::in_memory();
    let channel = Channel::new("news")?;
    let mut subscriptions = Vec::new();
    for _ in 0..streams {
        let mut subscription = hub.subscribe([channel.clone()])?;
        subscription.ready().await;
        subscriptions.push(subscription);
    }
    for _ in 0..events {
        hub.publish(&channel, event()).await?;
        for subscription in &mut subscriptions {
            black_box(subscription.next().await);
        }
    }
    Ok(())
}
