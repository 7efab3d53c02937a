//! Proof that what is published arrives: a message through Pub/Sub and back. Look here for when a node
//! is ready, and for how a deaf connection is found.

use redis::RedisResult;
use redis::aio::ConnectionManager;
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::keys;
use crate::limits::PROBE_INTERVAL;

/// Proves that what is published arrives: TCP keepalive does not.
pub(crate) struct Probe {
    pub(crate) channel: String,
    commands: ConnectionManager,
    pub(crate) interval: Interval,
    pub(crate) in_flight: Option<InFlight>,
    count: u64,
}

pub(crate) struct InFlight {
    pub(crate) number: u64,
    pub(crate) sent_at: Instant,
    /// How many subscribers Redis gave it to, once Redis has answered.
    receivers: Option<oneshot::Receiver<RedisResult<i64>>>,
}

pub(crate) enum Due {
    Send,
    Sent(RedisResult<i64>),
    Overdue,
}

impl Probe {
    pub(crate) fn new(commands: ConnectionManager) -> Self {
        let mut interval = tokio::time::interval(PROBE_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one goes out when its channel is confirmed.
        interval.reset();
        let channel = keys::probe(fastrand::u64(..));
        Self { channel, commands, interval, in_flight: None, count: 0 }
    }

    /// Waits until there is something to do. Cancel safe.
    pub(crate) async fn due(&mut self) -> Due {
        let Some(probe) = &mut self.in_flight else {
            self.interval.tick().await;
            return Due::Send;
        };
        let overdue = probe.sent_at + PROBE_INTERVAL;
        let Some(receivers) = &mut probe.receivers else {
            tokio::time::sleep_until(overdue).await;
            return Due::Overdue;
        };
        // Redis' answer is waited for without a bound of ours: the command connection has its own.
        let answer = receivers.await;
        probe.receivers = None;
        match answer {
            Ok(answer) => Due::Sent(answer),
            Err(_) => Due::Overdue,
        }
    }

    pub(crate) fn send(&mut self) {
        self.count += 1;
        let (answered, receivers) = oneshot::channel();
        let mut commands = self.commands.clone();
        let mut publish = redis::cmd("PUBLISH");
        publish.arg(&self.channel).arg(self.count);
        // A task of its own, since the answer may come after the probe itself.
        tokio::spawn(async move {
            let _ = answered.send(publish.query_async(&mut commands).await);
        });
        self.in_flight = Some(InFlight {
            number: self.count,
            sent_at: Instant::now(),
            receivers: Some(receivers),
        });
    }

    /// While not ready, readiness is looked for more often.
    pub(crate) fn retry_soon(&mut self) {
        self.interval.reset_after(PROBE_INTERVAL / 5);
    }
}
