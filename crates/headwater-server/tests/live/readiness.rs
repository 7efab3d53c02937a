//! Readiness for each state in which Redis does not do what a node needs: which part fails and why,
//! and that it works again once the cause is gone. Look here for the table of causes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headwater_test_support::http::{self, Answer};
use headwater_test_support::{EventStream, Node, RedisServer, eventually};

use crate::support::BINARY;

/// What is promised: readiness shows a cause, and its end, within this time.
const SHOWN_WITHIN: Duration = Duration::from_secs(10);

/// What is slow on a busy machine, beside that.
const TOLERANCE: Duration = Duration::from_secs(5);

/// A state of Redis, and what readiness shows.
struct Cause {
    name: &'static str,
    begin: fn(&mut RedisServer),
    end: fn(&mut RedisServer),
    /// The part that fails, and what its reason has.
    part: &'static str,
    reason: &'static str,
    /// Whether published events still arrive.
    delivers: bool,
}

/// Commands for Redis, each with spaces between its words.
fn run(redis: &RedisServer, commands: &[&str]) {
    for command in commands {
        redis.run::<redis::Value>(&command.split(' ').collect::<Vec<_>>());
    }
}

/// Runs a command that takes long.
fn start(redis: &RedisServer, words: &'static [&'static str]) {
    let mut connection = redis.connection();
    std::thread::spawn(move || {
        let mut command = redis::cmd(words[0]);
        // It may be killed.
        let _ = command.arg(&words[1..]).exec(&mut connection);
    });
}

