//! Parses an HTTP/1.1 response from pieces cut anywhere: its status, and the bytes of its body.
//! Look here when a server's responses are not understood.

use memchr::memmem;

use crate::limits::HEAD_BYTES_MAX;

/// The parser of one response.
#[derive(Debug)]
pub(crate) struct Framing {
    status: u16,
    state: State,
}

#[derive(Debug)]
enum State {
    /// The first part of an incomplete head. Empty, without an allocation, for a head in one piece.
    Head(Vec<u8>),
    /// This many bytes of the body are left.
    Sized(u64),
    /// In the line with the size of a chunk, with the size so far.
    ChunkSize(u64),
    /// In an extension of that line, which is ignored.
    ChunkExtension(u64),
    /// This many bytes of a chunk are left.
    Chunk(u64),
    /// Between a chunk and the line after it.
    ChunkEnd,
    /// After the last chunk.
    Trailer {
        in_line: bool,
    },
    /// The body ends with the connection.
    UntilClose,
    Done,
}

impl Framing {
    pub(crate) fn new() -> Self {
        Self { status: 0, state: State::Head(Vec::new()) }
    }

    /// The status, once the head is complete.
    pub(crate) fn status(&self) -> Option<u16> {
        (self.status != 0).then_some(self.status)
    }

    /// Whether the response is complete.
    pub(crate) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Parses the next piece, and passes the bytes of the body on. `Err` is a description.
    pub(crate) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut body: impl FnMut(&[u8]),
    ) -> Result<(), String> {
        while !bytes.is_empty() {
            bytes = self.step(bytes, &mut body)?;
        }
        Ok(())
    }

    /// Parses up to the next change of state; returns the rest.
    fn step<'a>(
        &mut self,
        bytes: &'a [u8],
        body: &mut impl FnMut(&[u8]),
    ) -> Result<&'a [u8], String> {
        let mut take = |left: u64| {
            let taken = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
            body(&bytes[..taken]);
            (taken, left - taken as u64)
        };
        let (taken, next) = match &mut self.state {
            State::Head(_) => return self.head(bytes),
            State::Sized(left) => match take(*left) {
                (taken, 0) => (taken, State::Done),
                (taken, left) => (taken, State::Sized(left)),
            },
            State::UntilClose => (take(u64::MAX).0, State::UntilClose),
            State::Chunk(left) => match take(*left) {
                (taken, 0) => (taken, State::ChunkEnd),
                (taken, left) => (taken, State::Chunk(left)),
            },
            State::ChunkEnd => match bytes[0] {
                b'\r' => (1, State::ChunkEnd),
                b'\n' => (1, State::ChunkSize(0)),
                byte => return Err(format!("byte {byte:#04x} at the end of a chunk")),
            },
            State::ChunkSize(size) => (1, chunk_size(*size, bytes[0])?),
            State::ChunkExtension(size) => match bytes[0] {
                b'\n' => (1, after_size(*size)),
                _ => (1, State::ChunkExtension(*size)),
            },
            State::Trailer { in_line } => match (bytes[0], *in_line) {
                (b'\n', false) => (1, State::Done),
                (b'\n', true) => (1, State::Trailer { in_line: false }),
                (b'\r', in_line) => (1, State::Trailer { in_line }),
                _ => (1, State::Trailer { in_line: true }),
            },
            State::Done => return Err(format!("{} bytes after the response", bytes.len())),
        };
        self.state = next;
        Ok(&bytes[taken..])
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], String> {
        let State::Head(partial) = &mut self.state else { unreachable!("only in a head") };
        if partial.is_empty()
            && let Some(at) = memmem::find(bytes, b"\r\n\r\n")
        {
            let (status, state) = parse_head(&bytes[..at])?;
            (self.status, self.state) = (status, state);
            return Ok(&bytes[at + 4..]);
        }
        let before = partial.len();
        partial.extend_from_slice(bytes);
        if let Some(at) = memmem::find(partial, b"\r\n\r\n") {
            let (status, state) = parse_head(&partial[..at])?;
            (self.status, self.state) = (status, state);
            return Ok(&bytes[at + 4 - before..]);
        }
        if partial.len() > HEAD_BYTES_MAX {
            return Err(format!("a response head of more than {HEAD_BYTES_MAX} bytes"));
        }
        Ok(&[])
    }
}

