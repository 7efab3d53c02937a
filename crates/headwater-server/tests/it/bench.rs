//! `headwater bench`, run as a user runs it. Look here for its output and exit codes; what it
//! notices of a server that misbehaves is tested in its crate.

use std::process::Command;
use std::time::Instant;

use headwater_test_support::{Node, free_port};

use crate::support::BINARY;
use crate::support::bench::{bench, check_delivered, report, text};

#[test]
fn without_a_url_it_measures_its_own_server() {
    let report = report(&["--streams", "60", "--channels", "20", "--rate", "100"]);
    assert_eq!(report["opening"]["open"], 60);
    // 100 events in a second, each to the three streams of its channel.
    check_delivered(&report, 300);
    for figure in ["cpu_ns_per_delivery", "cores"] {
        assert!(report["delivery"][figure].as_f64().expect(figure) > 0.0, "{report}");
    }
    let memory = |when: &str| report["memory"][when]["pss_bytes"].as_u64().expect(when);
    assert!(memory("idle") > memory("before"), "{report}");
}

#[test]
fn a_running_server_is_measured_and_keeps_running() {
    let mut node = Node::start_quiet(BINARY, &[]);
    let (url, pid) = (format!("http://{}", node.address()), node.process_id().to_string());
    let arguments = ["--url", &url, "--pid", &pid, "--streams", "10", "--max", "--in-flight", "4"];
    let output = bench(&[&arguments[..], &["--duration", "1"]].concat());
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    let names: Vec<&str> = out.lines().skip(2).filter_map(|line| line.split(' ').next()).collect();
    let expected = ["opening", "memory", "published", "delivered", "rate", "processor", "latency"];
    assert_eq!(names, expected, "{out}");
    assert!(out.contains(" 0 missing, 0 duplicate, 0 streams cut"), "{out}");
    assert!(err.is_empty(), "no bar where there is no terminal: {err}");
    assert!(node.is_running());
}

#[test]
fn a_server_that_dies_ends_the_benchmark_with_a_reason() {
    let node = Node::start_quiet(BINARY, &[]);
    let url = format!("http://{}", node.address());
    let started = Instant::now();
    let child = Command::new(BINARY)
        .args(["bench", "--url", &url, "--streams", "50", "--rate", "50", "--duration", "60"])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("it runs");
    headwater_test_support::wait_for("events flow", || {
        let metrics = metrics_of(&node);
        metrics.is_some_and(|text| text.lines().any(is_some_published))
    });
    node.signal("KILL");
    let output = child.wait_with_output().expect("its end");
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}\n{err}");
    assert!(err.starts_with("error: the server has gone: 50 of 50 streams were cut"), "{err}");
    assert!(started.elapsed().as_secs() < 40, "it waited for the end of its time");
}

/// The metrics over a connection of their own, without a runtime.
fn metrics_of(node: &Node) -> Option<String> {
    use std::io::{Read as _, Write as _};
    let mut socket = std::net::TcpStream::connect(node.address()).ok()?;
    socket
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    Some(text)
}

fn is_some_published(line: &str) -> bool {
    let value = line.strip_prefix("headwater_events_published_total ");
    value.and_then(|value| value.parse::<u64>().ok()).is_some_and(|count| count > 5)
}

#[test]
fn invalid_options_are_rejected_with_advice() {
    #[track_caller]
    fn check(arguments: &[&str], code: i32, words: &str) {
        let output = bench(arguments);
        let err = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
    }
    check(&["--streams", "0"], 2, "1..=288000");
    check(&["--rate", "fast"], 2, "from 0.1 to 1000000");
    check(&["--size", "31"], 2, "32..=1048576");
    check(&["--max", "--rate", "5"], 2, "cannot be used with");
    check(&["--in-flight", "500"], 2, "128 at most; with --redis it can be 10000");
    check(&["--pid", "1"], 2, "--url");
    check(&["--url", "https://example.org"], 2, "the generator speaks no TLS");
    check(&["--redis", "rediss://:secret@example.org"], 2, "without TLS");
    let port = free_port();
    let nobody = format!("http://127.0.0.1:{port}");
    check(&["--url", &nobody, "--streams", "2"], 1, "no stream could be opened: ");
    check(&["--redis", &format!("redis://127.0.0.1:{port}")], 1, "Redis");
}

#[test]
fn the_help_has_examples() {
    let help = text(&bench(&["--help"]).stdout);
    assert!(help.contains("Examples:\n  headwater bench  "), "{help}");
    assert!(!help.contains("--worker"), "{help}");
}
