//! Attaching a stream to a shard. Look here for what is written first, and in which order.

use std::io;
use std::rc::Rc;

use headwater_core::close::CloseReason;
use headwater_core::transport::{Attachment, Joined, Progress, StreamStart, StreamState};
use mio::net::TcpStream;
use mio::{Interest, Token};

use super::deliver::Deferred;
use super::parts::StreamParts;
use super::shard::Shard;
use super::stream::{Memberships, Profile, Stream};
use crate::response::StreamOptions;

/// Maximum profiles that a new stream's options are compared with. Applications use a few; with
/// more, some streams do not share theirs.
const PROFILES_MAX: usize = 8;

impl Shard {
    /// Adds a stream to the shard's tables, and writes what it brings.
    pub(super) fn attach(&mut self, attachment: Attachment) {
        let Attachment { start, number, payload } = attachment;
        let mut parts =
            payload.downcast::<StreamParts>().expect("every attachment carries `StreamParts`");
        let head = std::mem::take(&mut parts.head);
        let (key, registered) = self.insert(*parts, number);
        if let Err(error) = registered {
            tracing::error!("closing a stream whose socket cannot be polled: {error}");
            if let StreamStart::Live(joined) = start {
                self.leave_unjoined(&joined);
            }
            return self.finish(key, CloseReason::Internal);
        }
        match start {
            StreamStart::Live(joined) => self.join(key, &head, joined),
            StreamStart::Replaying(start) => {
                self.send_page(key, &head, &[]);
                let replay = self.replays.start(key);
                match start(replay) {
                    Some(task) => self.replays.run(key, task),
                    None => self.end(key, CloseReason::Internal),
                }
                self.end_if_over(key, None);
            }
        }
    }

    /// Adds a stream that has not joined its channels. Returns its key, and whether its socket can
    /// be polled.
    fn insert(&mut self, parts: StreamParts, number: u64) -> (u32, io::Result<()>) {
        let StreamParts { socket, head: _, mut options, callbacks, slot, stray_bytes } = parts;
        let entry = self.streams.vacant_entry();
        let key = u32::try_from(entry.key()).expect("there are fewer streams than descriptors");
        let mut socket = TcpStream::from_std(socket);
        let registered =
            self.poll.registry().register(&mut socket, Token(entry.key()), Interest::READABLE);
        let state = StreamState::new(self.now, options.ends(self.now));
        // Differs for each stream, and would keep streams from sharing a profile.
        options.expires_at = None;
        entry.insert(Stream {
            socket,
            stray_bytes,
            progress: Progress::REPLAYING,
            channels: Memberships::default(),
            state,
            profile: profile(&mut self.profiles, options),
            callbacks: Some(Box::new(callbacks)),
            slot,
            number,
            is_merging: false,
            watches_writes: false,
        });
        (key, registered)
    }

    /// Lets a stream join its channels. Writes `head`, what was read ahead, and what waited; starts
    /// a replay if the node has missed events since, and ends the stream if it is over.
    fn join(&mut self, key: u32, head: &[u8], joined: Joined) {
        let Joined { channels, mut replayed, waiting, progress, missed, closed } = joined;
        let Some(stream) = self.streams.get_mut(key as usize) else { return };
        stream.channels = self.channels.join(key, channels);
        stream.progress = progress;
        self.send_page(key, head, replayed.make_contiguous());
        let mut deferred = Deferred::default();
        self.deliver_to(key, waiting.iter(), &mut deferred);
        self.apply(deferred);
        if let Some(missed) = missed {
            self.replay(key, &missed);
        }
        self.end_if_over(key, closed);
    }

    /// A stream has replayed everything, and joins its channels.
    pub(super) fn on_join(&mut self, replay: u64, joined: Joined) {
        match self.replays.key_of(replay) {
            Some(key) => {
                self.replays.remove(key);
                self.join(key, &[], joined);
            }
            None => self.leave_unjoined(&joined),
        }
    }

    /// Leaves the channels of a stream that was closed before it joined them.
    fn leave_unjoined(&self, joined: &Joined) {
        joined.channels.iter().for_each(|it| self.port.left(&it.channel));
    }

    /// Ends the stream if it was closed before it joined its channels, if its last channel has
    /// ended, or if the hub is draining.
    fn end_if_over(&mut self, key: u32, closed: Option<CloseReason>) {
        let Some(stream) = self.streams.get(key as usize) else { return };
        if let Some(reason) = closed {
            self.end(key, reason);
        } else if stream.progress.open == 0 {
            self.end(key, CloseReason::Finished);
        } else if self.port.is_draining() {
            self.end(key, CloseReason::Drain);
        }
    }
}

/// The profile for these options, shared with earlier streams that have the same options.
fn profile(profiles: &mut Vec<Rc<Profile>>, options: StreamOptions) -> Rc<Profile> {
    if let Some(profile) = profiles.iter().find(|profile| profile.options == options) {
        return Rc::clone(profile);
    }
    let profile = Rc::new(Profile::new(options));
    if profiles.len() == PROFILES_MAX {
        profiles.remove(0);
    }
    profiles.push(Rc::clone(&profile));
    profile
}
