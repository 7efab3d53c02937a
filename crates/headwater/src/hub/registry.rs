//! Streams that can be ended from outside, and tokens that stay out. Look here for what a revocation
//! finds. A stream without an owner is not in here and costs nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::SystemTime;

use super::mailbox::{Mailbox, Message, Revoked};
use super::queue::Queue;
use super::{Hub, HubInner};
use crate::error::Error;
use crate::limits::REVOKED_TOKENS_MAX;
use crate::revocation::Revocation;

#[derive(Default)]
pub(super) struct Registry {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The number of the last stream that got one.
    last: u64,
    streams: HashMap<u64, Owned>,
    /// Ids of tokens, and until when they stay out.
    tokens: HashMap<String, SystemTime>,
}

/// Where a stream is.
enum Place {
    /// It takes frames from its queue.
    Queue(Weak<Queue>),
    /// A shard has it.
    Shard(Arc<Mailbox>),
}

/// A stream and whose it is.
struct Owned {
    place: Place,
    user: Option<Box<str>>,
    token: Option<Box<str>>,
}

impl Registry {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a stream; gives its number. A token that was revoked meanwhile ends it at once.
    pub(super) fn insert(
        &self,
        queue: &Arc<Queue>,
        user: Option<&str>,
        token: Option<&str>,
    ) -> u64 {
        let mut state = self.state();
        if token.is_some_and(|token| state.is_revoked(token)) {
            queue.revoke();
        }
        state.last += 1;
        let number = state.last;
        let (user, token) = (user.map(Into::into), token.map(Into::into));
        state
            .streams
            .insert(number, Owned { place: Place::Queue(Arc::downgrade(queue)), user, token });
        number
    }

    /// A stream went to a shard. If it was ended on the way, the shard is told.
    pub(super) fn attach(
        &self,
        number: u64,
        mailbox: &Arc<Mailbox>,
        is_late: impl FnOnce() -> bool,
    ) {
        let mut state = self.state();
        // A shard that failed meanwhile has cleared up already, and did not find this one.
        if mailbox.is_closed() {
            state.streams.remove(&number);
        }
        let Some(owned) = state.streams.get_mut(&number) else { return };
        owned.place = Place::Shard(Arc::clone(mailbox));
        if is_late() {
            owned.place.revoke(number);
        }
    }

    /// A shard is gone, with all its streams.
    pub(super) fn remove_shard(&self, gone: &Arc<Mailbox>) {
        let is_same =
            |place: &Place| matches!(place, Place::Shard(mailbox) if Arc::ptr_eq(mailbox, gone));
        self.state().streams.retain(|_, owned| !is_same(&owned.place));
    }

    pub(super) fn remove(&self, number: u64) {
        let mut state = self.state();
        state.streams.remove(&number);
        // A table that was large once gives its memory back.
        if state.streams.capacity() > 1024 && state.streams.len() < state.streams.capacity() / 4 {
            state.streams.shrink_to_fit();
        }
    }

    /// Whether the token with this id was revoked, and would not have expired by itself.
    pub(super) fn is_revoked(&self, token: &str) -> bool {
        self.state().is_revoked(token)
    }

    /// Ends the streams of a user, of a token, or one by its number. Looks at all of them: it is seldom.
    pub(super) fn revoke(&self, revocation: &Revocation, number_of: impl Fn(&str) -> Option<u64>) {
        let mut state = self.state();
        if let Revocation::Token { id, until } = revocation {
            state.keep_out(id, *until);
        }
        let number = match revocation {
            Revocation::Stream(id) => number_of(id),
            _ => None,
        };
        for (at, Owned { place, user, token }) in &state.streams {
            let is_meant = match revocation {
                Revocation::User(id) => user.as_deref() == Some(id),
                Revocation::Token { id, .. } => token.as_deref() == Some(id),
                Revocation::Stream(_) => Some(*at) == number,
                Revocation::Channel(_) => false,
            };
            if is_meant {
                place.revoke(*at);
            }
        }
    }
}

impl Place {
    fn revoke(&self, number: u64) {
        match self {
            Self::Queue(queue) => {
                if let Some(queue) = queue.upgrade() {
                    queue.revoke();
                }
            }
            // A shard that is gone has no streams.
            Self::Shard(mailbox) => {
                let _ = mailbox.push(Message::Revoke(Revoked::Stream(number)));
            }
        }
    }
}

impl State {
    fn is_revoked(&self, token: &str) -> bool {
        self.tokens.get(token).is_some_and(|until| *until > SystemTime::now())
    }

