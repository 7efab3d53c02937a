//! Abuse over HTTP/1.1: slow heads, slow bodies, silence, large heads, publishing without an end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use headwater_test_support::Node;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{BINARY, FLOOR, FLOOR_BUSY, alone, connect, until_closed, withstand};

/// What a connection with one request costs: hyper's buffers, the task, the socket's state.
const CONNECTION_BYTES: u64 = 64 << 10;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_send_their_head_byte_by_byte() {
    let _alone = alone().await;
    let node = Node::start_quiet(BINARY, &["--header-timeout", "1s"]);
    let address = node.address();
    let attackers = 500;
    let memory = attackers * CONNECTION_BYTES;
    let attack = |blows: Arc<AtomicU64>| async move {
        loop {
            let mut socket = connect(address).await;
            let mut head = b"GET /sse/stream HTTP/1.1\r\nhost: localhost\r\nx: "
                .iter()
                .chain([&b'x'].into_iter().cycle());
            // Closed by the header timeout, however steadily bytes come.
            while socket.write_all(&[*head.next().expect("endless")]).await.is_ok() {
                blows.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    };
    withstand("slow heads", &node, address, 500, memory, FLOOR_BUSY, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_send_their_body_byte_by_byte() {
    let _alone = alone().await;
    let node = Node::start_quiet(BINARY, &[]);
    let address = node.address();
    let memory = 500 * CONNECTION_BYTES;
    let attack = |blows: Arc<AtomicU64>| async move {
        let mut socket = connect(address).await;
        let head =
            b"POST /sse/publish HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8000000\r\n\r\n";
        socket.write_all(head).await.expect("it is sent");
        while socket.write_all(b"x").await.is_ok() {
            blows.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    withstand("slow bodies", &node, address, 500, memory, FLOOR_BUSY, attack).await;
}

/// 40 bodies of 8 MB that never end would be 320 MB.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_bodies_that_do_not_end() {
    let _alone = alone().await;
    let node = Node::start_quiet(BINARY, &[]);
    let address = node.address();
    // What all bodies together may hold; and twice as much again, because a body that grows is
    // copied to a larger place, and the allocator keeps the smaller one for a while.
    let memory = 3 * (64 << 20) + 40 * CONNECTION_BYTES;
    let refused = Arc::new(AtomicU64::new(0));
    let attack = |blows: Arc<AtomicU64>| {
        let refused = Arc::clone(&refused);
        async move {
            let mut socket = connect(address).await;
            let head =
                b"POST /sse/publish HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8000000\r\n\r\n";
            socket.write_all(head).await.expect("it is sent");
            let sent = socket.write_all(&vec![b'x'; 7_900_000]).await;
            blows.fetch_add(1, Ordering::Relaxed);
            let mut answer = [0; 12];
            if sent.is_err()
                || socket.read_exact(&mut answer).await.is_err()
                || &answer == b"HTTP/1.1 503"
            {
                refused.fetch_add(1, Ordering::Relaxed);
            }
            std::future::pending::<()>().await;
        }
    };
    withstand("large bodies", &node, address, 40, memory, FLOOR, attack).await;
    let refused = refused.load(Ordering::Relaxed);
    // 40 in each round; 8 fit into the room.
    assert!(refused >= 20, "{refused} are refused");
}

/// How many descriptors this process may have; its child the server has the same limit.
fn descriptors_max() -> u32 {
    let limits = std::fs::read_to_string("/proc/self/limits").expect("limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().next()).expect("a limit");
    soft.parse().unwrap_or(u32::MAX)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_send_nothing() {
    let _alone = alone().await;
    let count: u32 = 10_000;
    let needed = count + 500;
    assert!(
        descriptors_max() >= needed,
        "`ulimit -n {needed}`: each connection takes a descriptor"
    );
    let node =
        Node::start_quiet(BINARY, &["--max-connections", "12000", "--header-timeout", "60s"]);
    let address = node.address();
    let memory = u64::from(count) * (CONNECTION_BYTES / 8);
    // In turn, because a backlog that overflows makes clients wait for seconds.
    let tasks = 50;
    let attack = |blows: Arc<AtomicU64>| async move {
        let mut sockets = Vec::new();
        for _ in 0..count / tasks {
            sockets.push(connect(address).await);
            blows.fetch_add(1, Ordering::Relaxed);
        }
        std::future::pending::<()>().await;
    };
    let tasks = usize::try_from(tasks).expect("a count");
    let opened = withstand("silence", &node, address, tasks, memory, FLOOR, attack).await;
    assert_eq!(opened, u64::from(count));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_that_are_too_large() {
    let _alone = alone().await;
    let node = Node::start_quiet(BINARY, &[]);
    let address = node.address();
    let memory = 16 * 4 * CONNECTION_BYTES;
    let attack = |blows: Arc<AtomicU64>| async move {
        let many = "x-many: 1\r\n".repeat(5_000);
        let long = format!("cookie: {}\r\n", "x".repeat(1 << 20));
        for headers in [many, long].into_iter().cycle() {
            let mut socket = connect(address).await;
            let head = format!("GET /sse/stream HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n");
            // The server may close before it has taken all.
            let _ = socket.write_all(head.as_bytes()).await;
            let answer = until_closed(&mut socket).await;
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431"), "{answer:?}");
            blows.fetch_add(1, Ordering::Relaxed);
            // Four at full speed leave the machine to others; eight would measure the machine.
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    withstand("large heads", &node, address, 4, memory, FLOOR_BUSY, attack).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_at_full_speed() {
    let _alone = alone().await;
    let arguments = [
        "--open",
        "--trusted-proxy=127.0.0.1",
        "--client-address-header=X-Real-IP",
        "--max-publishes-per-address=200/s",
    ];
    let node = Node::start_quiet(BINARY, &arguments);
    let address = node.address();
    let attack = |blows: Arc<AtomicU64>| async move {
        let mut socket = connect(address).await;
        let mut answer = vec![0; 64 << 10];
        loop {
            let request = "POST /sse/publish?channel=healthy2 HTTP/1.1\r\nhost: [::1]\r\n\
                x-real-ip: \
                192.0.2.1\r\ncontent-length: 1\r\n\r\nx";
            socket.write_all(request.as_bytes()).await.expect("it is sent");
            assert_ne!(socket.read(&mut answer).await.expect("an answer"), 0);
            blows.fetch_add(1, Ordering::Relaxed);
        }
    };
    let memory = 32 << 20;
    let sent = withstand("a fast publisher", &node, address, 2, memory, FLOOR_BUSY, attack).await;
    let name = "headwater_refusals_total{reason=\"publishes-per-address\"}";
    let refused = node.metric(name).await;
    println!("a fast publisher: {refused} of {sent} events refused");
    assert!(refused > 0.0);
}

/// One publisher's batches wait for each other, so that what others publish passes between them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_of_ten_thousand_events() {
    let _alone = alone().await;
    let node = Node::start_quiet(BINARY, &[]);
    let address = node.address();
    let body = "{\"channel\":\"flood\",\"data\":\"x\"}\n".repeat(10_000);
    let head = format!(
        "POST /sse/publish HTTP/1.1\r\nhost: localhost\r\n\
         content-type: application/x-ndjson\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    let request: Arc<[u8]> = [head, body].concat().into_bytes().into();
    let attack = |blows: Arc<AtomicU64>| {
        let request = Arc::clone(&request);
        async move {
            loop {
                let mut socket = connect(address).await;
                socket.write_all(&request).await.expect("it is sent");
                blows.fetch_add(1, Ordering::Relaxed);
                let mut answer = [0; 12];
                socket.read_exact(&mut answer).await.expect("an answer");
                assert_eq!(&answer, b"HTTP/1.1 200");
            }
        }
    };
    // The history of the channel, and a few batches at a time, not 32 of 10 MB.
    let memory = 96 << 20;
    withstand("large batches", &node, address, 32, memory, FLOOR_BUSY, attack).await;
}
