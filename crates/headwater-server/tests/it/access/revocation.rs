//! Ending streams of others, on one node and on all.

use headwater_test_support::{Node, http};

use crate::support::BINARY;
use crate::support::access::{SecretFile, claims, token};
use crate::support::revocation::check;

#[tokio::test]
async fn streams_end_now_on_one_node() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    check(&node, &node).await;
}

#[tokio::test]
async fn a_user_or_token_that_could_not_be_revoked_is_denied() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    for claim in ["sub", "jti"] {
        for (bytes, expected) in [(255, 200), (256, 403), (4_000, 403)] {
            let mut claims = claims(&["news"], &["news"]);
            claims[claim] = "i".repeat(bytes).into();
            let bearer = format!("Bearer {}", token(&claims));
            let headers = [("authorization", &*bearer)];
            for (method, path) in [
                ("HEAD", "/sse/stream?channel=news"),
                ("POST", "/sse/publish?channel=news"),
                ("POST", "/sse/ticket?channel=news"),
            ] {
                let answer = http::request(node.address(), method, path, &headers, b"x").await;
                assert_eq!(answer.status, expected, "{claim} {bytes} {method} {path}");
            }
        }
    }
}
