//! Tests of the checker itself: correct made-up logs pass, and one event lost, repeated or moved is
//! found.

use fastrand::Rng;

use super::*;
use crate::ledger::{Published, Route};
use crate::log::Line;

pub(super) const STRICT: Rules =
    Rules { durable: Gaps::Never, ephemeral: Gaps::Never, new_epochs: false };
const REPORTED_GAPS: Rules =
    Rules { durable: Gaps::Missing, ephemeral: Gaps::Allowed, new_epochs: true };

/// A made-up world: events over three channels, in one order.
struct World {
    channels: Vec<Channel>,
    /// Channel, number and id of each event, in order.
    log: Vec<(usize, u64, String)>,
}

impl World {
    fn new(rng: &mut Rng, events: usize) -> Self {
        let kinds = [Kind::Durable, Kind::Durable, Kind::Ephemeral];
        let mut channels: Vec<Channel> = kinds
            .iter()
            .enumerate()
            .map(|(at, kind)| Channel { name: format!("c{at}"), kind: *kind, published: vec![] })
            .collect();
        let (mut offset, mut ephemeral) = (7, 0);
        let mut log = Vec::new();
        for at in 0..events {
            let channel = rng.usize(0..channels.len());
            let number = channels[channel].published.len() as u64 + 1;
            let mut acknowledged = None;
            let id = if channels[channel].kind == Kind::Ephemeral {
                ephemeral += 1;
                format!("e-{offset}~f-{ephemeral}")
            } else if rng.u8(0..10) == 0 {
                offset += 1;
                publisher_id(&channels[channel].name, number)
            } else {
                offset += 1;
                acknowledged = Some(format!("e-{offset}"));
                format!("e-{offset}")
            };
            let outcome = Outcome::Acknowledged(acknowledged);
            let at_ms = u32::try_from(at).unwrap();
            channels[channel].published.push(Published { route: Route::Post, at_ms, outcome });
            log.push((channel, number, id));
        }
        Self { channels, log }
    }

    /// A client of two or three channels that starts somewhere and drops its stream at times.
    fn client(&self, rng: &mut Rng) -> ClientLog {
        let mut channels = vec![0, 1, 2];
        if rng.bool() {
            channels.remove(rng.usize(0..3));
        }
        let from = rng.usize(0..self.log.len() / 4);
        let begun = channels.iter().map(|channel| self.begun(from, *channel)).collect();
        let mut lines = vec![line(Entry::Opened { node: 0, resumed_from: None, begun })];
        for (channel, number, id) in &self.log[from..] {
            if !channels.contains(channel) {
                continue;
            }
            lines.push(line(event(*channel, *number, id)));
            if rng.u8(0..20) == 0 {
                let resumed_from = Some(id.clone());
                let begun = vec![9; channels.len()];
                lines.push(line(Entry::Dropped));
                lines.push(line(Entry::Opened { node: 1, resumed_from, begun }));
            }
        }
        ClientLog { name: "client".to_owned(), channels, lines, left: false }
    }

    fn begun(&self, before: usize, channel: usize) -> u64 {
        self.log[..before].iter().filter(|(of, ..)| *of == channel).count() as u64
    }

    fn check(&self, clients: &[ClientLog], rules: Rules) -> Vec<Violation> {
        check(&self.channels, clients, rules).into_iter().map(|found| found.violation).collect()
    }
}

/// A line of a client that is later than everything that was sent.
fn line(entry: Entry) -> Line {
    Line { at_ms: u32::MAX, entry }
}

pub(super) fn event(channel: usize, number: u64, id: &str) -> Entry {
    Entry::Event { channel, number, id: id.to_owned() }
}

/// The lines with events.
fn events_of(log: &ClientLog) -> Vec<usize> {
    let is_event = |at: &usize| matches!(log.lines[*at].entry, Entry::Event { .. });
    (0..log.lines.len()).filter(is_event).collect()
}

/// Runs a test with many worlds; prints the seed of each.
fn for_many_worlds(test: impl Fn(&mut Rng, &World, &ClientLog)) {
    for seed in 0..200 {
        println!("seed {seed}");
        let mut rng = Rng::with_seed(seed);
        let events = rng.usize(40..200);
        let world = World::new(&mut rng, events);
        let client = world.client(&mut rng);
        test(&mut rng, &world, &client);
    }
}

