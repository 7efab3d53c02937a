//! `headwater publish` and `subscribe` with `--redis`. Look here for what they do without a server.

use headwater_test_support::RedisServer;
use tokio::time::timeout;

use crate::support::command_line::{DEADLINE, headwater, outcome, run, wait_for_notice};

#[tokio::test]
async fn publish_and_subscribe_connect_to_redis_directly() {
    let redis = RedisServer::start();
    let url = redis.url();
    let with = async |arguments: &[&str]| {
        let (code, output, error) = run(&[arguments, &["--redis", &url]].concat()).await;
        assert_eq!(code, 0, "{arguments:?}: {error}");
        output
    };
    redis.run::<()>(&["SET", "headwater:{0}:rules", "* 7 9000 9000"]);
    let arguments = ["subscribe", "news", "other", "--json", "--redis", &url];
    let mut subscriber = headwater(&arguments).spawn().expect("it runs");
    wait_for_notice(&mut subscriber, "connected to").await;
    let first = with(&["publish", "news", "one", "--key", "k"]).await;
    assert_eq!(with(&["publish", "news", "twice", "--key", "k"]).await, first);
    with(&["publish", "other", "two", "--event", "greeting", "--id", "7", "--end"]).await;
    with(&["publish", "news", "three", "--end"]).await;
    let output = timeout(DEADLINE, subscriber.wait_with_output()).await.expect("it ends");
    let (code, output, error) = outcome(output.expect("it is read"));
    assert_eq!(code, 0, "it ends with its channels: {error}");
    let id = first.trim_end().strip_prefix("published to news as ").expect("an id");
    let lines: Vec<_> = output.lines().collect();
    let expected = format!(r#"{{"channel":"news","event":"message","id":"{id}","data":"one"}}"#);
    assert_eq!(lines[0], expected);
    assert_eq!(lines[1], r#"{"channel":"other","event":"greeting","id":"7","data":"two"}"#);
    assert!(lines[2].ends_with(r#""data":"three"}"#) && lines.len() == 3, "{output}");

    assert!(with(&["subscribe", "news", "--last-event-id", id]).await.ends_with(": three\n"));
    assert!(with(&["subscribe", "news", "--rewind", "1"]).await.ends_with(": three\n"));
    assert_eq!(with(&["subscribe", "news", "--rewind", "all"]).await.lines().count(), 2);
    assert_eq!(with(&["subscribe", "news", "other"]).await, "", "both are finished");
    let gap = with(&["subscribe", "news", "--last-event-id", "unknown"]).await;
    assert_eq!(gap, "news: GAP: events are missing: the last event id is not known\n");
    let rules: String = redis.run(&["GET", "headwater:{0}:rules"]);
    assert_eq!(rules, "* 7 9000 9000", "the command line leaves the nodes' rules alone");
}
