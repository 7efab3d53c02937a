//! The fault plan, made from the seed, and its execution. Look here for when a fault is injected.
//! Everything is repaired when the plan is done.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use tokio::task::block_in_place;
use tokio::time::{Instant, sleep, sleep_until};

use crate::counterexample::Injected;
use crate::fault::Fault;
use crate::ledger::{Kind, Ledger};
use crate::outage;
use crate::scenario::Scenario;
use crate::tally::Tally;
use crate::world::{DOWN_MAX, World};

/// The part of a round in which faults are injected.
const FAULTY: std::ops::Range<f64> = 0.1..0.9;

/// The longest drawn fault: longer than every deadline of a node.
const DRAWN_MAX: Duration = Duration::from_secs(7);

/// One fault of the plan.
#[derive(Debug, Clone)]
struct Planned {
    at: Duration,
    fault: Fault,
    lasts: Duration,
    node: usize,
    /// For the choices of this fault only, so that they do not depend on the order of execution.
    rng: Rng,
}

/// Where faults are recorded.
struct Record {
    begin: Instant,
    ledger: Arc<Ledger>,
    tally: Arc<Tally>,
}

/// Injects all faults of the plan, those of the network beside the others.
pub async fn inject(
    world: &mut World,
    scenario: &Scenario,
    mut rng: Rng,
    ledger: Arc<Ledger>,
    tally: Arc<Tally>,
) -> Vec<Injected> {
    let (of_network, of_servers): (Vec<_>, Vec<_>) =
        plan(scenario, &mut rng).into_iter().partition(|planned| planned.fault.is_network());
    let network = world.topology().map(|topology| topology.network());
    let record = Record { begin: Instant::now(), ledger, tally };
    let in_network = async {
        let mut injected = Vec::new();
        for mut planned in of_network {
            let Some(network) = &network else { break };
            let at_ms = record.begin(&planned).await;
            let Planned { fault, lasts, rng, .. } = &mut planned;
            let what = outage::in_network(network, *fault, *lasts, rng).await;
            record.end(&mut injected, *fault, at_ms, what);
        }
        injected
    };
    let in_servers = async {
        let mut injected = Vec::new();
        let channels = record.durable_channels();
        for mut planned in of_servers {
            let at_ms = record.begin(&planned).await;
            let what = match planned.fault {
                Fault::RestartNode => restart_node(world, planned.node, planned.lasts).await,
                fault => {
                    let (lasts, rng) = (planned.lasts, &mut planned.rng);
                    outage::in_redis(world, fault, lasts, rng, &channels).await
                }
            };
            record.end(&mut injected, planned.fault, at_ms, what);
        }
        injected
    };
    let (mut injected, others) = tokio::join!(in_network, in_servers);
    injected.extend(others);
    injected.sort_by_key(|fault| fault.at_ms);
    injected
}

impl Record {
    async fn begin(&self, planned: &Planned) -> u32 {
        sleep_until(self.begin + planned.at).await;
        self.tally.faults.add(1);
        self.ledger.now_ms()
    }

    fn end(&self, injected: &mut Vec<Injected>, fault: Fault, at_ms: u32, what: String) {
        let now_ms = self.ledger.now_ms();
        let repaired = format!("(repaired after {} ms: {what})", now_ms - at_ms);
        let restored_since_ms = (fault == Fault::RestoreRedis).then_some(at_ms);
        injected.push(Injected { at_ms, what, restored_since_ms: None });
        injected.push(Injected { at_ms: now_ms, what: repaired, restored_since_ms });
    }

    fn durable_channels(&self) -> Vec<String> {
        let all = 0..self.ledger.channels();
        let durable = all.filter(|channel| self.ledger.kind(*channel) == Kind::Durable);
        durable.map(|channel| self.ledger.name(channel)).collect()
    }
}

fn plan(scenario: &Scenario, rng: &mut Rng) -> Vec<Planned> {
    let mut faults = Vec::new();
    for (fault, count) in scenario.faults {
        let many = if scenario.drawn > 0 { *count } else { scenario.scaled(*count) };
        faults.extend((0..many).map(|_| *fault));
    }
    if scenario.drawn > 0 {
        // The counts are weights: a few are drawn, of each kind.
        let (mut of_network, mut of_servers): (Vec<_>, Vec<_>) =
            faults.into_iter().partition(|fault| fault.is_network());
        let many = scenario.scaled(scenario.drawn) as usize;
        for drawn in [&mut of_network, &mut of_servers] {
            rng.shuffle(drawn);
            drawn.truncate(many);
        }
        faults = [of_network, of_servers].concat();
    }
    // Of 100 faults, how many are as short as possible.
    let (lasts_max, short) = if scenario.drawn > 0 { (DRAWN_MAX, 10) } else { (DOWN_MAX, 50) };
    let mut plan: Vec<Planned> = faults
        .into_iter()
        .map(|fault| {
            let part = FAULTY.start + rng.f64() * (FAULTY.end - FAULTY.start);
            Planned {
                at: scenario.duration.mul_f64(part),
                fault,
                lasts: if rng.u8(0..100) < short {
                    Duration::ZERO
                } else {
                    lasts_max.mul_f64(rng.f64())
                },
                node: rng.usize(0..scenario.nodes),
                rng: rng.fork(),
            }
        })
        .collect();
    plan.sort_by_key(|planned| planned.at);
    plan
}

async fn restart_node(world: &mut World, node: usize, lasts: Duration) -> String {
    block_in_place(|| world.kill_node(node));
    sleep(lasts).await;
    block_in_place(|| world.start_node(node));
    format!("node {node} killed, for {} ms", lasts.as_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_follows_from_the_seed() {
        for scenario in crate::scenario::ALL {
            let of_seed = |seed| {
                let plan = plan(scenario, &mut Rng::with_seed(seed));
                plan.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>()
            };
            assert_eq!(of_seed(1), of_seed(1), "{}", scenario.name);
            assert!(of_seed(1) != of_seed(2) || scenario.faults.is_empty(), "{}", scenario.name);
        }
    }
}
