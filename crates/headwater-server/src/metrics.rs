//! What `/metrics` shows, in the OpenMetrics text format. Look here for the name and meaning of a
//! metric. Labels never contain the name of a channel: there can be millions.

use std::fmt;
use std::sync::Arc;

use axum::Extension;
use axum::response::{IntoResponse, Response};
use headwater::Hub;
use headwater::broker::BrokerStatus;
use headwater::budget::{Account, Share};
use headwater::hub::ShardStats;
use headwater::serve::{Closed, ServeCounts};
use http::header::CONTENT_TYPE;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::{Registry, Unit};

use crate::app::App;
use crate::client::{ClientLimits, Limit};
use crate::settings::ReadyPart;
use crate::tls::Certificates;

/// All metrics of the process.
pub(crate) struct Metrics {
    registry: Registry,
}

/// What there is to show.
pub(crate) struct MetricSources {
    pub(crate) app: App,
    pub(crate) has_redis: bool,
    pub(crate) counts: ServeCounts,
    /// `None` without TLS.
    pub(crate) certificates: Option<Arc<Certificates>>,
}

struct HubCollector {
    app: App,
    hub: Hub,
    has_redis: bool,
}

/// Connections, TLS, and requests that exceed a limit.
struct ServerCollector {
    limits: Arc<ClientLimits>,
    counts: ServeCounts,
    certificates: Option<Arc<Certificates>>,
}

impl Metrics {
    pub(crate) fn new(sources: MetricSources) -> Self {
        let MetricSources { app, has_redis, counts, certificates } = sources;
        let (hub, limits) = (app.hub.clone(), Arc::clone(&app.limits));
        let mut registry = Registry::with_prefix("headwater");
        registry.register_collector(Box::new(HubCollector { app, hub, has_redis }));
        registry.register_collector(Box::new(ServerCollector { limits, counts, certificates }));
        Self { registry }
    }

    fn encode(&self) -> Response {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        let content_type =
            [(CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")];
        (content_type, text).into_response()
    }
}

/// `GET /metrics`.
pub(crate) async fn show(Extension(metrics): Extension<Arc<Metrics>>) -> Response {
    metrics.encode()
}

impl fmt::Debug for HubCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HubCollector").finish_non_exhaustive()
    }
}

impl Collector for HubCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let stats = self.hub.stats();
        let encoder = &mut encoder;
        gauge(encoder, "streams", "Open streams", to_f64(self.hub.streams()))?;
        gauge(encoder, "channels", "Channels with subscribers", to_f64(self.hub.channels()))?;
        counter(encoder, "streams_opened", "Streams opened", stats.streams_opened)?;
        let mut ended = encoder.encode_descriptor(
            "streams_ended",
            "Streams ended, by reason",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in stats.streams_ended.iter() {
            let labels = [("reason", reason.as_str())];
            ConstCounter::new(count).encode(ended.encode_family(&labels)?)?;
        }
        counter(encoder, "events_published", "Events this node published", stats.events_published)?;
        counter(encoder, "publish_errors", "Publishes that failed", stats.publish_errors)?;
        counter(encoder, "events_received", "Events from the broker", stats.events_received)?;
        counter(
            encoder,
            "events_sanitized",
            "Events from the broker with bytes that were not UTF-8, replaced by U+FFFD",
            stats.events_sanitized,
        )?;
        counter(
            encoder,
            "events_rejected",
            "Events from the broker that were too large or could not be decoded",
            stats.events_rejected,
        )?;
        let mut gaps = encoder.encode_descriptor(
            "gaps",
            "Gaps that streams reported, by reason",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in stats.gaps.iter() {
            let labels = [("reason", reason.as_str())];
            ConstCounter::new(count).encode(gaps.encode_family(&labels)?)?;
        }
        counter(
            encoder,
            "backfills",
            "Histories of channels read from the broker, for clients that reconnected",
            stats.backfills,
        )?;

        self.encode_memory(encoder)?;
        let ring_bytes = to_f64(self.hub.ring_bytes());
        gauge(encoder, "ring_bytes", "Memory of recent events, in bytes", ring_bytes)?;
        counter(encoder, "events_sent", "Events handed to streams", stats.events_sent)?;
        counter(
            encoder,
            "sent_bytes",
            "Bytes of events handed to streams, without the framing of HTTP",
            stats.bytes_sent,
        )?;
        self.encode_shards(encoder)?;
        let status = self.app.status();
        let help = "1 if a part of readiness works or is not in use, 0 if it fails";
        let mut ready = encoder.encode_descriptor("ready", help, None, MetricType::Gauge)?;
        for part in ReadyPart::ALL {
            let labels = [("part", part.as_str())];
            let value = if part.of(&status).is_ok() { 1.0 } else { 0.0 };
            ConstGauge::new(value).encode(ready.encode_family(&labels)?)?;
        }
        if self.has_redis {
            self.encode_redis(encoder, &status)?;
        }
        Ok(())
    }
}

/// The number of one shard's that a metric shows.
type OfShard = fn(&ShardStats) -> f64;
type CountOfShard = fn(&ShardStats) -> u64;

/// The number of one share's account that a metric shows.
type OfShare = fn(&Account) -> f64;
type CountOfShare = fn(&Account) -> u64;

