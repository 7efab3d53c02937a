//! Reads the body of a request, within its size, its time, and the room that all bodies share. Look
//! here for how much of it one client may take.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use bytes::Bytes;
use headwater::Problem;
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::client::{AddressKey, ClientAddress};
use crate::limits::{BODY_PIECE_BYTES_MIN, BODY_SHARES, BODY_TIMEOUT};

/// The room for the bodies in flight. Clones share it.
#[derive(Clone)]
pub(crate) struct BodyRoom {
    bytes_max: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Default)]
struct Taken {
    bytes: usize,
    by_sender: HashMap<BodySender, usize>,
}

/// Whose share a body takes: that of a user, or of an address if nothing names a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum BodySender {
    User(String),
    Address(AddressKey),
}

/// The room that a body has taken, until it is published.
pub(crate) struct BodyPlace {
    room: BodyRoom,
    sender: BodySender,
    bytes: usize,
}

impl BodySender {
    pub(crate) fn new(client: ClientAddress, user: Option<&str>) -> Self {
        user.map_or(Self::Address(client.key()), |user| Self::User(user.to_owned()))
    }
}

impl BodyRoom {
    /// Room for this many bytes.
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, taken: Arc::default() }
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, sender: BodySender) -> BodyPlace {
        BodyPlace { room: self.clone(), sender, bytes: 0 }
    }
}

impl BodyPlace {
    /// Takes room for more bytes. False if there is none, or if its sender has taken its share.
    fn extend(&mut self, bytes: usize) -> bool {
        let mut taken = self.room.taken();
        let of_sender = taken.by_sender.get(&self.sender).copied().unwrap_or_default() + bytes;
        let has_room = taken.bytes + bytes <= self.room.bytes_max
            && of_sender <= self.room.bytes_max / BODY_SHARES;
        if has_room {
            taken.bytes += bytes;
            taken.by_sender.insert(self.sender.clone(), of_sender);
            self.bytes += bytes;
        }
        has_room
    }
}

impl Drop for BodyPlace {
    fn drop(&mut self) {
        let mut taken = self.room.taken();
        taken.bytes -= self.bytes;
        let left = taken.by_sender.get(&self.sender).map_or(0, |bytes| bytes - self.bytes);
        if left == 0 {
            taken.by_sender.remove(&self.sender);
        } else {
            taken.by_sender.insert(self.sender.clone(), left);
        }
    }
}

/// The body, and its share of the common bound until it is published.
pub(crate) async fn read(
    body: Body,
    bytes_max: usize,
    room: &BodyRoom,
    sender: BodySender,
) -> Result<(String, BodyPlace), Problem> {
    let mut place = room.place(sender);
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(body, bytes_max, &mut place));
    let bytes = read.await.map_err(|_| {
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
    Ok((text, place))
}

async fn collect(body: Body, bytes_max: usize, place: &mut BodyPlace) -> Result<Vec<u8>, Problem> {
    let mut body = Limited::new(body, bytes_max);
    // Joined at the end, when the size is known. Small pieces are joined before, or a body that
    // arrives byte by byte would cost many times its size.
    let (mut pieces, mut crumbs) = (Vec::new(), Vec::new());
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
        if !place.extend(data.len()) {
            let message = "too many large bodies are in flight: send this one again";
            return Err(Problem::unavailable(message));
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
    Ok(pieces.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sender_has_a_share_and_gives_it_back() {
        let room = BodyRoom::new(BODY_SHARES * 10);
        let user = |name: &str| BodySender::User(name.to_owned());
        let mut ann = room.place(user("ann"));
        assert!(ann.extend(6) && ann.extend(4) && !ann.extend(1), "a share");
        let mut again = room.place(user("ann"));
        assert!(!again.extend(1), "of all its bodies");
        let others: Vec<_> = (1..BODY_SHARES)
            .map(|number| {
                let mut place = room.place(user(&number.to_string()));
                assert!(place.extend(10));
                place
            })
            .collect();
        assert!(!room.place(user("late")).extend(1), "the room is full");
        drop(ann);
        assert!(again.extend(10));
        drop((again, others));
        assert_eq!(room.taken().bytes, 0);
        assert!(room.taken().by_sender.is_empty());
    }
}
