//! The composition root of `headwater serve`: from checked settings to a running server, and to its
//! end. The only part that sees all settings. Look here for start and stop.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use headwater::broker::{BrokerStatus, MemoryBroker};
use headwater::budget::{Budget, Share};
use headwater::redis::RedisConnection;
use headwater::serve::ServeCounts;
use headwater::{Channel, Hub, RedisBroker};
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::access::{Access, OpenAccess, Tickets, for_hosts_of_this_machine};
use crate::app::{App, for_this_machine, with_client_address};
use crate::banner::{AccessFacts, Banner, CHANNEL, RedisFacts, token_command};
use crate::limits::{BANNER_LOOK_INTERVAL, BANNER_REDIS_TIMEOUT, LISTEN_BACKLOG};
use crate::metrics::{MetricSources, Metrics};
use crate::printable::printable;
use crate::risks::{self, Finding};
use crate::router;
use crate::settings::{
    AccessSettings, LogFormat, ReadyPart, SecretPlaces, Settings, TlsSettings, show_duration,
};
use crate::signals::{Reloads, Stops};
use crate::tls::Tls;

/// Serves until a signal stops it.
pub(crate) async fn serve(settings: Settings, places: SecretPlaces) -> anyhow::Result<()> {
    let mut stops = Stops::new()?;
    let reloads = Reloads::new()?;
    let listen = &settings.listen;
    let listener = bind("listen", listen.address)?;
    let admin_listener = listen.admin.map(|admin| bind("admin", admin)).transpose()?;
    let tls = settings.tls.clone().map(Tls::load).transpose()?;
    let (hub, redis) = hub(&settings)?;
    let open = OpenAccess {
        is_local: settings.is_local(),
        is_admin_reachable: settings.is_admin_reachable(),
        cors_origins: settings.access.cors_origins.clone(),
    };
    let tickets = Tickets::new(redis, hub.budget().account(Share::Tickets).clone());
    let access = Access::load(&settings.access, open, hub.clone(), tickets).await?;
    let broker_name = if settings.redis.url.is_some() { "redis" } else { "memory" };
    let app = App::new(
        hub.clone(),
        access,
        &settings.streams,
        &settings.limits,
        broker_name,
        listen.ready_requires.clone(),
    );
    let admin_address = admin_listener.as_ref().map(TcpListener::local_addr).transpose()?;
    log_start(&settings, &app, listener.local_addr()?, admin_address);
    log_risks(&settings, &places);
    if settings.log.format == LogFormat::Text {
        let banner = banner(&settings, listener.local_addr()?, admin_address);
        // Ends with the runtime, as does what follows signals below.
        tokio::spawn(print_banner(banner, hub.clone()));
    }

    let (stop, stopping) = watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    let serve = |listener, router| {
        let mut stopping = stopping.clone();
        let server = headwater::serve(listener, router);
        let server = match listen.shards {
            Some(shards) => server.shards(shards),
            None => server,
        };
        server
            .connections_max(listen.max_connections)
            .header_timeout(listen.header_timeout)
            .send_timeout(settings.streams.send_timeout)
            .with_budget(hub.budget())
            .with_graceful_shutdown(async move {
                // Fails only when the sender is gone, which means stop as well.
                let _ = stopping.wait_for(|stop| *stop).await;
            })
    };
    // The router is chosen below: it shows what the server counts.
    let counts = ServeCounts::default();
    let sources = MetricSources {
        app: app.clone(),
        has_redis: settings.redis.url.is_some(),
        counts: counts.clone(),
        certificates: tls.as_ref().map(Tls::certificates),
    };
    let admin = router::admin(app.clone(), Arc::new(Metrics::new(sources)));
    let public = router::public(app.clone(), &settings.access.cors_origins);
    let public = match admin_listener {
        Some(admin_listener) => {
            let is_local = !settings.is_admin_reachable();
            let admin = with_own_hosts(router::with_fallback(admin), &settings, is_local);
            let admin = with_client_address(admin, listen);
            servers.spawn(serve(admin_listener, admin).into_future());
            public
        }
        None if settings.serves_admin() => {
            public.merge(for_this_machine(admin, &listen.allowed_hosts))
        }
        None => public,
    };
    let public = with_own_hosts(router::with_fallback(public), &settings, settings.is_local());
    let public = with_client_address(public, listen);
    let proxies = listen.trusted_proxies.clone();
    let mut server = serve(listener, public)
        .with_counts(counts)
        .shared_addresses(move |peer| proxies.contains(peer));
    if listen.proxy_protocol {
        let proxies = listen.trusted_proxies.clone();
        server = server.proxy_protocol(move |peer| proxies.contains(peer));
    }
    match tls {
        Some(tls) => {
            server = server.tls(tls.config()?);
            tokio::spawn(tls.keep_current(reloads));
        }
        None => {
            tokio::spawn(report_reloads(reloads));
        }
    }
    servers.spawn(server.into_future());

    stops.next().await;
    let streams = hub.streams();
    tracing::info!(streams, "shutting down: draining streams");
    hub.drain();
    stop.send_replace(true);
    let drain_timeout = listen.drain_timeout;
    tokio::select! {
        () = ended(servers) => Ok(()),
        () = stops.next() => anyhow::bail!("stopped at once by a second signal"),
        () = tokio::time::sleep(drain_timeout) => cut_off(&hub, drain_timeout),
    }
}

