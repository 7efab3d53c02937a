//! An event as the embedded log keeps it. Look here for what it costs.
//!
//! A small event is its frame, which the rings share. A large one is kept unencoded, and encoded
//! when it is read: its data is shared by all channels that it was published to, and charged once.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::budget::{Account, Taken};
use crate::channel::Channel;
use crate::event::Event;
use crate::frame::{Frame, Published, WeakFrame};
use crate::limits::KEPT_UNENCODED_BYTES_MIN;
use crate::log::Position;
use crate::sse::encode::{encoded_len_max, encoded_name_len};

/// What an event costs besides its bytes: its allocations and its entry in the history, estimated.
const OVERHEAD_BYTES: usize = 288;

/// A clone is cheap: it shares what it has.
#[derive(Clone)]
pub(super) struct Kept {
    /// The offset of the channel's event before it.
    pub(super) previous: u64,
    form: Form,
    /// The number of bytes of the event as encoded.
    len: usize,
}

#[derive(Clone)]
enum Form {
    Frame(Frame),
    Event(Arc<Unencoded>),
}

struct Unencoded {
    channel: Channel,
    event: Event,
    published: Published,
    _data: Arc<Taken>,
    /// The event as encoded, while anybody has it: streams that replay it share it.
    encoded: Mutex<WeakFrame>,
}

/// What events that are published one after the other may share: the data of the last large one,
/// with its charge.
#[derive(Default)]
pub(super) struct Sharing {
    last: Option<(Weak<String>, Weak<Taken>)>,
}

impl Sharing {
    /// The charge for the data of an event, which is the last one's if the data is the same.
    fn charge(&mut self, data: &Arc<String>, account: &Account) -> Arc<Taken> {
        if let Some((last, charge)) = &self.last
            && last.upgrade().is_some_and(|last| Arc::ptr_eq(&last, data))
            && let Some(charge) = charge.upgrade()
        {
            return charge;
        }
        let charge = Arc::new(account.take(data.capacity()));
        self.last = Some((Arc::downgrade(data), Arc::downgrade(&charge)));
        charge
    }
}

impl Kept {
    pub(super) fn new(
        channel: &Channel,
        event: Event,
        published: Published,
        previous: u64,
        sharing: &mut Sharing,
        account: &Account,
    ) -> Self {
        if event.data().len() < KEPT_UNENCODED_BYTES_MIN {
            let frame = Frame::of_channel(channel, &event, published);
            return Self { previous, len: frame.len(), form: Form::Frame(frame) };
        }
        let event = event.shared();
        let len = encoded_len(channel, &event, published);
        let data = event.shared_data().map(|data| sharing.charge(data, account));
        let data = data.unwrap_or_else(|| Arc::new(account.take(len)));
        let channel = channel.clone();
        let encoded = Mutex::default();
        let unencoded = Unencoded { channel, event, published, _data: data, encoded };
        Self { previous, len, form: Form::Event(Arc::new(unencoded)) }
    }

    pub(super) fn is_encoded(&self) -> bool {
        matches!(self.form, Form::Frame(_))
    }

    /// The event, encoded.
    pub(super) fn frame(&self) -> Frame {
        match &self.form {
            Form::Frame(frame) => frame.clone(),
            Form::Event(kept) => {
                let mut encoded = kept.encoded.lock().unwrap_or_else(PoisonError::into_inner);
                encoded.upgrade().unwrap_or_else(|| {
                    let frame = Frame::of_channel(&kept.channel, &kept.event, kept.published);
                    *encoded = frame.downgrade();
                    frame
                })
            }
        }
    }

    pub(super) fn position(&self) -> Option<Position> {
        match &self.form {
            Form::Frame(frame) => frame.position(),
            Form::Event(kept) => kept.published.position,
        }
    }

    pub(super) fn offset(&self) -> u64 {
        self.position().map_or(0, Position::offset)
    }

    pub(super) fn is_end(&self) -> bool {
        match &self.form {
            Form::Frame(frame) => frame.is_end(),
            Form::Event(kept) => kept.published.end,
        }
    }

    pub(super) fn time_ms(&self) -> u64 {
        match &self.form {
            Form::Frame(frame) => frame.time_ms(),
            Form::Event(kept) => kept.published.time_ms,
        }
    }

    /// The number of bytes of the event as encoded, by which retention counts.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// What it costs, without data that is shared.
    pub(super) fn cost(&self) -> usize {
        match &self.form {
            Form::Frame(_) => OVERHEAD_BYTES + self.len,
            Form::Event(_) => 2 * OVERHEAD_BYTES,
        }
    }
}

/// The most bytes that the event has as encoded, in the longer view of its frame.
fn encoded_len(channel: &Channel, event: &Event, published: Published) -> usize {
    let id = published.position.map(|position| position.to_string());
    let name = if event.name().is_none() { encoded_name_len(channel.as_str()) } else { 0 };
    name + encoded_len_max(event, id.as_deref())
}
