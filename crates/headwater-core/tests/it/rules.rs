//! The rules that Rust and Lua share, from `spec/rules.jsonl`, over the types of this crate.

use headwater_core::event::{EventId, EventName};
use headwater_core::log::RetentionRules;
use headwater_core::publish::IdempotencyKey;
use headwater_core::{Channel, Error};
use serde_json::Value;

const RULES: &str = include_str!("../../spec/rules.jsonl");

#[test]
fn rust_agrees_with_the_table() {
    let mut cases = 0;
    for line in RULES.lines() {
        let case: Value = serde_json::from_str(line).unwrap();
        cases += usize::from(check(&case));
    }
    assert!(cases > 80, "only {cases} cases");
}

/// Returns whether this crate has such a rule.
fn check(case: &Value) -> bool {
    let rule = case["rule"].as_str().unwrap();
    if rule == "retention" {
        check_retention(case);
        return true;
    }
    // Bytes that are not UTF-8 cannot become text at all.
    let Some(text) = case["in"].as_str() else { return true };
    let result = match rule {
        "channel" => Channel::new(text).map(drop),
        "name" => EventName::new(text).map(drop),
        "id" => EventId::new(text).map(drop),
        "key" => IdempotencyKey::new(text).map(drop),
        "retry" => return false,
        _ => panic!("unknown rule in {case}"),
    };
    check_result(case, result);
    true
}

#[track_caller]
fn check_result(case: &Value, result: Result<(), Error>) {
    assert_eq!(result.is_ok(), case["ok"], "{case}: {result:?}");
    if let Err(error) = result {
        let error = error.to_string();
        for part in case["says"].as_array().unwrap() {
            assert!(error.contains(part.as_str().unwrap()), "{case}: {error}");
        }
    }
}

fn check_retention(case: &Value) {
    let mut rules = RetentionRules::new();
    for rule in case["in"].as_array().unwrap() {
        rules.parse_rule(rule.as_str().unwrap()).unwrap();
    }
    let channel = Channel::new(case["channel"].as_str().unwrap()).unwrap();
    let found = rules.for_channel(&channel).map_or("off".to_owned(), |it| {
        format!("{} {} {}", it.events, it.age.as_millis(), it.bytes)
    });
    assert_eq!(found, case["keeps"].as_str().unwrap(), "{case}");
}
