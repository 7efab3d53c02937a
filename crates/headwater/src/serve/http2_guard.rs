//! A socket that carries HTTP/2 and looks at the frames that the client sends. Look here for how
//! floods of frames, and heads that are never complete, are bounded.
//!
//! Frames that carry no part of a request make the server work for nothing: PING, SETTINGS and
//! empty DATA have to be answered or counted, RST_STREAM undoes what was done, CONTINUATION makes
//! the head longer. Each costs a token of the connection, and a connection without tokens is
//! closed. Sources: RFC 9113; CVE-2019-9511 to 9518, CVE-2023-44487, CVE-2024-27316,
//! CVE-2025-8671.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::counts::Closed;
use super::floods::CloseReport;
use crate::limits::{
    HTTP2_BYTES_PER_WINDOW_UPDATE, HTTP2_CONTROL_FRAMES_MAX, HTTP2_CONTROL_FRAMES_PER_SECOND,
};

/// The length of a connection's preface (RFC 9113, 3.4).
const PREFACE_BYTES: usize = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// The most that pads a frame: its length is a byte, which is one more.
const PADDING_BYTES_MAX: usize = 256;

/// A socket whose frames are counted.
pub(super) struct Http2Guard<S> {
    socket: S,
    frames: FrameHeads,
    budget: Budget,
    /// When the head that is not complete must be; also for the first request.
    head_due: Option<Pin<Box<Sleep>>>,
    header_timeout: Duration,
    report: CloseReport,
    is_closed: bool,
}

/// The tokens of a connection.
struct Budget {
    tokens: f64,
    at: Instant,
    /// Bytes that were written since the last WINDOW_UPDATE that was free of charge.
    written: usize,
}

impl Budget {
    fn new() -> Self {
        Self { tokens: f64::from(HTTP2_CONTROL_FRAMES_MAX), at: Instant::now(), written: 0 }
    }

    /// Whether one more frame may come that carries no part of a request.
    fn take(&mut self, now: Instant) -> bool {
        let since = now.duration_since(self.at).as_secs_f64();
        let refilled = self.tokens + since * f64::from(HTTP2_CONTROL_FRAMES_PER_SECOND);
        self.tokens = refilled.min(f64::from(HTTP2_CONTROL_FRAMES_MAX)) - 1.0;
        self.at = now;
        self.tokens >= 0.0
    }

    /// Whether one more WINDOW_UPDATE may come: a client that reads sends many.
    fn take_update(&mut self, now: Instant) -> bool {
        if self.written >= HTTP2_BYTES_PER_WINDOW_UPDATE {
            self.written -= HTTP2_BYTES_PER_WINDOW_UPDATE;
            return true;
        }
        self.take(now)
    }
}

/// Finds the heads of frames in the bytes of a connection, however they are divided.
#[derive(Default)]
struct FrameHeads {
    head: [u8; 9],
    filled: usize,
    /// Bytes until the next head.
    skip: usize,
}

#[derive(Debug, PartialEq, Eq, Clone, Copy)]
struct FrameHead {
    kind: u8,
    flags: u8,
    length: usize,
}

impl FrameHead {
    /// Whether it may be DATA that carries nothing.
    fn is_empty_data(self) -> bool {
        let padding_max = if self.flags & PADDED == 0 { 0 } else { PADDING_BYTES_MAX };
        self.kind == DATA && self.flags & END_STREAM == 0 && self.length <= padding_max
    }
}

impl FrameHeads {
    fn read(&mut self, mut bytes: &[u8], mut each: impl FnMut(FrameHead)) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (self.head.len() - self.filled).min(bytes.len());
            self.head[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == self.head.len() {
                let [high, middle, low, kind, flags, ..] = self.head;
                let length = u32::from_be_bytes([0, high, middle, low]) as usize;
                (self.filled, self.skip) = (0, length);
                each(FrameHead { kind, flags, length });
            }
        }
    }
}

impl<S> Http2Guard<S> {
    /// A connection whose preface comes first. The first request must be complete in time.
    pub(super) fn new(socket: S, header_timeout: Duration, report: CloseReport) -> Self {
        let frames = FrameHeads { skip: PREFACE_BYTES, ..FrameHeads::default() };
        let head_due = Some(Box::pin(tokio::time::sleep(header_timeout)));
        let budget = Budget::new();
        Self { socket, frames, budget, head_due, header_timeout, report, is_closed: false }
    }

    /// The error that closes the connection, counted once.
    fn close(&mut self, reason: Closed, kind: io::ErrorKind, message: &'static str) -> io::Error {
        if !std::mem::replace(&mut self.is_closed, true) {
            self.report.closed(reason);
        }
        io::Error::new(kind, message)
    }

