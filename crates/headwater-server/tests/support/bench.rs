//! Runs `headwater bench` and checks its JSON. Look here for what a report of a good run contains.

use std::process::{Command, Output};

use serde_json::Value;

use super::BINARY;

pub(crate) fn bench(arguments: &[&str]) -> Output {
    Command::new(BINARY).arg("bench").args(arguments).output().expect("it runs")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The JSON of a benchmark that went well.
#[track_caller]
pub(crate) fn report(arguments: &[&str]) -> Value {
    let output = bench(&[arguments, &["--json", "--duration", "1"]].concat());
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    serde_json::from_str(&out).expect("one JSON value")
}

#[track_caller]
pub(crate) fn check_delivered(report: &Value, expected: u64) {
    let delivery = &report["delivery"];
    assert_eq!(delivery["expected"], expected, "{report}");
    assert_eq!(delivery["received"], expected, "{report}");
    for count in ["missing", "duplicates", "foreign", "refused", "cut"] {
        assert_eq!(delivery[count], 0, "{count}: {report}");
    }
    let latency = |name: &str| delivery["latency"][name].as_u64().expect("a number");
    assert!(latency("p50_ns") > 0 && latency("p50_ns") <= latency("max_ns"), "{report}");
}
