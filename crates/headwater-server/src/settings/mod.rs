//! The settings of `headwater serve`, checked. Look here for what the server can be told; each
//! setting is defined in `definition/`, and `sources.rs` says where values come from.

pub mod definition;
pub mod docs;

mod access;
mod file;
mod http_url;
mod origin;
mod redis_url;
mod secret;
mod sources;
mod template;
mod value;

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use headwater::{ChannelPatterns, RetentionRules};

pub use access::{AccessSettings, JwksPlace};
pub use http_url::HttpUrl;
pub use origin::Origin;
pub use redis_url::RedisUrl;
pub use secret::Secret;
pub use sources::Flags;
pub use template::Template;
pub(crate) use template::as_text;
pub(crate) use value::duration;

use crate::client::{AddressHeader, Rate, TrustedProxies};
use crate::logging::{LogFilter, LogFormat};
use crate::tls::{AcmeSettings, CertificateFiles, DomainName, TlsSource};
use sources::Sources;

/// Everything the server was told, checked. What can be left out and has no default is an `Option`;
/// for durations `None` means off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The address of streams, publishing and the demo page.
    pub listen: SocketAddr,
    /// The address of health and metrics, if they have their own.
    pub admin: Option<SocketAddr>,
    /// Where Redis is; without it the embedded broker is used.
    pub redis: Option<RedisUrl>,
    /// Whether anybody who can reach `listen` may listen and publish. Always true to the user's
    /// word: on loopback it may be false, and access is open all the same if there are no rules.
    pub open: bool,
    /// Who may listen and publish.
    pub access: AccessSettings,
    /// Where the certificate comes from; without it there is no TLS.
    pub tls: Option<TlsSource>,
    /// Who is believed what he says about a client's address.
    pub trusted_proxies: TrustedProxies,
    /// The header in which they say it.
    pub client_address_header: Option<AddressHeader>,
    /// Whether every connection begins with the PROXY protocol.
    pub proxy_protocol: bool,
    /// Where the embedded broker keeps its history; never given together with `redis`.
    pub data: Option<PathBuf>,
    /// How much history which channels keep.
    pub retention: RetentionRules,
    /// How long a stream is idle before it gets a comment.
    pub heartbeat: Option<Duration>,
    /// What clients are asked to wait before they reconnect, before jitter.
    pub retry: Duration,
    /// How long a channel stays subscribed after its last listener left.
    pub linger: Duration,
    /// How long a stream may last.
    pub max_lifetime: Option<Duration>,
    /// How long a client may take nothing while something is waiting.
    pub send_timeout: Duration,
    /// Most events that wait for one stream.
    pub queue_frames: usize,
    /// Most bytes that wait for one stream.
    pub queue_bytes: usize,
    /// Channels whose slow clients get only the newest event.
    pub latest_only: ChannelPatterns,
    /// How many threads own the sockets of streams; as many as there are cores if it is not said.
    pub shards: Option<usize>,
    /// Most connections at a time.
    pub max_connections: usize,
    /// Most streams at a time; without it as many as connections.
    pub max_streams: Option<usize>,
    /// Most streams of one address.
    pub max_streams_per_address: Option<usize>,
    /// Most streams of one user.
    pub max_streams_per_user: Option<usize>,
    /// How fast one address may publish.
    pub max_publishes_per_address: Option<Rate>,
    /// How fast one user may publish.
    pub max_publishes_per_user: Option<Rate>,
    /// How often credentials from one address may be wrong.
    pub max_failed_logins: Option<Rate>,
    /// Most channels on one stream.
    pub max_channels_per_stream: usize,
    /// Largest body of a request, in bytes.
    pub max_body_bytes: usize,
    /// How long the head of a request may take.
    pub header_timeout: Duration,
    /// How long streams and requests have to end when the server stops.
    pub drain_timeout: Duration,
    /// What is logged.
    pub log: LogFilter,
    /// How it is written.
    pub log_format: LogFormat,
}

