//! The settings of `headwater serve`: loads every section, and checks what must fit together.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::error::SettingsError;
use super::secret_places::SecretPlaces;
use super::sections::{
    AccessSettings, AcmeSettings, CertificateFiles, LimitSettings, ListenSettings, LogSettings,
    RedisSettings, StreamSettings, TlsSettings,
};
use super::sources::{Flags, Sources};
use super::value::{DomainName, HttpUrl, Secret};

/// All settings of the server, checked. Only the composition root sees them together; every other
/// part takes its section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Addresses, connections, and proxies in front of them.
    pub listen: ListenSettings,
    /// Where the certificate comes from; without it there is no TLS.
    pub tls: Option<TlsSettings>,
    /// Who may subscribe and publish.
    pub access: AccessSettings,
    /// What carries events, and how many are retained.
    pub redis: RedisSettings,
    /// What every stream is set to.
    pub streams: StreamSettings,
    /// What clients may use up.
    pub limits: LimitSettings,
    /// What is logged.
    pub log: LogSettings,
}

impl Settings {
    /// Takes each setting from the flag, else from the environment, else from the file that
    /// `--config` or `HEADWATER_CONFIG` names, else the default, and checks it.
    ///
    /// # Errors
    /// The first invalid value or unknown name, with its location and a suggestion.
    pub fn load(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        Self::load_with_places(flags, environment).map(|(settings, _)| settings)
    }

    /// Like [`load`](Self::load), and where the secrets among them were typed.
    ///
    /// # Errors
    /// Those of [`load`](Self::load).
    pub fn load_with_places(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(Self, SecretPlaces), SettingsError> {
        let sources = Sources::gather(flags, environment)?;
        let listen = listen(&sources)?;
        let settings = Self {
            tls: tls(&sources)?,
            access: access(&sources)?,
            redis: redis(&sources)?,
            streams: streams(&sources)?,
            limits: limits(&sources, listen.max_connections)?,
            log: log(&sources)?,
            listen,
        };
        settings.check_together()?;
        Ok((settings, sources.secret_places()))
    }

    /// Whether only this machine can reach `listen`: nothing says that others do.
    pub fn is_local(&self) -> bool {
        self.way_to_listen().is_none()
    }

    /// How other machines reach `listen`, as the end of a sentence; `None` if they do not. A
    /// certificate or a proxy is there for others, whatever the address is.
    fn way_to_listen(&self) -> Option<&'static str> {
        let listen = &self.listen;
        match &self.tls {
            _ if !is_loopback(listen.address) => Some(""),
            Some(TlsSettings::Acme(_)) => Some(" by the name in acme-domain"),
            Some(TlsSettings::Files(_)) => Some(" by the name in the certificate, tls-cert"),
            None if listen.proxy_protocol => Some(" through the proxy of proxy-protocol"),
            None if !listen.trusted_proxies.is_empty() => {
                Some(" through the proxies in trusted-proxy")
            }
            None => None,
        }
    }

    /// Whether `listen` serves health, metrics and administration to this machine.
    pub fn serves_admin(&self) -> bool {
        let has_name = matches!(self.tls, Some(TlsSettings::Acme(_)));
        self.listen.admin.is_none() && is_loopback(self.listen.address) && !has_name
    }

    /// Whether other machines can reach health, metrics and administration.
    pub fn is_admin_reachable(&self) -> bool {
        self.listen.admin.is_some_and(|address| !is_loopback(address))
    }

    fn check_together(&self) -> Result<(), SettingsError> {
        check_access(&self.access, self.listen.open)?;
        check_proxies(&self.listen)?;
        self.check_reach()?;
        if let (Some(data), Some(redis)) = (&self.redis.data, &self.redis.url) {
            return Err(SettingsError(format!(
                "data = {}: it is for the embedded broker, and redis = {redis} keeps the history \
                 itself: leave out one of the two",
                data.display()
            )));
        }
        if self.listen.admin == Some(self.listen.address) && self.listen.address.port() != 0 {
            return Err(SettingsError(format!(
                "admin = {}: listen has the same address: give one of them another port, or \
                 leave admin out",
                self.listen.address
            )));
        }
        Ok(())
    }

