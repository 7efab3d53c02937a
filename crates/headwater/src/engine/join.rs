//! Attaching a stream to a shard. Look here for what is written first, and in which order.

use std::collections::VecDeque;
use std::rc::Rc;

use headwater_core::close::CloseReason;
use headwater_core::frame::Frame;
use headwater_core::transport::Attachment;
use mio::net::TcpStream;
use mio::{Interest, Token};

use super::deliver::Deferred;
use super::parts::StreamParts;
use super::shard::Shard;
use super::stream::{Profile, State, Stream, ticks};
use crate::response::StreamOptions;

/// Maximum profiles that a new stream's options are compared with. Applications use a few; with
/// more, some streams do not share theirs.
const PROFILES_MAX: usize = 8;

impl Shard {
    /// Adds the stream to the shard's tables, writes what it brings, and ends it if it is over.
    pub(super) fn attach(&mut self, attachment: Attachment) {
        let Attachment { channels, waiting, missed, progress, closed, number, payload } =
            attachment;
        let parts =
            payload.downcast::<StreamParts>().expect("every attachment carries `StreamParts`");
        let StreamParts { socket, unsent, mut options, callbacks, slot, stray_bytes } = *parts;
        let entry = self.streams.vacant_entry();
        let key = u32::try_from(entry.key()).expect("there are fewer streams than descriptors");
        let mut socket = TcpStream::from_std(socket);
        let registered =
            self.poll.registry().register(&mut socket, Token(entry.key()), Interest::READABLE);
        let now = tokio::time::Instant::now();
        let (ends_at, reason) = options.deadline(now).unzip();
        let ends_at = ends_at.map(|time| ticks(time.saturating_duration_since(now)) + 1);
        // Differs for each stream, and would keep streams from sharing a profile.
        options.expires_at = None;
        entry.insert(Stream {
            socket,
            stray_bytes,
            progress,
            channels: self.channels.join(key, channels),
            backlog: None,
            profile: profile(&mut self.profiles, options),
            callbacks: Some(Box::new(callbacks)),
            slot,
            written: self.now + 1,
            number,
            ends_at: ends_at.map_or(u32::MAX, |it| self.now.saturating_add(it)),
            expires: reason == Some(CloseReason::Expired),
            state: State::Live,
            is_merging: false,
            watches_writes: false,
        });
        if let Err(error) = registered {
            tracing::error!("closing a stream whose socket cannot be polled: {error}");
            return self.finish(key, CloseReason::Internal);
        }
        self.write_initial(key, &unsent, &waiting);
        if let Some(missed) = missed {
            self.replay(key, &missed);
        }
        self.end_if_over(key, closed);
    }

    /// Writes the unsent bytes, then the frames that arrived while the stream was being attached.
    fn write_initial(&mut self, key: u32, unsent: &[u8], waiting: &VecDeque<Frame>) {
        let mut deferred = Deferred::default();
        let wrote = if unsent.is_empty() { Ok(()) } else { self.write(key, unsent) };
        match wrote {
            Ok(()) => self.deliver_to(key, waiting.iter(), &mut deferred),
            Err(_) => deferred.gone(key),
        }
        deferred.watch(key);
        self.apply(deferred);
    }

    /// Ends the stream if it was closed before it was attached, if its last channel has ended, or
    /// if the hub is draining.
    fn end_if_over(&mut self, key: u32, closed: Option<CloseReason>) {
        let Some(stream) = self.streams.get(key as usize) else { return };
        if let Some(reason) = closed {
            self.end(key, reason);
        } else if stream.is_live() && stream.progress.open == 0 {
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
