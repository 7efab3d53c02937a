//! The settings of each part of the server, checked: one type per part, so that a part takes its
//! own and no more. What can be left out and has no default is an `Option`; for durations `None`
//! means off.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use headwater::Channel;
use headwater::channel::{ChannelPattern, ChannelPatterns};
use headwater::log::RetentionRules;

use super::value::{
    AddressHeader, DomainName, HttpUrl, JwksPlace, LogFilter, LogFormat, Origin, Rate, ReadyParts,
    RedisUrl, Secret, Template, TrustedProxies,
};

/// Addresses, connections, and proxies in front of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenSettings {
    /// The address of streams, publishing and the demo page.
    pub address: SocketAddr,
    /// The address of health and metrics, if they have their own.
    pub admin: Option<SocketAddr>,
    /// The parts that must work for `/health/ready` to succeed.
    pub ready_requires: ReadyParts,
    /// The setting `open`. On loopback it may be false, and access is open all the same if there
    /// are no rules.
    pub open: bool,
    /// Names, besides those of this machine, by which an open loopback address may be asked.
    pub allowed_hosts: Vec<DomainName>,
    /// Networks of trusted reverse proxies.
    pub trusted_proxies: TrustedProxies,
    /// The header in which they report a client's address.
    pub client_address_header: Option<AddressHeader>,
    /// Whether every connection begins with the PROXY protocol.
    pub proxy_protocol: bool,
    /// How many threads own the sockets of streams; as many as cores if it is not set.
    pub shards: Option<usize>,
    /// Most connections at a time.
    pub max_connections: usize,
    /// How long the head of a request may take.
    pub header_timeout: Duration,
    /// Shutdown grace period for streams and requests.
    pub drain_timeout: Duration,
}

/// What carries events, and how many are retained.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisSettings {
    /// Where Redis is; without it the embedded broker is used.
    pub url: Option<RedisUrl>,
    /// Where the embedded broker keeps its history; never together with `redis`.
    pub data: Option<PathBuf>,
    /// How much history channels retain.
    pub retention: RetentionRules,
}

/// What every stream is set to, and how the hub delivers to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSettings {
    /// How long a stream is idle before it gets a comment.
    pub heartbeat: Option<Duration>,
    /// Reconnection delay for clients, without jitter.
    pub retry: Duration,
    /// How long a channel stays subscribed after its last subscriber leaves.
    pub linger: Duration,
    /// How long a stream may last.
    pub max_lifetime: Option<Duration>,
    /// How long a client may accept no data while some is waiting.
    pub send_timeout: Duration,
    /// Most events that wait for one stream.
    pub queue_frames: usize,
    /// Most bytes that wait for one stream.
    pub queue_bytes: usize,
    /// Channels whose slow clients get only the newest event.
    pub latest_only: ChannelPatterns,
    /// Most channels on one stream.
    pub max_channels_per_stream: usize,
}

/// What clients may use up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LimitSettings {
    /// Most streams at a time; as many as connections if the setting is left out.
    pub max_streams: usize,
    /// Most streams of one address.
    pub max_streams_per_address: Option<usize>,
    /// Most streams of one user.
    pub max_streams_per_user: Option<usize>,
    /// How fast one address may publish.
    pub max_publishes_per_address: Option<Rate>,
    /// How fast one user may publish.
    pub max_publishes_per_user: Option<Rate>,
    /// The rate of invalid credentials from one address.
    pub max_failed_logins: Option<Rate>,
    /// The memory for what is kept, in bytes; derived from the machine if it is not set.
    pub memory_bytes: Option<usize>,
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
}

/// What is logged, and how it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// What is logged.
    pub filter: LogFilter,
    /// How it is written.
    pub format: LogFormat,
}

/// Where the certificate comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsSettings {
    /// From files that another program maintains.
    Files(CertificateFiles),
    /// From an ACME server.
    Acme(AcmeSettings),
}

/// Where certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The chain, the server's own certificate first, in PEM.
    pub certificate: PathBuf,
    /// The key, in PEM.
    pub key: PathBuf,
}

/// Which certificate is requested, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeSettings {
    /// The names in the certificate; at least one.
    pub domains: Vec<DomainName>,
    /// Where account, certificate and key are stored.
    pub directory: PathBuf,
    /// The address for mail of the ACME server's operator.
    pub contact: Option<String>,
    /// The URL of the ACME server's directory.
    pub server: HttpUrl,
}

/// Who may subscribe and publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessSettings {
    /// Channels to which every client may subscribe; `None` if it is not set.
    pub public: Option<Vec<ChannelPattern>>,
    /// A secret of tokens.
    pub jwt_secret: Option<Secret>,
    /// A file with a secret of tokens.
    pub jwt_secret_file: Option<PathBuf>,
    /// A file with a public key of tokens.
    pub jwt_public_key: Option<PathBuf>,
    /// A set of keys of tokens.
    pub jwks: Option<JwksPlace>,
    /// The required audience of tokens.
    pub jwt_audience: Option<String>,
    /// The required issuer of tokens.
    pub jwt_issuer: Option<String>,
    /// The cookie that may hold a token.
    pub jwt_cookie: String,
    /// Whether `?token=` may hold one.
    pub jwt_in_query: bool,
    /// Channels to which every client with a token may subscribe.
    pub allow_subscribe: Vec<Template>,
    /// Channels to which every client with a token may publish.
    pub allow_publish: Vec<Template>,
    /// The URL of the application.
    pub authorize_url: Option<HttpUrl>,
    /// Its timeout.
    pub authorize_timeout: Duration,
    /// The plain Redis channels that are delivered; `None` if it is not set.
    pub redis_channels: Option<Vec<ChannelPattern>>,
    /// Origins whose pages may use it.
    pub cors_origins: Vec<Origin>,
}

impl AccessSettings {
    /// Whether tokens are accepted.
    pub fn has_keys(&self) -> bool {
        self.jwt_secret.is_some()
            || self.jwt_secret_file.is_some()
            || self.jwt_public_key.is_some()
            || self.jwks.is_some()
    }

    /// Whether only what rules allow is open.
    pub fn has_rules(&self) -> bool {
        self.has_keys() || self.authorize_url.is_some() || self.public.is_some()
    }

    /// Whether plain PUBLISH messages reach no stream because of the rules, without an explicit
    /// setting.
    pub fn silences_plain_publish(&self) -> bool {
        self.has_rules() && self.redis_channels.is_none()
    }

    /// Whether a plain PUBLISH to this channel is delivered.
    pub fn delivers_plain(&self, channel: &Channel) -> bool {
        let fits = |patterns: Vec<ChannelPattern>| patterns.iter().any(|it| it.matches(channel));
        self.plain_channels().is_none_or(fits)
    }

    /// Whether every client may subscribe to this channel without credentials.
    pub fn is_public(&self, channel: &Channel) -> bool {
        self.public.iter().flatten().any(|pattern| pattern.matches(channel))
    }

    /// The plain Redis channels that are delivered; `None` is all.
    pub fn plain_channels(&self) -> Option<Vec<ChannelPattern>> {
        match &self.redis_channels {
            None if self.has_rules() => Some(Vec::new()),
            said => said.clone(),
        }
    }
}
