//! Payloads that broken implementations change, and the check that they arrive unchanged. Look here
//! to add one.

use headwater::log::Position;
use headwater_test_support::{EventStream, Node, http};

pub(crate) const MIB: usize = 1 << 20;

/// How a payload gets to the node.
pub(crate) enum Road {
    /// `POST /sse/publish`, with further words in the query.
    Post(&'static str),
    /// `PUBLISH` from any Redis client.
    Publish(redis::Connection),
}

impl Road {
    pub(crate) async fn send(&mut self, node: &Node, data: &str) {
        match self {
            Self::Post(query) => {
                let path = format!("/sse/publish?channel=news{query}");
                let answer = http::post(node.address(), &path, data.as_bytes()).await;
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
            Self::Publish(connection) => publish(connection, "news", data.as_bytes()),
        }
    }
}

pub(crate) fn publish(connection: &mut redis::Connection, channel: &str, data: &[u8]) {
    let mut publish = redis::cmd("PUBLISH");
    let receivers: i64 = publish.arg(channel).arg(data).query(connection).expect("PUBLISH");
    assert_eq!(receivers, 1, "the node is subscribed once");
}

/// Payloads that broken implementations change, cut, join or parse as fields.
pub(crate) fn payloads() -> Vec<String> {
    let mut payloads: Vec<String> = [
        "",
        " ",
        "  two leading",
        "trailing  ",
        "\t",
        "\n",
        "\n\n",
        "\n\n\n",
        "a\n",
        "\na",
        "a\n\nb",
        " \n ",
        ":",
        ":c",
        "::",
        "data: x",
        "data",
        "data:",
        "event: x\ndata: y",
        "id: 7",
        "retry: 1",
        "\u{feff}",
        "\u{feff}data",
        "\0",
        "a\0b",
        "\u{2028}",
        "a\u{2028}b\u{2029}c\u{85}d\u{b}e\u{c}f",
        "grüße 👋🏽 \u{10ffff}",
        "b'bytes'",
        "null",
        // Line ends of three kinds, each an attempt to begin fields and events of its own.
        "x\nevent: forged\ndata: y\nid: 9\nretry: 1\n\ndata: second\n\n",
        "x\revent: forged\rdata: y\rid: 9\rretry: 1\r\rdata: second\r\r",
        "x\r\nevent: forged\r\ndata: y\r\nid: 9\r\nretry: 1\r\n\r\ndata: second\r\n\r\n",
        "\rid: 9\n\revent: forged\r\n\n",
        "\r",
        "\r\n",
        "\n\r",
        "\r\r\n\n",
        "a\r",
        "\u{feff}\rdata: x",
    ]
    .map(Into::into)
    .into();
    payloads.push("x".repeat(5 * MIB));
    // 20,000 lines of different length, 1 MiB in all.
    let lines = (0..20_000).map(|number| format!("{number:0>0$}\n", 5 + number % 90));
    let mut lines = lines.collect::<Vec<_>>().concat();
    lines.truncate(MIB);
    lines.extend(std::iter::repeat_n('z', MIB - lines.len()));
    payloads.push(lines);
    payloads
}

/// What a client receives: the format cannot carry a CR.
pub(crate) fn arriving(data: &str) -> String {
    data.replace("\r\n", "\n").replace('\r', "\n")
}

/// Sends every payload, and expects each as the data of one event and nothing else.
pub(crate) async fn check_road(node: &Node, mut road: Road, name: &str, id: Option<&str>) {
    let mut stream = EventStream::open(node.address(), "/sse/stream?channel=news").await;
    for payload in payloads() {
        road.send(node, &payload).await;
        let event = stream.next().await.expect("the stream is open");
        let (shown, length): (String, _) = (payload.chars().take(80).collect(), payload.len());
        let wanted = arriving(&payload);
        // Not assert_eq, which would print megabytes.
        assert!(event.data == wanted, "{length} bytes, {shown:?}: got {} bytes", event.data.len());
        assert_eq!(event.name, name, "{shown:?}");
        check_id(&event.id, id);
    }
    road.send(node, "the end").await;
    assert_eq!(stream.next().await.expect("the stream is open").data, "the end");
}

/// An event has the id of its publisher, else its position.
#[track_caller]
pub(crate) fn check_id(id: &str, own: Option<&str>) {
    match own {
        Some(own) => assert_eq!(id, own),
        None => assert!(id.parse::<Position>().is_ok(), "{id:?}"),
    }
}