    fn on_frames(&mut self, bytes: &[u8]) -> io::Result<()> {
        let now = Instant::now();
        let Self { frames, budget, head_due, header_timeout, .. } = self;
        let mut is_flood = false;
        frames.read(bytes, |head| {
            let FrameHead { kind, flags, .. } = head;
            let is_paid = match kind {
                HEADERS => true,
                DATA => !head.is_empty_data() || budget.take(now),
                WINDOW_UPDATE => budget.take_update(now),
                _ => budget.take(now),
            };
            is_flood |= !is_paid;
            match kind {
                HEADERS | CONTINUATION if flags & END_HEADERS != 0 => *head_due = None,
                HEADERS if head_due.is_none() => {
                    *head_due = Some(Box::pin(tokio::time::sleep(*header_timeout)));
                }
                _ => {}
            }
        });
        if is_flood {
            let message = "too many frames that carry no part of a request";
            return Err(self.close(Closed::Flood, io::ErrorKind::Other, message));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Http2Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = buffer.filled().len();
        if let Poll::Ready(read) = Pin::new(&mut self.socket).poll_read(context, buffer) {
            read?;
            self.on_frames(&buffer.filled()[filled..])?;
            let is_late = self.head_due.as_ref().is_some_and(|due| due.is_elapsed());
            if !is_late {
                return Poll::Ready(Ok(()));
            }
        } else {
            let Some(due) = &mut self.head_due else { return Poll::Pending };
            ready!(due.as_mut().poll(context));
        }
        let message = "header timeout: no complete request received";
        Poll::Ready(Err(self.close(Closed::HeaderTimeout, io::ErrorKind::TimedOut, message)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Http2Guard<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.socket).poll_write(context, bytes))?;
        self.budget.written += count;
        Poll::Ready(Ok(count))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let count = ready!(Pin::new(&mut self.socket).poll_write_vectored(context, pieces))?;
        self.budget.written += count;
        Poll::Ready(Ok(count))
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::counts::ServeCounts;
    use crate::serve::floods::Floods;

    fn frame(kind: u8, flags: u8, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], content].concat()
    }

    #[test]
    fn heads_are_found_however_the_bytes_are_divided() {
        let bytes = [frame(1, 4, b"head"), frame(0, 0, b""), frame(0, 1, &[7; 300])].concat();
        for size in 1..bytes.len() {
            let (mut frames, mut found) = (FrameHeads::default(), Vec::new());
            for piece in bytes.chunks(size) {
                frames.read(piece, |head| found.push((head.kind, head.flags, head.length)));
            }
            assert_eq!(found, [(1, 4, 4), (0, 0, 0), (0, 1, 300)], "{size}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn frames_that_carry_nothing_are_bounded_and_those_of_requests_are_not() {
        let check = |kind: u8, flags: u8, content: &[u8], is_bounded: bool| {
            let counts = ServeCounts::default();
            let client = std::net::Ipv4Addr::LOCALHOST.into();
            let report = CloseReport { counts: counts.clone(), floods: Floods::default(), client };
            let mut guard = Http2Guard::new((), Duration::from_secs(1), report);
            guard.frames.skip = 0;
            let frames = frame(kind, flags, content).repeat(10 * HTTP2_CONTROL_FRAMES_MAX as usize);
            assert_eq!(guard.on_frames(&frames).is_err(), is_bounded, "{kind} {flags}");
            assert_eq!(counts.closed(Closed::Flood), u64::from(is_bounded));
        };
        check(HEADERS, END_HEADERS, b"x", false);
        check(DATA, 0, b"x", false);
        for kind in 2..=12 {
            check(kind, 0, &[0; 8], true);
        }
        check(DATA, 0, b"", true);
        check(DATA, END_STREAM, b"", false);
        check(DATA, PADDED, &[0], true);
        check(DATA, PADDED, &[0; PADDING_BYTES_MAX + 1], false);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_may_update_its_window_often() {
        let mut budget = Budget::new();
        let now = Instant::now();
        for _ in 0..100 * HTTP2_CONTROL_FRAMES_MAX {
            budget.written += HTTP2_BYTES_PER_WINDOW_UPDATE;
            assert!(budget.take_update(now));
        }
        let mut tokens = 0;
        while budget.take_update(now) {
            tokens += 1;
        }
        assert_eq!(tokens, HTTP2_CONTROL_FRAMES_MAX);
        assert!(budget.take(now + Duration::from_secs(1)), "tokens are refilled");
    }
}
