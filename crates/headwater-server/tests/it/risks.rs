//! What is risky is named: in the log at start, and by `headwater check`. Look here for what counts
//! as a risk, and for what does not.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use headwater_test_support::{Node, secrets};

use crate::support::BINARY;
use crate::support::access::{RsaKeys, SECRET};
use crate::support::commands::run;

const GOOD: &str = "0b3f8e6f1c2d4a5b9e8f7a6c5d4e3f2a1b0c9d8e7f6a5b4c";

/// Whether the log of a server and the output of `check` name a risk in these words.
async fn named(arguments: &[&str], risk: &str) -> [bool; 2] {
    let node = Node::start_quiet(BINARY, arguments);
    // Risks are logged before this.
    node.signal("TERM");
    node.wait_for_log("shutting down");
    let log = node.log();
    let is_warning = |line: &str| {
        line.contains("\"level\":\"WARN\"") && line.contains("::server") && line.contains(risk)
    };
    let (_, said) = run(&[&["check"], arguments].concat(), &[]).await;
    let is_finding = |line: &str| line.starts_with("  warn  ") && line.contains(risk);
    [log.lines().any(is_warning), said.lines().any(is_finding)]
}

#[tokio::test]
async fn weak_secrets_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("secret");
    let file = path.to_str().expect("UTF-8");
    for (secret, is_weak) in [
        ("x", true),
        ("hunter2-hunter2", true),
        (&*"a".repeat(64), true),
        (&*"hunter2-hunter2-".repeat(4), true),
        ("a-string-secret-at-least-256-bits-long", true),
        (GOOD, false),
    ] {
        fs::write(&path, secret).expect("it is written");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).expect("permissions");
        let named = named(&["--jwt-secret-file", file], "the secret is weak").await;
        assert_eq!(named, [is_weak; 2], "{secret}");
    }
}

#[tokio::test]
async fn files_that_others_can_read_or_change_are_named() {
    let directory = tempfile::tempdir().expect("a directory");
    let at = |name: &str| directory.path().join(name).to_str().expect("UTF-8").to_owned();
    let (secret, settings, key, data) = (at("secret"), at("hw.toml"), at("key.pem"), at("data"));
    secrets::keep("p4ssw0rd");
    RsaKeys::new().write_public(key.as_ref());
    fs::create_dir(&data).expect("a directory");
    let (readable, changeable) = ("can be read by others", "can be changed by others");
    let in_file = format!("jwt-secret = \"{GOOD}\"");
    let redis = "redis = \"redis://u:p4ssw0rd@127.0.0.1:1\"";
    for (path, content, mode, flags, risk, expected) in [
        (&secret, GOOD, 0o644, ["--jwt-secret-file", &secret], readable, true),
        (&secret, GOOD, 0o640, ["--jwt-secret-file", &secret], readable, true),
        (&secret, GOOD, 0o600, ["--jwt-secret-file", &secret], readable, false),
        (&settings, &in_file, 0o644, ["--config", &settings], readable, true),
        (&settings, &in_file, 0o604, ["--config", &settings], readable, true),
        (&settings, &in_file, 0o600, ["--config", &settings], readable, false),
        (&settings, redis, 0o644, ["--config", &settings], readable, true),
        (
            &settings,
            "redis = \"redis://127.0.0.1:1\"",
            0o644,
            ["--config", &settings],
            readable,
            false,
        ),
        (&settings, "public = [\"news\"]", 0o644, ["--config", &settings], readable, false),
        (&key, "", 0o644, ["--jwt-public-key", &key], changeable, false),
        (&key, "", 0o666, ["--jwt-public-key", &key], changeable, true),
        (&data, "", 0o755, ["--data", &data], changeable, false),
        (&data, "", 0o777, ["--data", &data], changeable, true),
    ] {
        if !content.is_empty() {
            fs::write(path, content).expect("it is written");
        }
        fs::set_permissions(path, Permissions::from_mode(mode)).expect("permissions");
        let named = named(&flags, &format!("{path} {risk} (mode {mode:03o})")).await;
        assert_eq!(named, [expected; 2], "{path} {mode:o} {content}");
    }
}

#[tokio::test]
async fn settings_that_allow_much_are_named() {
    let rules = format!("--jwt-secret={SECRET}");
    secrets::keep(SECRET);
    for (flags, risk) in [
        (
            &["--open", "--trusted-proxy=127.0.0.1", "--proxy-protocol", "--admin=127.0.0.1:0"][..],
            "every client that can reach it",
        ),
        (&[&*rules], "is on the command line"),
        (&[&*rules], "jwt-audience is not set"),
        (&["--public=*"], "every client may subscribe to all channels"),
        (&[&*rules, "--jwt-in-query"], "jwt-in-query is on"),
        (&["--public=news", "--cors-origin=*"], "cors-origin has `*`"),
        (&["--public=news", "--max-failed-logins=off"], "max-failed-logins is off"),
        (&["--authorize-url=http://192.0.2.1/"], "authorize-url begins with http://"),
        (&["--jwks=http://192.0.2.1/"], "jwks begins with http://"),
    ] {
        let flags = &[flags, &["--authorize-timeout=100ms"]].concat();
        assert_eq!(named(flags, risk).await, [true; 2], "{flags:?}");
    }
    for flags in [
        &["--public=news"][..],
        &["--authorize-url=http://127.0.0.1:1/", "--authorize-timeout=100ms"],
        &["--authorize-url=http://localhost:1/", "--authorize-timeout=100ms"],
        &["--authorize-url=http://[::1]:1/", "--authorize-timeout=100ms"],
        &[],
    ] {
        assert_eq!(named(flags, "").await, [false; 2], "{flags:?}");
    }
}
