//! Which settings open and close access, and which make no sense together.

use headwater_test_support::{EventStream, Node, http, secrets};
use tokio::process::Command;

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, token};

/// Runs `serve`, which must refuse to start; returns its error.
async fn refusal(arguments: &[&str]) -> String {
    let mut command = Command::new(BINARY);
    command.arg("serve").args(arguments).env_clear().kill_on_drop(true);
    let output = tokio::time::timeout(headwater_test_support::PATIENCE, command.output()).await;
    let output = output.expect("it ends in time").expect("it runs");
    assert!(!output.status.success(), "{arguments:?}");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
    secrets::search("what it says", &text);
    text
}

#[tokio::test]
async fn an_address_that_others_can_reach_needs_rules() {
    let text = refusal(&["--listen", "0.0.0.0:0"]).await;
    for way in ["--jwt-secret-file", "--jwks", "--authorize-url", "--open"] {
        assert!(text.contains(way), "{way} is not in {text}");
    }
    let secret = SecretFile::new();
    let rules = ["--jwt-secret-file", secret.path()];
    Node::start_on(BINARY, "0.0.0.0:0", &[&rules[..], &["--admin", "127.0.0.1:0"]].concat());
    Node::start_on(BINARY, "0.0.0.0:0", &["--public", "news", "--admin", "127.0.0.1:0"]);
}

#[tokio::test]
async fn invalid_settings_are_rejected() {
    let secret = SecretFile::new();
    secrets::keep("p4ssw0rd");
    let text = refusal(&["--open", "--public", "news"]).await;
    assert!(text.contains("there are access rules too"), "{text}");
    for about_tokens in ["--jwt-audience=a", "--jwt-issuer=a", "--allow-subscribe=a"] {
        let text = refusal(&[about_tokens]).await;
        assert!(text.contains("no tokens are accepted"), "{text}");
    }
    for (arguments, part) in [
        (&["--jwt-secret-file", "/nowhere"][..], "cannot read the secret"),
        (&["--jwt-public-key", secret.path()], "no public key"),
        (&["--jwks", secret.path()], "no JSON Web Key Set"),
        (&["--jwks", "/nowhere"], "cannot read"),
        (&["--public", "a*b"], "at its end"),
        (&["--allow-subscribe", "user:{sub}*"], "separator"),
        (&["--cors-origin", "app.example"], "no origin"),
        (&["--authorize-url", "http://u:p4ssw0rd@h/"], "leave them out"),
    ] {
        let text = refusal(arguments).await;
        assert!(text.contains(part), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn public_channels_are_open_and_nothing_else() {
    let secret = SecretFile::new();
    let with_tokens = ["--public", "news:*", "--jwt-secret-file", secret.path()];
    for arguments in [&["--public", "news:*"][..], &with_tokens] {
        let node = Node::start(BINARY, arguments);
        let status = async |query: &str| {
            EventStream::open(node.address(), &format!("/sse/stream?{query}")).await.status
        };
        assert_eq!(status("channel=news:a&channel=news:b").await, 200);
        assert_eq!(status("channel=news:a&channel=private").await, 401);
        assert_eq!(status("channel=news").await, 401);
        assert_eq!(status("").await, 401, "the default channel is one like others");
        let published = http::post(node.address(), "/sse/publish?channel=news:a", b"x").await;
        published.problem(401);
        // A bad token is no worse than none, where none is needed.
        let bad = [("authorization", "Bearer x")];
        let path = "/sse/stream?channel=news:a";
        let stream = EventStream::open_with(node.address(), path, &bad, None).await;
        assert_eq!(stream.status, 200);
    }
}

#[tokio::test]
async fn users_have_separate_channels() {
    let secret = SecretFile::new();
    let arguments = [
        "--jwt-secret-file",
        secret.path(),
        "--allow-subscribe=user:{sub}:*",
        "--allow-publish=from:{sub}",
    ];
    let node = Node::start(BINARY, &arguments);
    let knock = async |sub: &str, method: &str, path: &str| {
        let mut claims = claims(&[], &[]);
        claims["sub"] = sub.into();
        let bearer = format!("Bearer {}", token(&claims));
        let headers = [("authorization", &*bearer)];
        if method == "GET" {
            return EventStream::open_with(node.address(), path, &headers, None).await.status;
        }
        http::request(node.address(), method, path, &headers, b"x").await.status
    };
    assert_eq!(knock("42", "GET", "/sse/stream?channel=user:42:inbox").await, 200);
    assert_eq!(knock("42", "GET", "/sse/stream?channel=user:43:inbox").await, 403);
    assert_eq!(knock("42", "GET", "/sse/stream?channel=user:421:inbox").await, 403);
    assert_eq!(knock("*", "GET", "/sse/stream?channel=user:42:inbox").await, 403);
    assert_eq!(knock("42:x", "GET", "/sse/stream?channel=user:42:x:inbox").await, 403);
    assert_eq!(knock("42", "POST", "/sse/publish?channel=from:42").await, 200);
    assert_eq!(knock("42", "POST", "/sse/publish?channel=from:43").await, 403);
}

#[tokio::test]
async fn loopback_without_rules_is_open_and_reports_it() {
    let node = Node::start(BINARY, &[]);
    assert!(node.log().contains("\"access\":\"open\""), "{}", node.log());
    assert_eq!(http::post(node.address(), "/sse/publish?channel=a", b"x").await.status, 200);
    let answer = http::request(node.address(), "POST", "/sse/ticket", &[], b"").await;
    assert!(answer.json()["ticket"].as_str().is_some_and(|ticket| ticket.len() == 43));
}
