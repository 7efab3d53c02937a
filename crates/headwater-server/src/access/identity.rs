//! Who sends a request, and what is granted to it. No IO in here.

use std::time::SystemTime;

use headwater::Channel;
use headwater::access::{Action, Decision};
use headwater::channel::ChannelPattern;

/// Who asks, and what is granted.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Identity {
    /// What may be listened to.
    pub subscribe: Vec<ChannelPattern>,
    /// What may be published to.
    pub publish: Vec<ChannelPattern>,
    /// Whether streams of others may be ended.
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
            Action::Publish => channels.iter().all(|it| fits(&self.publish, it)),
            Action::Admin => self.admin,
            // What is new is not granted by what is old.
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
