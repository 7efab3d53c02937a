//! A client that drops at random moments while 2,000 events a second are published, and reconnects
//! with its last id: nothing lost, nothing twice, in order. HEADWATER_TEST_FULL=1 runs 100 drops in
//! 20 s instead of 30 in 5 s.

use headwater_test_support::Node;

use crate::support::BINARY;
use crate::support::drops::{Away, FIVE, KEEP, check};
use crate::support::follower::Wire;
use crate::support::load::Via;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_drops_loses_nothing_on_the_embedded_broker() {
    let node = Node::start(BINARY, &["--retention", KEEP]);
    let via = Via::Http(node.address());
    check(&node, Wire::Http1, via, &["news"], Away::UpToASecond).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_five_channels_loses_nothing_on_the_embedded_broker() {
    let node = Node::start(BINARY, &["--retention", KEEP]);
    let via = Via::Http(node.address());
    check(&node, Wire::Http1, via, &FIVE, Away::UpToASecond).await;
}
