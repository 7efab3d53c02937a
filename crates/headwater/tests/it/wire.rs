//! The format of the event stream: what [`Event`] writes and [`Decoder`] reads. Look here before
//! you change a byte of it.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use headwater::Event;
use headwater::event::{Decoder, EventId, EventName, Item, Message};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;

/// Everything that a client learns from a stream.
#[derive(Debug, PartialEq)]
struct Learned {
    items: Vec<Item>,
    retry: Option<Duration>,
    last_event_id: String,
}

impl Learned {
    fn messages(&self) -> Vec<&Message> {
        let messages = self.items.iter().filter_map(|item| match item {
            Item::Event(message) => Some(message),
            _ => None,
        });
        messages.collect()
    }
}

fn learn<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> Learned {
    let mut decoder = Decoder::new();
    let mut items = Vec::new();
    for chunk in chunks {
        decoder.push(chunk).unwrap();
        items.extend(std::iter::from_fn(|| decoder.next_item()));
    }
    Learned { items, retry: decoder.retry(), last_event_id: decoder.last_event_id().to_owned() }
}

fn cut<'a>(mut stream: &'a [u8], cuts: &[Index]) -> Vec<&'a [u8]> {
    let mut offsets: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
    offsets.sort_unstable();
    let mut chunks = Vec::new();
    for offset in offsets.into_iter().rev() {
        let (before, after) = stream.split_at(offset);
        chunks.push(after);
        stream = before;
    }
    chunks.push(stream);
    chunks.reverse();
    chunks
}

/// One line of `sse-vectors.jsonl`: what a correct client learns from a stream.
struct Vector {
    id: String,
    chunks: Vec<Vec<u8>>,
    messages: Vec<Message>,
    retry: Option<Duration>,
    last_event_id: String,
}

fn vectors() -> Vec<Vector> {
    let vectors: Vec<_> = include_str!("sse-vectors.jsonl").lines().map(vector).collect();
    assert_eq!(vectors.len(), 75);
    vectors
}

fn vector(line: &str) -> Vector {
    let line: Value = serde_json::from_str(line).unwrap();
    let list = |key: &str| line[key].as_array().unwrap().iter();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    Vector {
        id: text(&line["id"]),
        chunks: list("chunks").map(|chunk| BASE64_STANDARD.decode(text(chunk)).unwrap()).collect(),
        messages: list("events")
            .map(|event| Message {
                name: text(&event["type"]),
                data: text(&event["data"]),
                id: text(&event["id"]),
            })
            .collect(),
        retry: line["retry"].as_u64().map(Duration::from_millis),
        last_event_id: text(&line["last_event_id"]),
    }
}

#[track_caller]
fn check_vector<'a>(vector: &Vector, chunks: impl IntoIterator<Item = &'a [u8]>) {
    let learned = learn(chunks);
    assert_eq!(learned.messages(), vector.messages.iter().collect::<Vec<_>>(), "{}", vector.id);
    assert_eq!(learned.retry, vector.retry, "{}", vector.id);
    assert_eq!(learned.last_event_id, vector.last_event_id, "{}", vector.id);
}

#[test]
fn vectors_are_read_as_browsers_read_them() {
    for vector in vectors() {
        let stream = vector.chunks.concat();
        check_vector(&vector, vector.chunks.iter().map(Vec::as_slice));
        check_vector(&vector, [stream.as_slice()]);
        check_vector(&vector, stream.chunks(1));
    }
}

/// Text in which characters that could break the format are far more frequent than usual.
fn hostile_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(vec![
            "\r", "\n", "\r\n", "\n\n", " ", ":", "\0", "\t", "\u{B}", "\u{C}", "\u{85}",
            "\u{2028}", "\u{2029}", "\u{FEFF}", "data: ", "id: 1", "event: a", "retry: 1", ":", "a",
        ])
        .prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn event() -> impl Strategy<Value = Event> {
    let name = hostile_text().prop_map(|text| EventName::new(text).ok());
    let printable_name = "\\PC{1,40}".prop_map(|text| EventName::new(text).ok());
    let id = prop::option::of("[!-~]{1,255}");
    let retry = prop::option::of(any::<Duration>());
    (hostile_text(), prop_oneof![name, printable_name], id, retry).prop_map(
        |(data, name, id, retry)| {
            let mut event = Event::new(data);
            if let Some(name) = name {
                event = event.with_name(name).unwrap();
            }
            if let Some(id) = id {
                event = event.with_id(id).unwrap();
            }
            if let Some(retry) = retry {
                event = event.with_retry(retry);
            }
            event
        },
    )
}

/// What a client must learn from an event that follows one with the ID `id_before`.
fn expected(event: &Event, id_before: &str) -> Vec<Item> {
    let message = Message {
        name: event.name().map_or("message", EventName::as_str).to_owned(),
        data: event.data().replace("\r\n", "\n").replace('\r', "\n"),
        id: event.id().map_or(id_before, EventId::as_str).to_owned(),
    };
    event.retry().map(Item::Retry).into_iter().chain([Item::Event(message)]).collect()
}

