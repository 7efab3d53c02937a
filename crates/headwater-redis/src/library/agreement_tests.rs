//! The rules that Rust and Lua share, run against the library in process, without a Redis. Look
//! here when a rule changes: `headwater-core/spec/rules.jsonl` has the cases.

use std::cell::RefCell;
use std::rc::Rc;

use headwater_core::event::{EventId, EventName};
use headwater_core::limits;
use headwater_core::log::RetentionRules;
use headwater_core::publish::IdempotencyKey;
use headwater_core::{Channel, Error};
use mlua::{Function, Lua, LuaString, MultiValue, Value as LuaValue};
use proptest::prelude::*;
use serde_json::Value;

use super::{SOURCE, VERSION, rules_text};
use crate::limits::LAST_EXTRA_MS;

pub(super) const RULES: &str = include_str!("../../../headwater-core/spec/rules.jsonl");

/// The library in a Lua of its own, over a `redis` that has no data.
struct Library {
    lua: Lua,
    publish: Function,
    rule_of: Function,
    /// The words of the last XADD.
    appended: Rc<RefCell<Vec<Vec<u8>>>>,
}

impl Library {
    fn load() -> Self {
        let lua = Lua::new();
        let appended = Rc::<RefCell<Vec<Vec<u8>>>>::default();
        let redis = lua.create_table().unwrap();
        for name in ["call", "pcall"] {
            let appended = Rc::clone(&appended);
            let call = move |lua: &Lua, words: MultiValue| answer(lua, &words, &appended);
            redis.set(name, lua.create_function(call).unwrap()).unwrap();
        }
        let error_reply = |lua: &Lua, text: LuaString| {
            let reply = lua.create_table()?;
            reply.set("err", text)?;
            Ok(reply)
        };
        redis.set("error_reply", lua.create_function(error_reply).unwrap()).unwrap();
        let sha1hex = |_: &Lua, _: LuaString| Ok("abcdef0123456789".to_owned());
        redis.set("sha1hex", lua.create_function(sha1hex).unwrap()).unwrap();
        lua.globals().set("redis", redis).unwrap();
        let (_, body) = SOURCE.split_once('\n').unwrap();
        let function = |call: &str| {
            let source = body.replace("return publish(KEYS, ARGV)", call);
            lua.load(source).into_function().unwrap()
        };
        let publish = function("return publish(KEYS, ARGV)");
        let rule_of = function("return rule_of(ARGV[1], ARGV[2])");
        Self { lua, publish, rule_of, appended }
    }

    fn call(&self, function: &Function, words: &[&[u8]]) -> LuaValue {
        let globals = self.lua.globals();
        globals.set("KEYS", ["headwater:{0}"]).unwrap();
        let words = words.iter().map(|word| self.lua.create_string(word).unwrap());
        globals.set("ARGV", words.collect::<Vec<_>>()).unwrap();
        function.call(()).unwrap()
    }

    /// Publishes; returns the error, if there is one.
    fn publish(&self, words: &[&[u8]]) -> Result<(), String> {
        match self.call(&self.publish, words) {
            LuaValue::String(_) => Ok(()),
            LuaValue::Table(reply) => {
                let error: LuaString = reply.get("err").unwrap();
                Err(error.to_string_lossy().strip_prefix("ERR headwater: ").unwrap().to_owned())
            }
            other => panic!("{other:?}"),
        }
    }

    fn retention(&self, channel: &Channel, rules: &str) -> String {
        let words = [channel.as_str().as_bytes(), rules.as_bytes()];
        let LuaValue::Table(rule) = self.call(&self.rule_of, &words) else { panic!("{rules}") };
        let number = |name: &str| rule.get::<f64>(name).unwrap();
        match rule.get::<Option<bool>>("off").unwrap() {
            Some(_) => "off".to_owned(),
            None => format!("{} {} {}", number("events"), number("age"), number("bytes")),
        }
    }
}

/// What an empty Redis answers, to a user who may not call INFO.
fn answer(
    lua: &Lua,
    words: &MultiValue,
    appended: &RefCell<Vec<Vec<u8>>>,
) -> mlua::Result<LuaValue> {
    let words: Vec<Vec<u8>> =
        words.iter().map(|word| word.to_string().unwrap_or_default().into_bytes()).collect();
    let list = |items: Vec<LuaValue>| lua.create_sequence_from(items).map(LuaValue::Table);
    match words[0].as_slice() {
        b"GET" => Ok(LuaValue::Boolean(false)),
        b"MGET" => list(vec![LuaValue::Boolean(false); words.len() - 1]),
        b"TIME" => list(vec![
            LuaValue::String(lua.create_string("1700000000")?),
            LuaValue::String(lua.create_string("5")?),
        ]),
        b"XLEN" => Ok(LuaValue::Integer(1)),
        b"XRANGE" | b"INFO" => lua.create_table().map(LuaValue::Table),
        b"XADD" => {
            *appended.borrow_mut() = words;
            Ok(LuaValue::String(lua.create_string("1-0")?))
        }
        _ => Ok(LuaValue::Boolean(true)),
    }
}

/// The call that has a value of this rule.
pub(super) fn call_with<'a>(rule: &'a str, value: &'a [u8]) -> Vec<&'a [u8]> {
    match rule {
        "channel" => vec![value, b"d"],
        "name" => vec![b"a", b"d", b"event", value],
        option => vec![b"a", b"d", option.as_bytes(), value],
    }
}

