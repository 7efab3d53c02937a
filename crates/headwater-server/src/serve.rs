//! `headwater serve`: from checked settings to a running server, and to its end. Look here for start and stop.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use headwater::{Hub, MemoryBroker, RedisBroker, ServeCounts};
use redis::aio::ConnectionManager;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};

use crate::access::{Access, Tickets};
use crate::client::ClientLimits;
use crate::limits::{BODIES_BYTES_MAX, LISTEN_BACKLOG};
use crate::logging::LogFormat;
use crate::metrics::{MetricSources, Metrics};
use crate::routes::{self, App};
use crate::settings::Settings;
use crate::tls::{Tls, TlsSource};

/// Serves until a signal says stop.
pub(crate) async fn serve(settings: Settings) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let listener = bind("listen", settings.listen)?;
    let admin_listener = settings.admin.map(|admin| bind("admin", admin)).transpose()?;
    let tls = settings.tls.clone().map(Tls::load).transpose()?;
    let (hub, redis) = hub(&settings)?;
    let access = Access::load(&settings, hub.clone(), Tickets::new(redis)).await?;
    let limits = Arc::new(ClientLimits::new(&settings));
    let app = App {
        hub: hub.clone(),
        access: Arc::new(access),
        limits: Arc::clone(&limits),
        body_room: Arc::new(Semaphore::new(BODIES_BYTES_MAX.max(2 * settings.max_body_bytes))),
        settings: Arc::new(settings),
    };
    announce(&app, listener.local_addr()?, admin_listener.as_ref())?;

    let (stop, stopping) = watch::channel(false);
    let mut servers = tokio::task::JoinSet::new();
    let serve = |listener, router| {
        let mut stopping = stopping.clone();
        let settings = &app.settings;
        let server = headwater::serve(listener, router);
        let server = match settings.shards {
            Some(shards) => server.shards(shards),
            None => server,
        };
        server
            .connections_max(settings.max_connections)
            .header_timeout(settings.header_timeout)
            .send_timeout(settings.send_timeout)
            .with_graceful_shutdown(async move {
                // Fails only when the sender is gone, which means stop as well.
                let _ = stopping.wait_for(|stop| *stop).await;
            })
    };
    // The router is chosen below: it shows what the server counts.
    let counts = ServeCounts::default();
    let sources = MetricSources {
        hub: hub.clone(),
        has_redis: app.settings.redis.is_some(),
        limits,
        counts: counts.clone(),
        certificates: tls.as_ref().map(Tls::certificates),
    };
    let admin = routes::admin(app.clone(), Arc::new(Metrics::new(sources)));
    let public = routes::public(app.clone());
    let public = match admin_listener {
        Some(admin_listener) => {
            let admin = routes::with_client_address(routes::with_fallback(admin), &app.settings);
            servers.spawn(serve(admin_listener, admin).into_future());
            public
        }
        None if app.settings.is_local() => public.merge(admin),
        None => public,
    };
    let public = routes::with_client_address(routes::with_fallback(public), &app.settings);
    let mut server = serve(listener, public).with_counts(counts);
    if app.settings.proxy_protocol {
        let proxies = app.settings.trusted_proxies.clone();
        server = server.proxy_protocol(move |peer| proxies.contains(peer));
    }
    if let Some(tls) = tls {
        server = server.tls(tls.config()?);
        // Ends with the runtime.
        tokio::spawn(tls.keep_current(signal(SignalKind::hangup())?));
    }
    servers.spawn(server.into_future());

    signals.next().await;
    let streams = hub.streams();
    tracing::info!(streams, "stopping: streams are ended, no new ones are taken");
    hub.drain();
    stop.send_replace(true);
    let drain_timeout = app.settings.drain_timeout;
    tokio::select! {
        () = ended(servers) => Ok(()),
        () = signals.next() => anyhow::bail!("stopped at once by a second signal"),
        () = tokio::time::sleep(drain_timeout) => cut_off(&hub, drain_timeout),
    }
}

