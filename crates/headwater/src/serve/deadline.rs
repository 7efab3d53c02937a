//! A socket with deadlines: a request must start, and writes must make progress. Look here for how
//! slow or dead clients are disconnected.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use super::takeover::Slot;
use crate::response::Watch;

/// Size of the first read, in bytes: holds the head of a typical request.
const FIRST_READ_BYTES: usize = 4096;

/// The connection preface of HTTP/2 (RFC 9113, 3.4).
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A socket with deadlines.
pub(super) struct DeadlineSocket<S> {
    socket: S,
    /// `None` once the HTTP version is known: from then on, hyper's timeouts apply.
    sniff: Option<VersionSniff>,
    /// Fires if a blocked write makes no progress in time; `None` while no write is blocked.
    write_due: Option<Pin<Box<Sleep>>>,
    send: WriteDeadline,
    /// Bytes read to detect the version, which are to be read again.
    unread: Bytes,
    /// Is notified of flushes.
    slot: Arc<Slot>,
}

/// The detection of the HTTP version, and its deadline.
struct VersionSniff {
    due: Pin<Box<Sleep>>,
    /// How much of the HTTP/2 preface was received. A client that stops in the middle of it must
    /// not stay connected.
    preface_bytes: usize,
}

impl VersionSniff {
    /// Whether the version is known after these further bytes.
    fn is_complete(&mut self, bytes: &[u8]) -> bool {
        let expected = &HTTP2_PREFACE[self.preface_bytes..];
        self.preface_bytes += bytes.len();
        bytes.is_empty() || bytes.len() >= expected.len() || !expected.starts_with(bytes)
    }
}

/// The send timeout that applies to a connection now: the server's, or that of the stream that it
/// carries.
#[derive(Clone)]
pub(super) struct WriteDeadline {
    timeout: Duration,
    stream: Arc<Mutex<Option<Watch>>>,
}

impl WriteDeadline {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, stream: Arc::default() }
    }

    /// Called when a response starts. An event stream replaces the timeout, and is notified when it
    /// stalls.
    pub(super) fn begin(&self, stream: Option<Watch>) {
        if let Some(watch) = &stream {
            watch.watch_socket();
        }
        *self.stream.lock().unwrap_or_else(PoisonError::into_inner) = stream;
    }

    fn timeout(&self) -> Duration {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        stream.as_ref().map_or(self.timeout, Watch::send_timeout)
    }

    fn stalled(&self) {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watch) = &*stream {
            watch.stalled();
        }
    }
}

impl<S> DeadlineSocket<S> {
    pub(super) fn new(
        socket: S,
        sniff_timeout: Duration,
        send: WriteDeadline,
        slot: Arc<Slot>,
    ) -> Self {
        let due = Box::pin(tokio::time::sleep(sniff_timeout));
        let sniff = Some(VersionSniff { due, preface_bytes: 0 });
        Self { socket, sniff, write_due: None, send, unread: Bytes::new(), slot }
    }

    /// The socket, and the bytes that were read from it and not consumed.
    pub(super) fn into_parts(self) -> (S, Bytes) {
        (self.socket, self.unread)
    }

    /// A socket with a deadline for writes only.
    #[cfg(feature = "tls")]
    pub(super) fn of_writes(socket: S, send: WriteDeadline) -> Self {
        let slot = Arc::default();
        Self { socket, sniff: None, write_due: None, send, unread: Bytes::new(), slot }
    }

    /// Applies the deadline to the outcome of a write.
    fn watch_write<T>(
        &mut self,
        context: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.write_due = None;
            return outcome;
        }
        let send = &self.send;
        let due = self.write_due.get_or_insert_with(|| {
            Box::pin(tokio::time::sleep_until(Instant::now() + send.timeout()))
        });
        ready!(due.as_mut().poll(context));
        self.send.stalled();
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client accepts no data")))
    }
}

/// The HTTP versions that the server distinguishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HttpVersion {
    Http1,
    Http2,
}

impl<S: AsyncRead + Unpin> DeadlineSocket<S> {
    /// Reads until the client's HTTP version is known; `None` if it sends nothing. The bytes can be
    /// read again. Not cancel safe: the connection is unusable afterwards.
    pub(super) async fn version(&mut self) -> io::Result<Option<HttpVersion>> {
        let mut read = BytesMut::with_capacity(FIRST_READ_BYTES);
        loop {
            if self.read_buf(&mut read).await? == 0 {
                return Ok(None);
            }
            if self.sniff.is_none() {
                let is_http2 = read.starts_with(HTTP2_PREFACE);
                self.unread = read.freeze();
                return Ok(Some(if is_http2 { HttpVersion::Http2 } else { HttpVersion::Http1 }));
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
            if sniff.is_complete(&buffer.filled()[filled..]) {
                self.sniff = None;
            }
            return outcome;
        }
        ready!(sniff.due.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request received in time")))
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
            let complete = pieces.iter().any(|piece| sniff.is_complete(piece));
            assert_eq!(complete, expected, "{pieces:?}");
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
