//! One shard: a loop over its mailbox, its timers and its sockets. Look here for what happens in which order, and for
//! how streams join and end.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use super::Luggage;
use super::batch::Batch;
use super::channels::Channels;
use super::deliver::{Deferred, account};
use super::outbox::Bounds;
use super::stream::{Memberships, Profile, State, Stream, ticks};
use super::wheel::TimerWheel;
use crate::close::CloseReason;
use crate::frame::Frame;
use crate::hub::HubInner;
use crate::hub::mailbox::{Mailbox, Message, Newcomer, Revoked};
use crate::limits::{TICK, TURN_ATTACHES_MAX, TURN_BYTES_MAX, TURN_MESSAGES_MAX};
use crate::response::Settings;
use crate::serve::chunked;

/// The token of the mailbox; streams have their keys.
pub(super) const MAILBOX: Token = Token(usize::MAX);

/// Most profiles that are looked through. Programs have a few; with more, streams do not share.
const PROFILES_MAX: usize = 8;

/// What a shard's thread works with.
pub(super) struct Shard {
    pub(super) hub: Arc<HubInner>,
    pub(super) mailbox: Arc<Mailbox>,
    poll: Poll,
    pub(super) streams: Slab<Stream>,
    pub(super) channels: Channels,
    wheel: TimerWheel,
    began: Instant,
    /// The tick that is now.
    pub(super) now: u32,
    pub(super) bounds: Bounds,
    profiles: Vec<Rc<Profile>>,
    /// Empty, to be exchanged for the mailbox's messages.
    inbox: Vec<Message>,
    /// Taken out of the mailbox and not worked off.
    backlog: VecDeque<Message>,
    pub(super) batch: Batch,
    scratch: Box<[u8]>,
}

/// Whether the loop goes on.
#[derive(PartialEq, Eq)]
pub(super) enum Flow {
    On,
    Stop,
}

impl Shard {
    pub(super) fn new(hub: Arc<HubInner>, mailbox: Arc<Mailbox>, poll: Poll) -> Self {
        let (frames_max, bytes_max) = hub.queue_bounds();
        Self {
            hub,
            mailbox,
            poll,
            streams: Slab::new(),
            channels: Channels::default(),
            wheel: TimerWheel::at(0),
            began: Instant::now(),
            now: 0,
            bounds: Bounds { frames_max, bytes_max },
            profiles: Vec::new(),
            inbox: Vec::new(),
            backlog: VecDeque::new(),
            batch: Batch::default(),
            scratch: vec![0; 4096].into(),
        }
    }

