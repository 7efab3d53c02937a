//! `POST /sse/publish`: a program publishes one event, or a batch of them.

use std::collections::BTreeSet;

use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use axum::{Extension, Json};
use headwater::access::Action;
use headwater::event::IdempotencyKey;
use headwater::{Channel, Problem, Publish, Receipt};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use serde::Serialize;

use super::ndjson;
use super::query::{PublishQuery, default_channel};
use crate::access::Sender;
use crate::app::{self, App, BodySender, PublishRequest};
use crate::client::ClientAddress;
use crate::limits::{BATCH_EVENTS_MAX, LARGE_BATCH_BYTES, MANY_CHANNELS};

pub(crate) fn route() -> MethodRouter<App> {
    post(publish).fallback(|| async {
        app::method_not_allowed(
            "POST",
            "publish with POST, the body is the data: curl --data-binary 'hello' \
             'http://HOST/sse/publish?channel=NAME' (a GET must have no effects)",
        )
    })
}

/// The response for one event.
#[derive(Serialize)]
struct Published {
    id: Option<String>,
    channel: String,
}

async fn publish(
    State(app): State<App>,
    Extension(client): Extension<ClientAddress>,
    request: Request,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let query = parts.uri.query().unwrap_or_default();
    let query = PublishQuery::parse(query).map_err(Problem::bad_request)?;
    let is_batch = is_ndjson(&parts);
    let named = if is_batch {
        Vec::new()
    } else {
        query.channels_or_default().map_err(Problem::bad_request)?
    };
    let key = idempotency_key(&parts)?;
    if is_batch && key.is_some() {
        return Err(Problem::bad_request(
            "the idempotency keys of a batch stand in its lines: {\"data\": ..., \"key\": ...}",
        ));
    }
    // A refusal must cost less than an answer.
    app.limits.check_publisher(client, None)?;
    // Before the body is read. The channels of a batch are in its body, so only the sender is
    // verified here.
    let (sender, mut admission) = if is_batch {
        let (sender, admission) = app::identify(&app, client, &parts).await?;
        (Some(sender), admission)
    } else {
        (None, app::check(&app, client, Action::Publish, &named, &parts).await?)
    };
    app.limits.check_publisher(client, admission.grant.user.as_deref())?;
    let sender_of_body = if sender.as_ref().is_some_and(Sender::is_unknown) {
        BodySender::stranger(client)
    } else {
        BodySender::new(client, admission.grant.user.as_deref())
    };
    let (body, mut place) = app::read_body(body, &app.body_room, sender_of_body.clone()).await?;
    let is_large = is_batch && body.len() > LARGE_BATCH_BYTES;
    let takes_turn = is_large || named.len() > MANY_CHANNELS;
    let turn = if takes_turn { Some(app.turns.take(sender_of_body).await?) } else { None };
    let (held, batch) = if let Some(sender) = sender {
        place.reserve_events(body.lines().take(BATCH_EVENTS_MAX).count())?;
        let parsed = app::work(is_large, (place, turn), move || {
            let batch = batch(&query, &body)?;
            let channels: BTreeSet<Channel> = batch.iter().map(|it| it.channel().clone()).collect();
            Ok::<_, Problem>((batch, Vec::from_iter(channels)))
        });
        let (held, parsed) = parsed.await;
        let (batch, channels) = parsed?;
        // Only now does the application identify the user.
        let identified = (sender, admission);
        admission = app::check_identified(&app, client, identified, &channels, &parts).await?;
        (held, batch)
    } else {
        ((place, turn), one_event(&query, named, body, key.as_ref())?)
    };
    let is_single = !is_batch && batch.len() == 1;
    let receipts = app::publish(&app, PublishRequest { client, admission, batch }).await?;
    let answered = app::work(is_large, held, move || answer(receipts, is_single));
    let (_held, response) = answered.await;
    Ok(response)
}

fn answer(receipts: Vec<Receipt>, is_single: bool) -> Response {
    let mut published: Vec<Published> = receipts.into_iter().map(Published::from).collect();
    match published.pop() {
        Some(single) if is_single => Json(single).into_response(),
        last => {
            published.extend(last);
            Json(published).into_response()
        }
    }
}

fn one_event(
    query: &PublishQuery,
    channels: Vec<Channel>,
    data: String,
    key: Option<&IdempotencyKey>,
) -> Result<Vec<Publish>, Problem> {
    let event = query.event(data).map_err(Problem::bad_request)?;
    // Its data is kept once, however many channels there are.
    let event = if channels.len() > 1 { event.shared() } else { event };
    let end = query.is_end();
    let publish = |channel| {
        let publish = Publish::to(channel, event.clone()).with_end(end);
        match key {
            Some(key) => publish.with_key(key.clone()),
            None => publish,
        }
    };
    Ok(channels.into_iter().map(publish).collect())
}

fn idempotency_key(request: &Parts) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(key) = request.headers.get("idempotency-key") else { return Ok(None) };
    // The key's own check rejects what is not visible ASCII.
    let key = String::from_utf8_lossy(key.as_bytes());
    Ok(Some(IdempotencyKey::new(key)?))
}

fn batch(query: &PublishQuery, body: &str) -> Result<Vec<Publish>, Problem> {
    if query.is_about_one_event() {
        return Err(Problem::bad_request(
            "event, id, retry and end of a batch stand in its lines: leave them out of the query",
        ));
    }
    let fallback = match query.channels.as_slice() {
        [] => default_channel().map_err(Problem::bad_request)?,
        [channel] => channel.clone(),
        _ => {
            return Err(Problem::bad_request(
                "a batch takes one channel in the query at most: name the others in its lines",
            ));
        }
    };
    ndjson::parse(body, &fallback).map_err(Problem::bad_request)
}

fn is_ndjson(request: &Parts) -> bool {
    let content_type = request.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    // The first is the usual name; none is registered.
    ["application/x-ndjson", "application/ndjson", "application/jsonl"]
        .iter()
        .any(|known| media_type.trim().eq_ignore_ascii_case(known))
}

impl From<Receipt> for Published {
    fn from(receipt: Receipt) -> Self {
        Self { id: receipt.id.map(|id| id.to_string()), channel: receipt.channel.to_string() }
    }
}
