//! A publisher of numbered events at a steady rate, on a thread of its own. Look here for how the
//! tests know what was published and acknowledged.

use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use headwater_test_support::PATIENCE;

/// Where events are published.
pub(crate) enum Via {
    /// In batches over a persistent connection. A batch that fails is sent again until it is taken;
    /// its events have idempotency keys, so they are taken once.
    Http(SocketAddr),
    /// As Redis' own `PUBLISH`.
    Redis(redis::Connection),
}

/// Publishes 0, 1, 2 and so on to channels in turn, until it is stopped.
pub(crate) struct Load {
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// Most events of one batch. Chosen arbitrarily; a slow machine makes batches larger.
const BATCH_MAX: u64 = 500;

impl Load {
    pub(crate) fn start(via: Via, channels: &[&str], per_second: u64) -> Self {
        let channels: Vec<String> = channels.iter().map(|&channel| channel.into()).collect();
        let acknowledged = Arc::new(AtomicU64::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let mut publisher = Publisher {
            via,
            channels,
            run: format!("{:x}", fastrand::u64(..)),
            connection: None,
            stop: Arc::clone(&stop),
        };
        let count = Arc::clone(&acknowledged);
        let thread = std::thread::spawn(move || {
            let begin = Instant::now();
            let mut next = 0;
            while !publisher.is_stopped() {
                let elapsed_ms = u64::try_from(begin.elapsed().as_millis()).expect("a short test");
                let due = (elapsed_ms * per_second / 1000).min(next + BATCH_MAX);
                if due > next && publisher.publish(next, due) {
                    next = due;
                    count.store(next, Ordering::SeqCst);
                } else {
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        });
        Self { acknowledged, stop, thread: Some(thread) }
    }

    /// How many events were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::SeqCst)
    }

    /// Stops after the batch in flight; says how many events there were.
    pub(crate) fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("stopped once").join().expect("the publisher");
        self.acknowledged()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that fails must not leave it behind.
        self.stop.store(true, Ordering::SeqCst);
    }
}

struct Publisher {
    via: Via,
    channels: Vec<String>,
    /// The beginning of its idempotency keys.
    run: String,
    connection: Option<BufReader<TcpStream>>,
    stop: Arc<AtomicBool>,
}

impl Publisher {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Whether the events were taken. Tries again until they are, and for a while after it was
    /// stopped, so that no batch is left half known.
    fn publish(&mut self, from: u64, to: u64) -> bool {
        let address = match &mut self.via {
            Via::Http(address) => *address,
            Via::Redis(connection) => {
                let mut pipeline = redis::pipe();
                for number in from..to {
                    let channel = channel_of(&self.channels, number);
                    pipeline.cmd("PUBLISH").arg(channel).arg(number).ignore();
                }
                pipeline.exec(connection).expect("Redis takes them");
                return true;
            }
        };
        let mut body = String::new();
        for number in from..to {
            let channel = channel_of(&self.channels, number);
            let key = format!("{}-{number}", self.run);
            writeln!(body, r#"{{"channel":"{channel}","data":"{number}","key":"{key}"}}"#)
                .expect("a string");
        }
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match self.post(address, &body) {
                Ok(200) => return true,
                Ok(503) => {}
                Ok(status) => panic!("{status} for a batch"),
                Err(_) => self.connection = None,
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("a batch was not taken within {PATIENCE:?}");
    }

    fn post(&mut self, address: SocketAddr, body: &str) -> io::Result<u16> {
        let connection = if let Some(connection) = &mut self.connection {
            connection
        } else {
            let socket = TcpStream::connect_timeout(&address, PATIENCE)?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.set_nodelay(true)?;
            self.connection.insert(BufReader::new(socket))
        };
        let request = format!(
            "POST /sse/publish HTTP/1.1\r\nhost: {address}\r\ncontent-type: \
             application/x-ndjson\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        connection.get_mut().write_all(request.as_bytes())?;
        read_status(connection)
    }
}

pub(crate) fn channel_of(channels: &[String], number: u64) -> &str {
    &channels[usize::try_from(number).expect("a small number") % channels.len()]
}

/// Reads one answer whole.
fn read_status(connection: &mut BufReader<TcpStream>) -> io::Result<u16> {
    let (mut status, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if connection.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end().to_lowercase();
        if status.is_none() {
            status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        } else if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().expect("a length");
        } else if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    connection.read_exact(&mut body)?;
    Ok(status.expect("a status"))
}
