//! `headwater token` and `headwater check`, and clients with a token.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, SystemTime};

use headwater_test_support::tls::{Files, write_private};
use headwater_test_support::{EventStream, Node, secrets};

use crate::support::BINARY;
use crate::support::access::{SECRET, SecretFile};
use crate::support::backend::{Backend, answer, json};
use crate::support::commands::run;

#[tokio::test]
async fn an_issued_token_is_accepted() {
    let secret = SecretFile::new();
    let rules = ["--jwt-secret-file", secret.path(), "--jwt-audience", "hw"];
    let node = Node::start(BINARY, &rules);
    let make = async |more: &[&str]| {
        let arguments = [&["token", "--audience", "hw"], more].concat();
        let (code, text) = run(&arguments, &[("HEADWATER_JWT_SECRET", SECRET)]).await;
        assert_eq!(code, Some(0), "{text}");
        secrets::keep_credential(text.trim());
        text.trim().to_owned()
    };
    let listener = make(&["--subscribe", "news", "--user", "42", "--id", "j", "--ttl", "1m"]).await;
    let bearer = format!("Bearer {listener}");
    let headers = [("authorization", &*bearer)];
    let path = "/sse/stream?channel=news";
    let mut stream = EventStream::open_with(node.address(), path, &headers, None).await;
    assert_eq!(stream.status, 200);
    let publisher = make(&["--publish", "news", "--secret-file", secret.path()]).await;
    let url = format!("http://{}", node.address());
    let publish = ["publish", "news", "hello", "--url", &url];
    let (code, text) = run(&publish, &[("HEADWATER_TOKEN", &publisher)]).await;
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(stream.next().await.expect("it is open").data, "hello");
    let (code, text) = run(&publish, &[]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("missing credentials"), "{text}");
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("token");
    fs::write(&file, format!("{listener}\n")).expect("the file is written");
    let file = ["--token-file", file.to_str().expect("UTF-8")];
    let subscribe = ["subscribe", "news", "--rewind", "1", "--count", "1", "--url", &url];
    let (code, text) = run(&[&subscribe[..], &file].concat(), &[]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("hello"), "{text}");
    let (code, text) = run(&["token", "--subscribe", "news"], &[]).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("HEADWATER_JWT_SECRET"), "{text}");
}

#[tokio::test]
async fn check_reports_what_works_and_what_does_not() {
    let check = async |arguments: &[&str]| run(&[&["check"], arguments].concat(), &[]).await;
    let (code, text) = check(&[]).await;
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("only this machine can reach it"), "{text}");
    let (code, text) = check(&["--listen", "0.0.0.0:80"]).await;
    assert_eq!(code, Some(2), "{text}");

    let directory = tempfile::tempdir().expect("a directory");
    secrets::keep("hunter2");
    let weak = directory.path().join("weak");
    fs::write(&weak, "hunter2").expect("the file is written");
    let weak = weak.to_str().expect("UTF-8");
    let (code, text) = check(&["--jwt-secret-file", weak]).await;
    assert_eq!(code, Some(0), "{text}");
    for part in ["is weak (7 bytes)", "can be read by others", "jwt-audience is not set"] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let (code, text) = check(&["--jwt-public-key", weak]).await;
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("FAIL") && text.contains("cannot be used"), "{text}");

    let backend = Backend::start(&answer("403 Forbidden", "text/html", "")).await;
    let asks = ["--authorize-url", &backend.url("/")];
    let (code, text) = check(&asks).await;
    assert!(code == Some(0) && text.contains("denies clients without credentials"), "{text}");
    backend.answer_with(&json("{}"), Duration::ZERO);
    let (code, text) = check(&asks).await;
    assert!(code == Some(0) && text.contains("does it check who asks"), "{text}");
    backend.answer_with(&answer("500 Oops", "text/html", ""), Duration::ZERO);
    let (code, text) = check(&asks).await;
    assert!(code == Some(1) && text.contains("which denies"), "{text}");
}

#[tokio::test]
async fn check_examines_the_certificate() {
    let mut files = Files::new();
    let paths = [files.certificate_path(), files.key_path()];
    let [certificate, key] = paths.each_ref().map(|path| path.to_str().expect("UTF-8"));
    let check =
        async || run(&["check", "--open", "--tls-cert", certificate, "--tls-key", key], &[]).await;
    let (code, text) = check().await;
    assert!(code == Some(0) && text.contains(" and its key fit\n"), "{text}");
    for (hours, expected_code, expected) in [
        (8 * 24 + 1, 0, "  ok    {} is good for 8 days\n"),
        (6 * 24 + 1, 0, "  warn  {} expires in 6 days: renew it\n"),
        (1, 0, "  warn  {} expires in 0 days: renew it\n"),
        (-1, 1, "  FAIL  {} has expired: clients reject it\n"),
    ] {
        let seconds = Duration::from_secs(3_600 * u64::from(i32::unsigned_abs(hours)));
        let now = SystemTime::now();
        files.renew_until(if hours < 0 { now - seconds } else { now + seconds });
        let (code, text) = check().await;
        assert_eq!(code, Some(expected_code), "{text}");
        assert!(text.contains(&expected.replace("{}", certificate)), "{expected:?}: {text}");
    }

    files.renew();
    fs::set_permissions(key, fs::Permissions::from_mode(0o644)).expect("permissions");
    let (code, text) = check().await;
    assert!(code == Some(0) && text.contains("can be read by others (mode 644)"), "{text}");
    write_private(&paths[1], &Files::new().key_text());
    let (code, text) = check().await;
    assert!(code == Some(1) && text.contains("do not fit together"), "{text}");
    fs::remove_file(key).expect("the key is removed");
    let (code, text) = check().await;
    assert!(code == Some(1) && text.contains(&format!("FAIL  cannot read {key}")), "{text}");
}