#[test]
fn correct_logs_are_lossless() {
    for_many_worlds(|rng, world, client| {
        let other = world.client(rng);
        for rules in [STRICT, REPORTED_GAPS] {
            assert_eq!(world.check(&[client.clone(), other.clone()], rules), []);
        }
    });
}

#[test]
fn a_lost_event_is_found() {
    for_many_worlds(|rng, world, client| {
        let mut client = client.clone();
        let lost = *rng.choice(&events_of(&client)).unwrap();
        let Entry::Event { channel, number, .. } = client.lines.remove(lost).entry else {
            panic!("no event")
        };
        let is_of =
            |line: &Line| matches!(line.entry, Entry::Event { channel: of, .. } if of == channel);
        let is_first = !client.lines[..lost].iter().any(is_of);

        let missing = Violation::Missing { channel, numbers: vec![number] };
        assert_eq!(
            world.check(std::slice::from_ref(&client), STRICT),
            std::slice::from_ref(&missing)
        );
        assert_eq!(
            world.check(std::slice::from_ref(&client), REPORTED_GAPS),
            std::slice::from_ref(&missing)
        );
        // A gap event in its place is accepted where gaps are allowed, and nowhere else.
        let gap = line(Entry::Gap { channel, reason: "trimmed".to_owned() });
        client.lines.insert(lost, gap);
        assert_eq!(world.check(std::slice::from_ref(&client), REPORTED_GAPS), []);
        let found = world.check(std::slice::from_ref(&client), STRICT);
        let is_false = found.contains(&Violation::FalseGap { channel });
        assert!(is_false || channel == 2 && is_first, "{found:?}");
        assert!(found.contains(&missing), "{found:?}");
        // A node that does not know the id of an ephemeral event cannot know which channels have
        // such events: it may send too many gap events, but durable events must not be missing.
        let rules = Rules { ephemeral: Gaps::Allowed, ..STRICT };
        let found = world.check(std::slice::from_ref(&client), rules);
        let mut expected = Vec::new();
        if channel != 2 {
            if !client.channels.contains(&2) {
                expected.push(Violation::FalseGap { channel });
            }
            expected.push(missing);
        }
        assert_eq!(found, expected);
    });
}

#[test]
fn a_client_without_ephemeral_events_so_far_may_have_a_gap_event() {
    let world = World::new(&mut Rng::with_seed(1), 100);
    let gap = || line(Entry::Gap { channel: 2, reason: "trimmed".to_owned() });
    let (_, first, id) = world.log.iter().find(|(channel, ..)| *channel == 2).unwrap().clone();
    let of_channel = world.log.iter().filter(|(channel, ..)| *channel == 2);
    let events = of_channel.map(|(_, number, id)| line(event(2, *number, id)));
    let open = |resumed_from: Option<&str>| {
        let resumed_from = resumed_from.map(str::to_owned);
        line(Entry::Opened { node: 0, resumed_from, begun: vec![first - 1] })
    };
    let check = |resumed_from: &str, is_allowed: bool| {
        let mut lines = vec![open(None), line(Entry::Dropped), open(Some(resumed_from)), gap()];
        lines.extend(events.clone());
        let name = "client".to_owned();
        let found =
            world.check(&[ClientLog { name, channels: vec![2], lines, left: false }], STRICT);
        let expected = if is_allowed { vec![] } else { vec![Violation::FalseGap { channel: 2 }] };
        assert_eq!(found, expected, "{resumed_from}");
    };
    check("e-7", true);
    check(&id.replace("f-1", "f-0"), false);
}

