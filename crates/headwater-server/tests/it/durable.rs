//! A node that is killed while it publishes, and restarted with its directory. And a full disk.
//! HEADWATER_TEST_FULL=1 kills it 10 times instead of 3.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::time::Duration;

use headwater_test_support::{EventStream, Node, PATIENCE, eventually, http, stable_port};
use tempfile::TempDir;

use crate::support::BINARY;
use crate::support::follower::{Follower, Wire};
use crate::support::kills::{KEEP, check};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_killed_loses_nothing_with_a_directory() {
    let directory = TempDir::new().expect("a directory");
    let data = directory.path().join("data");
    check(&["--data", data.to_str().expect("UTF-8"), "--retention", KEEP]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_directory_a_restart_is_a_gap() {
    let listen = format!("127.0.0.1:{}", stable_port());
    let mut node = Node::start_on(BINARY, &listen, &[]);
    let mut follower = Follower::open(&node, Wire::Http1, "/sse/stream?channel=a").await;
    http::post(node.address(), "/sse/publish?channel=a", b"0").await;
    follower.read_to(0).await;
    node.signal("KILL");
    node.wait_for_end(PATIENCE);
    node = Node::start_on(BINARY, &listen, &[]);
    follower.go_away();
    follower.resume().await;
    http::post(node.address(), "/sse/publish?channel=a", b"1").await;
    follower.read_to(1).await;
    assert_eq!(follower.gaps(), [("a".to_owned(), "epoch".to_owned())]);
    assert_eq!(follower.got.len(), 3);
}

#[tokio::test]
async fn only_its_owner_can_read_what_is_stored() {
    let directory = TempDir::new().expect("a directory");
    let mode = |path: &std::path::Path| {
        std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    };
    // One that is there already, and one that is not.
    let (there, new) = (directory.path().join("there"), directory.path().join("a/new"));
    std::fs::create_dir(&there).expect("a directory");
    std::fs::set_permissions(&there, PermissionsExt::from_mode(0o755)).expect("permissions");
    for data in [&there, &new] {
        for _ in 0..2 {
            let arguments = ["--data", data.to_str().expect("UTF-8")];
            let mut node = Node::start(BINARY, &arguments);
            http::post(node.address(), "/sse/publish?channel=a&end=1", b"secret").await;
            node.signal("TERM");
            node.wait_for_end(PATIENCE);
            let files = std::fs::read_dir(data).expect("it is there");
            let files: Vec<_> = files.map(|file| file.expect("a file").path()).collect();
            assert!(files.len() >= 3, "{files:?}");
            for file in files {
                assert_eq!(mode(&file), 0o600, "{}", file.display());
                // As an older version left it.
                std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).expect("a mode");
            }
        }
    }
    assert_eq!((mode(&there), mode(&new), mode(new.parent().expect("a"))), (0o755, 0o700, 0o700));
}

/// A file that cannot grow stands for a disk that is full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_fails_the_publish_and_leaves_streams_open() {
    let directory = TempDir::new().expect("a directory");
    let limited = directory.path().join("limited");
    // 1,000 blocks are 500 or 1,000 KiB, as the shell counts. The signal of the limit is ignored,
    // or it kills.
    let script =
        format!("#!/bin/sh\ntrap '' XFSZ && ulimit -S -f 1000 && exec '{BINARY}' \"$@\"\n");
    std::fs::write(&limited, script).expect("a file");
    std::fs::set_permissions(&limited, PermissionsExt::from_mode(0o755)).expect("its permissions");
    let data = directory.path().join("data");
    let arguments = ["--data", data.to_str().expect("UTF-8"), "--heartbeat", "1s"];
    let mut node = Node::start(limited.to_str().expect("UTF-8"), &arguments);
    let path = "/sse/stream?channel=a";
    let mut stream = EventStream::open(node.address(), path).await;
    let mut taken = Vec::new();
    let refused = loop {
        let data = format!("{} {}", taken.len(), "x".repeat(100_000));
        let answer = http::post(node.address(), "/sse/publish?channel=a", data.as_bytes()).await;
        if answer.status != 200 {
            break answer;
        }
        taken.push(data);
        assert!(taken.len() < 20, "the disk is never full");
    };
    let detail = refused.problem(503);
    assert!(detail.contains("the store cannot write"), "{detail}");
    let unready = http::get(node.address(), "/health/ready").await;
    assert!(unready.problem(503).contains("keeps: the store cannot write"), "{}", unready.text());
    assert!(!taken.is_empty());
    for data in &taken {
        assert_eq!(stream.next().await.expect("an open stream").data, *data);
    }
    // It stays open, quiet and alive; a new one opens, and gets the history.
    assert!(stream.next_item().await.is_ok(), "a heartbeat");
    let mut late = EventStream::open(node.address(), "/sse/stream?channel=a&rewind=all").await;
    assert_eq!(late.next().await.expect("an open stream").data, taken[0]);
    // With room again, the node is ready, whether or not anything is published.
    let process_id = node.process_id().to_string();
    let mut raise = Command::new("prlimit");
    raise.args(["--pid", &process_id, "--fsize=unlimited:unlimited"]);
    assert!(raise.status().expect("prlimit, of util-linux").success());
    eventually("the node is ready", || async {
        http::get(node.address(), "/health/ready").await.status == 200
    })
    .await;
    // After a restart, everything that was acknowledged is there, and nothing else.
    node.signal("TERM");
    node.wait_for_end(PATIENCE);
    let node = Node::start(BINARY, &arguments);
    let mut after = EventStream::open(node.address(), "/sse/stream?channel=a&rewind=all").await;
    for data in &taken {
        assert_eq!(after.next().await.expect("an open stream").data, *data);
    }
    assert_eq!(after.next_within(Duration::from_millis(50)).await, None);
    assert_eq!(http::post(node.address(), "/sse/publish?channel=a", b"room").await.status, 200);
    assert_eq!(after.next().await.expect("an open stream").data, "room");
}
