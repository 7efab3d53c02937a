//! How many commands of Redis a request costs, and how long they take. Look here for what counts as
//! a command; `../it/prices.rs` has the rest of the prices.

use headwater_server::router::ROUTES;
use headwater_test_support::{EventStream, Node, RedisServer, http};
use serde_json::json;

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, token};

/// How long a command may take Redis on average: its commands are short, and this machine is
/// shared.
const COMMAND_US_MAX: f64 = 1_000.0;

/// Commands that the node sends of its own accord meanwhile.
const OF_NODE: f64 = 8.0;

/// What a node sends to publish. The function calls others, which count in its time.
const OF_PUBLISHING: &[&str] = &["fcall", "evalsha"];

/// What a node sends on behalf of any other request.
const OF_OTHERS: &[&str] = &[
    "fcall",
    "fcall_ro",
    "evalsha",
    "getdel",
    "set",
    "time",
    "zadd",
    "zremrangebyscore",
    "zremrangebyrank",
];

/// How often Redis has executed these, and in how many microseconds.
fn executed(redis: &RedisServer, names: &[&str]) -> (f64, f64) {
    let info: String = redis.run(&["INFO", "commandstats"]);
    let (mut calls, mut us) = (0.0, 0.0);
    for line in info.lines() {
        let Some((name, numbers)) = line.trim().split_once(':') else { continue };
        if !names.contains(&name.trim_start_matches("cmdstat_")) {
            continue;
        }
        let number = |wanted: &str| {
            let mut fields = numbers.split(',').filter_map(|field| field.split_once('='));
            let found = fields.find(|(name, _)| *name == wanted);
            found.and_then(|(_, value)| value.parse::<f64>().ok()).unwrap_or_default()
        };
        calls += number("calls");
        us += number("usec");
    }
    (calls, us)
}

#[tokio::test]
async fn every_route_sends_redis_no_more_commands_than_its_price() {
    let redis = RedisServer::start();
    let secret = SecretFile::new();
    let arguments = ["--redis", &redis.url(), "--jwt-secret-file", secret.path()];
    let node = Node::start_quiet(BINARY, &arguments);
    node.wait_until_ready().await;
    let mut grants = claims(&["*"], &["*"]);
    grants["headwater"]["admin"] = json!(true);
    let bearer = format!("Bearer {}", token(&grants));
    let headers = [("authorization", &*bearer), ("content-type", "application/x-ndjson")];
    let mut lines = String::new();
    for number in 0..1_000 {
        lines += &format!("{{\"channel\":\"c{number}\",\"data\":1}}\n");
    }
    for route in ROUTES {
        let path = match route.path {
            "/admin/streams" => "/admin/streams?user=ann".to_owned(),
            "/sse/publish" => route.path.to_owned(),
            path => format!("{}?channel=c1", path.replace("{file}", "info")),
        };
        let method = route.methods.split(", ").next().expect("a method");
        let is_publishing = route.path == "/sse/publish";
        let names = if is_publishing { OF_PUBLISHING } else { OF_OTHERS };
        let before = executed(&redis, names);
        let mut stream = None;
        let status = if route.path == "/sse/stream" {
            let open = EventStream::open_with(node.address(), &path, &headers, None).await;
            let status = open.status;
            stream = Some(open);
            status
        } else {
            let body = if is_publishing { lines.as_bytes() } else { b"" };
            http::request(node.address(), method, &path, &headers, body).await.status
        };
        assert!(status < 400, "{path}: {status}");
        let after = executed(&redis, names);
        let (calls, us) = (after.0 - before.0, after.1 - before.1);
        println!("{path}: {calls} commands, {us} us");
        // A batch has one for each event, and this one has a tenth of the most. Besides, the node
        // looks after its own state now and then.
        let part = if is_publishing { 10 } else { 1 };
        let most = u32::try_from(route.price.redis_commands / part).expect("a few");
        let most = f64::from(most) + OF_NODE;
        assert!(calls <= most, "{path}: {calls} commands, allowed {most}");
        assert!(us <= most * COMMAND_US_MAX, "{path}: {us} us");
        drop(stream);
    }
}
