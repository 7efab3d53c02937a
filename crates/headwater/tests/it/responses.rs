//! `EventSourceResponse`: the bytes it writes, its timers, and how it ends. Look here for the exact
//! body of a stream.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Extension, Router};
use futures_util::stream::{self, StreamExt};
use headwater::event::Item;
use headwater::response::Heartbeat;
use headwater::stream::CloseReason;
use headwater::testing::SseClient;
use headwater::{Channel, Event, EventSourceResponse, Hub};
use http_body_util::BodyExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

/// The reasons that `on_close` was called with.
#[derive(Clone, Default)]
struct Reason(Arc<Mutex<Vec<CloseReason>>>);

impl Reason {
    fn note(&self, response: EventSourceResponse) -> EventSourceResponse {
        let reasons = Arc::clone(&self.0);
        response.on_close(move |reason| reasons.lock().unwrap().push(reason))
    }

    fn get(&self) -> Vec<CloseReason> {
        self.0.lock().unwrap().clone()
    }
}

/// A router with one stream, created for each request.
fn router(make: impl Fn() -> EventSourceResponse + Clone + Send + Sync + 'static) -> Router {
    Router::new().route("/", get(move || std::future::ready(make())))
}

fn news() -> Channel {
    Channel::new("news").unwrap()
}

async fn whole_body(response: EventSourceResponse) -> String {
    let body = response.into_response().into_body().collect().await.unwrap();
    String::from_utf8(body.to_bytes().into()).unwrap()
}

/// The body without the IDs that the hub assigns, which differ in each run.
fn without_ids(body: &str) -> String {
    body.split_inclusive('\n').filter(|line| !line.starts_with("id: ")).collect()
}

#[tokio::test]
async fn the_bytes_of_a_stream_are_exact() {
    let events = [
        Event::new("one"),
        Event::new("two\nlines").with_name("n").unwrap().with_id("2").unwrap(),
        Event::new("").with_retry(Duration::from_millis(100)),
    ];
    let response = EventSourceResponse::from_stream(stream::iter(events)).retry(None);
    assert_eq!(
        whole_body(response).await,
        ":\n\ndata: one\n\nevent: n\nid: 2\ndata: two\ndata: lines\n\nretry: 100\ndata: \n\n"
    );
}

#[tokio::test]
async fn the_head_prevents_caching_and_buffering() {
    let response = EventSourceResponse::from_stream(stream::empty::<Event>()).into_response();
    let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(response.status(), 200);
    assert_eq!(header("content-type"), "text/event-stream");
    assert_eq!(header("cache-control"), "no-cache, no-transform");
    assert_eq!(header("x-accel-buffering"), "no");
    assert_eq!(response.headers().len(), 3);
}

