//! The meaning of answers and failures, as one table. Texts of answers are those of Redis 7.0, and
//! of 6.2 where they differ.

use super::*;

/// The error of an answer, as the crate redis parses it.
fn answer(line: &str) -> RedisError {
    let value = redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).unwrap();
    value.extract_error().unwrap_err()
}

#[track_caller]
fn check(error: &RedisError, kind: ErrorKind, reason: &str, message: &str) {
    let published = publish_error(error.clone());
    assert_eq!((published.kind(), published.reason()), (kind, Some(reason)), "{error}");
    assert_eq!(published.to_string(), message);
    let read = read_error(error.clone());
    assert_eq!((read.kind(), read.reason()), (kind, Some(reason)), "{error}");
    assert!(!read.to_string().contains("event"), "{read}");
    let part = part(error);
    assert!(part.failure().unwrap().starts_with(reason), "{part}");
}

#[test]
fn refusals_have_a_code_a_meaning_and_advice() {
    for (line, code) in [
        ("READONLY You can't write against a read only replica.", "READONLY"),
        ("READONLY Can not run script with write flag on readonly replica.", "READONLY"),
        ("OOM command not allowed when used memory > 'maxmemory'.", "OOM"),
        ("MISCONF Errors writing to the AOF file: No space left on device", "MISCONF"),
        ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS"),
        ("LOADING Redis is loading the dataset in memory", "LOADING"),
        ("MASTERDOWN Link with MASTER is down", "MASTERDOWN"),
        ("CLUSTERDOWN Hash slot not served", "CLUSTERDOWN"),
        ("MOVED 866 127.0.0.1:7001", "MOVED"),
        ("TRYAGAIN Multiple keys request during rehashing of slot", "TRYAGAIN"),
        ("BUSY Redis is busy running a script.", "BUSY"),
        ("UNKILLABLE Sorry the script already executed write commands", "UNKILLABLE"),
        ("NOSCRIPT No matching script. Please use EVAL.", "NOSCRIPT"),
        ("NOPERM User app has no permissions to run the 'fcall' command", "NOPERM"),
        ("NOAUTH Authentication required.", "NOAUTH"),
        ("WRONGPASS invalid username-password pair or user is disabled.", "WRONGPASS"),
        (
            "ERR Error running script (call to f_1): @user_script:1: @user_script: 1: -OOM command \
             not allowed when used memory > 'maxmemory'.",
            "OOM",
        ),
    ] {
        let refusal = REFUSALS.iter().find(|refusal| refusal.code == code).unwrap();
        let Refusal { kind, meaning, advice, .. } = refusal;
        let message = format!(
            "Redis refused the event: {code}: {meaning}: {advice}; the event was not accepted"
        );
        check(&answer(line), *kind, code, &message);
        assert_eq!(is_denied(&answer(line)), code == "NOPERM", "{line}");
    }
}

#[test]
fn a_permission_that_is_missing_inside_the_function_leaves_the_outcome_open() {
    for line in [
        "ERR The user executing the script can't run this command or subcommand",
        "NOPERM The user executing the script can't access at least one of the keys",
        "ERR ACL failure in script: User app has no permissions to run the 'publish' command",
    ] {
        let error = publish_error(answer(line));
        assert_eq!((error.kind(), error.reason()), (ErrorKind::PermissionDenied, Some("NOPERM")));
        assert!(error.to_string().contains("may have been accepted"), "{error}");
        assert!(is_denied(&answer(line)), "{line}");
    }
}

#[test]
fn other_answers_are_quoted_without_the_arguments_of_the_command() {
    let unknown = "; the event may have been accepted, and with an idempotency key it is accepted \
                   only once";
    for (line, code, details) in [
        ("ERR something else", "ERR", "something else"),
        ("WEIRD", "WEIRD", ""),
        (
            "ERR unknown command 'FCALL', with args beginning with: 'secret'",
            "ERR",
            "unknown command 'FCALL'",
        ),
        // A code in the data of an event is none.
        ("ERR cannot parse OOM here", "ERR", "cannot parse OOM here"),
    ] {
        let message = format!("Redis refused the event: {code}: {details}: publish again{unknown}");
        check(&answer(line), ErrorKind::Unavailable, code, &message);
    }
}

#[test]
fn failures_without_an_answer_say_whether_the_event_may_have_been_accepted() {
    let unknown = "publish again; the event may have been accepted, and with an idempotency key \
                   it is accepted only once";
    check(
        &not_answered(Duration::from_secs(3)),
        ErrorKind::Unavailable,
        "timeout",
        &format!("Redis did not answer in time: {unknown}"),
    );
    check(
        &io::Error::from(io::ErrorKind::ConnectionReset).into(),
        ErrorKind::Unavailable,
        "lost",
        &format!("the connection to Redis was lost before it answered: {unknown}"),
    );
    let refused = Error::new(ErrorKind::Unavailable, "cannot connect: refused");
    check(
        &not_sent(Arc::new(refused)),
        ErrorKind::Unavailable,
        "unreachable",
        "Redis cannot be used: cannot connect: refused: publish again; the event was not accepted",
    );
    let denied = login_error(b"WRONGPASS invalid username-password pair or user is disabled.");
    let denied = not_sent(Arc::new(denied));
    assert!(!is_denied(&denied));
    let denied = publish_error(denied);
    assert_eq!((denied.kind(), denied.reason()), (ErrorKind::PermissionDenied, Some("WRONGPASS")));
}

#[test]
fn logins_fail_with_the_code_of_redis() {
    #[track_caller]
    fn check(answer: &str, kind: ErrorKind, reason: Option<&str>) {
        let error = login_error(answer.as_bytes());
        assert_eq!((error.kind(), error.reason()), (kind, reason), "{error}");
    }
    let denied = ErrorKind::PermissionDenied;
    check("WRONGPASS invalid username-password pair", denied, Some("WRONGPASS"));
    check("NOAUTH HELLO must be called with the client already auth", denied, Some("NOAUTH"));
    check(
        "ERR AUTH <password> called without any password configured for the default user.",
        denied,
        Some("WRONGPASS"),
    );
    check("ERR unknown command `HELLO`", ErrorKind::Protocol, None);
    check("ERR max number of clients reached", ErrorKind::Unavailable, Some("ERR"));
    check(
        "LOADING Redis is loading the dataset in memory",
        ErrorKind::Unavailable,
        Some("LOADING"),
    );
}

#[test]
fn answers_of_a_wrong_server_are_recognized() {
    #[track_caller]
    fn check(line: &str, expected: Option<&str>) {
        let value = redis::parse_redis_value(format!("{line}\r\n").as_bytes()).unwrap();
        assert_eq!(needs_other_connection(&Ok(vec![Value::Okay, value])), expected, "{line}");
    }
    check("-READONLY You can't write against a read only replica.", Some("READONLY"));
    check("-MASTERDOWN Link with MASTER is down", Some("MASTERDOWN"));
    check("-NOAUTH Authentication required.", Some("NOAUTH"));
    check("-OOM command not allowed", None);
    check("-NOPERM no", None);
    check("+READONLY", None);
}

#[test]
fn an_error_of_the_function_keeps_its_own_meaning() {
    assert_eq!(publish_error(answer("ENDED the channel has ended")).kind(), ErrorKind::Ended);
    let invalid = publish_error(answer("ERR headwater: a name is too long"));
    assert_eq!(invalid.kind(), ErrorKind::Invalid);
    assert_eq!(invalid.to_string(), "a name is too long");
}
