//! The examples over a real Redis. Look here when an example changes that uses Redis.

use headwater_test_support::{EventStream, RedisServer, eventually, http};
use serde_json::json;

use crate::example::{Answer, Example, ask, message, publish_message, resume};

#[tokio::test]
async fn axum_app_publishes_and_counts_over_one_redis() {
    let redis = RedisServer::start();
    let url = redis.url();
    let app = Example::start("axum_app", &[("REDIS_URL", &url)]).await;
    let mut stream = EventStream::open(app.address, "/events?room=lobby").await;
    eventually("the broker has subscribed to the channel", || async {
        redis.run::<Vec<String>>(&["PUBSUB", "CHANNELS", "lobby"]) == ["lobby"]
    })
    .await;

    redis.publish("lobby", &message("from redis-cli"));
    assert_eq!(stream.next().await.expect("an event").data, r#"{"text":"from redis-cli"}"#);
    for count in 1..=2 {
        let answer = publish_message(app.address, "hi").await;
        assert_eq!(answer.json(), json!({ "count": count }));
        assert_eq!(stream.next().await.expect("an event").data, r#"{"text":"hi"}"#);
    }
}

#[tokio::test]
async fn ai_answer_is_stopped_on_request_and_not_by_a_disconnect() {
    let redis = RedisServer::start();
    let variables: &[(&str, &str)] = &[("REDIS_URL", &redis.url()), ("TOKEN_MS", "50")];
    let app = Example::start("ai_answer", variables).await;
    let other = Example::start("ai_answer", variables).await;
    let path = ask(&app).await;

    let mut stream = EventStream::open(app.address, &path).await;
    let start = Answer::default().read(&mut stream, 2).await;
    drop(stream);
    // A second device, on another node: the answer continues.
    let mut stream = EventStream::open(other.address, &path).await;
    let more = Answer::default().read(&mut stream, 4).await;
    assert!(more.text.starts_with(&start.text) && more.end.is_none(), "{more:?}");
    let stopped = http::post(other.address, &format!("{path}/stop"), b"").await;
    assert_eq!(stopped.status, 204, "{}", stopped.text());
    let stopped = Answer::default().read(&mut stream, usize::MAX).await;
    assert_eq!(stopped.end.as_deref(), Some("stopped"));

    let again = http::post(app.address, &format!("{path}/stop"), b"").await;
    assert_eq!(again.status, 204, "{}", again.text());
    assert_eq!(resume(&app, &path, &stopped.last_id).await.status, 204);
}