#[tokio::test]
async fn retry_is_jittered() {
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..20 {
        let app =
            router(|| EventSourceResponse::from_stream(stream::empty::<Event>()).retry(SECOND));
        let mut client = SseClient::get(&app, "/").await.unwrap();
        assert!(client.next().await.unwrap().is_none());
        let retry = client.retry().expect("retry");
        assert!(retry >= SECOND && retry <= SECOND * 3 / 2, "{retry:?}");
        seen.insert(retry);
    }
    assert!(seen.len() > 5, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn heartbeats_are_sent_only_when_idle() {
    let hub = Hub::in_memory();
    let subscription_hub = hub.clone();
    let app =
        router(move || EventSourceResponse::new(subscription_hub.subscribe([news()]).unwrap()));
    let mut client = SseClient::get(&app, "/").await.unwrap().with_timeout(60 * SECOND);
    assert_eq!(client.next_item().await.unwrap(), Some(Item::Comment(String::new())));
    assert!(matches!(client.next_item().await.unwrap(), Some(Item::Retry(_))));

    let opened = Instant::now();
    assert_eq!(client.next_item().await.unwrap(), Some(Item::Comment(String::new())));
    assert_eq!(opened.elapsed().as_secs(), 15);

    // An event at second 25 postpones the next heartbeat to second 40.
    tokio::time::sleep(10 * SECOND).await;
    hub.publish(&news(), Event::new("x")).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap().data, "x");
    assert_eq!(client.next_item().await.unwrap(), Some(Item::Comment(String::new())));
    assert_eq!(opened.elapsed().as_secs(), 40);
}

#[tokio::test(start_paused = true)]
async fn heartbeats_can_be_events_or_off() {
    let heartbeat = Event::new("").with_name("heartbeat").unwrap();
    let app = router(move || {
        EventSourceResponse::from_stream(stream::pending::<Event>())
            .heartbeat(Heartbeat::event(&heartbeat).every(3 * SECOND))
    });
    let mut client = SseClient::get(&app, "/").await.unwrap();
    let started = Instant::now();
    assert_eq!(client.next().await.unwrap().unwrap().name, "heartbeat");
    assert_eq!(started.elapsed().as_secs(), 3);

    let app = router(|| {
        EventSourceResponse::from_stream(stream::pending::<Event>()).heartbeat(None).retry(None)
    });
    let mut client = SseClient::get(&app, "/").await.unwrap().with_timeout(1000 * SECOND);
    client.next_item().await.unwrap();
    assert!(client.next_item().await.unwrap_err().to_string().contains("nothing received"));
}

#[tokio::test(start_paused = true)]
async fn a_lifetime_ends_the_stream_and_the_client_reconnects() {
    let reason = Reason::default();
    let noted = reason.clone();
    let app = router(move || {
        let response = EventSourceResponse::from_stream(stream::pending::<Event>());
        noted.note(response.lifetime_max(100 * SECOND).retry(SECOND))
    });
    let mut client = SseClient::get(&app, "/").await.unwrap().with_timeout(200 * SECOND);
    let started = Instant::now();
    assert!(client.next().await.unwrap().is_none());
    assert!((90..=100).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    assert_eq!(reason.get(), [CloseReason::Lifetime]);
    assert!(client.retry().is_some());
}

#[tokio::test]
async fn an_error_of_the_stream_ends_it() {
    let reason = Reason::default();
    let items = vec![Ok(Event::new("good")), Err("bad"), Ok(Event::new("never"))];
    let response = reason.note(EventSourceResponse::from_stream(stream::iter(items)).retry(None));
    assert_eq!(whole_body(response).await, ":\n\ndata: good\n\n");
    assert_eq!(reason.get(), [CloseReason::SourceError]);
}

#[tokio::test]
async fn every_end_is_reported_once_with_its_reason() {
    let reason = Reason::default();
    whole_body(reason.note(EventSourceResponse::from_stream(stream::iter([Event::new("x")]))))
        .await;
    assert_eq!(reason.get(), [CloseReason::Finished]);

    let reason = Reason::default();
    drop(reason.note(EventSourceResponse::from_stream(stream::pending::<Event>())).into_response());
    assert_eq!(reason.get(), [CloseReason::ClientGone]);

    let hub = Hub::in_memory();
    let reason = Reason::default();
    let response = reason.note(EventSourceResponse::new(hub.subscribe([news()]).unwrap()));
    hub.publish(&news(), Event::new("last")).await.unwrap();
    hub.drain();
    let body = whole_body(response).await;
    assert!(body.contains("data: last\n\nretry: "), "{body:?}");
    assert_eq!(reason.get(), [CloseReason::Drain]);
    assert_eq!(hub.stats().streams_ended.by(CloseReason::Drain), 1);
    assert_eq!(hub.streams(), 0);
}

#[tokio::test]
async fn until_ends_a_stream_that_is_not_a_subscription() {
    let (stop, stopped) = oneshot::channel::<()>();
    let reason = Reason::default();
    let response = EventSourceResponse::from_stream(stream::pending::<Event>())
        .until(async { drop(stopped.await) });
    let body = tokio::spawn(whole_body(reason.note(response)));
    stop.send(()).unwrap();
    assert!(body.await.unwrap().ends_with("\n\n"));
    assert_eq!(reason.get(), [CloseReason::Drain]);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_is_no_longer_polled_is_stalled() {
    let hub = Hub::in_memory();
    let reason = Reason::default();
    let response = EventSourceResponse::new(hub.subscribe([news()]).unwrap());
    let mut body = reason.note(response.send_timeout(10 * SECOND)).into_response().into_body();
    // An idle stream is not stalled, however long it is idle: heartbeats are still polled.
    let started = Instant::now();
    while started.elapsed() < 120 * SECOND {
        body.frame().await.unwrap().unwrap();
    }
    assert_eq!(reason.get(), []);
    tokio::time::sleep(9 * SECOND).await;
    assert_eq!(reason.get(), []);
    tokio::time::sleep(12 * SECOND).await;
    assert_eq!(reason.get(), [CloseReason::Stalled]);
    assert_eq!(hub.streams(), 0);
    assert!(body.frame().await.is_none());
}

#[tokio::test]
async fn frames_can_be_filtered() {
    let hub = Hub::in_memory();
    let subscription = hub.subscribe([news()]).unwrap();
    for text in ["keep 1", "drop", "keep 2"] {
        hub.publish(&news(), Event::new(text)).await.unwrap();
    }
    hub.drain();
    let filtered =
        subscription.filter(|frame| std::future::ready(frame.event().data().starts_with("keep")));
    let body = whole_body(EventSourceResponse::from_stream(filtered).retry(None)).await;
    assert_eq!(without_ids(&body), ":\n\ndata: keep 1\n\ndata: keep 2\n\n");
}

#[tokio::test]
async fn channels_name_events_if_enabled() {
    let hub = Hub::in_memory();
    let subscription = hub.subscribe([news()]).unwrap();
    hub.publish(&news(), Event::new("a")).await.unwrap();
    hub.publish(&news(), Event::new("b").with_name("named").unwrap()).await.unwrap();
    hub.drain();
    let response = EventSourceResponse::new(subscription).name_by_channel(true).retry(None);
    let body = without_ids(&whole_body(response).await);
    assert_eq!(body, ":\n\nevent: news\ndata: a\n\nevent: named\ndata: b\n\n");
}

#[tokio::test]
async fn the_test_client_is_strict() {
    let app = |body: &'static str| {
        let response = move || async move {
            ([("content-type", "text/event-stream"), ("cache-control", "no-cache")], body)
        };
        Router::new().route("/", get(response))
    };
    for (body, part) in [
        ("data: x\n", "within an event"),
        ("data: x", "within an event"),
        ("data: x\r\n\r\n", "CR"),
        ("data:x\n\n", "no space"),
        ("date: x\n\n", "unknown field"),
        ("data\n\n", "no colon"),
    ] {
        let mut client = SseClient::get(&app(body), "/").await.unwrap();
        let error = loop {
            match client.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("{body:?} was accepted"),
                Err(error) => break error.to_string(),
            }
        };
        assert!(error.contains(part), "{body:?}: {error}");
    }
    let mut client = SseClient::get(&app("data: x\n\n"), "/").await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap().data, "x");
    assert!(client.next().await.unwrap().is_none());
    let plain = Router::new().route("/", get(|| async { "hello" }));
    let error = SseClient::get(&plain, "/").await.unwrap_err();
    assert!(error.to_string().contains("content-type"), "{error}");
    let error = SseClient::get(&plain, "/nowhere").await.unwrap_err();
    assert!(error.to_string().contains("404"), "{error}");
}

#[tokio::test]
async fn a_client_can_send_headers() {
    let app = Router::new()
        .route(
            "/",
            get(
                |headwater::LastEventId(id): headwater::LastEventId,
                 Extension(tag): Extension<&'static str>| async move {
                    EventSourceResponse::from_stream(stream::iter([Event::json(&(id, tag))]))
                },
            ),
        )
        .layer(Extension("tag"));
    let request =
        http::Request::get("/").header("last-event-id", "41").body(Body::empty()).unwrap();
    let mut client = SseClient::request(&app, request).await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap().data, r#"["41","tag"]"#);
}
