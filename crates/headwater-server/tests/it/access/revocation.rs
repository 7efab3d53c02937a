//! Ending streams of others, on one node and on all.

use headwater_test_support::Node;

use crate::support::BINARY;
use crate::support::access::SecretFile;
use crate::support::revocation::check;

#[tokio::test]
async fn streams_end_now_on_one_node() {
    let secret = SecretFile::new();
    let node = Node::start(BINARY, &["--jwt-secret-file", secret.path()]);
    check(&node, &node).await;
}