/// Where there are no rules, only names of this machine lead to an address that is only its own.
fn with_own_hosts(router: Router, settings: &Settings, is_local: bool) -> Router {
    if settings.access.has_rules() || !is_local {
        return router;
    }
    for_hosts_of_this_machine(router, &settings.listen.allowed_hosts)
}

async fn ended(mut servers: tokio::task::JoinSet<io::Result<()>>) {
    while servers.join_next().await.is_some() {}
    tracing::info!("stopped");
}

/// The drain time is over. It is bounded on purpose, so this is not a failure.
#[expect(clippy::unnecessary_wraps, reason = "an arm beside others that fail")]
fn cut_off(hub: &Hub, drain_timeout: Duration) -> anyhow::Result<()> {
    let streams = hub.streams();
    tracing::warn!(
        streams,
        "stopped: connections that did not end within {} are cut",
        show_duration(drain_timeout)
    );
    Ok(())
}

/// The hub, and the connection for commands if there is Redis.
fn hub(settings: &Settings) -> anyhow::Result<(Hub, Option<RedisConnection>)> {
    let streams = &settings.streams;
    let budget = settings.limits.memory_bytes.map_or_else(Budget::default, Budget::new);
    let builder = Hub::builder()
        .budget(&budget)
        .linger(streams.linger)
        .queue_frames_max(streams.queue_frames)
        .queue_bytes_max(streams.queue_bytes)
        .latest_only(streams.latest_only.clone())
        .channels_per_stream_max(streams.max_channels_per_stream);
    let Some(url) = &settings.redis.url else {
        let rules = settings.redis.retention.clone();
        let broker = match &settings.redis.data {
            Some(directory) => MemoryBroker::open_with_budget(directory, rules, &budget)?,
            None => MemoryBroker::with_budget(rules, &budget),
        };
        return Ok((builder.build(broker), None));
    };
    let mut broker =
        RedisBroker::connect(url.expose())?.with_retention(settings.redis.retention.clone());
    if let Some(patterns) = settings.access.plain_channels() {
        broker = broker.with_redis_channels(patterns);
    }
    let commands = broker.connection();
    Ok((builder.build(broker), Some(commands)))
}

fn bind(setting: &str, address: SocketAddr) -> anyhow::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let listen = || {
        let socket = socket?;
        // A restart must not wait for connections of the last run to time out. On Windows it would
        // let two servers share the port.
        #[cfg(not(windows))]
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(LISTEN_BACKLOG.unsigned_abs())
    };
    listen().with_context(|| {
        format!(
            "cannot listen on {address}: stop the program that does, or choose another address \
             with --{setting}"
        )
    })
}

