//! A node that has run out of descriptors: its streams go on, new ones wait, and the log says it
//! once.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use headwater_test_support::{EventStream, Node, PATIENCE, eventually, http};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::BINARY;

const DESCRIPTORS: usize = 100;
const PATH: &str = "/sse/stream?channel=news";

#[tokio::test]
async fn streams_go_on_and_new_ones_wait_when_descriptors_run_out() {
    let directory = tempfile::tempdir().expect("a directory");
    let script = directory.path().join("headwater");
    let text = format!("#!/bin/sh\nulimit -n {DESCRIPTORS}\nexec {BINARY} \"$@\"\n");
    std::fs::write(&script, text).expect("the script");
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).expect("it can be run");
    let script = script.to_str().expect("a path in UTF-8");
    let node = Node::start(script, &["--shards", "1", "--header-timeout", "60s"]);

    // A connection to publish on, since a new one would not be taken.
    let mut publisher = TcpStream::connect(node.address()).await.expect("the server listens");
    let mut streams = Vec::new();
    let waiting = loop {
        assert!(streams.len() < DESCRIPTORS, "there is no limit");
        let mut opening = tokio::spawn(EventStream::try_open(node.address(), PATH, &[], None));
        match timeout(Duration::from_millis(700), &mut opening).await {
            Ok(stream) => streams.push(stream.expect("it opens").expect("it is answered")),
            Err(_) => break opening,
        }
    };
    assert!(streams.len() > DESCRIPTORS / 2, "{} streams", streams.len());
    node.wait_for_log("cannot accept connections");

    let publish = "POST /sse/publish?channel=news HTTP/1.1\r\nhost: [::1]\r\nconnection: close\r\n\
                   content-length: 2\r\n\r\nhi";
    publisher.write_all(publish.as_bytes()).await.expect("it is sent");
    assert_eq!(http::read_answer(&mut publisher).await.status, 200);
    for stream in &mut streams {
        assert_eq!(stream.next().await.expect("an open stream").data, "hi");
    }
    // Many attempts later.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(node.log().matches("cannot accept connections").count(), 1, "{}", node.log());

    streams.truncate(5);
    let stream = timeout(PATIENCE, waiting).await.expect("in time").expect("it opens");
    stream.expect("the one that waited is served");
    eventually("the node answers", || async {
        http::get(node.address(), "/health/live").await.status == 200
    })
    .await;
}
