//! The streams of a generator process, and the loop over their sockets. Look here for what an event
//! costs the generator: one read, one scan, no allocation.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};

use hdrhistogram::Histogram;
use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use socket2::{Domain, Protocol, Socket, Type};

use crate::control::{Counted, Opening, events_on, new_histogram};
use crate::framing::Framing;
use crate::limits::{LATENCY_NS_MAX, OPENING_AT_A_TIME_MAX, READ_BYTES};
use crate::scanner::Scanner;
use crate::stamp::{Stamp, now_ns};
use crate::target::path_of;
use crate::window::Window;

/// The source port of the first stream. The ports of all streams are above those of services, and
/// below 65,536.
const PORT_FIRST: usize = 20_000;

/// The streams, and the counts of what arrived.
pub(super) struct Streams {
    opening: Option<Opening>,
    list: Vec<Stream>,
    /// Streams whose opening has started.
    started: usize,
    /// Started streams that are neither open nor failed yet.
    opening_now: usize,
    pub(super) open: usize,
    pub(super) failed: usize,
    pub(super) why: Option<String>,
    counts: Counts,
    buffer: Vec<u8>,
}

/// Counts since the streams were opened; latencies since they were last reset.
struct Counts {
    received: u64,
    duplicates: u64,
    foreign: u64,
    cut: usize,
    last_at_ns: u64,
    latencies: Histogram<u64>,
}

struct Stream {
    socket: Option<TcpStream>,
    state: State,
    framing: Framing,
    scanner: Scanner,
    window: Window,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Connecting,
    /// The request is sent, and the head of the response is incomplete.
    Requested,
    Open,
    Ended,
}

impl Streams {
    pub(super) fn new() -> Self {
        Self {
            opening: None,
            list: Vec::new(),
            started: 0,
            opening_now: 0,
            open: 0,
            failed: 0,
            why: None,
            counts: Counts::new(),
            buffer: vec![0; READ_BYTES],
        }
    }

    /// Closes all streams, and starts to open others; `connect_more` continues.
    pub(super) fn open(&mut self, opening: Opening) {
        self.close();
        self.list.reserve_exact(opening.count);
        self.opening = Some(opening);
        self.counts = Counts::new();
    }

    /// Connects as many streams as may be opening. Returns whether all are open or failed.
    pub(super) fn connect_more(&mut self, registry: &Registry) -> bool {
        while let Some(opening) = &self.opening
            && self.started < opening.count
            && self.opening_now < OPENING_AT_A_TIME_MAX
        {
            let channel = (opening.first + self.started) % opening.channels;
            let before = events_on(channel, opening.channels, opening.published);
            let connected =
                connect(opening.address, opening.source, self.started).and_then(|mut socket| {
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    registry.register(&mut socket, Token(self.started), interest)?;
                    Ok(socket)
                });
            let mut stream = Stream::new(Window::starting_at(before));
            self.started += 1;
            match connected {
                Ok(socket) => {
                    stream.socket = Some(socket);
                    self.opening_now += 1;
                }
                Err(error) => {
                    stream.state = State::Ended;
                    self.failed += 1;
                    self.why.get_or_insert_with(|| format!("cannot connect: {error}"));
                }
            }
            self.list.push(stream);
        }
        self.opening_now == 0 && self.opening.as_ref().is_none_or(|it| self.started == it.count)
    }

    /// Fails the streams that are not open yet.
    pub(super) fn give_up(&mut self) {
        let opening = self.opening.as_ref().map_or(0, |opening| opening.count);
        for index in 0..self.list.len() {
            if matches!(self.list[index].state, State::Connecting | State::Requested) {
                self.fail(index, "no response in time".to_owned());
            }
        }
        self.failed += opening - self.started;
        self.started = opening;
    }

    /// Closes all streams.
    pub(super) fn close(&mut self) {
        // Closing a socket also deregisters it.
        self.list.clear();
        self.opening = None;
        (self.started, self.opening_now, self.open, self.failed) = (0, 0, 0, 0);
        self.why = None;
    }

    pub(super) fn reset_latencies(&mut self) {
        self.counts.latencies.reset();
    }

    pub(super) fn received(&self) -> u64 {
        self.counts.received
    }

    pub(super) fn cut(&self) -> usize {
        self.counts.cut
    }

    /// The deliveries expected after this many published events.
    pub(super) fn expected(&self, published: u64) -> u64 {
        let Some(opening) = &self.opening else { return 0 };
        let deliveries = |index: usize| {
            let channel = (opening.first + index) % opening.channels;
            events_on(channel, opening.channels, published)
                - events_on(channel, opening.channels, opening.published)
        };
        // Failed streams expect nothing: they are counted as failed.
        let is_opened = |index: &usize| self.list[*index].framing.status().is_some();
        (0..self.list.len()).filter(is_opened).map(deliveries).sum()
    }

    pub(super) fn counted(&self, published: u64) -> Counted {
        let counts = &self.counts;
        let latencies = counts.latencies.iter_recorded();
        Counted {
            expected: self.expected(published),
            received: counts.received,
            duplicates: counts.duplicates,
            foreign: counts.foreign,
            cut: counts.cut,
            last_at_ns: counts.last_at_ns,
            latencies: latencies.map(|it| (it.value_iterated_to(), it.count_at_value())).collect(),
        }
    }

