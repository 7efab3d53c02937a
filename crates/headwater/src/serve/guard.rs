//! A socket that cannot be held up for ever: the first byte must come, and writes must make progress. Look here for how
//! slow or dead clients lose their connection.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::response::Watch;

/// A socket with deadlines.
pub(super) struct Guard<S> {
    socket: S,
    /// Rings if nothing at all is read in time; `None` once something was.
    first_byte_due: Option<Pin<Box<Sleep>>>,
    /// Rings if a blocked write makes no progress in time; `None` while no write is blocked.
    write_due: Option<Pin<Box<Sleep>>>,
    send: Send,
}

/// The send timeout that holds for a connection now: its own, or that of the stream it carries.
#[derive(Clone)]
pub(super) struct Send {
    timeout: Duration,
    stream: Arc<Mutex<Option<Watch>>>,
}

impl Send {
    pub(super) fn new(timeout: Duration) -> Self {
        Self { timeout, stream: Arc::default() }
    }

    /// A response begins; a stream of events brings its own timeout and is told when it stalls.
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

impl<S> Guard<S> {
    pub(super) fn new(socket: S, first_byte_timeout: Duration, send: Send) -> Self {
        let first_byte_due = Some(Box::pin(tokio::time::sleep(first_byte_timeout)));
        Self { socket, first_byte_due, write_due: None, send }
    }

    /// Passes on the outcome of a write, and keeps the clock.
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
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Guard<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.socket).poll_read(context, buffer);
        if outcome.is_ready() {
            self.first_byte_due = None;
            return outcome;
        }
        if let Some(due) = &mut self.first_byte_due {
            ready!(due.as_mut().poll(context));
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "no request came")));
        }
        Poll::Pending
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Guard<S> {
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
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
