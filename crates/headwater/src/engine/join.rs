//! How a stream joins a shard. Look here for what is written first.

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

/// Most profiles that are compared. Programs have a few; with more, streams do not share one.
const PROFILES_MAX: usize = 8;

impl Shard {
    pub(super) fn attach(&mut self, attachment: Attachment) {
        let Attachment { channels, waiting, progress, closed, number, payload } = attachment;
        let parts = payload.downcast::<StreamParts>().expect("the engine made the attachment");
        let StreamParts { socket, unsent, mut options, callbacks, slot, stray_bytes } = *parts;
        let entry = self.streams.vacant_entry();
        let key = u32::try_from(entry.key()).expect("fewer streams than descriptors");
        let mut socket = TcpStream::from_std(socket);
        let registered =
            self.poll.registry().register(&mut socket, Token(entry.key()), Interest::READABLE);
        let now = tokio::time::Instant::now();
        let (time_over, reason) = options.time_over(now).unzip();
        let time_over = time_over.map(|time| ticks(time.saturating_duration_since(now)) + 1);
        // Each stream has its own, and all other settings they share.
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

    /// Writes what a attachment brings along.
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
        } else if stream.is_live() && stream.progress.open == 0 {
            self.end(key, CloseReason::Finished);
        } else if self.port.is_draining() {
            self.end(key, CloseReason::Drain);
        }
    }
}

/// The profile of these options, shared with the streams before if they have the same.
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
