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
    BODY_TIMEOUT, STRANGERS_PART,
};

/// The room for the bodies in flight. Clones share it.
#[derive(Clone)]
pub(crate) struct BodyRoom {
    account: Account,
    /// Largest body, in bytes.
    body_max: usize,
    /// Most bytes of bodies of one sender.
    sender_max: usize,
    /// Most that strangers take of the account together.
    strangers_max: usize,
    reserved: Arc<Mutex<Reserved>>,
}

/// What bodies have reserved.
#[derive(Default)]
struct Reserved {
    /// In bytes of bodies.
    by_owner: HashMap<BodyOwner, usize>,
    /// In bytes of the account.
    by_strangers: usize,
}

/// Who sends a body.
#[derive(Debug, Clone)]
pub(crate) struct BodySender {
    pub(super) owner: BodyOwner,
    /// Whether nothing says yet that it may publish: its batch is read before the application is
    /// asked, whose answer depends on the channels in it.
    pub(super) is_stranger: bool,
}

/// Whose share a body takes: that of a user, or of an address if nothing names a user.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum BodyOwner {
    User(String),
    Address(AddressKey),
}

/// The room that a body has taken, until it is published.
pub(crate) struct BodyPlace {
    room: BodyRoom,
    sender: BodySender,
    bytes: usize,
    /// What it counts for strangers, in bytes of the account.
    stranger_bytes: usize,
    taken: Taken,
}

impl BodySender {
    pub(crate) fn new(client: ClientAddress, user: Option<&str>) -> Self {
        let address = BodyOwner::Address(client.key());
        let owner = user.map_or(address, |user| BodyOwner::User(user.to_owned()));
        Self { owner, is_stranger: false }
    }

    /// One that the application has still to decide about.
    pub(crate) fn stranger(client: ClientAddress) -> Self {
        Self { is_stranger: true, ..Self::new(client, None) }
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
        // A largest batch of theirs fits, too, when no other is in flight.
        let batch_max = body_max * BODY_COST + account.limit() / BATCH_EVENTS_PART;
        let strangers_max = (account.limit() / STRANGERS_PART).max(batch_max);
        Self { account, body_max, sender_max, strangers_max, reserved: Arc::default() }
    }

    fn reserved(&self) -> MutexGuard<'_, Reserved> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self, sender: BodySender) -> BodyPlace {
        let taken = self.account.take(0);
        BodyPlace { room: self.clone(), sender, bytes: 0, stranger_bytes: 0, taken }
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
    /// Takes room, until there is as much in all. False if there is none, or if its sender, or
    /// strangers together, have taken their share.
    fn reserve(&mut self, bytes: usize) -> bool {
        let more = bytes.saturating_sub(self.bytes);
        self.extend(more, more * BODY_COST)
    }

    /// Takes room for the events of a batch, which take more than its body if they are small.
    pub(crate) fn reserve_events(&mut self, count: usize) -> Result<(), Problem> {
        // A batch must fit that comes when no other is in flight.
        let most = self.room.account.limit() / BATCH_EVENTS_PART;
        let has_room = self.extend(0, (count * BATCH_EVENT_BYTES).min(most));
        has_room.then_some(()).ok_or_else(no_room)
    }

    /// Takes room for more bytes of the body, which cost so many of the account.
    fn extend(&mut self, more: usize, cost: usize) -> bool {
        let mut reserved = self.room.reserved();
        let of_owner = reserved.by_owner.get(&self.sender.owner).copied().unwrap_or_default();
        let of_owner = of_owner + more;
        let stranger_cost = if self.sender.is_stranger { cost } else { 0 };
        if of_owner > self.room.sender_max
            || reserved.by_strangers + stranger_cost > self.room.strangers_max
            || !self.taken.try_extend(cost)
        {
            return false;
        }
        if more > 0 {
            reserved.by_owner.insert(self.sender.owner.clone(), of_owner);
        }
        reserved.by_strangers += stranger_cost;
        self.bytes += more;
        self.stranger_bytes += stranger_cost;
        true
    }
}

impl Drop for BodyPlace {
    fn drop(&mut self) {
        let mut reserved = self.room.reserved();
        reserved.by_strangers -= self.stranger_bytes;
        let left = reserved.by_owner.get(&self.sender.owner).map_or(0, |it| it - self.bytes);
        if left == 0 {
            reserved.by_owner.remove(&self.sender.owner);
        } else {
            reserved.by_owner.insert(self.sender.owner.clone(), left);
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

    fn user(name: &str) -> BodySender {
        BodySender { owner: BodyOwner::User(name.to_owned()), is_stranger: false }
    }

    #[test]
    fn a_sender_has_a_share_and_gives_it_back() {
        let account = Account::of(BODY_COST * BODY_SHARES * 10);
        let room = BodyRoom::new(account.clone(), 8);
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
        assert!(room.reserved().by_owner.is_empty());
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
        let mut place = room.place(user("ann"));
        assert!(place.reserve(room.body_max), "the largest body");
        let body = account.used();
        place.reserve_events(1000).unwrap();
        assert_eq!(account.used() - body, 1000 * BATCH_EVENT_BYTES);
        assert!(place.reserve_events(1001).is_ok(), "a part of the share at most");
        assert_eq!(place.reserve_events(1).err().map(|it| it.status().as_u16()), Some(503));
        drop(place);
        assert_eq!(account.used(), 0);
    }

    #[test]
    fn bodies_of_strangers_leave_room_for_those_who_were_authorised() {
        let account = Account::of(8000 * BATCH_EVENT_BYTES);
        let room = BodyRoom::new(account.clone(), 1000);
        let stranger = |number| BodySender { is_stranger: true, ..user(&format!("{number}")) };
        let mut places = Vec::new();
        for number in 0.. {
            let mut place = room.place(stranger(number));
            if !place.reserve(1000) {
                break;
            }
            places.push(place);
        }
        let left = account.limit() - account.used();
        assert!(left >= account.limit() / STRANGERS_PART, "{left} left");
        assert!(left < account.limit() / STRANGERS_PART + 1000 * BODY_COST, "{left} left");
        assert!(places[0].reserve_events(100).is_err(), "their events count too");
        let mut authorised = room.place(user("ann"));
        assert!(authorised.reserve(1000) && authorised.reserve_events(100).is_ok());
        assert_eq!(account.refusals(), 0);
        places.pop();
        assert!(room.place(stranger(0)).reserve(1000), "one that ended makes room");
        drop((places, authorised));
        assert_eq!((account.used(), room.reserved().by_strangers), (0, 0));
        // The largest batch fits also where that is most of the room.
        let room = BodyRoom::new(account, usize::MAX);
        let mut largest = room.place(stranger(0));
        assert!(largest.reserve(room.body_max) && largest.reserve_events(1000).is_ok());
        assert!(!room.place(stranger(1)).reserve(1));
        assert!(room.place(user("ann")).reserve(100));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_ends_in_time() {
        let room = BodyRoom::new(Account::of(1 << 20), 1 << 10);
        let body =
            || Body::from_stream(futures_util::stream::pending::<Result<Bytes, Infallible>>());
        let begin = tokio::time::Instant::now();
        let read = read(body(), &room, user("ann")).await;
        assert_eq!(read.err().map(|it| it.status()), Some(StatusCode::REQUEST_TIMEOUT));
        assert_eq!(begin.elapsed(), BODY_TIMEOUT);
    }
}
