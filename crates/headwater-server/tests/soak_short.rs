//! The end-to-end checker in a short version: each scenario for a few seconds, with a new seed
//! every time. It is a test binary of its own, so that its load disturbs no test that measures
//! times. `cargo xtask soak` runs the same long, and repeats a round by its seed.

use std::time::Duration;

use headwater_soak::{Options, Scenario, run};

/// Long enough for every fault of a scenario once, and some tens of drops.
const DURATION: Duration = Duration::from_secs(4);

async fn check(name: &str) {
    let seed = fastrand::u64(0..1 << 32);
    let scenario = Scenario::find(name)[0].lasting(DURATION);
    let options = Options { binary: env!("CARGO_BIN_EXE_headwater").into(), logs: None };
    let again = format!("again: cargo xtask soak --scenario {name} --seed {seed} --seconds 4");
    let verdict = run(&options, &scenario, seed).await;
    let verdict = verdict.unwrap_or_else(|why| panic!("{why}\n{again}"));
    println!("{name}: {}", verdict.summary);
    let found = verdict.counterexamples.join("\n");
    assert!(found.is_empty(), "{found}\n{again}");
}

macro_rules! scenarios {
    ($($test:ident: $name:literal,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                check($name).await;
            }
        )*

        #[test]
        fn no_scenario_is_left_out() {
            let names: Vec<_> = headwater_soak::scenario::ALL.iter().map(|all| all.name).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

scenarios! {
    drops: "drops",
    drops_with_five_channels: "drops-five-channels",
    drops_of_plain_events: "drops-plain",
    drops_over_http2: "drops-http2",
    two_nodes: "two-nodes",
    redis_kills_the_subscriber: "redis-kill-subscriber",
    redis_restarts_with_data: "redis-restart-with-data",
    redis_restarts_without_data: "redis-restart-without-data",
    a_node_restarts: "node-restart",
    an_embedded_node_restarts: "node-restart-data",
    embedded: "embedded",
    trimmed: "trimmed",
    mix: "mix",
}
