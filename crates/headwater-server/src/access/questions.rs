//! How many questions the application gets at a time, and from whom. Look here for why a client
//! waits for an answer. No I/O.
//!
//! Clients with credentials and clients without have separate places, so that those without never
//! keep the others waiting. In both, clients take turns by address, and none may have more than
//! half of the places.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::client::AddressKey;
use crate::limits::{
    APPLICATION_QUESTIONS_MAX, APPLICATION_QUESTIONS_STRANGERS_MAX, APPLICATION_WAITING_MAX,
    APPLICATION_WAITING_PER_CLIENT_MAX,
};

/// Places for questions to the application.
pub(super) struct Questions {
    users: Arc<Places>,
    strangers: Arc<Places>,
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Asker {
    pub(super) address: Option<AddressKey>,
    /// Whether it shows anything that the application could know it by.
    pub(super) has_credentials: bool,
}

/// Too many questions wait already.
#[derive(Debug)]
pub(super) struct Full;

struct Places {
    places: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    taken: usize,
    waiting: usize,
    /// How many of those who wait have left.
    left: usize,
    clients: HashMap<Option<AddressKey>, Client>,
    /// Clients that wait and may have another place, each once.
    turns: VecDeque<Option<AddressKey>>,
}

/// A client that has a place, or waits for one.
#[derive(Default)]
struct Client {
    taken: usize,
    waiting: VecDeque<oneshot::Sender<Place>>,
    has_turn: bool,
}

/// One who waits. Who leaves is counted.
struct Waiting {
    place: oneshot::Receiver<Place>,
    places: Arc<Places>,
}

/// Those who left are removed when they are at least one part in so many of those who wait.
const LEFT_PARTS: usize = 8;

/// The place of one question, until it is dropped.
pub(super) struct Place {
    places: Option<Arc<Places>>,
    client: Option<AddressKey>,
}

impl Questions {
    pub(super) fn new() -> Self {
        let users = APPLICATION_QUESTIONS_MAX - APPLICATION_QUESTIONS_STRANGERS_MAX;
        Self {
            users: Arc::new(Places::new(users)),
            strangers: Arc::new(Places::new(APPLICATION_QUESTIONS_STRANGERS_MAX)),
        }
    }

