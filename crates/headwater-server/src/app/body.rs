//! Reads the body of a request, within its size, its time, and the room that all bodies share. Look
//! here for how much of it one client may take.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use headwater::Problem;
use headwater::budget::{Account, Taken};
use http::StatusCode;
use http_body_util::{BodyExt, LengthLimitError, Limited};

use crate::client::{AddressKey, ClientAddress};
use crate::limits::{
    BATCH_EVENT_BYTES, BATCH_EVENTS_PART, BODY_COST, BODY_PIECE_BYTES_MIN, BODY_SHARES,
    BODY_TIMEOUT,
};

/// The room for the bodies in flight. Clones share it.
#[derive(Clone)]
pub(crate) struct BodyRoom {
    account: Account,
    /// Largest body, in bytes.
    body_max: usize,
    /// Most bytes of bodies of one sender.
    sender_max: usize,
    by_sender: Arc<Mutex<HashMap<BodySender, usize>>>,
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
    taken: Taken,
}

impl BodySender {
    pub(crate) fn new(client: ClientAddress, user: Option<&str>) -> Self {
        user.map_or(Self::Address(client.key()), |user| Self::User(user.to_owned()))
    }
}

impl BodyRoom {
    /// Room in a share of the budget for bodies of this size. A share in which none fits takes
    /// smaller ones only.
    pub(crate) fn new(account: Account, body_max: usize) -> Self {
        let room = account.limit() / BODY_COST;
        // The largest body of one sender leaves room for those of others.
        let body_max = body_max.min(room - room / BODY_SHARES);
        let sender_max = (room / BODY_SHARES).max(body_max);
        Self { account, body_max, sender_max, by_sender: Arc::default() }
    }

    fn by_sender(&self) -> MutexGuard<'_, HashMap<BodySender, usize>> {
        self.by_sender.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, sender: BodySender) -> BodyPlace {
        BodyPlace { room: self.clone(), sender, bytes: 0, taken: self.account.take(0) }
    }

    fn too_large(&self) -> Problem {
        Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!(
                "the body has more than {} bytes: send less, or raise max-body, or memory if that \
                 is small",
                self.body_max
            ),
        )
    }
}

impl BodyPlace {
    /// Takes room, until there is as much in all. False if there is none, or if its sender has
    /// taken its share.
    fn reserve(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        let mut by_sender = self.room.by_sender();
        let of_sender = by_sender.get(&self.sender).copied().unwrap_or_default() + more;
        let has_room = of_sender <= self.room.sender_max && self.taken.try_extend(more * BODY_COST);
        if has_room && more > 0 {
            by_sender.insert(self.sender.clone(), of_sender);
            self.bytes += more;
        }
        has_room
    }

    /// Takes room for the events of a batch, which take more than its body if they are small.
    pub(crate) fn reserve_events(&mut self, count: usize) -> Result<(), Problem> {
        // A batch must fit that comes when no other is in flight.
        let most = self.room.account.limit() / BATCH_EVENTS_PART;
        let has_room = self.taken.try_extend((count * BATCH_EVENT_BYTES).min(most));
        has_room.then_some(()).ok_or_else(no_room)
    }
}

impl Drop for BodyPlace {
    fn drop(&mut self) {
        let mut by_sender = self.room.by_sender();
        let left = by_sender.get(&self.sender).map_or(0, |bytes| bytes - self.bytes);
        if left == 0 {
            by_sender.remove(&self.sender);
        } else {
            by_sender.insert(self.sender.clone(), left);
        }
    }
}

/// The body, and its room until it is published. What the head declares is reserved before anything
/// is read, so a client that waits for `100 Continue` sends no body in vain.
pub(crate) async fn read(
    body: Body,
    room: &BodyRoom,
    sender: BodySender,
) -> Result<(String, BodyPlace), Problem> {
    let mut place = room.place(sender);
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > room.body_max {
        return Err(room.too_large());
    }
    if !place.reserve(declared) {
        return Err(no_room());
    }
    let read = tokio::time::timeout(BODY_TIMEOUT, collect(body, &mut place));
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

fn no_room() -> Problem {
    Problem::unavailable("too many large bodies are in flight: send this one again")
}

async fn collect(body: Body, place: &mut BodyPlace) -> Result<Vec<u8>, Problem> {
    let mut body = Limited::new(body, place.room.body_max);
    let mut bytes = 0;
    // Joined at the end, when the size is known. Small pieces are joined before, or a body that
    // arrives byte by byte would cost many times its size.
    let (mut pieces, mut crumbs) = (Vec::new(), Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return place.room.too_large();
            }
            Problem::bad_request(format!("the body could not be read: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        bytes += data.len();
        // A slow body must not wait for room that other slow bodies have.
        if !place.reserve(bytes) {
            return Err(no_room());
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
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn a_sender_has_a_share_and_gives_it_back() {
        let account = Account::of(BODY_COST * BODY_SHARES * 10);
        let room = BodyRoom::new(account.clone(), 8);
        let user = |name: &str| BodySender::User(name.to_owned());
        let mut ann = room.place(user("ann"));
        assert!(ann.reserve(6) && ann.reserve(10) && !ann.reserve(11), "a share");
        let mut again = room.place(user("ann"));
        assert!(!again.reserve(1), "of all its bodies");
        let others: Vec<_> = (1..BODY_SHARES)
            .map(|number| {
                let mut place = room.place(user(&number.to_string()));
                assert!(place.reserve(10));
                place
            })
            .collect();
        assert_eq!(account.refusals(), 0);
        assert!(!room.place(user("late")).reserve(1), "the room is full");
        assert_eq!(account.refusals(), 1);
        drop(ann);
        assert!(again.reserve(10));
        drop((again, others));
        assert_eq!(account.used(), 0);
        assert!(room.by_sender().is_empty());
    }

    #[test]
    fn a_share_takes_bodies_that_fit_and_one_sender_may_send_the_largest() {
        let room = |bytes| BodyRoom::new(Account::of(BODY_COST * bytes), 100);
        for (bytes, body_max, sender_max) in [(80, 60, 60), (100, 75, 75), (800, 100, 200)] {
            let room = room(bytes);
            assert_eq!((room.body_max, room.sender_max), (body_max, sender_max), "{bytes}");
        }
    }

    #[test]
    fn events_of_a_batch_count_and_leave_room_for_others() {
        let account = Account::of(8000 * BATCH_EVENT_BYTES);
        let room = BodyRoom::new(account.clone(), usize::MAX);
        let mut place = room.place(BodySender::User("ann".to_owned()));
        assert!(place.reserve(room.body_max), "the largest body");
        let body = account.used();
        place.reserve_events(1000).unwrap();
        assert_eq!(account.used() - body, 1000 * BATCH_EVENT_BYTES);
        assert!(place.reserve_events(1001).is_ok(), "a part of the share at most");
        assert_eq!(place.reserve_events(1).err().map(|it| it.status().as_u16()), Some(503));
        drop(place);
        assert_eq!(account.used(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_ends_in_time() {
        let room = BodyRoom::new(Account::of(1 << 20), 1 << 10);
        let sender = || BodySender::User("ann".to_owned());
        let body =
            || Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
        let begin = tokio::time::Instant::now();
        let read = read(body(), &room, sender()).await;
        assert_eq!(read.err().map(|it| it.status()), Some(StatusCode::REQUEST_TIMEOUT));
        assert_eq!(begin.elapsed(), BODY_TIMEOUT);
    }
}
