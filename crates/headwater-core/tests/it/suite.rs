//! The contract of brokers, checked for the embedded broker.

use headwater_core::memory::MemoryBroker;
use headwater_core::testing::suite;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_fulfils_the_contract() {
    suite(async || MemoryBroker::new()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_with_a_directory_fulfils_the_contract() {
    let parent = tempfile::tempdir().unwrap();
    let count = std::sync::atomic::AtomicUsize::new(0);
    suite(async || {
        let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = parent.path().join(number.to_string());
        MemoryBroker::open(directory, headwater_core::log::RetentionRules::new()).unwrap()
    })
    .await;
}
