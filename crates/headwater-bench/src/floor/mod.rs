//! The floor: the smallest server that delivers events. One thread, one poll, one `send` per stream
//! and event, and nothing else. Look here for what ratios "to the floor" compare with.
//!
//! It is not a product: it has no checks, no history and no heartbeat, and accepts data of one line
//! only.

mod request;
mod subscriber;

use std::collections::HashMap;
use std::io::{self, Read as _, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use slab::Slab;
use socket2::{Domain, Socket, Type};

use self::request::Request;
use self::subscriber::{Push, Subscriber};
use crate::error::{Context as _, Error};
use crate::limits::{
    FLOOR_BACKLOG_BYTES_MAX, FLOOR_REQUEST_BYTES_MAX, POLL_EVENTS_MAX, READ_BYTES,
};

const LISTENER: Token = Token(usize::MAX);
const REDIS: Token = Token(usize::MAX - 1);

/// Connections waiting to be accepted: headwater's value.
const LISTEN_BACKLOG: i32 = 4096;

const STREAM_HEAD: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
const PUBLISHED: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";

/// Serves until the process is killed.
///
/// # Errors
/// When the address cannot be bound, or the connection to Redis is lost.
pub fn run(listen: SocketAddr, redis: Option<SocketAddr>) -> Result<(), Error> {
    let mut floor = Floor::new(listen, redis).context(format!("cannot serve on {listen}"))?;
    loop {
        floor.turn().context("the floor")?;
    }
}

struct Floor {
    poll: Poll,
    events: Events,
    listener: TcpListener,
    connections: Slab<Connection>,
    /// Indexes of the channels, by name.
    indexes: HashMap<String, usize>,
    channels: Vec<Channel>,
    redis: Option<Subscriber>,
    buffer: Vec<u8>,
    frame: Vec<u8>,
}

struct Connection {
    socket: TcpStream,
    role: Role,
    /// Unsent bytes. Empty, without an allocation, for a client that keeps up.
    backlog: Vec<u8>,
}

enum Role {
    /// Sends requests; holds the first part of an incomplete one.
    Requests(Vec<u8>),
    /// Is subscribed to a channel, with an index among the channel's subscribers.
    Stream { channel: usize, slot: usize },
}

#[derive(Default)]
struct Channel {
    /// Events arrive: at once without Redis, else when Redis has confirmed the subscription.
    is_confirmed: bool,
    subscribers: Vec<usize>,
}

impl Floor {
    fn new(listen: SocketAddr, redis: Option<SocketAddr>) -> io::Result<Self> {
        let socket = Socket::new(Domain::for_address(listen), Type::STREAM, None)?;
        socket.set_nonblocking(true)?;
        socket.set_reuse_address(true)?;
        socket.bind(&listen.into())?;
        socket.listen(LISTEN_BACKLOG)?;
        let mut listener = TcpListener::from_std(socket.into());
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        let redis = redis
            .map(|address| Subscriber::connect(address, REDIS, poll.registry()))
            .transpose()?;
        Ok(Self {
            poll,
            events: Events::with_capacity(POLL_EVENTS_MAX),
            listener,
            connections: Slab::new(),
            indexes: HashMap::new(),
            channels: Vec::new(),
            redis,
            buffer: vec![0; READ_BYTES],
            frame: Vec::new(),
        })
    }

    fn turn(&mut self) -> io::Result<()> {
        let mut events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        match self.poll.poll(&mut events, Some(Duration::from_secs(3600))) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => result?,
        }
        for event in &events {
            match event.token() {
                LISTENER => self.accept(),
                REDIS => self.read_redis()?,
                Token(index) => {
                    if event.is_writable() {
                        self.flush(index);
                    }
                    if event.is_readable() || event.is_read_closed() || event.is_error() {
                        self.read(index);
                    }
                }
            }
        }
        self.events = events;
        self.redis.as_mut().map_or(Ok(()), Subscriber::flush)
    }

    fn accept(&mut self) {
        // When descriptors run out, the rest waits until the next connection.
        while let Ok((mut socket, _)) = self.listener.accept() {
            let entry = self.connections.vacant_entry();
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registered =
                self.poll.registry().register(&mut socket, Token(entry.key()), interest);
            if registered.is_ok() && socket.set_nodelay(true).is_ok() {
                let role = Role::Requests(Vec::new());
                entry.insert(Connection { socket, role, backlog: Vec::new() });
            }
        }
    }

    fn read(&mut self, index: usize) {
        loop {
            let Some(connection) = self.connections.get_mut(index) else { return };
            match connection.socket.read(&mut self.buffer) {
                Ok(0) => return self.close(index),
                Ok(bytes) => {
                    self.take(index, bytes);
                    if bytes < self.buffer.len() {
                        return;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.close(index),
            }
        }
    }

    /// Serves the requests that are complete.
    fn take(&mut self, index: usize, bytes: usize) {
        let Role::Requests(partial) = &mut self.connections[index].role else { return };
        let mut input = std::mem::take(partial);
        input.extend_from_slice(&self.buffer[..bytes]);
        let mut rest = input.as_slice();
        while let Some((request, bytes)) = request::parse(rest) {
            match request {
                Request::Stream { channel } => return self.subscribe(index, channel),
                Request::Publish { channel, data } => {
                    if let Some(index) = self.indexes.get(channel) {
                        self.publish(*index, data);
                    }
                    self.send(index, PUBLISHED);
                }
                Request::Other => self.send(index, NOT_FOUND),
            }
            rest = &rest[bytes..];
        }
        let left = input.len() - rest.len();
        input.drain(..left);
        if input.len() > FLOOR_REQUEST_BYTES_MAX {
            return self.close(index);
        }
        if let Some(connection) = self.connections.get_mut(index) {
            connection.role = Role::Requests(input);
        }
    }

    fn subscribe(&mut self, index: usize, name: &str) {
        let channel = self.channel_index(name);
        let subscribers = &mut self.channels[channel].subscribers;
        self.connections[index].role = Role::Stream { channel, slot: subscribers.len() };
        subscribers.push(index);
        if self.channels[channel].is_confirmed {
            self.send(index, STREAM_HEAD);
        }
    }

    /// The index of a channel, which is subscribed in Redis the first time.
    fn channel_index(&mut self, name: &str) -> usize {
        if let Some(index) = self.indexes.get(name) {
            return *index;
        }
        let is_confirmed = self.redis.is_none();
        if let Some(redis) = &mut self.redis {
            redis.subscribe(name);
        }
        self.channels.push(Channel { is_confirmed, subscribers: Vec::new() });
        self.indexes.insert(name.to_owned(), self.channels.len() - 1);
        self.channels.len() - 1
    }

    /// The part that every comparison measures: one `send` per subscriber.
    fn publish(&mut self, channel: usize, data: &[u8]) {
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.extend_from_slice(format!("{:x}\r\ndata: ", data.len() + 8).as_bytes());
        frame.extend_from_slice(data);
        frame.extend_from_slice(b"\n\n\r\n");
        // From the last one down, because the last one takes the slot of one that is closed.
        let mut slot = self.channels[channel].subscribers.len();
        while slot > 0 {
            slot -= 1;
            if let Some(index) = self.channels[channel].subscribers.get(slot) {
                self.send(*index, &frame);
            }
        }
        self.frame = frame;
    }

    fn send(&mut self, index: usize, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if !connection.backlog.is_empty() {
            connection.backlog.extend_from_slice(bytes);
            if connection.backlog.len() > FLOOR_BACKLOG_BYTES_MAX {
                self.close(index);
            }
            return;
        }
        match connection.socket.write(bytes) {
            Ok(written) if written == bytes.len() => {}
            Ok(written) => connection.backlog.extend_from_slice(&bytes[written..]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                connection.backlog.extend_from_slice(bytes);
            }
            Err(_) => self.close(index),
        }
    }

    fn flush(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let mut written = 0;
        while written < connection.backlog.len() {
            match connection.socket.write(&connection.backlog[written..]) {
                Ok(bytes) => written += bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => return self.close(index),
            }
        }
        connection.backlog.drain(..written);
    }

    fn close(&mut self, index: usize) {
        let connection = self.connections.remove(index);
        let Role::Stream { channel, slot } = connection.role else { return };
        let subscribers = &mut self.channels[channel].subscribers;
        subscribers.swap_remove(slot);
        if let Some(moved) = subscribers.get(slot)
            && let Role::Stream { slot: moved_to, .. } = &mut self.connections[*moved].role
        {
            *moved_to = slot;
        }
    }

    /// Reads and processes messages from Redis.
    fn read_redis(&mut self) -> io::Result<()> {
        let Some(mut redis) = self.redis.take() else { return Ok(()) };
        let result = redis.read(&mut self.buffer);
        while let Some(push) = redis.next_push()? {
            match push {
                Push::Confirmed(name) => {
                    if let Some(channel) = self.indexes.get(&name) {
                        self.channels[*channel].is_confirmed = true;
                        for index in self.channels[*channel].subscribers.clone() {
                            self.send(index, STREAM_HEAD);
                        }
                    }
                }
                Push::Message { channel, data } => {
                    let name = std::str::from_utf8(&redis.input[channel]).ok();
                    if let Some(index) = name.and_then(|name| self.indexes.get(name)) {
                        self.publish(*index, &redis.input[data]);
                    }
                }
            }
        }
        redis.discard_read();
        self.redis = Some(redis);
        result
    }
}