    /// What other machines can reach is open only if that was said.
    fn check_reach(&self) -> Result<(), SettingsError> {
        if self.listen.open || self.access.has_rules() {
            return Ok(());
        }
        let ListenSettings { address, admin, .. } = self.listen;
        if let Some(by) = self.way_to_listen() {
            let or_else = if is_loopback(address) {
                String::new()
            } else {
                format!(" Or listen on 127.0.0.1:{}.", address.port())
            };
            return Err(SettingsError(format!(
                "listen = {address}: other machines can reach this address{by}, and there are no \
                 access rules. {RULES_OR_OPEN} to allow anybody who can reach it to subscribe and \
                 publish.{or_else} See docs/access.md"
            )));
        }
        match admin.filter(|admin| !is_loopback(*admin)) {
            Some(admin) => Err(SettingsError(format!(
                "admin = {admin}: other machines can reach this address, and there are no access \
                 rules. {RULES_OR_OPEN} to show health and metrics to anybody who can reach it. \
                 Or use admin = 127.0.0.1:{}. See docs/access.md",
                admin.port()
            ))),
            None => Ok(()),
        }
    }
}

const RULES_OR_OPEN: &str = "Accept tokens (--jwt-secret-file, --jwt-public-key or --jwks), ask \
                             your application (--authorize-url), or say --open \
                             (HEADWATER_OPEN=true, or open = true in the file)";

fn is_loopback(address: SocketAddr) -> bool {
    address.ip().to_canonical().is_loopback()
}

fn listen(sources: &Sources) -> Result<ListenSettings, SettingsError> {
    Ok(ListenSettings {
        address: sources.required("listen", Sources::address)?,
        admin: sources.address("admin")?,
        ready_requires: sources.required("ready-requires", Sources::parsed)?,
        open: sources.required("open", Sources::switch)?,
        allowed_hosts: sources.list("allowed-host")?.unwrap_or_default(),
        trusted_proxies: sources.networks("trusted-proxy")?,
        client_address_header: sources.parsed("client-address-header")?,
        proxy_protocol: sources.required("proxy-protocol", Sources::switch)?,
        shards: sources.count("shards")?,
        max_connections: sources.required("max-connections", Sources::count)?,
        header_timeout: sources.required("header-timeout", Sources::duration_or_off)?,
        drain_timeout: sources.required("drain-timeout", Sources::duration_or_off)?,
    })
}

fn redis(sources: &Sources) -> Result<RedisSettings, SettingsError> {
    Ok(RedisSettings {
        url: sources.parsed("redis")?,
        data: sources.directory("data")?,
        retention: sources.retention_rules("retention")?,
    })
}

fn streams(sources: &Sources) -> Result<StreamSettings, SettingsError> {
    Ok(StreamSettings {
        heartbeat: sources.duration_or_off("heartbeat")?,
        retry: sources.required("retry", Sources::duration_or_off)?,
        linger: sources.required("linger", Sources::duration_or_off)?,
        max_lifetime: sources.duration_or_off("max-lifetime")?,
        send_timeout: sources.required("send-timeout", Sources::duration_or_off)?,
        queue_frames: sources.required("queue-frames", Sources::count)?,
        queue_bytes: sources.required("queue-bytes", Sources::bytes)?,
        latest_only: sources.channel_patterns("latest-only")?,
        max_channels_per_stream: sources.required("max-channels-per-stream", Sources::count)?,
    })
}

fn limits(sources: &Sources, connections: usize) -> Result<LimitSettings, SettingsError> {
    Ok(LimitSettings {
        max_streams: sources.count("max-streams")?.unwrap_or(connections),
        max_streams_per_address: sources.count("max-streams-per-address")?,
        max_streams_per_user: sources.count("max-streams-per-user")?,
        max_publishes_per_address: sources.rate("max-publishes-per-address")?,
        max_publishes_per_user: sources.rate("max-publishes-per-user")?,
        max_failed_logins: sources.rate("max-failed-logins")?,
        memory_bytes: sources.bytes("memory")?,
        max_body_bytes: sources.required("max-body", Sources::bytes)?,
    })
}