/// Logs the addresses, and what may behave unexpectedly.
fn log_start(settings: &Settings, app: &App, listen: SocketAddr, admin: Option<SocketAddr>) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        %listen,
        admin = admin.map(tracing::field::display),
        broker = app.broker_name,
        access = if app.access.is_open() { "open" } else { "rules" },
        "serving"
    );
    if settings.redis.url.is_some() && settings.access.silences_plain_publish() {
        tracing::warn!(
            "plain PUBLISH messages are not delivered: access rules are set and redis-channels is \
             not"
        );
    }
}

/// Logs what may harm, so that it is known without `headwater check`.
fn log_risks(settings: &Settings, places: &SecretPlaces) {
    for finding in risks::find(settings, places) {
        if let Finding::Risk(risk) = finding {
            tracing::warn!("{risk}");
        }
    }
}

/// Prints the banner, once it is known whether Redis works.
async fn print_banner(mut banner: Banner, hub: Hub) {
    if let Some(redis) = &mut banner.redis
        && timeout(BANNER_REDIS_TIMEOUT, ready(&hub)).await.is_err()
    {
        redis.failure = redis_failure(&hub.status());
    }
    // stdout may be closed.
    let _ = writeln!(io::stdout(), "{}", banner.text());
}

/// What is wrong with Redis, as the banner shows it.
fn redis_failure(status: &BrokerStatus) -> Option<String> {
    if !status.delivers.is_ok() {
        return Some("is unreachable".into());
    }
    let failed = |part: ReadyPart| {
        Some(format!("fails ({part}: {})", printable(part.of(status).failure()?)))
    };
    ReadyPart::ALL.into_iter().find_map(failed)
}

async fn ready(hub: &Hub) {
    let mut looks = tokio::time::interval(BANNER_LOOK_INTERVAL);
    while !hub.status().is_ready() {
        looks.tick().await;
    }
}

fn banner(settings: &Settings, listen: SocketAddr, admin: Option<SocketAddr>) -> Banner {
    let base = match &settings.tls {
        // The certificate is for this name, whose port 443 leads here.
        Some(TlsSettings::Acme(acme)) => format!("https://{}", acme.domains[0]),
        Some(TlsSettings::Files(_)) => format!("https://{}", reachable(listen)),
        None => format!("http://{}", reachable(listen)),
    };
    let access = &settings.access;
    let channel = Channel::new(CHANNEL);
    let is_for_channel = |test: &dyn Fn(&Channel) -> bool| channel.as_ref().is_ok_and(test);
    let redis = settings.redis.url.as_ref().map(|url| RedisFacts {
        shown: url.to_string(),
        command: url.cli_command().to_owned(),
        failure: None,
        delivers_plain: is_for_channel(&|channel| access.delivers_plain(channel)),
    });
    let access = if access.has_rules() {
        AccessFacts::Rules {
            is_public: is_for_channel(&|channel| access.is_public(channel)),
            token_command: token_command_for(access),
        }
    } else {
        AccessFacts::Open { is_local: settings.is_local() }
    };
    Banner { base, admin, redis, access, is_behind_proxy: settings.listen.proxy_protocol }
}

/// Only where `headwater token` finds the secret: in its file, or in this environment.
fn token_command_for(access: &AccessSettings) -> Option<String> {
    let file = access.jwt_secret_file.as_deref().map(std::path::absolute);
    let file = file.transpose().ok()?;
    let in_environment = || {
        let secret = access.jwt_secret.as_ref()?;
        std::env::var("HEADWATER_JWT_SECRET").ok().filter(|it| it == secret.expose())
    };
    if file.is_none() {
        in_environment()?;
    }
    let (audience, issuer) = (access.jwt_audience.as_deref(), access.jwt_issuer.as_deref());
    Some(token_command(file.as_deref(), audience, issuer))
}

/// SIGHUP without certificates: the server continues.
async fn report_reloads(mut reloads: Reloads) {
    loop {
        reloads.next().await;
        tracing::info!(
            "nothing to reload: there is no certificate, and other settings are read at start"
        );
    }
}

/// The address as one would type it into a browser on this machine.
fn reachable(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        return format!("localhost:{}", listen.port());
    }
    listen.to_string()
}
