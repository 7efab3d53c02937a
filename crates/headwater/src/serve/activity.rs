//! The requests of one HTTP/2 connection: whether there are any, and whether the client takes the
//! answers. Look here for when such a connection is closed.
//!
//! Many requests share the socket, so a blocked write says nothing about a single answer, and an
//! answer that the client's window does not let through blocks no write. Event streams have a clock
//! of their own, the send timeout; this one is of all other answers.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use headwater_core::budget::Taken;
use http_body::{Frame, SizeHint};
use tokio::time::Instant;

use crate::limits::{BATCH_BYTES_MAX, HTTP2_IDLE_TIMEOUT};

/// Why a connection must close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Inactive {
    /// It has had no request for long.
    Idle,
    /// The client does not take an answer.
    Stalled,
}

/// The requests of a connection. Clones share them.
#[derive(Clone)]
pub(super) struct Activity(Arc<Mutex<State>>);

struct State {
    open: usize,
    /// When the last request ended, or the connection was opened.
    idle_since: Instant,
    /// The answers that are under way.
    answers: Vec<Weak<Mutex<Content>>>,
}

/// What an answer has left to send.
struct Content {
    /// When its next bytes were asked for last.
    asked_at: Instant,
    /// The rest of the last frame, and the body after it; `None` if the client did not take it.
    left: Option<(Bytes, Body)>,
}

/// After how many send timeouts a connection is closed whose client does not take an answer. The
/// answer itself is dropped after one.
const SEND_TIMEOUTS_MAX: u32 = 4;

/// One request, until its answer has ended.
pub(super) struct OpenRequest {
    activity: Activity,
    /// Its part of the memory for requests.
    room: Option<Taken>,
}

impl Activity {
    pub(super) fn new() -> Self {
        let (idle_since, answers) = (Instant::now(), Vec::new());
        Self(Arc::new(Mutex::new(State { open: 0, idle_since, answers })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request begins.
    pub(super) fn begin(&self) -> OpenRequest {
        self.state().open += 1;
        OpenRequest { activity: self.clone(), room: None }
    }

    /// Why the connection must close, if it must.
    pub(super) fn check(&self, send_timeout: Duration) -> Option<Inactive> {
        let mut state = self.state();
        state.answers.retain(|answer| answer.strong_count() > 0);
        for answer in state.answers.iter().filter_map(Weak::upgrade) {
            let mut content = lock(&answer);
            let waiting = content.asked_at.elapsed();
            if waiting >= SEND_TIMEOUTS_MAX * send_timeout {
                return Some(Inactive::Stalled);
            }
            if waiting >= send_timeout {
                content.left = None;
            }
        }
        let is_idle = state.open == 0 && state.idle_since.elapsed() >= HTTP2_IDLE_TIMEOUT;
        is_idle.then_some(Inactive::Idle)
    }
}

impl OpenRequest {
    /// Keeps room until the answer has ended.
    pub(super) fn hold(&mut self, room: Option<Taken>) {
        self.room = room;
    }

    /// The answer's body. An event stream watches its own send timeout.
    pub(super) fn answer(self, body: Body, is_stream: bool) -> Answer {
        if is_stream {
            return Answer { kind: Kind::Stream(body), _request: self };
        }
        let left = Some((Bytes::new(), body));
        let content = Arc::new(Mutex::new(Content { asked_at: Instant::now(), left }));
        self.activity.state().answers.push(Arc::downgrade(&content));
        Answer { kind: Kind::Other(content), _request: self }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.open -= 1;
        state.idle_since = Instant::now();
    }
}

fn lock(content: &Mutex<Content>) -> MutexGuard<'_, Content> {
    content.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The body of an answer. What is not an event stream is passed on in pieces, each when the client
/// has taken those before: what it does not take stays here, until it is dropped.
pub(super) struct Answer {
    kind: Kind,
    _request: OpenRequest,
}

enum Kind {
    Stream(Body),
    Other(Arc<Mutex<Content>>),
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let content = match &mut self.kind {
            Kind::Stream(body) => return Pin::new(body).poll_frame(context),
            Kind::Other(content) => content,
        };
        let mut content = lock(content);
        content.asked_at = Instant::now();
        let Some((rest, body)) = &mut content.left else {
            let message = "send timeout: the client did not take the answer";
            let error = io::Error::new(io::ErrorKind::TimedOut, message);
            return Poll::Ready(Some(Err(axum::Error::new(error))));
        };
        if rest.is_empty() {
            let Some(frame) = ready!(Pin::new(body).poll_frame(context)) else {
                return Poll::Ready(None);
            };
            match frame?.into_data() {
                Ok(data) => *rest = data,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
        let length = rest.len().min(BATCH_BYTES_MAX);
        Poll::Ready(Some(Ok(Frame::data(rest.split_to(length)))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Stream(body) => body.is_end_stream(),
            Kind::Other(content) => {
                let left = &lock(content).left;
                left.as_ref().is_some_and(|(rest, body)| rest.is_empty() && body.is_end_stream())
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Stream(body) => body.size_hint(),
            Kind::Other(content) => {
                let content = lock(content);
                let Some((rest, body)) = &content.left else { return SizeHint::default() };
                let (rest, hint) = (rest.len() as u64, body.size_hint());
                let mut all = SizeHint::default();
                all.set_lower(hint.lower() + rest);
                if let Some(upper) = hint.upper() {
                    all.set_upper(upper + rest);
                }
                all
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body::Body as _;
    use http_body_util::BodyExt as _;

    use super::*;

    const SEND_TIMEOUT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_and_a_connection_without_requests_are_noticed() {
        let activity = Activity::new();
        let data = Bytes::from(vec![7; 3 * BATCH_BYTES_MAX + 1]);
        let mut answer = activity.begin().answer(Body::from(data.clone()), false);
        assert_eq!(answer.size_hint().exact(), Some(data.len() as u64));
        let mut taken = Vec::new();
        while !answer.is_end_stream() {
            tokio::time::advance(SEND_TIMEOUT / 2).await;
            assert_eq!(activity.check(SEND_TIMEOUT), None);
            taken.extend(answer.frame().await.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(taken, data);
        drop(answer);
        let mut answer = activity.begin().answer(Body::from(data), false);
        answer.frame().await.unwrap().unwrap();
        tokio::time::advance(SEND_TIMEOUT).await;
        assert_eq!(activity.check(SEND_TIMEOUT), None);
        assert!(answer.frame().await.unwrap().is_err(), "it was dropped");
        tokio::time::advance(SEND_TIMEOUTS_MAX * SEND_TIMEOUT).await;
        assert_eq!(activity.check(SEND_TIMEOUT), Some(Inactive::Stalled));
        drop(answer);
        assert_eq!(activity.check(SEND_TIMEOUT), None);
        let stream = activity.begin().answer(Body::from("x"), true);
        tokio::time::advance(2 * HTTP2_IDLE_TIMEOUT).await;
        assert_eq!(activity.check(SEND_TIMEOUT), None, "it has a clock of its own");
        drop(stream);
        tokio::time::advance(HTTP2_IDLE_TIMEOUT).await;
        assert_eq!(activity.check(SEND_TIMEOUT), Some(Inactive::Idle));
    }
}
