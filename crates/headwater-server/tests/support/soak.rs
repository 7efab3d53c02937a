//! The end-to-end checker in a short version: each scenario for a few seconds, with a new seed
//! every time. `cargo xtask soak` runs the same long, and repeats a round by its seed.

use std::time::Duration;

use headwater_soak::scenario::Broker;
use headwater_soak::{Options, Scenario, run};

/// Long enough for every fault of a scenario once, and some tens of drops.
const DURATION: Duration = Duration::from_secs(4);

/// Long enough for some faults that last longer than the deadlines of a node.
const OUTAGES_DURATION: Duration = Duration::from_secs(20);

pub(crate) async fn check(name: &str) {
    let seed = fastrand::u64(0..1 << 32);
    let scenario = Scenario::find(name)[0];
    let has_outages = scenario.broker == Broker::RedisReplicated;
    let scenario = scenario.lasting(if has_outages { OUTAGES_DURATION } else { DURATION });
    let options = Options { binary: env!("CARGO_BIN_EXE_headwater").into(), logs: None };
    let seconds = scenario.duration.as_secs();
    let again =
        format!("again: cargo xtask soak --scenario {name} --seed {seed} --seconds {seconds}");
    let verdict = run(&options, &scenario, seed).await;
    let verdict = verdict.unwrap_or_else(|why| panic!("{why}\n{again}"));
    println!("{name}: {}", verdict.summary);
    let found = verdict.counterexamples.join("\n");
    assert!(found.is_empty(), "{found}\n{again}");
}

/// A test for each scenario, and one that no scenario over these brokers is left out.
macro_rules! scenarios {
    ($brokers:pat, $($test:ident: $name:literal,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                soak::check($name).await;
            }
        )*

        #[test]
        fn no_scenario_is_left_out() {
            use headwater_soak::scenario::{ALL, Broker};
            let over_these = ALL.iter().filter(|all| matches!(all.broker, $brokers));
            let names: Vec<_> = over_these.map(|all| all.name).collect();
            assert_eq!(names, [$($name),*]);
        }
    };
}

pub(crate) use scenarios;
