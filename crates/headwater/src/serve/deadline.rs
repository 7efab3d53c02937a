//! A socket with deadlines: a request must begin in time, and blocked writes must make progress.
//! Look here for how slow or dead clients are disconnected.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::takeover::Slot;
use crate::response::StreamHandle;

/// Size of the first read, enough for the head of a typical request.
const FIRST_READ_BYTES: usize = 4096;

/// The preface of an HTTP/2 connection (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A socket with deadlines.
pub(super) struct DeadlineSocket<S> {
    socket: S,
    /// `None` once the HTTP version is known: hyper's own timeouts apply from then on.
    sniff: Option<VersionSniff>,
    /// The timer of a blocked write; `None` while no write is blocked.
    write_due: Option<Pin<Box<Sleep>>>,
    deadline: WriteDeadline,
    /// Bytes read to detect the version; the next reads return them again.
    unread: Bytes,
    /// Notified of flushes.
    slot: Arc<Slot>,
}

/// Detection of the HTTP version, and its deadline.
struct VersionSniff {
    due: Pin<Box<Sleep>>,
    /// How many bytes of the preface have arrived. The deadline also covers a client that stops
    /// within it.
    preface_bytes: usize,
}

impl VersionSniff {
    /// Whether the version is known after these bytes.
    fn is_over(&mut self, bytes: &[u8]) -> bool {
        let expected = &PREFACE[self.preface_bytes..];
        self.preface_bytes += bytes.len();
        bytes.is_empty() || bytes.len() >= expected.len() || !expected.starts_with(bytes)
    }
}

/// The send timeout of a connection: its own, or that of the event stream it currently carries.
#[derive(Clone)]
pub(super) struct WriteDeadline {
    timeout: Duration,
    stream: Arc<Mutex<Option<StreamHandle>>>,
}

impl WriteDeadline {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, stream: Arc::default() }
    }

    /// Called when a response begins. An event stream has its own timeout, and is notified when a
    /// write stalls.
    pub(super) fn begin(&self, stream: Option<StreamHandle>) {
        let stream = stream.filter(|stream| stream.send_timeout().is_some());
        if let Some(stream) = &stream {
            stream.watch_socket();
        }
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }

    fn timeout(&self) -> Duration {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.as_ref().and_then(StreamHandle::send_timeout).unwrap_or(self.timeout)
    }

    fn stalled(&self) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(stream) = &*stream {
            stream.stalled();
        }
    }
}

impl<S> DeadlineSocket<S> {
    pub(super) fn new(
        socket: S,
        header_timeout: Duration,
        deadline: WriteDeadline,
        slot: Arc<Slot>,
    ) -> Self {
        let due = Box::pin(tokio::time::sleep(header_timeout));
        let sniff = Some(VersionSniff { due, preface_bytes: 0 });
        Self { socket, sniff, write_due: None, deadline, unread: Bytes::new(), slot }
    }

    /// The socket, and the bytes read from it that have not been consumed.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.socket, self.unread)
    }

    /// A socket with a deadline for writes only.
    #[cfg(feature = "tls")]
    pub(super) fn writes_only(socket: S, deadline: WriteDeadline) -> Self {
        let slot = Arc::default();
        Self { socket, sniff: None, write_due: None, deadline, unread: Bytes::new(), slot }
    }

    /// Passes on the outcome of a write; starts the timer when a write blocks, and fails once it is
    /// due.
    fn watch_write<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.write_due = None;
            return outcome;
        }
        let deadline = &self.deadline;
        let due = self.write_due.get_or_insert_with(|| {
            Box::pin(tokio::time::sleep_until(Instant::now() + deadline.timeout()))
        });
        ready!(due.as_mut().poll(context));
        self.deadline.stalled();
        let message = "send timeout: the client accepts no data";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

/// The HTTP versions that are served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HttpVersion {
    Http1,
    Http2,
}

impl<S: AsyncRead + Unpin> DeadlineSocket<S> {
    /// Reads until the client's HTTP version is known; `None` if the client closes before that. The
    /// next reads return the same bytes again. Not cancel safe: dropping the future loses bytes, so
    /// the connection must be closed.
    ///
    /// # Errors
    /// If reading fails, or no request begins before the deadline.
    pub(super) async fn version(&mut self) -> io::Result<Option<HttpVersion>> {
        let mut read = BytesMut::with_capacity(FIRST_READ_BYTES);
        loop {
            if self.read_buf(&mut read).await? == 0 {
                return Ok(None);
            }
            if self.sniff.is_none() {
                let is_preface = read.starts_with(PREFACE);
                self.unread = read.freeze();
                return Ok(Some(if is_preface { HttpVersion::Http2 } else { HttpVersion::Http1 }));
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DeadlineSocket<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.unread.is_empty() {
            let count = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let filled = buffer.filled().len();
        let outcome = Pin::new(&mut self.socket).poll_read(context, buffer);
        let Some(sniff) = &mut self.sniff else { return outcome };
        if outcome.is_ready() {
            if sniff.is_over(&buffer.filled()[filled..]) {
                self.sniff = None;
            }
            return outcome;
        }
        ready!(sniff.due.as_mut().poll(context));
        let message = "header timeout: no request received";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, message)))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeadlineSocket<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.watch_write(context, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.socket).poll_write_vectored(context, pieces);
        self.watch_write(context, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.socket).poll_flush(context);
        if let Poll::Ready(Ok(())) = outcome {
            self.slot.flushed();
        }
        outcome
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_version_is_known_at_the_first_byte_of_http1_or_the_last_of_the_preface() {
        #[track_caller]
        fn check(pieces: &[&[u8]], expected: bool) {
            let mut sniff = VersionSniff {
                due: Box::pin(tokio::time::sleep(Duration::ZERO)),
                preface_bytes: 0,
            };
            let over = pieces.iter().any(|piece| sniff.is_over(piece));
            assert_eq!(over, expected, "{pieces:?}");
        }
        check(&[b"G"], true);
        check(&[b"P"], false);
        check(&[b"P", b"OST /"], true);
        check(&[b"PRI * HTTP", b"/2.0\r\n\r\nSM\r\n\r"], false);
        check(&[b"PRI * HTTP", b"/2.0\r\n\r\nSM\r\n\r", b"\n"], true);
        check(&[b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nframes"], true);
        check(&[b""], true);
    }
}