proptest! {
    #[test]
    fn vectors_are_read_the_same_however_they_are_cut(cuts in vec(any::<Index>(), 0..20)) {
        for vector in vectors() {
            let stream = vector.chunks.concat();
            check_vector(&vector, cut(&stream, &cuts));
        }
    }

    #[test]
    fn events_arrive_as_they_were_sent(
        events in vec(event(), 1..4),
        cuts in vec(any::<Index>(), 0..8),
    ) {
        let mut stream = Vec::new();
        let mut items = Vec::new();
        let mut last_event_id = String::new();
        for event in &events {
            let block = event.encode();
            prop_assert!(block.ends_with(b"\n\n") && !block.contains(&b'\r'));
            let ends = block.windows(2).filter(|pair| pair == b"\n\n").count();
            prop_assert_eq!(ends, 1, "only the end of a block looks like the end of a block");
            stream.extend(block);
            items.extend(expected(event, &last_event_id));
            if let Some(id) = event.id() {
                id.as_str().clone_into(&mut last_event_id);
            }
        }
        let learned = learn(cut(&stream, &cuts));
        prop_assert_eq!(&learned.items, &items);
        prop_assert_eq!(learned.last_event_id, last_event_id);
        prop_assert_eq!(learned.retry, events.iter().rev().find_map(Event::retry));
    }

    #[test]
    fn any_bytes_are_read_the_same_however_they_are_cut(
        stream in vec(
            prop_oneof![
                3 => prop::sample::select(b"\r\n: \0\xEF\xBB\xBF\xE2\x82\xAC7".to_vec())
                    .prop_map(|byte| vec![byte]),
                2 => prop::sample::select(vec!["data", "id", "event", "retry", "\n\n"])
                    .prop_map(|text| text.as_bytes().to_vec()),
                1 => vec(any::<u8>(), 1..4),
            ],
            0..40,
        ),
        cuts in vec(any::<Index>(), 0..8),
    ) {
        let stream = stream.concat();
        let whole = learn([stream.as_slice()]);
        prop_assert_eq!(&learn(cut(&stream, &cuts)), &whole);
        prop_assert_eq!(&learn(stream.chunks(1)), &whole);
    }
}

#[test]
fn data_cannot_forge_fields() {
    #[track_caller]
    fn check(data: &str, expected: &str) {
        let learned = learn([Event::new(data).encode().as_slice()]);
        let message = Message { name: "message".into(), data: expected.into(), id: String::new() };
        assert_eq!(learned.items, [Item::Event(message)], "{data:?}");
        assert_eq!((learned.last_event_id.as_str(), learned.retry), ("", None), "{data:?}");
    }

    check("", "");
    check(" ", " ");
    check("  two leading spaces", "  two leading spaces");
    check("trailing spaces  ", "trailing spaces  ");
    check("\n", "\n");
    check("\n\n", "\n\n");
    check("trailing newline\n", "trailing newline\n");
    check("trailing newlines\r\n\n\r", "trailing newlines\n\n\n");
    check(":c", ":c");
    check("data: x", "data: x");
    check("\u{FEFF}", "\u{FEFF}");
    check("\u{FEFF}\n\u{FEFF}", "\u{FEFF}\n\u{FEFF}");
    check("\0", "\0");
    check("a\u{2028}b\u{2029}c\u{85}d\u{B}e\u{C}f", "a\u{2028}b\u{2029}c\u{85}d\u{B}e\u{C}f");
    for end in ["\n", "\r", "\r\n", "\n\n", "\r\r", "\r\n\r\n", "\n\r"] {
        for field in ["event: forged", "data: forged", "id: forged", "retry: 1", ": forged"] {
            let normal = end.replace("\r\n", "\n").replace('\r', "\n");
            check(&format!("a{end}{field}"), &format!("a{normal}{field}"));
            check(&format!("{end}{field}{end}"), &format!("{normal}{field}{normal}"));
        }
    }
}

#[test]
fn a_long_line_arrives_whole_in_small_pieces() {
    #[track_caller]
    fn check(line_bytes: usize, chunk_bytes: usize) {
        let data = "0123456789abc\u{20AC}".repeat(line_bytes / 16);
        let stream = Event::new(data.as_str()).encode();
        let learned = learn(stream.chunks(chunk_bytes));
        let [message] = learned.messages()[..] else { panic!("not one event") };
        assert!(message.data == data, "the received data differs from the sent data");
    }

    check(5 << 20, 4 << 10);
    check(5 << 20, usize::MAX);
    check(64 << 10, 1);
}

/// Linear work takes about 8 times as long for 8 times the bytes, quadratic work 64 times. Other
/// load makes single runs slower, never faster: so the fastest run counts, and the long runs are
/// repeated often.
#[track_caller]
fn check_linear(what: &str, bytes: usize, work: impl Fn(usize) -> Duration) {
    let short = (0..20).map(|_| work(bytes)).min().unwrap();
    let mut long = Duration::MAX;
    for _ in 0..200 {
        long = long.min(work(8 * bytes));
        if long < 28 * short {
            return;
        }
    }
    panic!("{what}: {short:?} for {bytes} bytes, {long:?} for 8 times as many");
}

fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    std::hint::black_box(work());
    start.elapsed()
}

#[test]
fn time_is_linear() {
    let decode =
        |stream: String, chunk_bytes| time(|| learn(stream.as_bytes().chunks(chunk_bytes)));
    let encode = |event: Event| time(|| event.encode());
    let line = |bytes| ["data: ", &"x".repeat(bytes), "\n\n"].concat();
    let lines = |bytes| "data: x\n".repeat(bytes / 8) + "\n";
    let events = |bytes| "data: \n\n".repeat(bytes / 8);
    let line_ends = |bytes| Event::new("\r\n".repeat(bytes / 2));

    check_linear("a line, byte by byte", 8 << 10, |bytes| decode(line(bytes), 1));
    check_linear("a line, in pieces", 256 << 10, |bytes| decode(line(bytes), 4 << 10));
    check_linear("many lines", 16 << 10, |bytes| decode(lines(bytes), usize::MAX));
    check_linear("many events", 16 << 10, |bytes| decode(events(bytes), usize::MAX));
    check_linear("encoding line ends", 8 << 10, |bytes| encode(line_ends(bytes)));
}
