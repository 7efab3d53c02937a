//! A small server that drops, repeats, rejects or cuts on request. Look here for its faults.

use std::io::{BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A fault of the server; numbers are those of events, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// The event is not delivered to the first stream.
    Drop(usize),
    /// The event is delivered to the first stream twice.
    Repeat(usize),
    /// The publish gets 503, and the event is not delivered.
    Reject(usize),
    /// The first stream is cut before the event.
    Cut(usize),
    /// The first stream is cut immediately after the event.
    CutAfter(usize),
    /// Streams are rejected with 404.
    NoStreams,
}

struct State {
    fault: Fault,
    published: usize,
    streams: Vec<TcpStream>,
}

/// Starts the server. Its threads end with the test process.
pub(crate) fn start(fault: Fault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    let state = State { fault, published: 0, streams: Vec::new() };
    let state = Arc::new(Mutex::new(state));
    std::thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let state = Arc::clone(&state);
            std::thread::spawn(move || serve(socket, &state));
        }
    });
    address
}

/// Serves requests of one connection until it becomes a stream, or ends.
fn serve(socket: TcpStream, state: &Mutex<State>) -> Option<()> {
    let mut input = BufReader::new(socket.try_clone().ok()?);
    loop {
        let (first, length) = read_head(&mut input)?;
        let mut body = vec![0; length];
        input.read_exact(&mut body).ok()?;
        let mut state = state.lock().ok()?;
        if first.starts_with("POST") {
            let status = state.publish(&body);
            // In two pieces, as a slow server would.
            let answer = format!("HTTP/1.1 {status} x\r\nContent-Length: 4\r\n\r\nok");
            (&socket).write_all(answer.as_bytes()).ok()?;
            (&socket).write_all(b"!\n").ok()?;
        } else if state.fault == Fault::NoStreams {
            let answer = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
            return (&socket).write_all(answer).ok();
        } else {
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n: hello\n\n";
            (&socket).write_all(head).ok()?;
            state.streams.push(socket);
            return Some(());
        }
    }
}

fn read_head(input: &mut impl std::io::BufRead) -> Option<(String, usize)> {
    let mut first = String::new();
    input.read_line(&mut first).ok().filter(|bytes| *bytes > 0)?;
    let mut length = 0;
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|bytes| *bytes > 0)?;
        if line.trim().is_empty() {
            return Some((first, length));
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
}

impl State {
    /// Delivers an event to the streams, and returns the status of the response.
    fn publish(&mut self, data: &[u8]) -> u16 {
        let number = self.published;
        self.published += 1;
        if self.fault == Fault::Reject(number) {
            return 503;
        }
        if self.fault == Fault::Cut(number) && !self.streams.is_empty() {
            let _ = self.streams.remove(0).shutdown(std::net::Shutdown::Both);
        }
        for (index, mut stream) in self.streams.iter().enumerate() {
            let times = match self.fault {
                Fault::Drop(dropped) if (dropped, 0) == (number, index) => 0,
                Fault::Repeat(repeated) if (repeated, 0) == (number, index) => 2,
                _ => 1,
            };
            for _ in 0..times {
                let _ = stream.write_all(&[b"id: 1\r\ndata: ", data, b"\r\n\r\n"].concat());
            }
        }
        if self.fault == Fault::CutAfter(number) && !self.streams.is_empty() {
            let _ = self.streams.remove(0).shutdown(std::net::Shutdown::Both);
        }
        200
    }
}
