//! The sender of a request, and its grants. No I/O.

use std::time::SystemTime;

use headwater::Channel;
use headwater::access::{Action, Decision};
use headwater::channel::ChannelPattern;

/// The sender and its grants.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    /// Channels that it may subscribe to.
    pub subscribe: Vec<ChannelPattern>,
    /// Channels that it may publish to.
    pub publish: Vec<ChannelPattern>,
    /// Whether it may close other clients' streams.
    pub admin: bool,
    /// Until when.
    pub until: Option<SystemTime>,
    /// Who: the claim `sub`.
    pub user: Option<String>,
    /// The claim `jti`.
    pub token_id: Option<String>,
}

impl Identity {
    /// Whether all of it is granted.
    pub fn allows(
        &self,
        action: Action,
        channels: &[Channel],
        is_public: impl Fn(&Channel) -> bool,
    ) -> bool {
        let fits = |patterns: &[ChannelPattern], channel: &Channel| {
            patterns.iter().any(|pattern| pattern.matches(channel))
        };
        match action {
            Action::Subscribe => {
                channels.iter().all(|it| fits(&self.subscribe, it) || is_public(it))
            }
            // Without channels it is asked whether to read the body of a batch, which names them.
            Action::Publish => {
                !self.publish.is_empty() && channels.iter().all(|it| fits(&self.publish, it))
            }
            Action::Admin => self.admin,
            // New actions are not granted by existing ones.
            _ => false,
        }
    }

    /// The answer for what is granted.
    pub(super) fn decision(&self) -> Decision {
        let mut decision = match self.until {
            Some(until) => Decision::allow_until(until),
            None => Decision::allow(),
        };
        if let Some(user) = &self.user {
            decision = decision.user(user);
        }
        if let Some(id) = &self.token_id {
            decision = decision.token_id(id);
        }
        decision
    }
}
