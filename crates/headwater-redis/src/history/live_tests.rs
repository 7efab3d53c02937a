//! What reading costs a real Redis, whatever a history holds. Look here before you change
//! `read.lua` or its bounds. They need a `redis-server`.

use headwater_core::broker::ReadRange;
use headwater_core::frame::Frame;
use headwater_test_support::RedisServer;
use redis::aio::MultiplexedConnection;

use super::*;
use crate::library;

/// No call may occupy Redis longer. A call is repeated, and the fastest counts: on a busy machine
/// the server itself is interrupted.
const CALL_US_MAX: u64 = 5_000;
/// Nor half of the calls.
const MEDIAN_US_MAX: u64 = 1_000;
const REPEATS: usize = 8;
const PAGES: usize = 40;

/// An entry of SLOWLOG: the third part is its duration in microseconds, the fourth its words.
type Call = (u64, u64, u64, Vec<String>, String, String);

struct Log {
    server: RedisServer,
    commands: MultiplexedConnection,
}

impl Log {
    async fn start() -> Self {
        let server = RedisServer::start_with(&["--save", "", "--slowlog-log-slower-than", "0"]);
        let client = redis::Client::open(server.url()).unwrap();
        let mut commands = client.get_multiplexed_async_connection().await.unwrap();
        library::install(&mut commands, None).await.unwrap();
        library::write_rules(&mut commands, "* 1000000 36000000 1000000000000\n").await.unwrap();
        Self { server, commands }
    }

    fn publish(&self, channel: &str, bytes: usize, count: usize) {
        let (data, mut connection) = ("x".repeat(bytes), self.server.connection());
        let mut left = count;
        while left > 0 {
            let mut pipeline = pipe();
            let batch = left.min(500);
            for _ in 0..batch {
                let call = pipeline.cmd("FCALL").arg("headwater_publish");
                call.arg(1).arg(keys::LOG).arg(channel).arg(&data).ignore();
            }
            pipeline.exec(&mut connection).unwrap();
            left -= batch;
        }
    }

    /// Reads a page, and returns its offsets and what it cost Redis, in microseconds.
    async fn read(&mut self, channel: &str, range: ReadRange) -> (Vec<u64>, u64) {
        let channel = Channel::new(channel).unwrap();
        self.server.run::<()>(&["SLOWLOG", "RESET"]);
        let mut offsets = Vec::new();
        for _ in 0..REPEATS {
            let history = read_history(&mut self.commands, &channel, range).await.unwrap();
            let positions = history.frames().iter().filter_map(Frame::position);
            offsets = positions.map(Position::offset).collect();
        }
        let calls: Vec<Call> = self.server.run(&["SLOWLOG", "GET", "1000"]);
        let reads = calls.iter().filter(|call| call.3[0].starts_with("EVAL"));
        (offsets, reads.map(|call| call.2).min().unwrap())
    }

    /// Reads a history in pages, forwards and backwards; returns the sorted costs of the calls, and
    /// the number of events that were read forwards.
    async fn read_pages(&mut self, channel: &str) -> (Vec<u64>, usize) {
        let (mut costs, mut events, count) = (Vec::new(), 0, usize::MAX);
        let mut range = ReadRange::After { offset: 0, count };
        for _ in 0..PAGES {
            let (offsets, cost) = self.read(channel, range).await;
            costs.push(cost);
            events += offsets.len();
            let Some(last) = offsets.last() else { break };
            range = ReadRange::After { offset: *last, count };
        }
        let mut range = ReadRange::Newest { count };
        for _ in 0..PAGES {
            let (offsets, cost) = self.read(channel, range).await;
            costs.push(cost);
            let Some(first) = offsets.first() else { break };
            range = ReadRange::Before { offset: *first, count };
        }
        costs.sort_unstable();
        (costs, events)
    }
}