const CAUSES: &[Cause] = &[
    Cause {
        name: "full",
        begin: |redis| run(redis, &["CONFIG SET maxmemory 1"]),
        end: |redis| run(redis, &["CONFIG SET maxmemory 0"]),
        part: "keeps",
        reason: "OOM: it has reached its maxmemory",
        delivers: true,
    },
    Cause {
        name: "replica",
        begin: |redis| run(redis, &["REPLICAOF 127.0.0.1 1"]),
        end: |redis| run(redis, &["REPLICAOF NO ONE"]),
        part: "keeps",
        reason: "READONLY: it is a replica",
        delivers: true,
    },
    Cause {
        name: "replica that has lost its primary",
        begin: |redis| {
            run(redis, &["CONFIG SET replica-serve-stale-data no", "REPLICAOF 127.0.0.1 1"]);
        },
        end: |redis| run(redis, &["REPLICAOF NO ONE"]),
        part: "reads",
        reason: "MASTERDOWN: it is a replica that has lost its primary",
        delivers: false,
    },
    Cause {
        name: "disk",
        begin: |redis| {
            // It cannot replace a directory.
            let dump = redis.directory().join("dump.rdb");
            let _ = std::fs::remove_file(&dump);
            std::fs::create_dir(&dump).expect("a directory");
            save(redis, "err");
        },
        end: |redis| {
            std::fs::remove_dir(redis.directory().join("dump.rdb")).expect("a directory");
            save(redis, "ok");
        },
        part: "keeps",
        reason: "MISCONF: it cannot save its data",
        delivers: true,
    },
    Cause {
        name: "replicas",
        begin: |redis| run(redis, &["CONFIG SET min-replicas-to-write 1"]),
        end: |redis| run(redis, &["CONFIG SET min-replicas-to-write 0"]),
        part: "keeps",
        reason: "NOREPLICAS: it has fewer replicas",
        delivers: true,
    },
    Cause {
        name: "script",
        begin: |redis| {
            run(redis, &["CONFIG SET busy-reply-threshold 100"]);
            start(redis, &["EVAL", "while true do end", "0"]);
        },
        end: |redis| run(redis, &["SCRIPT KILL"]),
        part: "keeps",
        reason: "BUSY: it is executing a script",
        delivers: false,
    },
    Cause {
        name: "loading",
        begin: |redis| {
            // 20 s, unless it ends before.
            run(redis, &["DEBUG POPULATE 2000 key 1024", "CONFIG SET key-load-delay 10000"]);
            start(redis, &["DEBUG", "RELOAD"]);
        },
        end: |redis| run(redis, &["CONFIG SET key-load-delay 0"]),
        part: "reads",
        reason: "LOADING: it is loading its data",
        delivers: false,
    },
    Cause {
        name: "a permission to publish",
        begin: |redis| run(redis, &["ACL SETUSER default -publish"]),
        end: |redis| run(redis, &["ACL SETUSER default +@all"]),
        part: "delivers",
        reason: "NOPERM: its ACL denies this",
        delivers: false,
    },
    Cause {
        name: "a permission to write",
        begin: |redis| run(redis, &["ACL SETUSER default -xadd"]),
        end: |redis| run(redis, &["ACL SETUSER default +@all"]),
        part: "keeps",
        reason: "NOPERM: its ACL denies this",
        delivers: true,
    },
    Cause {
        name: "a permission to read",
        begin: |redis| run(redis, &["ACL SETUSER default -xrevrange"]),
        end: |redis| run(redis, &["ACL SETUSER default +@all"]),
        part: "reads",
        reason: "NOPERM: its ACL denies this",
        delivers: true,
    },
    // Redis ends the connections of a user that may no longer subscribe to what they have.
    Cause {
        name: "all subscriptions",
        begin: |redis| run(redis, &["ACL SETUSER default resetchannels"]),
        end: |redis| run(redis, &["ACL SETUSER default allchannels"]),
        part: "delivers",
        reason: "Redis refuses to subscribe to the probe's channel",
        delivers: false,
    },
    Cause {
        name: "the subscription to a channel",
        begin: |redis| {
            let allowed =
                "ACL SETUSER default resetchannels &headwater:probe:* &headwater:revoked:*";
            run(redis, &[allowed]);
        },
        end: |redis| run(redis, &["ACL SETUSER default allchannels"]),
        part: "delivers",
        reason: "Redis denies subscribing to channels, of which news is one",
        delivers: false,
    },
    Cause {
        name: "the subscription to revocations",
        begin: |redis| {
            let allowed =
                "ACL SETUSER default resetchannels &headwater:probe:* &headwater:{0}:* &news";
            run(redis, &[allowed]);
        },
        end: |redis| run(redis, &["ACL SETUSER default allchannels"]),
        part: "access",
        reason: "Redis refuses to subscribe to headwater:revoked",
        delivers: true,
    },
    Cause {
        name: "frozen",
        begin: |redis| redis.freeze(),
        end: |redis| redis.thaw(),
        part: "delivers",
        reason: "Redis",
        delivers: false,
    },
    Cause {
        name: "stopped",
        begin: RedisServer::kill,
        end: RedisServer::restart,
        part: "delivers",
        reason: "Redis",
        delivers: false,
    },
];

/// Saves the data, and waits for the outcome.
fn save(redis: &RedisServer, outcome: &str) {
    run(redis, &["BGSAVE"]);
    let outcome = format!("rdb_last_bgsave_status:{outcome}");
    headwater_test_support::wait_for("the data is saved, or not", || {
        let info = redis.run::<String>(&["INFO", "persistence"]);
        info.contains("rdb_bgsave_in_progress:0") && info.contains(&outcome)
    });
}

async fn ready(node: &Node, path: &str) -> Answer {
    http::get(node.address(), path).await
}

/// What the answer shows of a part.
fn failure(answer: &Answer, part: &str) -> Option<String> {
    let part = &answer.json()["parts"][part];
    let is_failed = part["state"] == "failed";
    is_failed.then(|| part["reason"].as_str().expect("a failed part has a reason").to_owned())
}

