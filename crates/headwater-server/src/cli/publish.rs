//! `headwater publish`: one event, from the command line or standard input. Look here for how it
//! gets to a server or into Redis.

use std::io::{self, IsTerminal as _, Read as _};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use headwater::event::{EventId, EventName, IdempotencyKey};
use headwater::limits::{EVENT_DATA_BYTES_MAX, RETRY_MAX, RETRY_MIN};
use headwater::{Channel, Event, Hub, Publish as Publishing, RedisBroker};
use http_body_util::Full;
use hyper::Method;
use hyper::header::CONTENT_TYPE;
use serde::Deserialize;
use tokio::time::timeout;

use super::output::print;
use super::target::{Destination, Server, Target, refusal};
use crate::exit::Failure;
use crate::settings::{RedisUrl, duration};

/// Timeout for reaching Redis and publishing the event. The broker itself would keep trying.
const REDIS_TIMEOUT: Duration = Duration::from_secs(10);

const EXAMPLES: &str = "\
Examples:
  headwater publish news 'hello, browsers'
  headwater publish orders '{\"id\": 42}' --event created --id 42
  date | headwater publish clock
  headwater publish orders paid --key order-42         safe to repeat: it is published once
  headwater publish answer:7 '' --event done --end     the channel's last event
  headwater publish news --redis redis://127.0.0.1:6379 hello
  headwater publish numbers -- -5                      data that begins with a dash";

/// Publish an event to a channel
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Publish {
    /// The channel, 1 to 255 bytes without control characters
    channel: Channel,
    /// The data; `-`, or no argument, reads standard input to its end
    ///
    /// Standard input is published unchanged, including the line end that `echo` adds.
    data: Option<String>,
    /// The event's name: browsers dispatch the event to handlers of this name
    #[arg(long, value_name = "NAME")]
    event: Option<EventName>,
    /// The event's ID, which clients send when they reconnect
    #[arg(long)]
    id: Option<EventId>,
    /// Reconnection delay for clients, for example 2s
    #[arg(long, value_name = "DURATION", value_parser = parse_retry)]
    retry: Option<Duration>,
    /// End the channel with this event: its streams close, and it accepts no more events
    #[arg(long)]
    end: bool,
    /// Idempotency key: repeating it within ten minutes publishes nothing
    #[arg(long, value_name = "KEY", value_parser = parse_key)]
    key: Option<IdempotencyKey>,
    #[command(flatten)]
    target: Target,
}

fn parse_retry(text: &str) -> Result<Duration, String> {
    duration(text, &(RETRY_MIN..=RETRY_MAX))
}

fn parse_key(text: &str) -> Result<IdempotencyKey, headwater::Error> {
    IdempotencyKey::new(text)
}

impl Publish {
    /// Publishes, and reports it on standard output.
    pub(super) async fn run(self) -> Result<(), Failure> {
        let destination = self.target.destination()?;
        let mut event = Event::new(data(self.data)?);
        if let Some(name) = self.event {
            event = event.with_name(name).context("--event")?;
        }
        if let Some(id) = self.id {
            event = event.with_id(id).context("--id")?;
        }
        if let Some(retry) = self.retry {
            event = event.with_retry(retry);
        }
        let mut publishing = Publishing::to(self.channel.clone(), event).with_end(self.end);
        if let Some(key) = self.key {
            publishing = publishing.with_key(key);
        }
        let id = match destination {
            Destination::Server(server) => through_server(&server, &publishing).await?,
            Destination::Redis(url) => through_redis(&url, publishing).await?,
        };
        let mut said = format!("published to {}", self.channel);
        if let Some(id) = id {
            said = format!("{said} as {id}");
        }
        if self.end {
            said.push_str(", which has ended");
        }
        print(&format!("{said}\n"))
    }
}

fn data(argument: Option<String>) -> Result<String, Failure> {
    match argument {
        Some(text) if text != "-" => Ok(text),
        None if io::stdin().is_terminal() => Err(Failure::Usage(
            "there is nothing to publish: give the data as an argument, as in `headwater publish \
             news hello`, or through a pipe, as in `date | headwater publish news`; `-` reads what \
             you type until Ctrl-D"
                .to_owned(),
        )),
        _ => Ok(read_standard_input()?),
    }
}

fn read_standard_input() -> anyhow::Result<String> {
    let mut bytes = Vec::new();
    // One byte more than allowed shows that there is more than allowed.
    let limit = EVENT_DATA_BYTES_MAX as u64 + 1;
    io::stdin().take(limit).read_to_end(&mut bytes).context("cannot read standard input")?;
    if bytes.len() > EVENT_DATA_BYTES_MAX {
        bail!(
            "standard input has more than {EVENT_DATA_BYTES_MAX} bytes, the most that one event \
             can have: publish where the data is instead"
        );
    }
    String::from_utf8(bytes).map_err(|error| {
        anyhow!(
            "standard input is not UTF-8 at byte {}: events are text, so encode it, for example \
             with base64",
            error.utf8_error().valid_up_to()
        )
    })
}

/// The server's response to one event for one channel.
#[derive(Deserialize)]
struct Answer {
    id: Option<String>,
}

async fn through_server(
    server: &Server,
    publishing: &Publishing,
) -> anyhow::Result<Option<String>> {
    let event = publishing.event();
    let retry_ms = event.retry().map(|retry| retry.as_millis().to_string());
    let parameters = [
        ("channel", Some(publishing.channel().as_str())),
        ("event", event.name().map(EventName::as_str)),
        ("id", event.id().map(EventId::as_str)),
        ("retry", retry_ms.as_deref()),
        ("end", publishing.is_end().then_some("1")),
    ];
    let query: Vec<_> =
        parameters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let mut request = server
        .request(Method::POST, "/sse/publish", &query)
        .header(CONTENT_TYPE, "text/plain; charset=utf-8");
    if let Some(key) = publishing.idempotency_key() {
        request = request.header("idempotency-key", key.as_str());
    }
    let request = request
        .body(Full::new(Bytes::copy_from_slice(event.data().as_bytes())))
        .context("cannot make a request of this")?;
    let answer = server.exchange(request).await?;
    if !answer.status.is_success() {
        return Err(refusal(&answer));
    }
    let answer: Answer = serde_json::from_slice(&answer.body).with_context(|| {
        format!("{server} took the event, but did not answer as Headwater does")
    })?;
    Ok(answer.id)
}

async fn through_redis(url: &RedisUrl, publishing: Publishing) -> anyhow::Result<Option<String>> {
    let hub = Hub::new(RedisBroker::connect(url.expose())?);
    let receipts = timeout(REDIS_TIMEOUT, hub.publish_all([publishing]))
        .await
        .map_err(|_| anyhow!("no answer within {} s", REDIS_TIMEOUT.as_secs()))
        .and_then(|result| result.map_err(Into::into))
        .with_context(|| format!("cannot publish to {url}"))?;
    let id = receipts.into_iter().find_map(|receipt| receipt.id);
    Ok(id.map(|id| id.to_string()))
}