#[test]
fn a_gap_event_in_another_place_does_not_count() {
    for_many_worlds(|rng, world, client| {
        let of_first: Vec<usize> = events_of(client)
            .into_iter()
            .filter(|at| matches!(client.lines[*at].entry, Entry::Event { channel: 0 | 1, .. }))
            .collect();
        if of_first.len() < 8 {
            return;
        }
        let mut client = client.clone();
        let lost = of_first[rng.usize(0..of_first.len() / 2)];
        let Entry::Event { channel, number, .. } = client.lines.remove(lost).entry else {
            panic!("no event")
        };
        client.lines.push(line(Entry::Gap { channel, reason: "trimmed".to_owned() }));
        let found = world.check(&[client], REPORTED_GAPS);
        let is_last = world.channels[channel].published.len() as u64 == number;
        let after = |at: &usize| *at > lost && of_first.contains(at);
        if !is_last && of_first.iter().any(after) {
            assert!(found.contains(&Violation::FalseGap { channel }) || found.is_empty());
        }
        let missing = Violation::Missing { channel, numbers: vec![number] };
        let later = world.log.iter().any(|(of, other, _)| *of == channel && *other > number);
        assert_eq!(found.contains(&missing), later, "{found:?}");
    });
}

#[test]
fn a_duplicate_is_found() {
    for_many_worlds(|rng, world, client| {
        let mut client = client.clone();
        let first_line = *rng.choice(&events_of(&client)).unwrap();
        let again = client.lines[first_line].clone();
        let Entry::Event { channel, number, .. } = again.entry else { panic!("no event") };
        client.lines.insert(rng.usize(first_line + 1..=client.lines.len()), again);
        let found = world.check(&[client], STRICT);
        let twice = Violation::Twice { channel, number, first_line };
        assert!(found.contains(&twice), "{found:?}");
    });
}

#[test]
fn events_out_of_order_are_found() {
    for_many_worlds(|rng, world, client| {
        let mut client = client.clone();
        let events = events_of(&client);
        let first = rng.usize(0..events.len() - 1);
        client.lines.swap(events[first], events[first + 1]);
        let (has_publisher_id, found) = (
            |at: usize| {
                let entry = &client.lines[events[at]].entry;
                matches!(entry, Entry::Event { id, .. } if id.starts_with(id::PUBLISHER_PREFIX))
            },
            world.check(std::slice::from_ref(&client), STRICT),
        );
        let same_channel = matches!(
            (&client.lines[events[first]].entry, &client.lines[events[first + 1]].entry),
            (Entry::Event { channel: one, .. }, Entry::Event { channel: other, .. }) if one == other
        );
        // Across channels only positions define an order, and a publisher's id is not a position.
        if same_channel || !(has_publisher_id(first) || has_publisher_id(first + 1)) {
            assert!(!found.is_empty());
        }
    });
}

#[test]
fn ids_are_compared_between_clients_and_with_the_publisher() {
    for_many_worlds(|rng, world, client| {
        let mut other = client.clone();
        let events = events_of(&other);
        let at = *rng.choice(&events).unwrap();
        let Entry::Event { channel, number, id } = other.lines[at].entry.clone() else {
            panic!("no event")
        };
        let wrong = format!("{id}9");
        other.lines[at] = line(event(channel, number, &wrong));
        assert!(!world.check(&[client.clone(), other.clone()], STRICT).is_empty(), "{wrong}");
        for invalid in ["", "nonsense"] {
            other.lines[at] = line(event(channel, number, invalid));
            let found = world.check(std::slice::from_ref(&other), STRICT);
            assert_eq!(found, [Violation::InvalidId(invalid.to_owned())]);
        }
    });
}

#[test]
fn an_unacknowledged_event_may_arrive_late_but_once() {
    let ids = |id: &str| Outcome::Acknowledged(Some(id.to_owned()));
    let outcomes = [ids("e-1"), Outcome::Unknown, ids("e-2"), ids("e-4"), ids("e-5")];
    let published = outcomes
        .into_iter()
        .map(|outcome| Published { route: Route::Post, at_ms: 0, outcome })
        .collect();
    let channels = [Channel { name: "c".to_owned(), kind: Kind::Durable, published }];
    let client = |events: &[(u64, u64)]| {
        let begun = vec![0];
        let mut lines = vec![line(Entry::Opened { node: 0, resumed_from: None, begun })];
        let entry = |(number, offset): &(u64, u64)| event(0, *number, &format!("e-{offset}"));
        lines.extend(events.iter().map(entry).map(line));
        ClientLog { name: "client".to_owned(), channels: vec![0], lines, left: false }
    };
    let found = |clients: &[ClientLog]| {
        let found = check(&channels, clients, STRICT);
        found.into_iter().map(|found| (found.client, found.violation)).collect::<Vec<_>>()
    };
    let without = client(&[(1, 1), (3, 2), (4, 4), (5, 5)]);
    let late = client(&[(1, 1), (3, 2), (2, 3), (4, 4), (5, 5)]);
    assert_eq!(found(std::slice::from_ref(&without)), []);
    assert_eq!(found(&[late.clone(), late.clone()]), []);
    // What one client received, all must receive.
    let missing = Violation::Missing { channel: 0, numbers: vec![2] };
    assert_eq!(found(&[late, without]), [(1, missing)]);
    let twice = client(&[(1, 1), (3, 2), (2, 3), (4, 4), (2, 3), (5, 5)]);
    assert!(!found(&[twice]).is_empty());
    let early = client(&[(2, 1), (1, 2), (3, 3), (4, 4), (5, 5)]);
    assert!(!found(&[early]).is_empty());
}