    fn keep_out(&mut self, token: &str, until: SystemTime) {
        if self.tokens.len() >= REVOKED_TOKENS_MAX {
            let now = SystemTime::now();
            self.tokens.retain(|_, until| *until > now);
        }
        if self.tokens.len() >= REVOKED_TOKENS_MAX && !self.tokens.contains_key(token) {
            // The one that expires first makes room: it is out for the shortest time anyway.
            tracing::error!(
                "more than {REVOKED_TOKENS_MAX} tokens are revoked: the one that expires first is let in again; change the keys instead"
            );
            let first = self.tokens.iter().min_by_key(|(_, until)| **until);
            if let Some(first) = first.map(|(token, _)| token.clone()) {
                self.tokens.remove(&first);
            }
        }
        let known = self.tokens.entry(token.to_owned()).or_insert(until);
        *known = until.max(*known);
    }
}

impl Hub {
    /// Ends streams on every node, with [`CloseReason::Revoked`](crate::CloseReason::Revoked) as the reason; what waits for them is not
    /// sent. Those of this node have ended when the broker is asked to tell the others. Clients come back
    /// by themselves, so whatever let them in should not do so again: only
    /// [`Revocation::Token`] sees to that by itself.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`](crate::ErrorKind::Unavailable) or [`ErrorKind::PermissionDenied`](crate::ErrorKind::PermissionDenied) if the other nodes could not be told: do it
    /// again.
    pub async fn revoke(&self, revocation: &Revocation) -> Result<(), Error> {
        self.inner.apply_revocation(revocation);
        self.inner.broker.revoke(revocation).await
    }

    /// Whether the token with this id was revoked.
    pub fn is_token_revoked(&self, id: &str) -> bool {
        self.inner.registry.is_revoked(id)
    }
}

impl HubInner {
    /// Ends the streams of this node that are meant.
    pub(crate) fn apply_revocation(&self, revocation: &Revocation) {
        match revocation {
            Revocation::Channel(channel) => {
                self.table.with(channel, |entry| entry.revoke());
            }
            other => self.registry.revoke(other, |id| {
                let (node, number) = id.rsplit_once('-')?;
                number.parse().ok().filter(|_| node == self.node.to_string())
            }),
        }
    }

    /// How many streams have an owner.
    #[cfg(test)]
    pub(crate) fn owned_streams(&self) -> usize {
        self.registry.state().streams.len()
    }

    /// A stream that had an owner is gone; 0 is none.
    pub(crate) fn forget_owner(&self, number: u64) {
        if number > 0 {
            self.registry.remove(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::close::CloseReason;

    #[test]
    fn a_revocation_finds_whom_it_means() {
        let registry = Registry::default();
        let queues: Vec<_> = (0..4).map(|_| Arc::new(Queue::new(1, 1))).collect();
        let owners = [(Some("ann"), Some("t1")), (Some("bob"), Some("t2")), (None, None)];
        for (queue, (user, token)) in queues.iter().zip(owners) {
            registry.insert(queue, user, token);
        }
        let closed = || queues.iter().map(|queue| queue.closed().is_some()).collect::<Vec<_>>();
        let number = |id: &str| id.parse().ok();
        registry.revoke(&Revocation::User("eve".into()), number);
        registry.revoke(&Revocation::Stream("99".into()), number);
        assert_eq!(closed(), [false; 4]);
        registry.revoke(&Revocation::User("ann".into()), number);
        assert_eq!(closed(), [true, false, false, false]);
        assert_eq!(queues[0].closed(), Some(CloseReason::Revoked));
        let until = SystemTime::now() + Duration::from_secs(60);
        registry.revoke(&Revocation::Token { id: "t2".into(), until }, number);
        assert_eq!(closed(), [true, true, false, false]);
        registry.revoke(&Revocation::Stream("3".into()), number);
        assert_eq!(closed(), [true, true, true, false]);
        assert!(registry.is_revoked("t2") && !registry.is_revoked("t1"));
        registry.insert(&queues[3], None, Some("t2"));
        assert_eq!(queues[3].closed(), Some(CloseReason::Revoked), "it came too late");
    }

    #[test]
    fn a_token_is_out_until_it_expires_and_no_shorter() {
        let registry = Registry::default();
        let revoke = |until| {
            registry.revoke(&Revocation::Token { id: "t".into(), until }, |_| None);
        };
        revoke(SystemTime::now() - Duration::from_secs(1));
        assert!(!registry.is_revoked("t"));
        revoke(SystemTime::now() + Duration::from_secs(60));
        revoke(SystemTime::now() - Duration::from_secs(1));
        assert!(registry.is_revoked("t"));
    }
}