impl HubCollector {
    /// The numbers of the threads that own the sockets of streams; none before the first stream.
    fn encode_shards(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let held = self.hub.stats().publishes_delayed;
        counter(
            encoder,
            "publishes_delayed",
            "Publishes that waited for a shard far behind",
            held,
        )?;
        let shards = self.hub.shards();
        let gauges: [(&str, &str, OfShard); 3] = [
            ("shard_streams", "Open streams of a shard", |it| to_f64(it.streams)),
            ("shard_mailbox", "Messages that wait for a shard", |it| to_f64(it.mailbox)),
            ("shard_outbox_bytes", "Bytes that wait for slow clients of a shard", |it| {
                to_f64(it.backlog_bytes)
            }),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (number, shard) in shards.iter().enumerate() {
                let labels = [("shard", number.to_string())];
                ConstGauge::new(value(shard)).encode(family.encode_family(&labels)?)?;
            }
        }
        let counters: [(&str, &str, CountOfShard); 3] = [
            ("shard_writes", "Writes to sockets by a shard", |it| it.writes),
            ("shard_turns", "Turns of a shard that had something to do", |it| it.turns),
            ("shard_panics", "How often a shard failed and was restarted", |it| it.panics),
        ];
        for (name, help, value) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (number, shard) in shards.iter().enumerate() {
                let labels = [("shard", number.to_string())];
                ConstCounter::new(value(shard)).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// What the node keeps, by share of its budget.
    fn encode_memory(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let budget = self.hub.budget();
        let gauges: [(&str, &str, OfShare); 2] = [
            ("memory_used_bytes", "Memory of what is kept, by share", |it| to_f64(it.used())),
            ("memory_limit_bytes", "Memory that a share may use", |it| to_f64(it.limit())),
        ];
        for (name, help, value) in gauges {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for share in Share::ALL {
                let labels = [("share", share.as_str())];
                let gauge = ConstGauge::new(value(budget.account(share)));
                gauge.encode(family.encode_family(&labels)?)?;
            }
        }
        let counters: [(&str, &str, CountOfShare); 2] = [
            ("memory_evictions", "What was dropped because its share was full", |it| {
                it.evictions()
            }),
            ("memory_refusals", "Requests rejected because a share was full", |it| it.refusals()),
        ];
        for (name, help, value) in counters {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for share in Share::ALL {
                let labels = [("share", share.as_str())];
                let counter = ConstCounter::new(value(budget.account(share)));
                counter.encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    fn encode_redis(&self, encoder: &mut DescriptorEncoder, health: &BrokerStatus) -> fmt::Result {
        let ready = if health.delivers.is_ok() { 1.0 } else { 0.0 };
        gauge(
            encoder,
            "redis_ready",
            "1 if the last probe made the round trip through Redis",
            ready,
        )?;
        if let Some(lag) = health.lag {
            let help = "How long the last probe took through Redis and back";
            let mut lag_encoder = encoder.encode_descriptor(
                "redis_lag",
                help,
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?;
            lag_encoder.encode_gauge(&lag.as_secs_f64())?;
        }
        counter(encoder, "redis_reconnects", "Lost connections to Redis", health.reconnects)?;
        counter(
            encoder,
            "redis_healed_events",
            "Missed events that were read again and delivered, counted per stream",
            self.hub.stats().events_caught_up,
        )?;
        let wanted = to_f64(health.channels_wanted);
        gauge(encoder, "redis_channels_wanted", "Channels this node must receive", wanted)?;
        let confirmed = to_f64(health.channels_confirmed);
        gauge(encoder, "redis_channels_confirmed", "Of these, confirmed by Redis", confirmed)
    }
}

impl fmt::Debug for ServerCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerCollector").finish_non_exhaustive()
    }
}

impl Collector for ServerCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let encoder = &mut encoder;
        let help = "Requests rejected because a client, or the server, is at a limit";
        let mut refusals =
            encoder.encode_descriptor("refusals", help, None, MetricType::Counter)?;
        for limit in Limit::ALL {
            let labels = [("reason", limit.as_str())];
            let count = ConstCounter::new(self.limits.refusals(limit));
            count.encode(refusals.encode_family(&labels)?)?;
        }
        counter(
            encoder,
            "proxy_headers_refused",
            "Connections without a good PROXY protocol header of a trusted proxy",
            self.counts.proxy_headers_refused(),
        )?;
        let mut closed = encoder.encode_descriptor(
            "connections_closed",
            "Connections over HTTP/2 that the server closed, by reason",
            None,
            MetricType::Counter,
        )?;
        for reason in Closed::ALL {
            let labels = [("reason", reason.as_str())];
            ConstCounter::new(self.counts.closed(reason)).encode(closed.encode_family(&labels)?)?;
        }
        match &self.certificates {
            Some(certificates) => self.encode_tls(encoder, certificates),
            None => Ok(()),
        }
    }
}

impl ServerCollector {
    fn encode_tls(
        &self,
        encoder: &mut DescriptorEncoder,
        certificates: &Certificates,
    ) -> fmt::Result {
        let counts = &self.counts;
        counter(encoder, "tls_handshakes", "TLS handshakes done", counts.tls_handshakes())?;
        counter(encoder, "tls_errors", "TLS handshakes that failed", counts.tls_errors())?;
        let help = "Connections without TLS where TLS is spoken";
        counter(encoder, "tls_plain", help, counts.tls_plain())?;
        let help = "New certificates that were taken";
        counter(encoder, "tls_reloads", help, certificates.reloads())?;
        let help = "New certificates that were invalid or could not be obtained";
        counter(encoder, "tls_reload_errors", help, certificates.failures())?;
        let mut expiry = encoder.encode_descriptor(
            "tls_certificate_expiry_timestamp",
            "When the certificate expires, in Unix time",
            Some(&Unit::Seconds),
            MetricType::Gauge,
        )?;
        expiry.encode_gauge(&certificates.not_after())
    }
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: f64) -> fmt::Result {
    let gauge = ConstGauge::new(value);
    gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
}

fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let counter = ConstCounter::new(value);
    counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn to_f64(count: usize) -> f64 {
    count as f64
}