fn parse_head(head: &[u8]) -> Result<(u16, State), String> {
    let head = String::from_utf8_lossy(head);
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let status = first
        .strip_prefix("HTTP/1.")
        .and_then(|rest| rest.split(' ').nth(1)?.parse::<u16>().ok())
        .filter(|status| *status >= 200)
        .ok_or_else(|| format!("`{first}` is not the start of an HTTP/1.1 response"))?;
    let mut state = if status == 204 || status == 304 { State::Done } else { State::UntilClose };
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = value.trim();
        if matches!(state, State::Done) {
            continue;
        }
        if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            state = State::ChunkSize(0);
        } else if name.eq_ignore_ascii_case("content-length") {
            let length = value.parse().map_err(|_| format!("content-length `{value}`"))?;
            state = if length == 0 { State::Done } else { State::Sized(length) };
        }
    }
    Ok((status, state))
}

fn chunk_size(size: u64, byte: u8) -> Result<State, String> {
    let digit = match byte {
        b'0'..=b'9' => byte - b'0',
        b'a'..=b'f' => byte - b'a' + 10,
        b'A'..=b'F' => byte - b'A' + 10,
        b'\n' => return Ok(after_size(size)),
        b'\r' | b';' | b' ' => return Ok(State::ChunkExtension(size)),
        _ => return Err(format!("byte {byte:#04x} in the size of a chunk")),
    };
    let size = size.checked_mul(16).ok_or("the size of a chunk is too large")?;
    Ok(State::ChunkSize(size + u64::from(digit)))
}

fn after_size(size: u64) -> State {
    if size == 0 { State::Trailer { in_line: false } } else { State::Chunk(size) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The body, the status, and whether the response is complete, parsed in pieces of a length.
    fn read(response: &[u8], piece: usize) -> Result<(String, Option<u16>, bool), String> {
        let mut framing = Framing::new();
        let mut body = Vec::new();
        for piece in response.chunks(piece) {
            framing.feed(piece, |bytes| body.extend_from_slice(bytes))?;
        }
        let body = String::from_utf8(body).expect("text");
        Ok((body, framing.status(), framing.is_done()))
    }

    #[test]
    fn responses_are_parsed_however_they_are_cut() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let cases = [
            (format!("{chunked}5\r\nhello\r\n1;x=y\r\n!\r\n"), "hello!", 200, false),
            (format!("{chunked}00a\r\n0123456789\r\n0\r\n\r\n"), "0123456789", 200, true),
            (format!("{chunked}0\r\nTrailer: x\r\n\r\n"), "", 200, true),
            ("HTTP/1.1 201 \r\ncontent-length: 3\r\n\r\nabc".to_owned(), "abc", 201, true),
            ("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n".to_owned(), "", 202, true),
            ("HTTP/1.1 204 No Content\r\n\r\n".to_owned(), "", 204, true),
            ("HTTP/1.0 200 OK\r\nA: b\r\n\r\nabc".to_owned(), "abc", 200, false),
            ("HTTP/1.1 200".to_owned(), "", 0, false),
        ];
        for (response, body, status, done) in cases {
            let status = (status != 0).then_some(status);
            for piece in [1, 2, 3, 7, 1000] {
                let got = read(response.as_bytes(), piece);
                assert_eq!(got, Ok((body.to_owned(), status, done)), "{response:?} by {piece}");
            }
        }
    }

    #[test]
    fn an_invalid_response_is_an_error() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let cases = [
            ("SSH-2.0-x\r\n\r\n".to_owned(), "is not the start of an HTTP/1.1 response"),
            (format!("{chunked}xyz"), "in the size of a chunk"),
            (format!("{chunked}1\r\naXX"), "at the end of a chunk"),
            (format!("{chunked}{}", "f".repeat(17)), "too large"),
            ("HTTP/1.1 204 x\r\n\r\nmore".to_owned(), "4 bytes after the response"),
            (
                format!("HTTP/1.1 200 OK\r\na: {}", "x".repeat(20_000)),
                "a response head of more than",
            ),
        ];
        for (response, word) in cases {
            let why = read(response.as_bytes(), 1000).expect_err("not a response");
            assert!(why.contains(word), "{why}");
        }
    }
}