    /// Runs until it is told to stop.
    pub(super) fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            self.now = self.tick();
            if self.turn() == Flow::Stop {
                self.stop();
                return Ok(());
            }
            self.fire_timers();
            match self.poll.poll(&mut events, self.poll_timeout()) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            self.now = self.tick();
            for event in &events {
                if event.token() != MAILBOX {
                    self.on_socket(event);
                }
            }
            self.mailbox.look_for_room();
        }
    }

    fn tick(&self) -> u32 {
        u32::try_from(self.began.elapsed().as_millis() / TICK.as_millis()).unwrap_or(u32::MAX)
    }

    /// How long it may sleep.
    fn poll_timeout(&self) -> Option<Duration> {
        if !self.backlog.is_empty() {
            return Some(Duration::ZERO);
        }
        let due = TICK * self.wheel.next()?;
        Some(due.saturating_sub(self.began.elapsed()))
    }

    // === the mailbox ===

    /// Takes what waits in the mailbox, and works off a slice of it.
    ///
    /// It looks into the mailbox in every turn, also while there is a backlog: the loop may sleep only after
    /// a look, since a wake-up may have been used up since the last one.
    pub(super) fn turn(&mut self) -> Flow {
        let has_hole = self.mailbox.take(&mut self.inbox);
        self.backlog.extend(self.inbox.drain(..));
        // A burst must not leave its memory behind, neither here nor, after the next look, in the mailbox.
        self.inbox.shrink_to(TURN_MESSAGES_MAX);
        if has_hole {
            tracing::warn!("a shard is too far behind: its streams end, to resume");
            self.give_up_backlog();
        }
        if self.backlog.is_empty() {
            return Flow::On;
        }
        self.mailbox.counts.turns.add(1);
        let (mut flow, mut messages, mut bytes, mut attaches) = (Flow::On, 0, 0, 0);
        while messages < TURN_MESSAGES_MAX
            && bytes < TURN_BYTES_MAX
            && attaches < TURN_ATTACHES_MAX
            && flow == Flow::On
            && let Some(message) = self.backlog.pop_front()
        {
            messages += 1;
            match message {
                Message::Deliver { slot, frame } => {
                    bytes += frame.len();
                    self.batch.push(slot, frame);
                }
                Message::DeliverToAll(frame) => {
                    self.deliver();
                    self.deliver_to_all(&frame);
                }
                Message::Attach(newcomer) => {
                    // What came before is not the newcomer's.
                    self.deliver();
                    self.attach(*newcomer);
                    attaches += 1;
                }
                Message::Drain => {
                    self.deliver();
                    self.end_all(CloseReason::Drain);
                }
                Message::Revoke(whose) => {
                    self.deliver();
                    self.revoke(whose);
                }
                Message::Stop => flow = Flow::Stop,
            }
        }
        self.deliver();
        if self.backlog.is_empty() {
            self.backlog.shrink_to(TURN_MESSAGES_MAX);
        }
        self.mailbox.done(messages, bytes);
        flow
    }

    /// Ends all streams, those too that are about to join: one of the frames that were dropped may have been
    /// theirs.
    fn give_up_backlog(&mut self) {
        let (mut messages, mut bytes) = (0, 0);
        while let Some(message) = self.backlog.pop_front() {
            match message {
                Message::Stop => {
                    self.backlog.push_front(message);
                    break;
                }
                Message::Deliver { frame, .. } => bytes += frame.len(),
                Message::DeliverToAll(_) => {}
                Message::Attach(newcomer) => self.attach(*newcomer),
                Message::Drain => self.end_all(CloseReason::Drain),
                Message::Revoke(whose) => self.revoke(whose),
            }
            messages += 1;
        }
        self.end_all(CloseReason::Overflow);
        self.mailbox.done(messages, bytes);
    }

    // === streams join ===

    fn attach(&mut self, newcomer: Newcomer) {
        let Newcomer { channels, waiting, given, closed, number, luggage } = newcomer;
        let luggage = luggage.downcast::<Luggage>().expect("the engine packed it");
        let Luggage { socket, unsent, mut settings, user, place, stray_bytes } = *luggage;
        let entry = self.streams.vacant_entry();
        let key = u32::try_from(entry.key()).expect("fewer streams than descriptors");
        let mut socket = TcpStream::from_std(socket);
        let registered =
            self.poll.registry().register(&mut socket, Token(entry.key()), Interest::READABLE);
        let now = tokio::time::Instant::now();
        let (time_over, reason) = settings.time_over(now).unzip();
        let time_over = time_over.map(|time| ticks(time.saturating_duration_since(now)) + 1);
        // Each stream has its own, and all other settings they share.
        settings.expires_at = None;
        entry.insert(Stream {
            socket,
            stray_bytes,
            given,
            channels: self.channels.join(key, channels),
            outbox: None,
            profile: profile(&mut self.profiles, settings),
            user: Some(Box::new(user)),
            place,
            written: self.now + 1,
            number,
            time_over: time_over.map_or(u32::MAX, |it| self.now.saturating_add(it)),
            expires: reason == Some(CloseReason::Expired),
            state: State::Live,
            is_mixing: false,
            watches_writes: false,
        });
        if let Err(error) = registered {
            tracing::error!("a stream ends because its socket cannot be watched: {error}");
            return self.finish(key, CloseReason::Internal);
        }
        self.write_initial(key, &unsent, &waiting);
        self.end_if_over(key, closed);
    }

    /// Writes what a newcomer brings along.
    fn write_initial(&mut self, key: u32, unsent: &[u8], waiting: &VecDeque<Frame>) {
        let mut after = Deferred::default();
        let wrote = if unsent.is_empty() { Ok(()) } else { self.write(key, unsent) };
        match wrote {
            Ok(()) => self.give(key, waiting.iter(), &mut after),
            Err(_) => after.gone(key),
        }
        after.look_at(key);
        self.apply(after);
    }

    /// A stream may have been over before it came here, or ends with what it brought.
    fn end_if_over(&mut self, key: u32, closed: Option<CloseReason>) {
        let Some(stream) = self.streams.get(key as usize) else { return };
        if let Some(reason) = closed {
            self.end(key, reason);
        } else if stream.is_live() && stream.given.open == 0 {
            self.end(key, CloseReason::Finished);
        } else if self.hub.is_draining() {
            self.end(key, CloseReason::Drain);
        }
    }

    // === streams write ===

    /// Writes to a stream, and keeps account.
    fn write(&mut self, key: u32, bytes: &[u8]) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(key as usize) else { return Ok(()) };
        let before = outbox_bytes(stream);
        stream.written = self.now + 1;
        let wrote = stream.write_or_keep(bytes, self.now);
        let after = outbox_bytes(stream);
        self.mailbox.counts.writes.add(1);
        self.account(before, after);
        wrote
    }

    /// The socket takes bytes again.
    fn flush(&mut self, key: u32) -> io::Result<()> {
        let Some(stream) = self.streams.get_mut(key as usize) else { return Ok(()) };
        let Some(outbox) = &mut stream.outbox else { return Ok(()) };
        let before = outbox.bytes();
        let written = outbox.write(&mut stream.socket, stream.profile.is_named());
        let after = outbox.bytes();
        if outbox.is_empty() {
            stream.outbox = None;
        } else if written.as_ref().is_ok_and(|written| written.bytes > 0) {
            outbox.since = self.now;
        }
        stream.written = self.now + 1;
        self.account(before, after);
        self.mailbox.counts.writes.add(written?.writes);
        Ok(())
    }

    fn account(&self, before: usize, after: usize) {
        account(&self.mailbox.counts, &self.hub, before, after);
    }

    /// Sets a stream's timer, and has its socket watched if something waits.
    pub(super) fn watch(&mut self, key: u32) {
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        match stream.due() {
            Some(due) => self.wheel.set(key, due),
            None => self.wheel.clear(key),
        }
        if stream.outbox.is_none() || stream.watches_writes {
            return;
        }
        stream.watches_writes = true;
        let both = Interest::READABLE | Interest::WRITABLE;
        let token = Token(key as usize);
        if let Err(error) = self.poll.registry().reregister(&mut stream.socket, token, both) {
            tracing::error!("a stream ends because its socket cannot be watched: {error}");
            self.finish(key, CloseReason::Internal);
        }
    }

    // === timers and sockets ===

    fn fire_timers(&mut self) {
        let mut rung = Vec::new();
        self.wheel.advance(self.now, &mut rung);
        for key in rung {
            self.on_timer(key);
        }
    }

    fn on_timer(&mut self, key: u32) {
        let now = self.now;
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        if stream.is_stalled(now) {
            return self.finish(key, CloseReason::Stalled);
        }
        if stream.is_live() && now >= stream.time_over {
            let reason = if stream.expires { CloseReason::Expired } else { CloseReason::Lifetime };
            return self.end(key, reason);
        }
        if stream.is_live() && stream.heartbeat_is_due(now) {
            let before = outbox_bytes(stream);
            let beat = stream.send_heartbeat(now);
            let after = outbox_bytes(stream);
            self.account(before, after);
            self.mailbox.counts.writes.add(1);
            if beat.is_err() {
                return self.finish(key, CloseReason::ClientGone);
            }
        }
        self.watch(key);
    }

    fn on_socket(&mut self, event: &Event) {
        let Ok(key) = u32::try_from(event.token().0) else { return };
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        // A client that closes only its own direction is gone as well, as it is for hyper.
        if event.is_error() {
            // The kernel gave up waiting for the client's acknowledgement.
            let error = stream.socket.take_error().ok().flatten();
            let timed_out = error.is_some_and(|error| error.kind() == io::ErrorKind::TimedOut);
            return self.finish(
                key,
                if timed_out { CloseReason::Stalled } else { CloseReason::ClientGone },
            );
        }
        let gone = event.is_read_closed()
            || (event.is_readable() && !stream.read_stray(&mut self.scratch));
        if gone {
            return self.finish(key, CloseReason::ClientGone);
        }
        if event.is_writable() {
            match self.flush(key) {
                Ok(()) => self.after_flush(key),
                Err(_) => self.finish(key, CloseReason::ClientGone),
            }
        }
    }

    fn after_flush(&mut self, key: u32) {
        let Some(stream) = self.streams.get(key as usize) else { return };
        match stream.state {
            State::Ending(reason) if stream.outbox.is_none() => self.finish(key, reason),
            _ => self.watch(key),
        }
    }

    // === streams end ===

    fn end_all(&mut self, reason: CloseReason) {
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.end(u32::try_from(key).unwrap_or(u32::MAX), reason);
        }
    }

    /// Ends streams that were revoked.
    fn revoke(&mut self, whose: Revoked) {
        let keys: Vec<usize> = match whose {
            Revoked::Stream(number) => {
                let is_meant = |(_, stream): &(usize, &Stream)| stream.number == number;
                self.streams.iter().filter(is_meant).map(|(key, _)| key).collect()
            }
            Revoked::Channel(channel) => self.channels.streams_on(channel),
        };
        for key in keys {
            self.end(u32::try_from(key).unwrap_or(u32::MAX), CloseReason::Revoked);
        }
    }

    /// Ends a stream in an orderly way: what waits, the last bytes, the end of the body. What waits for a
    /// client that is too slow is given up, but for an event that has begun.
    pub(super) fn end(&mut self, key: u32, reason: CloseReason) {
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        if !stream.is_live() {
            return;
        }
        stream.state = State::Ending(reason);
        let named = stream.profile.is_named();
        // Who may not have more gets no more than the rest of what has begun.
        if matches!(reason, CloseReason::Overflow | CloseReason::Expired | CloseReason::Revoked)
            && let Some(outbox) = &mut stream.outbox
        {
            let before = outbox.bytes();
            outbox.cut_to_begun(named);
            let after = outbox.bytes();
            if outbox.is_empty() {
                stream.outbox = None;
            }
            self.account(before, after);
        }
        self.leave(key);
        let Some(stream) = self.streams.get(key as usize) else { return };
        let mut last = Vec::new();
        let retry = stream.profile.settings.last_bytes(reason);
        chunked::push_chunk(&mut last, &retry.unwrap_or_default());
        last.extend_from_slice(chunked::END);
        match self.write(key, &last) {
            Ok(()) => self.after_flush(key),
            Err(_) => self.finish(key, reason),
        }
    }

    /// A stream is given nothing any more.
    fn leave(&mut self, key: u32) {
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        let memberships = stream.channels.take();
        self.leave_all(&memberships);
    }

    fn leave_all(&mut self, memberships: &Memberships) {
        for left in memberships.as_slice() {
            let Some((channel, moved)) = self.channels.leave(*left) else { continue };
            if let Some(moved) = moved.and_then(|key| self.streams.get_mut(key as usize)) {
                moved.channels.moved(left.slot, left.place);
            }
            self.hub.leave_shard(&channel, &self.mailbox);
        }
    }

    /// Closes a stream's socket now. A stream that was ending ends for the reason it had.
    pub(super) fn finish(&mut self, key: u32, reason: CloseReason) {
        let Some(mut stream) = self.streams.try_remove(key as usize) else { return };
        self.wheel.clear(key);
        let memberships = stream.channels.take();
        self.leave_all(&memberships);
        self.account(outbox_bytes(&stream), 0);
        let reason = match stream.state {
            State::Ending(reason) => reason,
            State::Live => reason,
        };
        // What the client sent and nobody read would turn the close into a reset, which can take the last
        // bytes from the client.
        stream.read_stray(&mut self.scratch);
        let Stream { socket, user, place, number, .. } = stream;
        self.hub.forget_owner(number);
        drop(socket);
        close_user_parts(user, reason);
        self.hub.shard_stream_ended(&self.mailbox, reason);
        drop(place);
        if self.streams.is_empty() {
            // A shard that was busy once gives its memory back.
            self.streams = Slab::new();
            self.channels = Channels::default();
            self.wheel = TimerWheel::at(self.now);
        }
    }

    /// Cuts all streams: the server is gone.
    fn stop(&mut self) {
        self.end_all(CloseReason::Drain);
        self.cut_all(CloseReason::Drain);
    }

    /// Closes all sockets.
    pub(super) fn cut_all(&mut self, reason: CloseReason) {
        let keys: Vec<usize> = self.streams.iter().map(|(key, _)| key).collect();
        for key in keys {
            self.finish(u32::try_from(key).unwrap_or(u32::MAX), reason);
        }
    }
}

/// The program's own code runs here: a panic in it ends no other stream.
fn close_user_parts(user: Option<Box<crate::response::Callbacks>>, reason: CloseReason) {
    let close = || user.into_iter().for_each(|user| user.close(reason));
    if catch_unwind(AssertUnwindSafe(close)).is_err() {
        tracing::error!("on_close of a stream, or the drop of its response, panicked");
    }
}

pub(super) fn outbox_bytes(stream: &Stream) -> usize {
    stream.outbox.as_ref().map_or(0, |outbox| outbox.bytes())
}

/// The profile of these settings, shared with the streams before if they have the same.
fn profile(profiles: &mut Vec<Rc<Profile>>, settings: Settings) -> Rc<Profile> {
    if let Some(profile) = profiles.iter().find(|profile| profile.settings == settings) {
        return Rc::clone(profile);
    }
    let profile = Rc::new(Profile::new(settings));
    if profiles.len() == PROFILES_MAX {
        profiles.remove(0);
    }
    profiles.push(Rc::clone(&profile));
    profile
}