    /// Waits for a place. Cancel safe: who leaves no longer waits.
    pub(super) async fn place(&self, asker: Asker) -> Result<Place, Full> {
        let places = if asker.has_credentials { &self.users } else { &self.strangers };
        let mut waiting = places.wait(asker.address)?;
        // The sender is dropped only with the places.
        (&mut waiting.place).await.map_err(|_| Full)
    }
}

impl Places {
    fn new(places: usize) -> Self {
        Self { places, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(self: &Arc<Self>, address: Option<AddressKey>) -> Result<Waiting, Full> {
        let mut state = self.state();
        if state.is_full_for(address) {
            // The whole queue is looked through, so only when that makes room for as many.
            if state.left * LEFT_PARTS < state.waiting {
                return Err(Full);
            }
            state.remove_those_who_left();
            if state.is_full_for(address) {
                return Err(Full);
            }
        }
        let (sender, receiver) = oneshot::channel();
        state.clients.entry(address).or_default().waiting.push_back(sender);
        state.waiting += 1;
        state.give_turn(address, self.per_client());
        self.fill(&mut state);
        Ok(Waiting { place: receiver, places: Arc::clone(self) })
    }

    /// How many places one client may have.
    fn per_client(&self) -> usize {
        self.places.div_ceil(2)
    }

    /// Gives places to those whose turn it is.
    fn fill(self: &Arc<Self>, state: &mut State) {
        while state.taken < self.places {
            let Some(address) = state.turns.pop_front() else { return };
            if let Some(waiter) = state.next_waiter(address) {
                let place = Place { places: Some(Arc::clone(self)), client: address };
                match waiter.send(place) {
                    Ok(()) => state.take(address),
                    Err(place) => place.forget(),
                }
            }
            state.give_turn(address, self.per_client());
        }
    }

    fn give_back(self: &Arc<Self>, address: Option<AddressKey>) {
        let mut state = self.state();
        state.taken -= 1;
        if let Some(client) = state.clients.get_mut(&address) {
            client.taken -= 1;
        }
        state.give_turn(address, self.per_client());
        self.fill(&mut state);
    }
}

impl State {
    fn is_full_for(&self, address: Option<AddressKey>) -> bool {
        let waiting = self.clients.get(&address).map_or(0, |client| client.waiting.len());
        self.waiting >= APPLICATION_WAITING_MAX || waiting >= APPLICATION_WAITING_PER_CLIENT_MAX
    }

    fn remove_those_who_left(&mut self) {
        for client in self.clients.values_mut() {
            client.waiting.retain(|waiter| !waiter.is_closed());
        }
        self.left = 0;
        self.waiting = self.clients.values().map(|client| client.waiting.len()).sum();
    }

    /// The next of this client's questions that somebody still waits for. Its turn is over.
    fn next_waiter(&mut self, address: Option<AddressKey>) -> Option<oneshot::Sender<Place>> {
        let client = self.clients.get_mut(&address)?;
        client.has_turn = false;
        while let Some(waiter) = client.waiting.pop_front() {
            self.waiting -= 1;
            if !waiter.is_closed() {
                return Some(waiter);
            }
            self.left -= 1;
        }
        None
    }

    fn take(&mut self, address: Option<AddressKey>) {
        self.taken += 1;
        self.clients.entry(address).or_default().taken += 1;
    }

    /// Gives a client its next turn, if it waits and may have another place. One that has and wants
    /// nothing is forgotten.
    fn give_turn(&mut self, address: Option<AddressKey>, per_client: usize) {
        let Some(client) = self.clients.get_mut(&address) else { return };
        if client.waiting.is_empty() {
            if client.taken == 0 && !client.has_turn {
                self.clients.remove(&address);
            }
        } else if client.taken < per_client && !client.has_turn {
            client.has_turn = true;
            self.turns.push_back(address);
        }
    }
}

impl Place {
    /// Drops it without giving it back, since it was never taken.
    fn forget(mut self) {
        self.places = None;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.places.state();
        // Places are given under this lock, so it is still in the queue if it has none.
        if self.place.is_terminated() {
            return;
        }
        self.place.close();
        let given = self.place.try_recv();
        if given.is_err() {
            state.left += 1;
        }
        drop(state);
        // Only now, since it is given back under the lock.
        drop(given);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(places) = self.places.take() {
            places.give_back(self.client);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;
    use crate::client::ClientAddress;

    const USERS: usize = APPLICATION_QUESTIONS_MAX - APPLICATION_QUESTIONS_STRANGERS_MAX;

    fn asker(address: &str, has_credentials: bool) -> Asker {
        let address = address.parse().expect("an address");
        Asker { address: Some(ClientAddress::new(address).key()), has_credentials }
    }

    /// The place, if there is one at once.
    fn now(questions: &Questions, asker: Asker) -> Option<Place> {
        questions.place(asker).now_or_never().and_then(Result::ok)
    }

    fn all_now(questions: &Questions, asker: Asker) -> Vec<Place> {
        std::iter::from_fn(|| now(questions, asker)).collect()
    }

    #[test]
    fn strangers_leave_the_places_of_users_alone() {
        let questions = Questions::new();
        let strangers: Vec<_> = (0..9)
            .flat_map(|it| all_now(&questions, asker(&format!("192.0.2.{it}"), false)))
            .collect();
        assert_eq!(strangers.len(), APPLICATION_QUESTIONS_STRANGERS_MAX);
        let users: Vec<_> = (0..9)
            .flat_map(|it| all_now(&questions, asker(&format!("192.0.2.{it}"), true)))
            .collect();
        assert_eq!(users.len(), USERS);
    }

    #[test]
    fn no_client_has_more_than_half_of_the_places() {
        let questions = Questions::new();
        let network: Vec<_> = (0..100)
            .filter_map(|it| now(&questions, asker(&format!("2001:db8::{it}"), true)))
            .collect();
        assert_eq!(network.len(), USERS / 2, "a /64 is one client");
        assert_eq!(all_now(&questions, asker("2001:db8:0:1::1", true)).len(), USERS / 2);
    }

    #[tokio::test]
    async fn clients_take_turns_and_those_who_left_are_passed_over() {
        let questions = Questions::new();
        let [greedy, other, modest] =
            ["192.0.2.1", "192.0.2.2", "192.0.2.3"].map(|it| asker(it, true));
        let mut taken = all_now(&questions, greedy);
        taken.extend(all_now(&questions, other));
        assert_eq!(taken.len(), USERS);
        let mut first = Box::pin(questions.place(greedy));
        let mut second = Box::pin(questions.place(greedy));
        let mut left = Box::pin(questions.place(modest));
        let mut stays = Box::pin(questions.place(modest));
        for waits in [&mut first, &mut second, &mut left, &mut stays] {
            assert!(waits.as_mut().now_or_never().is_none());
        }
        drop(left);
        // A place of the greedy one: who has none comes first, and who left does not come at all.
        taken.remove(0);
        let stays = stays.now_or_never().expect("its turn").expect("a place");
        assert!(first.as_mut().now_or_never().is_none());
        // A place of another one.
        taken.pop();
        let first = first.now_or_never().expect("its turn").expect("a place");
        taken.pop();
        assert!(second.as_mut().now_or_never().is_none(), "it would have more than half");
        drop(stays);
        taken.remove(0);
        let second = second.now_or_never().expect("its turn").expect("a place");
        drop((taken, first, second));
        let state = questions.users.state();
        assert_eq!((state.taken, state.waiting, state.clients.len()), (0, 0, 0));
    }

    #[test]
    fn those_who_wait_are_bounded() {
        let questions = Questions::new();
        let user = asker("192.0.2.1", true);
        let _taken = all_now(&questions, user);
        // Each of them has left at once, and makes room.
        for _ in 0..3 * APPLICATION_WAITING_PER_CLIENT_MAX {
            assert!(now(&questions, user).is_none());
        }
        let mut waiting: Vec<_> = (0..APPLICATION_WAITING_PER_CLIENT_MAX)
            .map(|_| Box::pin(questions.place(user)))
            .collect();
        waiting.retain_mut(|it| it.as_mut().now_or_never().is_none());
        // A few who left may still be in the queue.
        let fewest = APPLICATION_WAITING_PER_CLIENT_MAX / LEFT_PARTS * (LEFT_PARTS - 1);
        assert!(waiting.len() > fewest, "{}", waiting.len());
        assert!(matches!(questions.place(user).now_or_never(), Some(Err(Full))));
        let other = asker("192.0.2.2", true);
        assert!(now(&questions, other).is_some(), "others notice nothing");
        // One that left makes no room by itself: the queue is not looked through for it.
        waiting.pop();
        assert!(matches!(questions.place(user).now_or_never(), Some(Err(Full))));
        waiting.truncate(APPLICATION_WAITING_PER_CLIENT_MAX / 2);
        assert!(questions.place(user).now_or_never().is_none(), "many do");
        drop(waiting);
        let state = questions.users.state();
        assert!(state.left <= state.waiting, "{} of {}", state.left, state.waiting);
    }
}
