//! Tests of what an event may have.

use super::*;

#[track_caller]
fn check<T: FromStr<Err = Error> + AsRef<str> + fmt::Debug>(
    text: &str,
    expected: Result<(), (ErrorKind, &str)>,
) {
    match (text.parse::<T>(), expected) {
        (Ok(parsed), Ok(())) => assert_eq!(parsed.as_ref(), text),
        (Err(error), Err((kind, part))) => {
            assert_eq!(error.kind(), kind, "{error}");
            assert!(error.to_string().contains(part), "{error} should contain {part}");
        }
        (got, expected) => panic!("{text:?}: got {got:?}, expected {expected:?}"),
    }
}

#[test]
fn names_are_checked() {
    let invalid = |part| Err((ErrorKind::Invalid, part));
    check::<EventName>("a", Ok(()));
    check::<EventName>("message", Ok(()));
    check::<EventName>(" spaces are preserved ", Ok(()));
    check::<EventName>("grüße/🌊: 1\u{2028}\u{FEFF}", Ok(()));
    check::<EventName>(&"x".repeat(255), Ok(()));
    check::<EventName>(&"x".repeat(256), Err((ErrorKind::TooLarge, "256 bytes")));
    check::<EventName>(&"ü".repeat(128), Err((ErrorKind::TooLarge, "256 bytes")));
    check::<EventName>("", invalid("an event's name is empty: leave it out"));
    check::<EventName>("error", invalid("an event's name is \"error\", which browsers use"));
    check::<EventName>("open", invalid("choose another name"));
    for similar in ["Error", "errors", "opened", " open", "message", "close"] {
        check::<EventName>(similar, Ok(()));
    }
    check::<EventName>("a\ndata: forged", invalid("U+000A at byte 1"));
    check::<EventName>("ü\rid: 1", invalid("U+000D at byte 2"));
    check::<EventName>("a\r\n", invalid("U+000D at byte 1"));
    check::<EventName>("\n", invalid("U+000A at byte 0"));
    check::<EventName>("a\0", invalid("U+0000"));
    check::<EventName>("a\tb", invalid("U+0009"));
    check::<EventName>("a\u{7F}", invalid("U+007F"));
    check::<EventName>("a\u{85}", invalid("U+0085"));
}

#[test]
fn ids_are_checked() {
    let invalid = |part| Err((ErrorKind::Invalid, part));
    check::<EventId>("7", Ok(()));
    check::<EventId>("!~", Ok(()));
    check::<EventId>("k3f9-17", Ok(()));
    check::<EventId>("urn:uuid:5e94c686?a=(1)", Ok(()));
    check::<EventId>(&"x".repeat(255), Ok(()));
    check::<EventId>(&"x".repeat(256), Err((ErrorKind::TooLarge, "256 bytes")));
    check::<EventId>("", invalid("an event's id is empty: leave it out"));
    check::<EventId>("a b", invalid("U+0020 at byte 1"));
    check::<EventId>(" 7", invalid("U+0020 at byte 0"));
    check::<EventId>("7\n", invalid("U+000A at byte 1"));
    check::<EventId>("7\r\ndata: forged", invalid("U+000D at byte 1"));
    check::<EventId>("7\0", invalid("U+0000 at byte 1"));
    check::<EventId>("7\t", invalid("U+0009"));
    check::<EventId>("7\u{7F}", invalid("U+007F"));
    check::<EventId>("é", invalid("U+00E9 at byte 0"));
    check::<EventId>("7\u{2028}", invalid("U+2028"));
}

#[test]
fn ids_that_are_written_as_positions_are_rejected() {
    for id in ["1-0", "5f3a9c01d2e7-1042", "f-1~9be1-17", "a-9007199254740991", "f-1~f-0"] {
        check::<EventId>(id, Err((ErrorKind::Invalid, "written as a position of the log")));
        let event = Event::new("x").with_id(id).unwrap_err();
        assert_eq!(event.kind(), ErrorKind::Invalid);
        assert_eq!(EventId::assigned(id).unwrap().as_str(), id, "the log assigns it");
    }
    for id in ["1", "1-", "-1", "0-1", "a-01", "A-1", "g-1", "a-+1", "1-1~", "1-1~2", "1-1~2-3~"] {
        check::<EventId>(id, Ok(()));
    }
    check::<EventId>("1234567890abc-1", Ok(()));
    check::<EventId>("a-9007199254740992", Ok(()));
    check::<EventId>("550e8400-e29b-41d4-a716-446655440000", Ok(()));
}

#[test]
fn an_event_rejects_invalid_parts() {
    let event = || Event::new("a");
    assert_eq!(event().with_name("a\nb").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(event().with_id("a b").unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(event().with_name("x".repeat(256)).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn text_converts_both_ways() {
    assert_eq!("n".parse::<EventName>().unwrap().to_string(), "n");
    assert_eq!(EventName::try_from("n").unwrap(), EventName::new("n").unwrap());
    assert_eq!(EventId::try_from(String::from("7")).unwrap().as_str(), "7");
    assert!("a b".parse::<EventId>().is_err());
    assert!(EventName::try_from(String::new()).is_err());
    assert_eq!(format!("{:?}", EventId::new("7").unwrap()), "\"7\"");
}

#[test]
fn json_is_one_line() {
    let event = Event::json("one\r\ntwo").unwrap();
    assert_eq!(event.data(), r#""one\r\ntwo""#);

    let keys_that_are_not_strings = std::collections::BTreeMap::from([((1, 2), 3)]);
    let error = Event::json(&keys_that_are_not_strings).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(std::error::Error::source(&error).is_some());
}

#[test]
fn retry_is_stored_in_whole_milliseconds() {
    let check = |retry, expected| assert_eq!(Event::new("").with_retry(retry).retry(), expected);
    check(Duration::from_micros(200_001), Some(Duration::from_millis(201)));
    check(Duration::from_millis(200), Some(Duration::from_millis(200)));
    check(Duration::ZERO, Some(RETRY_MIN));
    check(Duration::MAX, Some(RETRY_MAX));
    assert_eq!(Event::new("").retry(), None);
}
