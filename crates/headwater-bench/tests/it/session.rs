//! The counts of a session, against a server with known faults.

use std::time::Duration;

use headwater_bench::generator::WorkerCommand;
use headwater_bench::publisher::{Amount, Load, Pace, PublishTarget};
use headwater_bench::report::DeliveryReport;
use headwater_bench::session::Session;
use headwater_bench::target::HttpTarget;

use crate::faulty::{self, Fault};

const STREAMS: usize = 3;
const EVENTS: u64 = 10;

/// How long a session waits for missing deliveries.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

fn worker() -> WorkerCommand {
    let program = env!("CARGO_BIN_EXE_headwater-bench-worker").into();
    WorkerCommand { program, arguments: Vec::new() }
}

fn session(fault: Fault) -> Session {
    let target = HttpTarget::headwater(vec![faulty::start(fault)]);
    let to = PublishTarget::Http(target.clone());
    let session = Session::start(&worker(), &target, to, STREAMS, 1, &[]).expect("a session");
    session.with_drain_timeout(DRAIN_TIMEOUT)
}

fn load(session: &mut Session, pace: Pace) -> DeliveryReport {
    let load = Load { pace, amount: Amount::Events(EVENTS), event_bytes: 64, in_flight: 2 };
    session.load(&load, |_| {}).expect("a load")
}

/// The counts of missing, duplicates, rejected and cut.
fn faults(fault: Fault) -> [u64; 4] {
    let mut session = session(fault);
    let opening = session.open().expect("an opening");
    assert_eq!((opening.open, opening.failed), (STREAMS, 0), "{fault:?}");
    let report = load(&mut session, Pace::AsAnswered);
    assert_eq!(report.expected, STREAMS as u64 * EVENTS, "{fault:?}");
    assert_eq!(report.received + report.missing, report.expected, "{fault:?}");
    [report.missing, report.duplicates, report.refused, report.cut as u64]
}

#[test]
fn a_correct_server_has_no_faults() {
    assert_eq!(faults(Fault::None), [0, 0, 0, 0]);
}

#[test]
fn a_repeated_event_is_a_duplicate() {
    assert_eq!(faults(Fault::Repeat(4)), [0, 1, 0, 0]);
    assert_eq!(faults(Fault::Repeat(9)), [0, 1, 0, 0], "the last event too");
}

/// Each case waits for the drain timeout, so they run in parallel.
#[test]
fn undelivered_events_are_missing() {
    let cases = [
        (Fault::Drop(4), [1, 0, 0, 0]),
        (Fault::Drop(9), [1, 0, 0, 0]),
        (Fault::Reject(3), [STREAMS as u64, 0, 1, 0]),
        (Fault::Cut(5), [5, 0, 0, 1]),
        (Fault::CutAfter(4), [5, 0, 0, 1]),
    ];
    std::thread::scope(|scope| {
        for (fault, expected) in cases {
            scope.spawn(move || {
                let [missing, duplicates, rejected, cut] = faults(fault);
                // Two events are in flight, so the one before the cut may arrive after it.
                let is_near = matches!(fault, Fault::Cut(_)) && missing.abs_diff(expected[0]) <= 1;
                let missing = if is_near { expected[0] } else { missing };
                assert_eq!([missing, duplicates, rejected, cut], expected, "{fault:?}");
            });
        }
    });
}

#[test]
fn rejected_streams_have_failed() {
    let opening = session(Fault::NoStreams).open().expect("an opening");
    assert_eq!((opening.open, opening.failed), (0, STREAMS));
    let why = opening.why.expect("a reason");
    assert_eq!(why, "the server answered 404 to a stream's request");
}

#[test]
fn the_rate_is_limited_and_streams_can_be_reopened() {
    let mut session = session(Fault::None);
    for _ in 0..2 {
        session.open().expect("an opening");
        let report = load(&mut session, Pace::PerSecond(100.0));
        assert_eq!((report.received, report.fault()), (STREAMS as u64 * EVENTS, None));
        assert!(report.seconds >= 0.1, "10 events at 100 per second: {report:?}");
        assert!(report.latency.max_ns > 0, "{report:?}");
        session.close().expect("a close");
    }
}

#[test]
fn an_unreachable_server_is_an_error() {
    let address = std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr());
    let target = HttpTarget::headwater(vec![address.expect("an address")]);
    let to = PublishTarget::Http(target.clone());
    let mut session = Session::start(&worker(), &target, to, 1, 1, &[]).expect("a session");
    assert_eq!(session.open().expect("an opening").failed, 1);
    let load = Load {
        pace: Pace::AsAnswered,
        amount: Amount::Time(Duration::from_secs(1)),
        event_bytes: 64,
        in_flight: 1,
    };
    let error = session.load(&load, |_| {}).expect_err("no server").to_string();
    assert!(error.starts_with("cannot connect to 127.0.0.1"), "{error}");
}