fn log(sources: &Sources) -> Result<LogSettings, SettingsError> {
    Ok(LogSettings {
        filter: sources.required("log", Sources::parsed)?,
        format: sources.required("log-format", Sources::parsed)?,
    })
}

fn access(sources: &Sources) -> Result<AccessSettings, SettingsError> {
    Ok(AccessSettings {
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

fn check_access(access: &AccessSettings, open: bool) -> Result<(), SettingsError> {
    if open && access.has_rules() {
        return Err(SettingsError(
            "open = true: there are access rules too, and under rules nothing is open but what \
             they open: leave out open, or the rules (public, jwt-..., jwks, authorize-url)"
                .to_owned(),
        ));
    }
    let without_keys = [
        ("jwt-audience", access.jwt_audience.is_some()),
        ("jwt-issuer", access.jwt_issuer.is_some()),
        ("allow-subscribe", !access.allow_subscribe.is_empty()),
        ("allow-publish", !access.allow_publish.is_empty()),
    ];
    match without_keys.iter().find(|(_, given)| *given && !access.has_keys()) {
        Some((name, _)) => Err(SettingsError(format!(
            "{name}: it is about tokens, and no tokens are accepted: set jwt-secret-file, \
             jwt-public-key or jwks too"
        ))),
        None => Ok(()),
    }
}

/// A trusted proxy without a way to pass addresses, or a way without a trusted proxy, is a mistake.
fn check_proxies(listen: &ListenSettings) -> Result<(), SettingsError> {
    let has_way = listen.client_address_header.is_some() || listen.proxy_protocol;
    let has_trust = !listen.trusted_proxies.is_empty();
    let why = match (has_way, has_trust) {
        (true, false) => {
            "client-address-header and proxy-protocol count from trusted proxies only: say which \
             these are with --trusted-proxy"
        }
        (false, true) => {
            "trusted-proxy: it is not set how they report the client's address: set \
             --client-address-header X-Forwarded-For (or Forwarded, or X-Real-IP), \
             --proxy-protocol, or both"
        }
        _ => return Ok(()),
    };
    Err(SettingsError(why.to_owned()))
}

fn tls(sources: &Sources) -> Result<Option<TlsSettings>, SettingsError> {
    let files = certificate_files(sources.file("tls-cert")?, sources.file("tls-key")?)?;
    let acme = acme(sources)?;
    if files.is_some() && acme.is_some() {
        return Err(SettingsError(
            "tls-cert and acme-domain are both set: the certificate comes from its files, or \
             from the ACME server. Leave out one of the two"
                .to_owned(),
        ));
    }
    Ok(files.map(TlsSettings::Files).or(acme.map(TlsSettings::Acme)))
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
    Err(SettingsError(format!("{has} is set and {lacks} is not: TLS needs both")))
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
            "acme-server: it must begin with https://, since certificates are not fetched in the \
             clear"
        }
        (false, Some(_)) if server.has_query() => {
            "acme-server: the URL of an ACME server's directory has no query: leave out what \
             begins with `?`"
        }
        (false, Some(_)) if contact.as_deref().is_some_and(|it| !is_mail_address(it)) => {
            "acme-contact: it is no e-mail address: write one like ops@example.org"
        }
        (false, Some(directory)) => {
            return Ok(Some(AcmeSettings { domains, directory, contact, server }));
        }
        (true, None) if contact.is_none() => return Ok(None),
        (false, None) => {
            "acme-domain is set and acme-dir is not: set the directory of the certificate, so that \
             a restart need not ask for another"
        }
        (true, _) => {
            "acme-dir and acme-contact do nothing without acme-domain, the name that the \
             certificate is for"
        }
    };
    Err(SettingsError(why.to_owned()))
}

/// No more than what distinguishes an address from a typing error.
fn is_mail_address(text: &str) -> bool {
    let is_part = |part: &str| !part.is_empty() && !part.contains(['@', ' ', ',', ':', '?']);
    text.split_once('@').is_some_and(|(user, host)| is_part(user) && is_part(host))
}
