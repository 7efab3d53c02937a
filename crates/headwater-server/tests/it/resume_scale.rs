//! A stream that replays a long history slowly, from the embedded broker. Look here for the bound
//! on memory. HEADWATER_TEST_FULL=1 replays 100 MB instead of 30.

use crate::support::replay::{REPLAY_MEMORY_MAX, check_replay};

/// The embedded broker has the history in memory anyway; replaying adds nothing to speak of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_history_is_replayed_from_the_embedded_broker_in_little_memory() {
    let grown = check_replay(None).await;
    assert!(grown < REPLAY_MEMORY_MAX, "{grown} bytes");
}
