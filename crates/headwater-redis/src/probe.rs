//! The probe: a message through Pub/Sub and back, which shows that published events arrive. Look
//! here for how a connection that receives nothing is detected.

use redis::RedisResult;
use tokio::sync::oneshot;
use tokio::time::{Instant, Interval, MissedTickBehavior};

use crate::commands::Commands;
use crate::keys;
use crate::limits::PROBE_INTERVAL;

/// Sends probes and tracks the one in flight. TCP keepalive would not show that events arrive.
pub(crate) struct Probe {
    pub(crate) channel: String,
    commands: Commands,
    pub(crate) interval: Interval,
    pub(crate) in_flight: Option<InFlight>,
    count: u64,
}

pub(crate) struct InFlight {
    pub(crate) number: u64,
    pub(crate) sent_at: Instant,
    /// Resolves to the number of subscribers that received it, when Redis answers.
    receivers: Option<oneshot::Receiver<RedisResult<i64>>>,
}

pub(crate) enum Due {
    Send,
    Sent(RedisResult<i64>),
    Overdue,
}

impl Probe {
    pub(crate) fn new(commands: Commands) -> Self {
        let mut interval = tokio::time::interval(PROBE_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first probe is sent when its channel is confirmed.
        interval.reset();
        let channel = keys::probe(fastrand::u64(..));
        Self { channel, commands, interval, in_flight: None, count: 0 }
    }

    /// Waits until a probe must be sent, was answered or is overdue. Cancel safe.
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
        // This wait needs no timeout: the command connection has one.
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
        // In its own task, because the answer may arrive after the probe itself.
        tokio::spawn(async move {
            let _ = answered.send(publish.query_async(&mut commands).await);
        });
        self.in_flight = Some(InFlight {
            number: self.count,
            sent_at: Instant::now(),
            receivers: Some(receivers),
        });
    }

    /// Shortens the wait for the next probe, while the node is not ready.
    pub(crate) fn retry_soon(&mut self) {
        self.interval.reset_after(PROBE_INTERVAL / 5);
    }
}
