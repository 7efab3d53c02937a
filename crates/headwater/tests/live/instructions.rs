//! How many instructions it takes to encode an event and to hand one to a stream, counted by valgrind: unlike
//! times, that does not change with what else the machine does. Look here when a change makes the hot path longer.

use std::process::Command;

use crate::example::binary;

/// Instructions for an event of 100 bytes, in the profile of the tests. A tenth above what was measured (1,402 and
/// 908), so that another compiler passes, and a copy or an allocation more does not.
const ENCODE_MAX: u64 = 1_550;
/// Instructions to hand an event to one of 100 streams and to take it out there, the share of encoding it once
/// and of the log among them.
const DELIVERY_MAX: u64 = 1_000;

fn instructions(arguments: &[&str]) -> u64 {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(binary("instructions"))
        .args(arguments)
        .output()
        .expect("valgrind runs: `cargo xtask test --install` installs it");
    let output_text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{output_text}");
    let collected = output_text.lines().find_map(|line| line.split_once("Collected :"));
    collected.and_then(|(_, count)| count.trim().parse().ok()).expect("callgrind counts")
}

/// What one of many costs; starting and ending the program is in both counts.
#[track_caller]
fn check(few: &[&str], many: &[&str], times: u64, bound: u64) {
    let each = (instructions(many) - instructions(few)) / times;
    println!("{}: {each} instructions, {bound} are allowed", many[0]);
    assert!(each <= bound, "{}: {each} instructions, {bound} are allowed", many[0]);
}

#[test]
fn an_event_is_encoded_in_so_many_instructions() {
    check(&["encode", "1000"], &["encode", "3000"], 2_000, ENCODE_MAX);
}

#[test]
fn an_event_is_delivered_in_so_many_instructions() {
    check(&["fan-out", "20", "100"], &["fan-out", "60", "100"], 40 * 100, DELIVERY_MAX);
}
