//! `POST /sse/publish`: a program publishes one event, or a batch of them.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use axum::{Extension, Json};
use bytes::Bytes;
use headwater::{Action, Channel, IdempotencyKey, Publish, Receipt};
use http::header::CONTENT_TYPE;
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::Problem;
use super::query::{PublishQuery, default_channel};
use super::{App, door, ndjson};
use crate::client::ClientAddress;
use crate::limits::{BODY_PIECE_BYTES_MIN, BODY_TIMEOUT};

pub(super) fn route() -> MethodRouter<App> {
    post(publish).fallback(|| async {
        Problem::method_not_allowed(
            "POST",
            "publish with POST, the body is the data: curl --data-binary 'hello' 'http://HOST/sse/publish?channel=NAME' (a GET must have no effects)",
        )
    })
}

/// What the publisher is told about one event.
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
    // Before the body is read. Where a batch goes stands in the body; then only who sends it is judged.
    let named = if is_batch {
        Vec::new()
    } else {
        query.channels_or_default().map_err(Problem::bad_request)?
    };
    let mut user = door::check(&app, client, Action::Publish, &named, &parts).await?.user;
    let key = idempotency_key(&parts)?;
    if is_batch && key.is_some() {
        return Err(Problem::bad_request(
            "the idempotency keys of a batch stand in its lines: {\"data\": ..., \"key\": ...}",
        ));
    }
    app.limits.admit_publisher(client, user.as_deref())?;
    let (body, _room) = read_body(body, app.settings.max_body_bytes, &app.body_room).await?;
    let batch = if is_batch {
        let batch = batch(&query, &body)?;
        let channels: BTreeSet<Channel> = batch.iter().map(|it| it.channel().clone()).collect();
        let channels = Vec::from_iter(channels);
        // The application says only now who it is.
        user = door::check(&app, client, Action::Publish, &channels, &parts).await?.user;
        batch
    } else {
        one_event(&query, named, body, key.as_ref())?
    };
    app.limits.take_publishes(client, user.as_deref(), batch.len())?;
    let is_single = !is_batch && batch.len() == 1;
    let mut published: Vec<Published> =
        app.hub.publish_all(batch).await?.into_iter().map(Published::from).collect();
    Ok(match published.pop() {
        Some(single) if is_single => Json(single).into_response(),
        last => {
            published.extend(last);
            Json(published).into_response()
        }
    })
}

fn one_event(
    query: &PublishQuery,
    channels: Vec<Channel>,
    data: String,
    key: Option<&IdempotencyKey>,
) -> Result<Vec<Publish>, Problem> {
    let event = query.event(data).map_err(Problem::bad_request)?;
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
    // What is not visible ASCII is refused by the key itself.
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

/// The body, and the room it takes until it is published.
async fn read_body(
    body: Body,
    bytes_max: usize,
    room: &Arc<Semaphore>,
) -> Result<(String, Option<OwnedSemaphorePermit>), Problem> {
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(body, bytes_max, room));
    let (bytes, room) = read.await.map_err(|_| {
        Problem::timeout(format!("the body did not come within {BODY_TIMEOUT:?}"))
    })??;
    let text = String::from_utf8(bytes).map_err(|error| {
        Problem::bad_request(format!(
            "the body is not UTF-8 at byte {}: event streams carry text, so encode binary data, for example as base64",
            error.utf8_error().valid_up_to()
        ))
    })?;
    Ok((text, room))
}

async fn collect(
    body: Body,
    bytes_max: usize,
    room: &Arc<Semaphore>,
) -> Result<(Vec<u8>, Option<OwnedSemaphorePermit>), Problem> {
    let mut body = Limited::new(body, bytes_max);
    // Made one at the end, when the size is known. Crumbs are swept together before, or a body that comes
    // byte by byte would cost many times its size.
    let (mut pieces, mut crumbs) = (Vec::new(), Vec::new());
    let mut taken: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return Problem::too_large(format!(
                    "the body has more than {bytes_max} bytes: send less, or raise max-body"
                ));
            }
            Problem::bad_request(format!("the body could not be read: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        // A body that comes slowly must not wait for room that others like it hold.
        let more = u32::try_from(data.len()).ok();
        let more = more.and_then(|more| Arc::clone(room).try_acquire_many_owned(more).ok());
        let more = more.ok_or_else(|| {
            Problem::unavailable("too many large bodies are on their way: send this one again")
        })?;
        match &mut taken {
            Some(taken) => taken.merge(more),
            None => taken = Some(more),
        }
        if data.len() < BODY_PIECE_BYTES_MIN {
            crumbs.extend_from_slice(&data);
            continue;
        }
        if !crumbs.is_empty() {
            pieces.push(Bytes::from(std::mem::take(&mut crumbs)));
        }
        pieces.push(data);
    }
    pieces.push(Bytes::from(crumbs));
    Ok((pieces.concat(), taken))
}

impl From<Receipt> for Published {
    fn from(receipt: Receipt) -> Self {
        Self { id: receipt.id.map(|id| id.to_string()), channel: receipt.channel.to_string() }
    }
}
