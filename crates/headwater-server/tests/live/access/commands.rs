//! `headwater check` with a Redis. Look here for what it reports about one.

use headwater_test_support::{RedisServer, secrets};

use crate::support::commands::run;

#[tokio::test]
async fn check_examines_redis() {
    let redis = RedisServer::start();
    let check = async |url: &str| run(&["check", "--redis", url], &[]).await;
    let (code, text) = check(&redis.url()).await;
    assert_eq!(code, Some(0), "{text}");
    for part in [
        "version ",
        "may publish events, prove that events arrive",
        "headwater_publish is not there yet",
        "round trip ",
        "output limits for Pub/Sub are large enough",
        "plain PUBLISH messages of every Redis channel",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let _: redis::Value =
        redis.run(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 1024 60"]);
    let (_, text) = check(&redis.url()).await;
    assert!(text.contains("output limit for Pub/Sub is small"), "{text}");
    secrets::keep("p00r-s3cret");
    let poor = redis.add_user("poor", "p00r-s3cret", &["+@all", "~x", "resetchannels", "&x"]);
    let (code, text) = check(&poor).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("its user may not publish events"), "{text}");
    let (code, text) = check(&format!("redis://:p00r-s3cret@127.0.0.1:{}", redis.port())).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("cannot connect"), "{text}");
}
