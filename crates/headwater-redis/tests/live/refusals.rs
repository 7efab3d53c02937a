//! Publishing while Redis refuses it, for each reason: the error names the code, says that the
//! event was not accepted, and events are accepted again once the cause is gone. Look here for how
//! a Redis is put into each state.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use headwater_core::{Channel, Error, ErrorKind, Event, Hub, Receipt};
use headwater_redis::RedisBroker;
use headwater_test_support::{PATIENCE, RedisServer, eventually, wait_for};

async fn publish(hub: &Hub) -> Result<Receipt, Error> {
    hub.publish(&Channel::new("news").unwrap(), Event::new("data")).await
}

async fn hub(url: &str) -> Hub {
    let hub = Hub::new(RedisBroker::connect(url).unwrap());
    eventually("an event is accepted", async || publish(&hub).await.is_ok()).await;
    hub
}

/// Publishes while Redis is in a state, and again after that.
async fn check(
    hub: &Hub,
    (kind, code): (ErrorKind, &str),
    spoil: impl AsyncFnOnce(),
    cure: impl AsyncFnOnce(),
) {
    spoil().await;
    // Redis may need a moment until it refuses.
    let deadline = Instant::now() + PATIENCE;
    let error = loop {
        assert!(Instant::now() < deadline, "{code}: Redis never refused");
        match publish(hub).await {
            Err(error) if error.reason() != Some("lost") => break error,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    assert_eq!((error.kind(), error.reason()), (kind, Some(code)), "{error}");
    assert!(error.to_string().ends_with("; the event was not accepted"), "{error}");
    assert!(!error.to_string().contains("did not answer"), "{error}");
    cure().await;
    eventually("events are accepted again", async || publish(hub).await.is_ok()).await;
}

fn config(server: &RedisServer, name: &str, value: &str) {
    server.run::<()>(&["CONFIG", "SET", name, value]);
}

const UNAVAILABLE: ErrorKind = ErrorKind::Unavailable;
const DENIED: ErrorKind = ErrorKind::PermissionDenied;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn full_memory() {
    let server = RedisServer::start();
    let hub = hub(&server.url()).await;
    let set = async |value| config(&server, "maxmemory", value);
    check(&hub, (UNAVAILABLE, "OOM"), async || set("1").await, async || set("0").await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica() {
    let server = RedisServer::start();
    let hub = hub(&server.url()).await;
    let promote = async || server.run::<()>(&["REPLICAOF", "NO", "ONE"]);
    let demote = async || server.run::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    check(&hub, (UNAVAILABLE, "READONLY"), demote, promote).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn too_few_replicas() {
    let server = RedisServer::start();
    let hub = hub(&server.url()).await;
    let set = async |value| config(&server, "min-replicas-to-write", value);
    check(&hub, (UNAVAILABLE, "NOREPLICAS"), async || set("1").await, async || set("0").await)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_cannot_be_written() {
    let server = RedisServer::start();
    let hub = hub(&server.url()).await;
    let (_, directory): (String, String) = server.run(&["CONFIG", "GET", "dir"]);
    // A snapshot cannot replace a directory.
    let obstacle = PathBuf::from(directory).join("dump.rdb");
    let save = |expected: &str| {
        wait_for("a snapshot", || {
            server.run::<()>(&["SET", "key", "value"]);
            let info: String = server.run(&["INFO", "persistence"]);
            if info.contains(expected) {
                return true;
            }
            if info.contains("rdb_bgsave_in_progress:0") {
                server.run::<()>(&["BGSAVE"]);
            }
            false
        });
    };
    let spoil = async || {
        fs::create_dir(&obstacle).unwrap();
        let _: redis::RedisResult<()> = redis::cmd("BGSAVE").query(&mut server.connection());
        save("rdb_last_bgsave_status:err");
        config(&server, "save", "3600 1");
    };
    let cure = async || {
        fs::remove_dir(&obstacle).unwrap();
        config(&server, "save", "");
        save("rdb_last_bgsave_status:ok");
    };
    check(&hub, (UNAVAILABLE, "MISCONF"), spoil, cure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_permission_and_a_rejected_login() {
    let server = RedisServer::start();
    let all = ["~*", "&*", "+@all"];
    let url = server.add_user("app", "secret-of-app", &all);
    let hub = hub(&url).await;
    let deny = async || server.run::<()>(&["ACL", "SETUSER", "app", "-fcall", "-evalsha"]);
    let allow = async || server.run::<()>(&["ACL", "SETUSER", "app", "+fcall", "+evalsha"]);
    check(&hub, (DENIED, "NOPERM"), deny, allow).await;
    let remove = async || server.run::<()>(&["ACL", "DELUSER", "app"]);
    let add = async || drop(server.add_user("app", "secret-of-app", &all));
    check(&hub, (DENIED, "WRONGPASS"), remove, add).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_runs_for_too_long() {
    let server = RedisServer::start();
    let hub = hub(&server.url()).await;
    config(&server, "lua-time-limit", "50");
    let mut connection = server.connection();
    let endless = std::sync::Mutex::new(None);
    let spoil = async || {
        let thread = std::thread::spawn(move || {
            redis::cmd("EVAL").arg("while true do end").arg(0).query::<()>(&mut connection)
        });
        *endless.lock().unwrap() = Some(thread);
    };
    // `server.connection()` is not possible while Redis is busy.
    let mut killer = server.connection();
    let cure = async move || redis::cmd("SCRIPT").arg("KILL").exec(&mut killer).unwrap();
    check(&hub, (UNAVAILABLE, "BUSY"), spoil, cure).await;
    let thread = endless.lock().unwrap().take().unwrap();
    thread.join().unwrap().unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_that_is_being_loaded() {
    let server = RedisServer::start_with(&[
        "--save",
        "",
        "--enable-debug-command",
        "yes",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    let hub = hub(&server.url()).await;
    let mut fill = redis::pipe();
    for number in 0..4000 {
        fill.cmd("SET").arg(format!("key{number}")).arg("x".repeat(100)).ignore();
    }
    fill.query::<()>(&mut server.connection()).unwrap();
    // Microseconds for each key.
    config(&server, "key-load-delay", "200");
    let mut connection = server.connection();
    let reload = std::sync::Mutex::new(None);
    let spoil = async || {
        let thread =
            std::thread::spawn(move || redis::cmd("DEBUG").arg("RELOAD").exec(&mut connection));
        *reload.lock().unwrap() = Some(thread);
    };
    check(&hub, (UNAVAILABLE, "LOADING"), spoil, async || {}).await;
    let thread = reload.lock().unwrap().take().unwrap();
    thread.join().unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_does_not_serve_the_log() {
    let server = RedisServer::start_with(&["--save", "", "--cluster-enabled", "yes"]);
    let hub = Hub::new(RedisBroker::connect(&server.url()).unwrap());
    let cure = async || server.run::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    check(&hub, (UNAVAILABLE, "CLUSTERDOWN"), async || {}, cure).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_redis_may_have_accepted_the_event() {
    let server = RedisServer::start();
    let hub = hub(&server.url()).await;
    server.freeze();
    let error = publish(&hub).await.unwrap_err();
    server.thaw();
    assert_eq!((error.kind(), error.reason()), (UNAVAILABLE, Some("timeout")));
    assert!(error.to_string().contains("may have been accepted"), "{error}");
    eventually("events are accepted again", async || publish(&hub).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_redis_at_all() {
    let mut server = RedisServer::start();
    let hub = hub(&server.url()).await;
    server.kill();
    eventually("the loss is known", async || {
        publish(&hub).await.is_err_and(|error| error.reason() == Some("unreachable"))
    })
    .await;
    let started = Instant::now();
    let error = publish(&hub).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(1), "it fails at once");
    assert!(error.to_string().ends_with("; the event was not accepted"), "{error}");
    server.restart();
    eventually("events are accepted again", async || publish(&hub).await.is_ok()).await;
}