async fn check(cause: &Cause) {
    let Cause { name, part, reason, .. } = *cause;
    let mut redis = RedisServer::start_with(&[
        "--save",
        "3600 1000000",
        "--enable-debug-command",
        "local",
        "--loading-process-events-interval-bytes",
        "1024",
    ]);
    let node = Node::start(BINARY, &["--redis", &redis.url()]);
    node.wait_until_ready().await;
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    let answer = ready(&node, "/health/ready").await;
    assert_eq!(answer.json()["parts"][part]["state"], "ok", "{name}: {}", answer.text());

    let begun = Instant::now();
    tokio::task::block_in_place(|| (cause.begin)(&mut redis));
    let is_shown = async || {
        let answer = ready(&node, "/health/ready").await;
        answer.status == 503 && failure(&answer, part).is_some_and(|it| it.contains(reason))
    };
    eventually(&format!("{name}: {part} fails, since {reason}"), is_shown).await;
    println!("{name}: shown after {:?}", begun.elapsed());
    assert!(begun.elapsed() < SHOWN_WITHIN + TOLERANCE, "{name}: {:?}", begun.elapsed());
    let answer = ready(&node, "/health/ready").await;
    assert!(answer.problem(503).contains(part), "{name}: {}", answer.text());
    node.wait_for_metric(&format!("headwater_ready{{part=\"{part}\"}}"), 0.0).await;
    let path = format!("/health/ready?parts={part}");
    assert_eq!(ready(&node, &path).await.status, 503, "{name}: {path}");
    assert_eq!(ready(&node, "/health/live").await.status, 200);
    // A stream that opens meanwhile gets what is published later, too.
    let mut late = EventStream::open(node.address(), "/sse/stream?channel=late").await;
    if cause.delivers {
        // It may have just reconnected.
        let delivers = async || ready(&node, "/health/ready?parts=delivers").await.status == 200;
        eventually(&format!("{name}: events are delivered"), delivers).await;
    }

    let ended = Instant::now();
    tokio::task::block_in_place(|| (cause.end)(&mut redis));
    let is_ready = async || ready(&node, "/health/ready").await.status == 200;
    eventually(&format!("{name}: ready again"), is_ready).await;
    println!("{name}: ready again after {:?}", ended.elapsed());
    assert!(ended.elapsed() < SHOWN_WITHIN + TOLERANCE, "{name}: {:?}", ended.elapsed());
    // Ready means that events are accepted, retained, and arrive on streams that were open.
    for (stream, channel) in [(&mut stream, "news"), (&mut late, "late")] {
        let path = format!("/sse/publish?channel={channel}");
        let answer = http::post(node.address(), &path, b"again").await;
        assert_eq!(answer.status, 200, "{name}: {}", answer.text());
        loop {
            let message = stream.next().await;
            let message = message.unwrap_or_else(|end| panic!("{name}, {channel}: {end:?}"));
            if message.data == "again" {
                break;
            }
            assert_eq!(message.name, "headwater-gap", "{name}, {channel}: {}", message.data);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readiness_shows_why_a_part_fails_and_when_it_works_again() {
    // Several at a time: most of them wait.
    let permits = Arc::new(tokio::sync::Semaphore::new(5));
    let mut checks = tokio::task::JoinSet::new();
    for cause in CAUSES {
        let permits = Arc::clone(&permits);
        checks.spawn(async move {
            let _permit = permits.acquire().await.expect("an open semaphore");
            check(cause).await;
        });
    }
    checks.join_all().await;
}

/// Redis denies the channel when the stream opens: what is published until it is allowed is not
/// received, and the stream gets a gap event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_a_channel_that_is_denied_at_first_gets_a_gap_event() {
    let redis = RedisServer::start();
    let allow = "ACL SETUSER default resetchannels &headwater:probe:* &headwater:revoked:* &old \
                 &headwater:{0}:old &headwater:{0}:headwater";
    run(&redis, &[allow]);
    let node = Node::start(BINARY, &["--redis", &redis.url()]);
    node.wait_until_ready().await;
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=new").await;
    run(&redis, &["ACL SETUSER default &headwater:{0}:new"]);
    for number in 0..3 {
        // Redis denies the other name of the channel, so the node does not receive it.
        let path = "/sse/publish?channel=new";
        let answer = http::post(node.address(), path, format!("{number}").as_bytes()).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    run(&redis, &["ACL SETUSER default allchannels"]);
    let message = stream.next().await.expect("an open stream");
    assert_eq!(message.name, "headwater-gap", "{}", message.data);
    node.wait_for_metric("headwater_redis_channels_confirmed", 1.0).await;
    http::post(node.address(), "/sse/publish?channel=new", b"after").await;
    assert_eq!(stream.next().await.expect("an open stream").data, "after");
}
