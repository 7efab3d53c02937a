//! Reads the body of a request, within its size, its time, and the common bound of all bodies.

use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use headwater::Problem;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::limits::{BODY_PIECE_BYTES_MIN, BODY_TIMEOUT};

/// The body, and its share of the common bound until it is published.
pub(crate) async fn read(
    body: Body,
    bytes_max: usize,
    room: &Arc<Semaphore>,
) -> Result<(String, Option<OwnedSemaphorePermit>), Problem> {
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(body, bytes_max, room));
    let (bytes, room) = read.await.map_err(|_| {
        Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            format!("the body did not come within {} s", BODY_TIMEOUT.as_secs()),
        )
    })??;
    let text = String::from_utf8(bytes).map_err(|error| {
        Problem::bad_request(format!(
            "the body is not UTF-8 at byte {}: event streams carry text, so encode binary data, \
             for example as base64",
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
    // Joined at the end, when the size is known. Small pieces are joined before, or a body that
    // arrives byte by byte would cost many times its size.
    let (mut pieces, mut crumbs) = (Vec::new(), Vec::new());
    let mut taken: Option<OwnedSemaphorePermit> = None;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return Problem::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    format!(
                        "the body has more than {bytes_max} bytes: send less, or raise max-body"
                    ),
                );
            }
            Problem::bad_request(format!("the body could not be read: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        // A slow body must not wait for capacity that other slow bodies hold.
        let more = u32::try_from(data.len()).ok();
        let more = more.and_then(|more| Arc::clone(room).try_acquire_many_owned(more).ok());
        let more = more.ok_or_else(|| {
            Problem::unavailable("too many large bodies are in flight: send this one again")
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
