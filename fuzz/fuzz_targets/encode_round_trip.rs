//! Any events, encoded one after the other: a client decodes the same events, and nothing else.
//! Look here when a publisher's text could become a field.

#![no_main]

use std::time::Duration;

use headwater::Event;
use headwater::event::{Decoder, EventId, EventName, Item, Message};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

/// An event as a publisher sends it; name and id may be invalid.
#[derive(Debug, Arbitrary)]
struct Input<'a> {
    data: Vec<Piece<'a>>,
    name: Vec<Piece<'a>>,
    id: Vec<Piece<'a>>,
    retry: Option<Duration>,
}

/// Part of a text. What could break the format is far more frequent than in arbitrary text.
#[derive(Debug, Clone, Copy, Arbitrary)]
enum Piece<'a> {
    Cr,
    Lf,
    CrLf,
    Field,
    Colon,
    Space,
    Nul,
    NextLine,
    LineSeparator,
    Bom,
    Text(&'a str),
}

fuzz_target!(|inputs: Vec<Input>| {
    let mut stream = Vec::new();
    let mut expected = Vec::new();
    let mut last_event_id = String::new();
    for event in inputs.into_iter().map(event) {
        let block = event.encode();
        let ends = block.windows(2).filter(|pair| pair == b"\n\n").count();
        assert!(ends == 1 && block.ends_with(b"\n\n") && !block.contains(&b'\r'));
        stream.extend(block);
        if let Some(id) = event.id() {
            id.as_str().clone_into(&mut last_event_id);
        }
        expected.extend(event.retry().map(Item::Retry));
        expected.push(Item::Event(Message {
            name: event.name().map_or("message", EventName::as_str).to_owned(),
            data: event.data().replace("\r\n", "\n").replace('\r', "\n"),
            id: last_event_id.clone(),
        }));
    }

    let mut decoder = Decoder::new();
    decoder.push(&stream).unwrap();
    let items: Vec<_> = std::iter::from_fn(|| decoder.next_item()).collect();
    assert_eq!(items, expected);
    assert_eq!(decoder.last_event_id(), last_event_id);
});

/// The event without its invalid parts. Checks that only those are rejected that must be.
fn event(input: Input) -> Event {
    let [data, name, id] = [input.data, input.name, input.id].map(text);
    let has_valid_length = |text: &str| (1..=255).contains(&text.len());
    let checked_name = EventName::new(&name);
    let is_valid = has_valid_length(&name) && !name.contains(char::is_control);
    assert_eq!(checked_name.is_ok(), is_valid);
    let checked_id = EventId::new(&id);
    let is_valid = has_valid_length(&id) && id.bytes().all(|byte| byte.is_ascii_graphic());
    assert_eq!(checked_id.is_ok(), is_valid);

    let mut event = Event::new(data);
    if checked_name.is_ok() {
        event = event.with_name(name).unwrap();
    }
    if checked_id.is_ok() {
        event = event.with_id(id).unwrap();
    }
    if let Some(retry) = input.retry {
        event = event.with_retry(retry);
    }
    event
}

fn text(pieces: Vec<Piece>) -> String {
    let text = |piece| match piece {
        Piece::Cr => "\r",
        Piece::Lf => "\n",
        Piece::CrLf => "\r\n",
        Piece::Field => "data: ",
        Piece::Colon => ":",
        Piece::Space => " ",
        Piece::Nul => "\0",
        Piece::NextLine => "\u{85}",
        Piece::LineSeparator => "\u{2028}",
        Piece::Bom => "\u{FEFF}",
        Piece::Text(text) => text,
    };
    pieces.into_iter().map(text).collect()
}