#[tokio::test]
async fn a_read_occupies_redis_for_a_bounded_time() {
    let mut log = Log::start().await;
    log.publish("large", 8 << 10, 20_000);
    log.publish("small", 10, 20_000);
    log.publish("mixed", 10, 500);
    log.publish("mixed", 1 << 20, 3);
    log.publish("mixed", 10, 500);
    for size_is_known in [true, false] {
        let small_page = if size_is_known { 128 } else { 64 };
        for (channel, events) in
            [("large", 30 * PAGES), ("small", small_page * PAGES), ("mixed", 1003)]
        {
            if !size_is_known {
                log.server.run::<()>(&["DEL", &format!("{}:size:{channel}", keys::LOG)]);
            }
            let (costs, found) = log.read_pages(channel).await;
            let (median, longest) = (costs[costs.len() / 2], costs[costs.len() - 1]);
            eprintln!("{channel}, size known: {size_is_known}: {median} us, at most {longest} us");
            assert!(found >= events, "{channel}: only {found} events");
            assert!(median <= MEDIAN_US_MAX, "{channel}: median of {median} us");
            assert!(longest <= CALL_US_MAX, "{channel}: {longest} us");
        }
    }
}

#[tokio::test]
async fn one_event_that_exceeds_the_bound_is_read_by_itself_or_last() {
    let mut log = Log::start().await;
    log.publish("a", 10, 5);
    log.publish("a", 8 << 20, 2);
    log.publish("a", 10, 5);
    let mut read = async |range| log.read("a", range).await.0;
    let count = usize::MAX;
    assert_eq!(read(ReadRange::After { offset: 0, count }).await, [1, 2, 3, 4, 5, 6]);
    assert_eq!(read(ReadRange::After { offset: 6, count }).await, [7]);
    assert_eq!(read(ReadRange::After { offset: 7, count: 2 }).await, [8, 9]);
    assert_eq!(read(ReadRange::Newest { count }).await, [7, 8, 9, 10, 11, 12]);
    assert_eq!(read(ReadRange::Before { offset: 7, count }).await, [6]);
    assert_eq!(read(ReadRange::Before { offset: 6, count: 3 }).await, [3, 4, 5]);
}

/// Redis may evict any key. The history says what the key said.
#[tokio::test]
async fn an_evicted_last_offset_is_read_from_the_history() {
    let mut log = Log::start().await;
    let channel = Channel::new("a").unwrap();
    let evict = |log: &Log| {
        let key = format!("{}:last:a", keys::LOG);
        assert_eq!(log.server.run::<i64>(&["DEL", &key]), 1);
    };
    let baseline = async |log: &mut Log| {
        let channels = std::slice::from_ref(&channel);
        let state = query_baseline(&mut log.commands, channels, "marker", "1", None).await.unwrap();
        let baseline = state.baselines[0];
        (baseline.last, baseline.ended, baseline.forgotten)
    };
    log.publish("a", 10, 3);
    log.publish("b", 10, 1);
    evict(&log);
    assert_eq!(baseline(&mut log).await, (3, false, false));
    log.publish("a", 10, 1);
    let bounds = Bounds { newest: true, after: 0, until: None, count: 1, channel: "a" };
    let entry = read_entries(&mut log.commands, bounds).await.unwrap().entries.remove(0);
    assert_eq!((entry.offset, entry.previous), (5, 3));
    let end = ["FCALL", "headwater_publish", "1", keys::LOG, "a", "last", "end", "1"];
    log.server.run::<String>(&end);
    evict(&log);
    assert_eq!(baseline(&mut log).await, (6, true, false));
    let mut again = redis::cmd("FCALL");
    again.arg("headwater_publish").arg(1).arg(keys::LOG).arg("a").arg("more");
    let refused = again.exec(&mut log.server.connection()).unwrap_err();
    assert!(crate::errors::is_ended(&refused), "{refused}");
    // Without the history, nothing is known.
    log.server.run::<i64>(&["DEL", &format!("{}:log:a", keys::LOG)]);
    assert!(baseline(&mut log).await.2);
}