impl Settings {
    /// Takes each setting from the flag, else from the environment, else from the file that
    /// `--config` or `HEADWATER_CONFIG` names, else the default, and checks it.
    ///
    /// # Errors
    /// The first value that is wrong, or name that is unknown, with its place and a suggestion.
    pub fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let sources = Sources::gather(flags, environment)?;
        let settings = Self {
            listen: sources.required("listen", Sources::address)?,
            admin: sources.address("admin")?,
            redis: sources.redis_url("redis")?,
            open: sources.required("open", Sources::switch)?,
            access: AccessSettings::load(&sources)?,
            tls: tls(&sources)?,
            trusted_proxies: sources.networks("trusted-proxy")?,
            client_address_header: sources.address_header("client-address-header")?,
            proxy_protocol: sources.required("proxy-protocol", Sources::switch)?,
            data: sources.directory("data")?,
            retention: sources.retention_rules("retention")?,
            heartbeat: sources.duration_or_off("heartbeat")?,
            retry: sources.required("retry", Sources::duration_or_off)?,
            linger: sources.required("linger", Sources::duration_or_off)?,
            max_lifetime: sources.duration_or_off("max-lifetime")?,
            send_timeout: sources.required("send-timeout", Sources::duration_or_off)?,
            queue_frames: sources.required("queue-frames", Sources::count)?,
            queue_bytes: sources.required("queue-bytes", Sources::bytes)?,
            latest_only: sources.channel_patterns("latest-only")?,
            shards: sources.count("shards")?,
            max_connections: sources.required("max-connections", Sources::count)?,
            max_streams: sources.count("max-streams")?,
            max_streams_per_address: sources.count("max-streams-per-address")?,
            max_streams_per_user: sources.count("max-streams-per-user")?,
            max_publishes_per_address: sources.rate("max-publishes-per-address")?,
            max_publishes_per_user: sources.rate("max-publishes-per-user")?,
            max_failed_logins: sources.rate("max-failed-logins")?,
            max_channels_per_stream: sources.required("max-channels-per-stream", Sources::count)?,
            max_body_bytes: sources.required("max-body", Sources::bytes)?,
            header_timeout: sources.required("header-timeout", Sources::duration_or_off)?,
            drain_timeout: sources.required("drain-timeout", Sources::duration_or_off)?,
            log: sources.required("log", Sources::log_filter)?,
            log_format: sources.required("log-format", Sources::log_format)?,
        };
        settings.check_together()?;
        Ok(settings)
    }

    /// Whether only this machine can reach `listen`. A name with a certificate is there for others, whoever passes
    /// them on.
    pub fn is_local(&self) -> bool {
        self.listen.ip().to_canonical().is_loopback() && !self.has_name()
    }

    fn has_name(&self) -> bool {
        matches!(self.tls, Some(TlsSource::Acme(_)))
    }

    fn check_together(&self) -> Result<(), SettingsError> {
        self.access.check_together(self.open)?;
        if !self.is_local() && !self.open && !self.access.has_rules() {
            let (by_name, or_else) = if self.has_name() {
                (" by the name in acme-domain", String::new())
            } else {
                ("", format!(" Or listen on 127.0.0.1:{}.", self.listen.port()))
            };
            return Err(SettingsError(format!(
                "listen = {}: other machines can reach this address{by_name}, and nothing says who may \
                 listen and publish. There are three ways on: take tokens (--jwt-secret-file, \
                 --jwt-public-key or --jwks), ask your application (--authorize-url), or say --open \
                 (HEADWATER_OPEN=true, or open = true in the file) to let anybody who can reach it \
                 listen and publish.{or_else} docs/access.md has it all",
                self.listen
            )));
        }
        if let (Some(data), Some(redis)) = (&self.data, &self.redis) {
            return Err(SettingsError(format!(
                "data = {}: it is for the embedded broker, and redis = {redis} keeps the history \
                 itself: leave out one of the two",
                data.display()
            )));
        }
        self.check_proxies()?;
        if self.admin == Some(self.listen) && self.listen.port() != 0 {
            return Err(SettingsError(format!(
                "admin = {}: this is the address of listen too: give one of them another port, or \
                 leave admin out",
                self.listen
            )));
        }
        Ok(())
    }
}