/// An event with a publisher's ID shows no position: the next one follows it all the same.
#[test]
fn an_unacknowledged_event_follows_one_without_a_position() {
    let ids = |id: &str| Outcome::Acknowledged(Some(id.to_owned()));
    let outcomes = [ids("e-1"), Outcome::Acknowledged(None), Outcome::Unknown, ids("e-4")];
    let published = outcomes
        .into_iter()
        .map(|outcome| Published { route: Route::Post, at_ms: 0, outcome })
        .collect();
    let channels = [Channel { name: "c".to_owned(), kind: Kind::Durable, published }];
    let client = |ids: &[(u64, &str)]| {
        let opened = Entry::Opened { node: 0, resumed_from: None, begun: vec![0] };
        let events = ids.iter().map(|(number, id)| event(0, *number, id));
        let lines = std::iter::once(opened).chain(events).map(line).collect();
        ClientLog { name: "client".to_owned(), channels: vec![0], lines, left: true }
    };
    let all = [(1, "e-1"), (2, "own.c.2"), (3, "e-3"), (4, "e-4")];
    let clients = [client(&all), client(&all[..2])];
    assert_eq!(check(&channels, &clients, STRICT).len(), 0);
}

#[test]
fn a_new_epoch_must_be_allowed_and_reported() {
    let published = (0..4)
        .map(|_| Published { route: Route::Post, at_ms: 0, outcome: Outcome::Acknowledged(None) })
        .collect();
    let channels = [Channel { name: "c".to_owned(), kind: Kind::Durable, published }];
    let client = |gap: bool, ids: [&str; 4]| {
        let begun = vec![0];
        let mut lines = vec![line(Entry::Opened { node: 0, resumed_from: None, begun })];
        for (id, number) in ids.iter().zip(1..) {
            if gap && number == 3 {
                lines.push(line(Entry::Gap { channel: 0, reason: "epoch".to_owned() }));
            }
            lines.push(line(event(0, number, id)));
        }
        ClientLog { name: "client".to_owned(), channels: vec![0], lines, left: false }
    };
    let lossy = Rules { durable: Gaps::Allowed, ephemeral: Gaps::Allowed, new_epochs: true };
    let found = |log: ClientLog, rules| {
        check(&channels, &[log], rules).into_iter().map(|found| found.violation).collect::<Vec<_>>()
    };
    let ids = ["a-7", "a-8", "b-1", "b-2"];
    assert_eq!(found(client(true, ids), lossy), []);
    assert_eq!(found(client(false, ids), lossy), [Violation::SilentEpoch]);
    assert_eq!(found(client(true, ids), STRICT).len(), 2);
    let back = ["a-7", "a-8", "b-1", "a-9"];
    assert_eq!(found(client(true, back), lossy).len(), 1);
}

#[test]
fn what_does_not_belong_on_a_stream_is_found() {
    for_many_worlds(|rng, world, client| {
        for entry in
            [event(0, 100_000, "e-99"), Entry::Alien("noise".to_owned()), Entry::Rejected(500)]
        {
            let mut client = client.clone();
            let at = rng.usize(1..=client.lines.len());
            client.lines.insert(at, line(entry));
            assert!(!world.check(&[client], STRICT).is_empty());
        }
        let mut never = client.clone();
        never.lines.clear();
        assert!(world.check(&[never], STRICT).contains(&Violation::NeverOpened));
    });
}
