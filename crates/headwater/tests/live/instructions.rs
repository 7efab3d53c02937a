//! The number of instructions that encoding and delivering an event take, counted by valgrind:
//! unlike times, it does not depend on the load of the machine. Look here when a change makes the
//! hot path longer.

use std::process::Command;

use crate::example::binary;

/// Maximum number of instructions to encode an event of 100 bytes, in the test profile. This bound
/// and the next are a tenth above the measured values (1,402 and 908), so that another compiler
/// passes, and an additional copy or allocation does not.
const ENCODE_MAX: u64 = 1_550;
/// Maximum number of instructions to queue an event for one of 100 streams and to take it out
/// there, including the stream's share of encoding and of the log.
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

/// Checks the cost of one of many; the difference of two runs excludes starting the program.
#[track_caller]
fn check(few: &[&str], many: &[&str], times: u64, bound: u64) {
    let each = (instructions(many) - instructions(few)) / times;
    println!("{}: {each} instructions, at most {bound} allowed", many[0]);
    assert!(each <= bound, "{}: {each} instructions, at most {bound} allowed", many[0]);
}

#[test]
fn encoding_an_event_stays_within_its_instruction_limit() {
    check(&["encode", "1000"], &["encode", "3000"], 2_000, ENCODE_MAX);
}

#[test]
fn delivering_an_event_stays_within_its_instruction_limit() {
    check(&["fan-out", "20", "100"], &["fan-out", "60", "100"], 40 * 100, DELIVERY_MAX);
}