    /// Handles an event of a stream's socket.
    pub(super) fn ready(&mut self, event: &Event) {
        let index = event.token().0;
        // The stream may have been closed in the same turn.
        let Some(stream) = self.list.get_mut(index) else { return };
        if stream.state == State::Connecting && (event.is_writable() || event.is_error()) {
            let opening = self.opening.as_ref().expect("there are streams");
            let channel = (opening.first + index) % opening.channels;
            if let Err(error) = stream.request(opening, channel) {
                return self.fail(index, error.to_string());
            }
        }
        let is_over = event.is_read_closed() || event.is_error();
        if event.is_readable() || is_over {
            self.read(index, is_over);
        }
    }

    /// Reads until the socket is empty; to its end if the stream is over, which is signalled once.
    fn read(&mut self, index: usize, is_over: bool) {
        loop {
            let Some(stream) = self.list.get_mut(index) else { return };
            let Some(socket) = &mut stream.socket else { return };
            let bytes = match socket.read(&mut self.buffer) {
                Ok(0) => return self.fail(index, "the server ended the stream".to_owned()),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return self.fail(index, error.to_string()),
            };
            if let Err(why) = stream.take(&self.buffer[..bytes], &mut self.counts) {
                return self.fail(index, why);
            }
            if stream.state == State::Requested && stream.framing.status().is_some() {
                stream.state = State::Open;
                self.open += 1;
                self.opening_now -= 1;
            }
            if stream.framing.is_done() {
                return self.fail(index, "the server ended the stream".to_owned());
            }
            // A read that did not fill the buffer has emptied the socket.
            if bytes < self.buffer.len() && !is_over {
                return;
            }
        }
    }

    /// Records the unexpected end of a stream.
    fn fail(&mut self, index: usize, why: String) {
        let stream = &mut self.list[index];
        stream.socket = None;
        match std::mem::replace(&mut stream.state, State::Ended) {
            State::Connecting | State::Requested => {
                self.failed += 1;
                self.opening_now -= 1;
            }
            State::Open => {
                self.open -= 1;
                self.counts.cut += 1;
            }
            State::Ended => {}
        }
        self.why.get_or_insert(why);
    }
}

impl Stream {
    fn new(window: Window) -> Self {
        Self {
            socket: None,
            state: State::Connecting,
            framing: Framing::new(),
            scanner: Scanner::new(),
            window,
        }
    }

    /// Sends the request. It is small, and the socket's buffer is empty.
    fn request(&mut self, opening: &Opening, channel: usize) -> io::Result<()> {
        let Some(socket) = &mut self.socket else { return Ok(()) };
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        let path = path_of(&opening.path, channel);
        let host = &opening.host;
        socket.write_all(
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/event-stream\r\n\r\n")
                .as_bytes(),
        )?;
        self.state = State::Requested;
        Ok(())
    }

    fn take(&mut self, bytes: &[u8], counts: &mut Counts) -> Result<(), String> {
        let (scanner, window) = (&mut self.scanner, &mut self.window);
        let now_ns = now_ns();
        let on_body = |body: &[u8]| {
            scanner.feed(body, |stamp| counts.add(stamp, window, now_ns));
        };
        self.framing.feed(bytes, on_body)?;
        match self.framing.status() {
            None | Some(200) => Ok(()),
            Some(status) => Err(format!("the server answered {status} to a stream's request")),
        }
    }
}

impl Counts {
    fn new() -> Self {
        Self {
            received: 0,
            duplicates: 0,
            foreign: 0,
            cut: 0,
            last_at_ns: 0,
            latencies: new_histogram(),
        }
    }

    fn add(&mut self, stamp: Option<Stamp>, window: &mut Window, now_ns: u64) {
        let Some(stamp) = stamp else {
            self.foreign += 1;
            return;
        };
        if !window.mark(stamp.sequence) {
            self.duplicates += 1;
            return;
        }
        self.received += 1;
        self.last_at_ns = now_ns;
        let latency_ns = now_ns.saturating_sub(stamp.sent_at_ns).clamp(1, LATENCY_NS_MAX);
        self.latencies.saturating_record(latency_ns);
    }
}

/// Connects, from a given source address if there is one, whose ports are used in order.
fn connect(address: SocketAddr, source: Option<Ipv4Addr>, index: usize) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(source) = source {
        // Without a port the kernel searches for one, which takes milliseconds when thousands are
        // in use.
        socket.set_reuse_address(true)?;
        let port = u16::try_from(PORT_FIRST + index).unwrap_or(0);
        match socket.bind(&SocketAddr::from((source, port)).into()) {
            // A service listens on this port on all addresses.
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                socket.bind(&SocketAddr::from((source, 0)).into())?;
            }
            result => result?,
        }
    }
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if is_in_progress(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(TcpStream::from_std(socket.into()))
}

/// Not all versions of the standard library have a kind for EINPROGRESS.
fn is_in_progress(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock || error.raw_os_error() == Some(EINPROGRESS)
}

#[cfg(any(target_os = "linux", target_os = "android"))]
const EINPROGRESS: i32 = 115;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const EINPROGRESS: i32 = 36;
