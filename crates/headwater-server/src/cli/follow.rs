//! Follows one channel of a server: connects, reads, reconnects and resumes. Look here for which
//! responses end it and how long it waits.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use headwater::Channel;
use headwater::event::{Decoder, Item};
use headwater::limits::RETRY_DEFAULT;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::output::Line;
use super::target::{Server, refusal_of};

/// The longest wait between two attempts, unless the server asks for more.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Everything that can occur while channels are followed.
pub(super) enum FollowEvent {
    /// An event was received.
    Event(Line),
    /// The state of a connection changed.
    Notice(String),
    /// A channel has ended.
    Finished(Channel),
    /// A channel cannot be followed.
    Failed(anyhow::Error),
    /// The user pressed Ctrl-C.
    Interrupted,
}

/// One channel of a server, followed until it is finished.
pub(super) struct Follower {
    server: Server,
    channel: Channel,
    events: mpsc::Sender<FollowEvent>,
    last_event_id: String,
    /// How far back to begin while there is no last event, as it stands in the query.
    rewind: Option<String>,
    /// The server's reconnection delay.
    retry: Duration,
    /// Attempts since the last stream that opened.
    failures: u32,
}

/// How one attempt to follow ended.
enum Attempt {
    /// It was a stream, and it ended.
    Ended(anyhow::Error),
    /// There was no stream; retrying may help.
    Failed(anyhow::Error),
    /// The channel has ended.
    Finished,
    /// Reconnecting would get the same response.
    Refused(anyhow::Error),
    /// The receiver is gone.
    Unwanted,
}

impl Follower {
    pub(super) fn new(
        server: Server,
        channel: Channel,
        (last_event_id, rewind): (&str, Option<&str>),
        events: mpsc::Sender<FollowEvent>,
    ) -> Self {
        Self {
            server,
            channel,
            events,
            last_event_id: last_event_id.to_owned(),
            rewind: rewind.map(ToOwned::to_owned),
            retry: RETRY_DEFAULT,
            failures: 0,
        }
    }

    /// Follows until the channel is finished or cannot be followed.
    pub(super) async fn run(mut self) {
        self.notice(format!("connecting to {}", self.server)).await;
        loop {
            let last = match self.attempt().await {
                Attempt::Ended(why) => {
                    self.failures = 0;
                    why
                }
                Attempt::Failed(why) => {
                    self.failures = self.failures.saturating_add(1);
                    why
                }
                Attempt::Finished => {
                    let _ = self.events.send(FollowEvent::Finished(self.channel)).await;
                    return;
                }
                Attempt::Refused(why) => {
                    let why = why.context(format!("cannot follow {}", self.channel));
                    let _ = self.events.send(FollowEvent::Failed(why)).await;
                    return;
                }
                Attempt::Unwanted => return,
            };
            let wait = wait(self.retry, self.failures);
            self.notice(format!("{last:#}; reconnecting in {:.1} s", wait.as_secs_f64())).await;
            sleep(wait).await;
        }
    }

    async fn attempt(&mut self) -> Attempt {
        let response = match self.ask().await {
            Ok(response) => response,
            Err(why) => return Attempt::Failed(why),
        };
        match response.status() {
            StatusCode::OK if is_event_stream(&response) => {
                self.notice(format!("connected to {}", self.server)).await;
                self.read(response.into_body()).await
            }
            StatusCode::OK => Attempt::Refused(anyhow!(
                "{} answers, but not with an event stream: is it Headwater, and is the path right?",
                self.server
            )),
            StatusCode::NO_CONTENT => Attempt::Finished,
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_EARLY | StatusCode::TOO_MANY_REQUESTS => {
                Attempt::Failed(refusal_of(response).await)
            }
            status if status.is_server_error() => Attempt::Failed(refusal_of(response).await),
            _ => Attempt::Refused(refusal_of(response).await),
        }
    }

    async fn ask(&self) -> anyhow::Result<Response<Incoming>> {
        let channel = [("channel", self.channel.as_str())];
        // With a last event ID it has no meaning.
        let rewind = self.rewind.as_deref().filter(|_| self.last_event_id.is_empty());
        let query: Vec<_> =
            channel.into_iter().chain(rewind.map(|rewind| ("rewind", rewind))).collect();
        let mut request = self
            .server
            .request(Method::GET, "/sse/stream", &query)
            .header(ACCEPT, "text/event-stream")
            .header(CACHE_CONTROL, "no-store");
        if !self.last_event_id.is_empty() {
            // An id with a control character cannot be a header; the query rejects it too.
            if let Ok(value) = HeaderValue::from_str(&self.last_event_id)
                .or_else(|_| HeaderValue::from_bytes(self.last_event_id.as_bytes()))
            {
                request = request.header("last-event-id", value);
            }
        }
        let request = request.body(Full::<Bytes>::default()).context("cannot ask for a stream")?;
        self.server.open(request).await
    }

    async fn read(&mut self, mut body: Incoming) -> Attempt {
        let mut decoder = Decoder::new();
        // The id outlives the connection: a block without data sets it, as if the server had.
        if let Err(error) = decoder.push(format!("id: {}\n\n", self.last_event_id).as_bytes()) {
            return Attempt::Refused(error.into());
        }
        loop {
            let chunk = match body.frame().await {
                None => return Attempt::Ended(anyhow!("the stream ended")),
                Some(Err(_)) => return Attempt::Ended(anyhow!("the connection broke")),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            let pushed = decoder.push(&chunk);
            while let Some(item) = decoder.next_item() {
                if let Item::Event(message) = item {
                    let id = Some(message.id).filter(|id| !id.is_empty());
                    let line = Line::new(&self.channel, message.name, id, message.data);
                    if self.events.send(FollowEvent::Event(line)).await.is_err() {
                        return Attempt::Unwanted;
                    }
                }
            }
            decoder.last_event_id().clone_into(&mut self.last_event_id);
            self.retry = decoder.retry().unwrap_or(self.retry);
            if let Err(error) = pushed {
                return Attempt::Refused(error.into());
            }
        }
    }

    async fn notice(&self, text: String) {
        let text = format!("{}: {text}", self.channel);
        // The receiver may be gone; the next event finds that out.
        let _ = self.events.send(FollowEvent::Notice(text)).await;
    }
}

fn is_event_stream(response: &Response<Incoming>) -> bool {
    let value = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("text/event-stream")
}

/// The server's delay, doubled with every consecutive failure, a quarter more or less so that the
/// clients of a restarted server do not reconnect all at once.
fn wait(retry: Duration, failures: u32) -> Duration {
    let longest = WAIT_MAX.max(retry);
    let doubled = retry.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(longest);
    doubled.mul_f64(0.75 + fastrand::f64() / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_with_failures_and_are_bounded() {
        #[track_caller]
        fn check(retry_ms: u64, failures: u32, about_ms: u64) {
            for _ in 0..100 {
                let wait = wait(Duration::from_millis(retry_ms), failures);
                let bounds = Duration::from_millis(about_ms * 3 / 4)
                    ..=Duration::from_millis(about_ms * 5 / 4);
                assert!(bounds.contains(&wait), "{wait:?} is not about {about_ms} ms");
            }
        }
        check(2000, 0, 2000);
        check(2000, 1, 2000);
        check(2000, 2, 4000);
        check(2000, 4, 16_000);
        check(2000, 5, 30_000);
        check(2000, u32::MAX, 30_000);
        check(60_000, 3, 60_000);
    }
}