/// The value of a case.
pub(super) fn value_of(case: &Value) -> Vec<u8> {
    match (case["in"].as_str(), case["hex"].as_str()) {
        (Some(text), _) => text.as_bytes().to_vec(),
        (None, Some(hex)) => (0..hex.len() / 2)
            .map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
            .collect(),
        _ => panic!("no value in {case}"),
    }
}

/// Checks the answer against the case.
#[track_caller]
pub(super) fn check_answer(case: &Value, answer: &Result<(), String>) {
    assert_eq!(answer.is_ok(), case["ok"], "{case}: {answer:?}");
    if let Err(error) = answer {
        for part in case["says"].as_array().unwrap() {
            assert!(error.contains(part.as_str().unwrap()), "{case}: {error}");
        }
    }
}

/// The rules of a case in the form that the function reads, and the channel.
pub(super) fn retention_of(case: &Value) -> (String, Channel) {
    let mut rules = RetentionRules::new();
    for rule in case["in"].as_array().unwrap() {
        rules.parse_rule(rule.as_str().unwrap()).unwrap();
    }
    (rules_text(&rules), Channel::new(case["channel"].as_str().unwrap()).unwrap())
}

/// The numbers of `limits.rs`, as Lua has them.
fn numbers() -> String {
    let retention = format!(
        "'* {} {} {}'",
        limits::RETENTION_EVENTS_DEFAULT,
        limits::RETENTION_AGE_DEFAULT.as_millis(),
        limits::RETENTION_BYTES_DEFAULT
    );
    // The largest whole number that a double represents exactly.
    let number_max = (1_u64 << 53) - 1;
    [
        ("VERSION", VERSION.to_string()),
        ("CHANNEL_BYTES_MAX", limits::CHANNEL_BYTES_MAX.to_string()),
        ("NAME_BYTES_MAX", limits::EVENT_NAME_BYTES_MAX.to_string()),
        ("ID_BYTES_MAX", limits::EVENT_ID_BYTES_MAX.to_string()),
        ("KEY_BYTES_MAX", limits::IDEMPOTENCY_KEY_BYTES_MAX.to_string()),
        ("DATA_BYTES_MAX", limits::EVENT_DATA_BYTES_MAX.to_string()),
        ("RETRY_MS_MIN", limits::RETRY_MIN.as_millis().to_string()),
        ("RETRY_MS_MAX", limits::RETRY_MAX.as_millis().to_string()),
        ("KEY_WINDOW_MS", limits::IDEMPOTENCY_WINDOW.as_millis().to_string()),
        ("LAST_EXTRA_MS", LAST_EXTRA_MS.to_string()),
        ("NUMBER_MAX", number_max.to_string()),
        ("DEFAULT_RULES", retention),
    ]
    .map(|(name, value)| format!("local {name} = {value}\n"))
    .concat()
}

#[test]
fn the_numbers_are_those_of_rust() {
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/library/arguments.lua");
    let source = std::fs::read_to_string(FILE).unwrap();
    let begin = source.find("local VERSION = ").unwrap();
    let end = source.find("-- End of the generated lines.").unwrap();
    if std::env::var_os("UPDATE_LUA").is_some() {
        let updated = [&source[..begin], &numbers(), &source[end..]].concat();
        std::fs::write(FILE, updated).unwrap();
    } else {
        assert_eq!(source[begin..end], numbers());
    }
}

#[test]
fn lua_agrees_with_the_table() {
    let library = Library::load();
    for line in RULES.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        if case["rule"] == "retention" {
            let (rules, channel) = retention_of(&case);
            assert_eq!(library.retention(&channel, &rules), case["keeps"], "{case}");
            continue;
        }
        let value = value_of(&case);
        check_answer(&case, &library.publish(&call_with(case["rule"].as_str().unwrap(), &value)));
        if let Some(expected) = case["value"].as_u64() {
            let entry = library.appended.borrow();
            let at = entry.iter().position(|word| word == b"r").unwrap();
            assert_eq!(entry[at + 1], expected.to_string().into_bytes(), "{case}");
        }
    }
}

/// Text that is likely to break a rule.
fn text() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        any::<char>().prop_map(|c| c.to_string().into_bytes()),
        any::<u8>().prop_map(|byte| vec![byte]),
        prop::sample::select(vec![
            "a",
            " ",
            "\n",
            "\0",
            "\u{7f}",
            "\u{80}",
            "ü",
            "headwater:",
            "error",
            "open",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        "[a-f0-9]{0,3}-[0-9]{0,3}~?".prop_map(String::into_bytes),
        (200_usize..260).prop_map(|length| vec![b'x'; length]),
    ];
    prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn lua_accepts_what_rust_accepts(value in text()) {
        thread_local!(static LIBRARY: Library = Library::load());
        LIBRARY.with(|library| {
            let check = |rule: &str, rust: &dyn Fn(&str) -> Result<(), Error>| {
                let lua = library.publish(&call_with(rule, &value));
                let Ok(text) = str::from_utf8(&value) else {
                    assert!(lua.is_err(), "{rule}: {value:?}");
                    return;
                };
                let rust = rust(text).map_err(|error| error.to_string());
                assert_eq!(lua.is_ok(), rust.is_ok(), "{rule}: {value:?}: {lua:?}, {rust:?}");
                if matches!(rule, "channel" | "name") {
                    assert_eq!(lua, rust, "{value:?}");
                }
            };
            check("channel", &|text| Channel::new(text).map(drop));
            check("name", &|text| EventName::new(text).map(drop));
            check("id", &|text| EventId::new(text).map(drop));
            check("key", &|text| IdempotencyKey::new(text).map(drop));
        });
    }
}
