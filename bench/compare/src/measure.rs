//! The figures of the table: their titles and units. Look here to add a row.

use serde::Serialize;

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Measure {
    DeliveryCpu,
    DeliveryP99,
    RedisCpu,
    FloodCpu,
    FloodRate,
    ChannelsCpu,
    ChannelsP99,
    ChannelsMissing,
    MemoryOneIdle,
    MemoryOneAfter,
    MemoryManyIdle,
    MemoryManyAfter,
    OpenCpu,
    NodesReached,
    NodesTime,
    NodesMemory,
    ReopenFailed,
    ReopenMemory,
    ReopenTime,
}

/// The unit of a figure.
enum Unit {
    Time,
    Bytes,
    Count,
    /// Deliveries per second.
    Rate,
    Ratio,
}

impl Measure {
    /// All measures, in the order of the rows.
    pub(crate) const ALL: [Self; 19] = [
        Self::DeliveryCpu,
        Self::RedisCpu,
        Self::FloodCpu,
        Self::FloodRate,
        Self::ChannelsMissing,
        Self::ChannelsP99,
        Self::ChannelsCpu,
        Self::MemoryOneIdle,
        Self::MemoryOneAfter,
        Self::MemoryManyIdle,
        Self::MemoryManyAfter,
        Self::OpenCpu,
        Self::DeliveryP99,
        Self::NodesReached,
        Self::NodesTime,
        Self::NodesMemory,
        Self::ReopenFailed,
        Self::ReopenMemory,
        Self::ReopenTime,
    ];

    /// The title of the row.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::DeliveryCpu => "CPU per delivery, steady load over HTTP",
            Self::DeliveryP99 => "p99 latency at that load",
            Self::RedisCpu => "CPU per delivery, by Redis PUBLISH",
            Self::FloodCpu => "CPU per delivery, as fast as answered",
            Self::FloodRate => "deliveries per second, as fast as answered",
            Self::ChannelsCpu => "CPU per delivery, many channels through Redis",
            Self::ChannelsP99 => "p99 latency, many channels through Redis",
            Self::ChannelsMissing => "missing, many channels through Redis",
            Self::MemoryOneIdle => "memory per idle stream, one channel",
            Self::MemoryOneAfter => "the same after events",
            Self::MemoryManyIdle => "memory per idle stream, a channel each",
            Self::MemoryManyAfter => "the same after one event each",
            Self::OpenCpu => "CPU to open a stream",
            Self::NodesReached => "several processes: streams that a broadcast reached",
            Self::NodesTime => "several processes: until all had it",
            Self::NodesMemory => "several processes: memory of all",
            Self::ReopenFailed => "closing and opening: failures",
            Self::ReopenMemory => "closing and opening: memory after to before",
            Self::ReopenTime => "closing and opening: time",
        }
    }

    fn unit(self) -> Unit {
        match self {
            Self::DeliveryCpu
            | Self::RedisCpu
            | Self::FloodCpu
            | Self::ChannelsCpu
            | Self::OpenCpu
            | Self::DeliveryP99
            | Self::ChannelsP99
            | Self::NodesTime
            | Self::ReopenTime => Unit::Time,
            Self::MemoryOneIdle
            | Self::MemoryOneAfter
            | Self::MemoryManyIdle
            | Self::MemoryManyAfter
            | Self::NodesMemory => Unit::Bytes,
            Self::ChannelsMissing | Self::NodesReached | Self::ReopenFailed => Unit::Count,
            Self::FloodRate => Unit::Rate,
            Self::ReopenMemory => Unit::Ratio,
        }
    }

    /// Formats a figure with its unit.
    pub(crate) fn show(self, figure: f64) -> String {
        match self.unit() {
            Unit::Time if figure < 1e3 => format!("{figure:.0} ns"),
            Unit::Time if figure < 1e6 => format!("{:.2} us", figure / 1e3),
            Unit::Time if figure < 1e9 => format!("{:.1} ms", figure / 1e6),
            Unit::Time => format!("{:.2} s", figure / 1e9),
            Unit::Bytes if figure < f64::from(1 << 20) => format!("{:.2} KiB", figure / 1024.0),
            Unit::Bytes => format!("{:.1} MiB", figure / f64::from(1 << 20)),
            Unit::Count | Unit::Rate => format!("{figure:.0}"),
            Unit::Ratio => format!("{figure:.3}"),
        }
    }

    /// Whether a ratio to another contender is meaningful.
    pub(crate) fn has_ratio(self) -> bool {
        matches!(self.unit(), Unit::Time | Unit::Bytes | Unit::Rate)
    }
}
