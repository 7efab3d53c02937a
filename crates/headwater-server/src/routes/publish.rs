//! `POST /sse/publish`: a program publishes one event, or a batch of them.

use axum::Json;
use axum::body::Body;
use axum::extract::{RawQuery, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, post};
use headwater::{IdempotencyKey, Publish, Receipt};
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;

use super::problem::Problem;
use super::query::{PublishQuery, default_channel};
use super::{App, ndjson};
use crate::limits::BODY_TIMEOUT;

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
    RawQuery(query): RawQuery,
    request: Request,
) -> Result<Response, Problem> {
    let query = PublishQuery::parse(&query.unwrap_or_default()).map_err(Problem::bad_request)?;
    let is_batch = is_ndjson(&request);
    let key = idempotency_key(&request)?;
    if is_batch && key.is_some() {
        return Err(Problem::bad_request(
            "the idempotency keys of a batch stand in its lines: {\"data\": ..., \"key\": ...}",
        ));
    }
    let body = read_body(request.into_body(), app.settings.max_body_bytes).await?;
    let batch =
        if is_batch { batch(&query, &body)? } else { one_event(query, body, key.as_ref())? };
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
    query: PublishQuery,
    data: String,
    key: Option<&IdempotencyKey>,
) -> Result<Vec<Publish>, Problem> {
    let event = query.event(data).map_err(Problem::bad_request)?;
    let end = query.is_end();
    let channels = query.channels_or_default().map_err(Problem::bad_request)?;
    let publish = |channel| {
        let publish = Publish::new(channel, event.clone()).end(end);
        match key {
            Some(key) => publish.key(key.clone()),
            None => publish,
        }
    };
    Ok(channels.into_iter().map(publish).collect())
}

fn idempotency_key(request: &Request) -> Result<Option<IdempotencyKey>, Problem> {
    let Some(key) = request.headers().get("idempotency-key") else { return Ok(None) };
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

fn is_ndjson(request: &Request) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let media_type = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    // The first is the usual name; none is registered.
    ["application/x-ndjson", "application/ndjson", "application/jsonl"]
        .iter()
        .any(|known| media_type.trim().eq_ignore_ascii_case(known))
}

async fn read_body(body: Body, bytes_max: usize) -> Result<String, Problem> {
    let read = tokio::time::timeout(BODY_TIMEOUT, Limited::new(body, bytes_max).collect());
    let body = read
        .await
        .map_err(|_| Problem::timeout(format!("the body did not come within {BODY_TIMEOUT:?}")))?
        .map_err(|error| {
            if error.is::<LengthLimitError>() {
                return Problem::too_large(format!(
                    "the body has more than {bytes_max} bytes: send less, or raise max-body"
                ));
            }
            Problem::bad_request(format!("the body could not be read: {error}"))
        })?;
    String::from_utf8(body.to_bytes().into()).map_err(|error| {
        Problem::bad_request(format!(
            "the body is not UTF-8 at byte {}: event streams carry text, so encode binary data, for example as base64",
            error.utf8_error().valid_up_to()
        ))
    })
}

impl From<Receipt> for Published {
    fn from(receipt: Receipt) -> Self {
        Self { id: receipt.id.map(|id| id.to_string()), channel: receipt.channel.to_string() }
    }
}
