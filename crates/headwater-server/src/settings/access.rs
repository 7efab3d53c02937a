//! The settings of access, checked: who may listen and publish. Look here for which of them make no
//! sense together.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use headwater::ChannelPattern;

use super::sources::Sources;
use super::{HttpUrl, Origin, Secret, SettingsError, Template};

/// Who may listen and publish, as it was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessSettings {
    /// Channels that anybody may listen to; `None` if nothing was said.
    pub public: Option<Vec<ChannelPattern>>,
    /// A secret of tokens.
    pub jwt_secret: Option<Secret>,
    /// A file with a secret of tokens.
    pub jwt_secret_file: Option<PathBuf>,
    /// A file with a public key of tokens.
    pub jwt_public_key: Option<PathBuf>,
    /// A set of keys of tokens.
    pub jwks: Option<JwksPlace>,
    /// Whom tokens must be for.
    pub jwt_audience: Option<String>,
    /// Whose tokens must be.
    pub jwt_issuer: Option<String>,
    /// The cookie that may hold a token.
    pub jwt_cookie: String,
    /// Whether `?token=` may hold one.
    pub jwt_in_query: bool,
    /// What everybody with a token may listen to.
    pub allow_subscribe: Vec<Template>,
    /// What everybody with a token may publish to.
    pub allow_publish: Vec<Template>,
    /// Where the application is asked.
    pub authorize_url: Option<HttpUrl>,
    /// How long it has to answer.
    pub authorize_timeout: Duration,
    /// The plain Redis channels that can be heard; `None` if nothing was said.
    pub redis_channels: Option<Vec<ChannelPattern>>,
    /// Whose pages may use it.
    pub cors_origins: Vec<Origin>,
}

/// Where a set of keys is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwksPlace {
    /// On a server.
    Url(HttpUrl),
    /// On this machine.
    File(PathBuf),
}

impl FromStr for JwksPlace {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains("://") {
            return text.parse().map(Self::Url);
        }
        if text.is_empty() {
            return Err("it is empty: write a URL or the path of a file".to_owned());
        }
        Ok(Self::File(text.into()))
    }
}

impl AccessSettings {
    pub(super) fn load(sources: &Sources) -> Result<Self, SettingsError> {
        Ok(Self {
            public: sources.list("public")?,
            jwt_secret: sources.text("jwt-secret")?.map(Secret::new),
            jwt_secret_file: sources.file("jwt-secret-file")?,
            jwt_public_key: sources.file("jwt-public-key")?,
            jwks: sources.parsed("jwks")?,
            jwt_audience: sources.text("jwt-audience")?,
            jwt_issuer: sources.text("jwt-issuer")?,
            jwt_cookie: sources.required("jwt-cookie", Sources::text)?,
            jwt_in_query: sources.required("jwt-in-query", Sources::switch)?,
            allow_subscribe: sources.list("allow-subscribe")?.unwrap_or_default(),
            allow_publish: sources.list("allow-publish")?.unwrap_or_default(),
            authorize_url: sources.parsed("authorize-url")?,
            authorize_timeout: sources.required("authorize-timeout", Sources::duration_or_off)?,
            redis_channels: sources.list("redis-channels")?,
            cors_origins: sources.list("cors-origin")?.unwrap_or_default(),
        })
    }

    /// Whether tokens are taken.
    pub fn has_keys(&self) -> bool {
        self.jwt_secret.is_some()
            || self.jwt_secret_file.is_some()
            || self.jwt_public_key.is_some()
            || self.jwks.is_some()
    }

    /// Whether nothing is open but what rules open.
    pub fn has_rules(&self) -> bool {
        self.has_keys() || self.authorize_url.is_some() || self.public.is_some()
    }

    /// The plain Redis channels that can be heard; `None` is all.
    pub fn plain_channels(&self) -> Option<Vec<ChannelPattern>> {
        match &self.redis_channels {
            None if self.has_rules() => Some(Vec::new()),
            said => said.clone(),
        }
    }

    pub(super) fn check_together(&self, open: bool) -> Result<(), SettingsError> {
        if open && self.has_rules() {
            return Err(SettingsError(
                "open = true: there are access rules too, and under rules nothing is open but what they \
                 open: leave out open, or the rules (public, jwt-..., jwks, authorize-url)"
                    .to_owned(),
            ));
        }
        let without_keys = [
            ("jwt-audience", self.jwt_audience.is_some()),
            ("jwt-issuer", self.jwt_issuer.is_some()),
            ("allow-subscribe", !self.allow_subscribe.is_empty()),
            ("allow-publish", !self.allow_publish.is_empty()),
        ];
        match without_keys.iter().find(|(_, given)| *given && !self.has_keys()) {
            Some((name, _)) => Err(SettingsError(format!(
                "{name}: it is about tokens, and no tokens are taken: give jwt-secret-file, \
                 jwt-public-key or jwks too"
            ))),
            None => Ok(()),
        }
    }
}