impl Settings {
    /// Trust without a way to use it, or a way that nobody is trusted on, is a slip.
    fn check_proxies(&self) -> Result<(), SettingsError> {
        let has_way = self.client_address_header.is_some() || self.proxy_protocol;
        let has_trust = !self.trusted_proxies.is_empty();
        let why = match (has_way, has_trust) {
            (true, false) => {
                "client-address-header and proxy-protocol count from trusted proxies only: say which \
                 these are with --trusted-proxy"
            }
            (false, true) => {
                "trusted-proxy: how do they tell the client's address? Say --client-address-header \
                 X-Forwarded-For (or Forwarded, or X-Real-IP), --proxy-protocol, or both"
            }
            _ => return Ok(()),
        };
        Err(SettingsError(why.to_owned()))
    }
}

fn tls(sources: &Sources) -> Result<Option<TlsSource>, SettingsError> {
    let files = certificate_files(sources.file("tls-cert")?, sources.file("tls-key")?)?;
    let acme = acme(sources)?;
    if files.is_some() && acme.is_some() {
        return Err(SettingsError(
            "tls-cert and acme-domain are both given: the certificate comes from its files, or from \
             the ACME server. Leave out one of the two"
                .to_owned(),
        ));
    }
    Ok(files.map(TlsSource::Files).or(acme.map(TlsSource::Acme)))
}

fn certificate_files(
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Result<Option<CertificateFiles>, SettingsError> {
    let (has, lacks) = match (certificate, key) {
        (Some(certificate), Some(key)) => return Ok(Some(CertificateFiles { certificate, key })),
        (None, None) => return Ok(None),
        (Some(_), None) => ("tls-cert", "tls-key"),
        (None, Some(_)) => ("tls-key", "tls-cert"),
    };
    Err(SettingsError(format!("{has} is given and {lacks} is not: TLS needs both")))
}

fn acme(sources: &Sources) -> Result<Option<AcmeSettings>, SettingsError> {
    let mut domains: Vec<DomainName> = Vec::new();
    for domain in sources.list("acme-domain")?.unwrap_or_default() {
        if !domains.contains(&domain) {
            domains.push(domain);
        }
    }
    let directory = sources.directory("acme-dir")?;
    let contact = sources.text("acme-contact")?;
    let server: HttpUrl = sources.required("acme-server", Sources::parsed)?;
    let why = match (domains.is_empty(), directory) {
        (false, Some(_)) if !server.is_tls() => {
            "acme-server: it must begin with https://, since certificates are not fetched in the clear"
        }
        (false, Some(_)) if server.target("").contains('?') => {
            "acme-server: the URL of an ACME server's directory has no query: leave out what begins with `?`"
        }
        (false, Some(_)) if contact.as_deref().is_some_and(|it| !is_mail_address(it)) => {
            "acme-contact: it is no e-mail address: write one like ops@example.org"
        }
        (false, Some(directory)) => {
            return Ok(Some(AcmeSettings { domains, directory, contact, server }));
        }
        (true, None) if contact.is_none() => return Ok(None),
        (false, None) => {
            "acme-domain is given and acme-dir is not: say in which directory the certificate is kept, \
             so that a restart need not ask for another"
        }
        (true, _) => {
            "acme-dir and acme-contact do nothing without acme-domain, the name that the certificate \
             is for"
        }
    };
    Err(SettingsError(why.to_owned()))
}

/// Not more than what tells an address from a slip.
fn is_mail_address(text: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.contains(['@', ' ', ',', ':', '?']);
    text.split_once('@').is_some_and(|(user, host)| is_part(user) && is_part(host))
}

/// What is wrong with the settings: where, what, and what to do about it. Never contains the value
/// of a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingsError(pub(crate) String);

impl fmt::Display for SettingsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for SettingsError {}
