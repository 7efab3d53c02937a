//! The arguments that the function accepts, and its errors for those that it rejects. Look here for
//! the exact messages.

use std::collections::BTreeMap;

use super::{Log, PREFIX, Way, subscribe};

over_both_ways! {
    data_can_be_any_bytes,
    bounds_can_be_reached,
    invalid_arguments_are_rejected_and_change_nothing,
}

fn data_can_be_any_bytes(log: &mut Log) {
    let data = b"\0\xff\r\n\n\x80";
    log.call(&[b"a", data]).unwrap();
    let entries: Vec<(String, BTreeMap<String, Vec<u8>>)> =
        log.run(&["XRANGE", &format!("{PREFIX}:log:a"), "-", "+"]);
    assert_eq!(entries[0].1["d"], data);
}

fn bounds_can_be_reached(log: &mut Log) {
    let longest = "x".repeat(255);
    log.publish(&[
        &longest, "d", "event", &longest, "id", &longest, "key", &longest, "retry", "300000",
    ]);
    assert_eq!(log.entries(&longest)[0].1["r"], "300000");
    let largest = "x".repeat(8 << 20);
    log.publish(&["a", &largest]);
    assert_eq!(log.entries("a")[0].1["d"].len(), 8 << 20);
    for channel in
        ["headwater", " ", "grüße/🌊:1", "\u{a0}\u{2028}\u{feff}\u{d7ff}\u{e000}\u{10ffff}"]
    {
        log.publish(&[channel, "d", "event", channel]);
    }
}

fn invalid_arguments_are_rejected_and_change_nothing(log: &mut Log) {
    log.publish(&["a", "d"]);
    let mut connection = log.server.connection();
    let mut messages = subscribe(&mut connection);
    let before = log.dump();
    let too_long = "x".repeat(256).into_bytes();
    let too_large = vec![b'x'; (8 << 20) + 1];
    let umlauts = "ü".repeat(128).into_bytes();
    let cases: &[(&[&[u8]], &str)] = &[
        (&[], "give one key, a channel and data: FCALL headwater_publish 1 headwater:{0}"),
        (&[b"a"], "give one key, a channel and data"),
        (&[b"", b"d"], "a channel's name is empty: give it at least one character"),
        (&[&too_long, b"d"], "a channel's name has 256 bytes: at most 255 are allowed"),
        (&[&umlauts, b"d"], "a channel's name has 256 bytes"),
        (&[b"a\nb", b"d"], "the control character U+000A at byte 1: leave it out"),
        (&[b"a\0", b"d"], "U+0000 at byte 1"),
        (&[b"\x7f", b"d"], "U+007F at byte 0"),
        (&["ü\u{85}\n".as_bytes(), b"d"], "U+0085 at byte 2"),
        (&["\n\u{9f}".as_bytes(), b"d"], "U+000A at byte 0"),
        (&[b"headwater:x", b"d"], "channel names that begin with \"headwater:\" are reserved"),
        (&[b"\xff", b"d"], "a channel's name is not UTF-8"),
        (&[b"\xc3", b"d"], "not UTF-8"),
        (&[b"\xc0\x80", b"d"], "not UTF-8"),
        (&[b"\xe0\x80\x80", b"d"], "not UTF-8"),
        (&[b"\xed\xa0\x80", b"d"], "not UTF-8"),
        (&[b"\xe2\xc3\xa9\x82\xac", b"d"], "not UTF-8"),
        (&[b"\xf0\x80\x80\x80", b"d"], "not UTF-8"),
        (&[b"\xf4\x90\x80\x80", b"d"], "not UTF-8"),
        (&[b"\xf5\x80\x80\x80", b"d"], "not UTF-8"),
        (&[b"a", &too_large], "an event's data has 8388609 bytes: at most 8388608 are allowed"),
        (&[b"a", b"d", b"event", b""], "an event's name is empty: leave it out instead"),
        (&[b"a", b"d", b"event", &too_long], "an event's name has 256 bytes"),
        (&[b"a", b"d", b"event", b"a\ndata: forged"], "an event's name has the control character"),
        (&[b"a", b"d", b"event", b"\x80"], "an event's name is not UTF-8"),
        (&[b"a", b"d", b"id", b""], "an event's id is empty"),
        (&[b"a", b"d", b"id", &too_long], "an event's id has 256 bytes"),
        (&[b"a", b"d", b"id", b"a b"], "an event's id has 0x20 at byte 1"),
        (&[b"a", b"d", b"id", "é".as_bytes()], "use only visible ASCII without spaces"),
        (&[b"a", b"d", b"id", b"7\0"], "0x00 at byte 1"),
        (&[b"a", b"d", b"retry", b""], "an event's retry must be whole milliseconds"),
        (&[b"a", b"d", b"retry", b"-1"], "from 100 to 300000: write only digits"),
        (&[b"a", b"d", b"retry", b"1.5"], "write only digits"),
        (&[b"a", b"d", b"retry", b"0x10"], "write only digits"),
        (&[b"a", b"d", b"retry", b"300001"], "from 100 to 300000"),
        (&[b"a", b"d", b"retry", b"99"], "from 100 to 300000"),
        (&[b"a", b"d", b"event", b"error"], "choose another name"),
        (&[b"a", b"d", b"retry", b"00000000001"], "from 100 to 300000"),
        (&[b"a", b"d", b"key", b""], "an idempotency key is empty"),
        (&[b"a", b"d", b"key", &too_long], "an idempotency key has 256 bytes"),
        (&[b"a", b"d", b"key", b"a b"], "an idempotency key has 0x20 at byte 1"),
        (&[b"a", b"d", b"end", b"0"], "end must be 1: leave it out"),
        (&[b"a", b"d", b"end"], "the option \"end\" has no value"),
        (&[b"a", b"d", b"id", b"1", b"event"], "the option \"event\" has no value"),
        (&[b"a", b"d", b"id", b"1", b"ID", b"2"], "the option \"ID\" is given twice"),
        (&[b"a", b"d", b"channel", b"b"], "there is no option \"channel\": use event, id, retry"),
        (&[b"a", b"d", b"data", b"b"], "there is no option \"data\""),
        (&[b"a", b"d", b"na\nme\xff", b"b"], "there is no option \"na?me?\""),
        (&[b"a", b"d", b"", b"b"], "there is no option \"\""),
    ];
    for (words, part) in cases {
        log.rejected(words, "ERR", part);
    }
    assert_eq!(log.dump(), before);
    assert_eq!(log.offset(&["a", "good"]), 2, "no offset was used");
    let message = messages.get_message().unwrap();
    assert!(
        message.get_payload::<String>().unwrap().ends_with("\n\ngood"),
        "nothing was published before"
    );
}
