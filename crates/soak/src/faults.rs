//! The fault plan, made from the seed, and its execution. Look here for how a fault is injected.
//! Everything is repaired when the plan is done.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, sleep_until};

use crate::counterexample::Injected;
use crate::ledger::Ledger;
use crate::scenario::{Fault, Scenario};
use crate::tally::Tally;
use crate::world::{DOWN_MAX, World};

/// The part of a round in which faults are injected.
const FAULTY: std::ops::Range<f64> = 0.1..0.9;

/// One fault of the plan.
#[derive(Debug, Clone, Copy)]
struct Planned {
    at: Duration,
    fault: Fault,
    lasts: Duration,
    node: usize,
}

/// Injects all faults of the plan.
pub async fn inject(
    world: &mut World,
    scenario: &Scenario,
    mut rng: Rng,
    ledger: Arc<Ledger>,
    tally: Arc<Tally>,
) -> Vec<Injected> {
    let begin = Instant::now();
    let mut injected = Vec::new();
    for planned in plan(scenario, &mut rng) {
        sleep_until(begin + planned.at).await;
        let at_ms = ledger.now_ms();
        let Planned { fault, lasts, node, .. } = planned;
        let what = match fault {
            Fault::RestartNode => format!("node {node} killed, for {} ms", lasts.as_millis()),
            Fault::RestartRedis => format!("Redis killed, for {} ms", lasts.as_millis()),
            Fault::FreezeRedis => format!("Redis frozen, for {} ms", lasts.as_millis()),
            Fault::KillSubscribers => "subscriber connections killed in Redis".to_owned(),
        };
        injected.push(Injected { at_ms, what });
        tally.faults.add(1);
        execute(world, planned).await;
        let repaired = format!("(repaired after {} ms)", ledger.now_ms() - at_ms);
        injected.push(Injected { at_ms: ledger.now_ms(), what: repaired });
    }
    injected
}

fn plan(scenario: &Scenario, rng: &mut Rng) -> Vec<Planned> {
    let mut plan = Vec::new();
    for (fault, count) in scenario.faults {
        for _ in 0..scenario.scaled(*count) {
            let part = FAULTY.start + rng.f64() * (FAULTY.end - FAULTY.start);
            plan.push(Planned {
                at: scenario.duration.mul_f64(part),
                fault: *fault,
                // Half of all outages are as short as possible.
                lasts: if rng.bool() { Duration::ZERO } else { DOWN_MAX.mul_f64(rng.f64()) },
                node: rng.usize(0..scenario.nodes),
            });
        }
    }
    plan.sort_by_key(|planned| planned.at);
    plan
}

async fn execute(world: &mut World, planned: Planned) {
    match planned.fault {
        Fault::KillSubscribers => {
            if let Some(redis) = world.redis() {
                block_in_place(|| redis.run::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]));
            }
        }
        Fault::RestartRedis => {
            if let Some(redis) = world.redis() {
                block_in_place(|| redis.kill());
                sleep(planned.lasts).await;
                block_in_place(|| redis.restart());
            }
        }
        Fault::FreezeRedis => {
            if let Some(redis) = world.redis() {
                redis.freeze();
                sleep(planned.lasts).await;
                redis.thaw();
            }
        }
        Fault::RestartNode => {
            block_in_place(|| world.kill_node(planned.node));
            sleep(planned.lasts).await;
            block_in_place(|| world.start_node(planned.node));
        }
    }
}