async fn ended(mut servers: tokio::task::JoinSet<io::Result<()>>) {
    while servers.join_next().await.is_some() {}
    tracing::info!("stopped");
}

/// The drain time is over. That it is bounded is what was asked for, so it is no failure.
#[expect(clippy::unnecessary_wraps, reason = "an arm beside others that fail")]
fn cut_off(hub: &Hub, drain_timeout: Duration) -> anyhow::Result<()> {
    let streams = hub.streams();
    tracing::warn!(
        streams,
        "stopped: connections that did not end within {drain_timeout:?} are cut"
    );
    Ok(())
}

/// The hub, and the connection for commands if there is Redis.
fn hub(settings: &Settings) -> anyhow::Result<(Hub, Option<ConnectionManager>)> {
    let builder = Hub::builder()
        .linger(settings.linger)
        .queue_frames_max(settings.queue_frames)
        .queue_bytes_max(settings.queue_bytes)
        .latest_only(settings.latest_only.clone())
        .channels_per_stream_max(settings.max_channels_per_stream);
    let Some(url) = &settings.redis else {
        let broker = match &settings.data {
            Some(directory) => MemoryBroker::open(directory, settings.retention.clone())?,
            None => MemoryBroker::with_retention(settings.retention.clone()),
        };
        return Ok((builder.build(broker), None));
    };
    let mut broker = RedisBroker::connect(url.expose())?.with_retention(settings.retention.clone());
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
        // A restart must not wait for connections of the last run to time out.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(LISTEN_BACKLOG.unsigned_abs())
    };
    listen().with_context(|| {
        format!("cannot listen on {address}: stop the program that does, or choose another address with --{setting}")
    })
}

/// Says where everything is: to people in a few lines, to programs as a log line.
fn announce(
    app: &App,
    listen: SocketAddr,
    admin_listener: Option<&TcpListener>,
) -> anyhow::Result<()> {
    let broker = if app.settings.redis.is_some() { "redis" } else { "memory" };
    let admin = admin_listener.map(TcpListener::local_addr).transpose()?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        %listen,
        admin = admin.map(tracing::field::display),
        broker,
        access = if app.access.is_open() { "open" } else { "rules" },
        "serving"
    );
    if app.settings.log_format == LogFormat::Json {
        return Ok(());
    }
    let base = match &app.settings.tls {
        // The certificate is for this name, whose port 443 leads here.
        Some(TlsSource::Acme(acme)) => format!("https://{}", acme.domains[0]),
        Some(TlsSource::Files(_)) => format!("https://{}", reachable(listen)),
        None => format!("http://{}", reachable(listen)),
    };
    let mut text = format!(
        "\nHeadwater {} is running.\n\n  Demo page  {base}/sse/demo\n  Listen     curl -N '{base}/sse/stream?channel=news'\n  Publish    curl --data-binary 'hello' '{base}/sse/publish?channel=news'\n",
        env!("CARGO_PKG_VERSION")
    );
    if app.settings.redis.is_some() {
        text += "             redis-cli PUBLISH news hello\n";
    }
    if let Some(admin) = admin {
        text += &format!("  Health     http://{admin}/health/ready\n");
    }
    text += if !app.access.is_open() {
        "\nAccess rules: nobody may listen or publish but whom they let.\n"
    } else if app.settings.is_local() {
        "\nOpen: there are no access rules. Only this machine can reach it, and every program on it may listen and publish.\n"
    } else {
        "\nOpen: everybody who can reach this address may listen and publish.\n"
    };
    text += "Ctrl-C stops it.\n";
    // Nobody may be reading.
    let _ = writeln!(io::stdout(), "{text}");
    Ok(())
}

/// The address as one would type it into a browser on this machine.
fn reachable(listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        return format!("localhost:{}", listen.port());
    }
    listen.to_string()
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt })
    }

    /// Waits for the next one. Cancel safe.
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
