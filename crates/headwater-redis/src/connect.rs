//! Opens connections: the name is resolved, then TCP, TLS or a Unix socket, then HELLO. Look here
//! for why a connection attempt fails, and for the pace of attempts.

use std::fmt;
use std::io;
#[cfg(unix)]
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use headwater_core::{Error, ErrorKind};
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::errors::login_error;
use crate::limits::{RECONNECT_WAIT_MAX, RECONNECT_WAIT_MIN, REDIS_RESPONSE_TIMEOUT};
use crate::resp::{self, Parsed, Value};

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Pub/Sub messages, in RESP3.
    Subscriber,
    /// Commands and their answers, in RESP2.
    Commands,
}

impl Purpose {
    /// The name of the connection in Redis' `CLIENT LIST`.
    fn client_name(self) -> &'static [u8] {
        match self {
            Self::Subscriber => b"headwater-subscriber",
            Self::Commands => b"headwater-commands",
        }
    }

    fn protocol(self) -> &'static [u8] {
        match self {
            Self::Subscriber => b"3",
            Self::Commands => b"2",
        }
    }
}

/// How long the kernel waits for the peer to acknowledge what was sent.
#[cfg(any(target_os = "linux", target_os = "android"))]
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);

/// The kernel detects a dead peer after about 30 s, unless the probe detects it first.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(15))
    .with_interval(Duration::from_secs(5))
    .with_retries(3);

/// A connection to Redis, over any transport.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// The address of Redis, and the credentials.
#[derive(Clone)]
pub(crate) struct Address {
    target: Target,
    user: Option<String>,
    password: Option<String>,
    database: i64,
}

#[derive(Clone)]
enum Target {
    Tcp {
        host: String,
        port: u16,
    },
    #[cfg(feature = "tls")]
    Tls(Tls),
    #[cfg(unix)]
    Unix(PathBuf),
}

impl Address {
    /// Parses a URL; [`RedisBroker::connect`](crate::RedisBroker::connect) has its forms.
    pub(crate) fn parse(url: &str) -> Result<Self, Error> {
        let info = url.into_connection_info().map_err(|error| {
            // The URL may contain a password, so it is not repeated.
            Error::invalid(
                "the Redis URL is invalid: write redis://[user][:password@]host[:port][/db], \
                 rediss://... for TLS, or unix:///path",
            )
            .with_source(error)
        })?;
        Self::new(&info)
    }

    fn new(info: &ConnectionInfo) -> Result<Self, Error> {
        let target = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Target::Tcp { host: host.clone(), port: *port },
            #[cfg(feature = "tls")]
            ConnectionAddr::TcpTls { host, port, insecure: false, .. } => {
                Target::Tls(Tls::new(host, *port)?)
            }
            #[cfg(not(feature = "tls"))]
            ConnectionAddr::TcpTls { .. } => {
                return Err(Error::invalid(
                    "rediss:// needs the feature `redis-tls` of the crate headwater",
                ));
            }
            #[cfg(unix)]
            ConnectionAddr::Unix(path) => Target::Unix(path.clone()),
            #[cfg(not(unix))]
            ConnectionAddr::Unix(_) => {
                return Err(Error::invalid("this system has no Unix sockets: use redis://"));
            }
            _ => {
                return Err(Error::invalid(
                    "the Redis URL requests TLS without certificate verification: remove #insecure \
                     and install the authority's certificate in the system",
                ));
            }
        };
        let login = info.redis_settings();
        Ok(Self {
            target,
            user: login.username().map(Into::into),
            password: login.password().map(Into::into),
            database: login.db(),
        })
    }

    /// The database that commands use.
    pub(crate) fn database(&self) -> i64 {
        self.database
    }

    /// Opens a connection for the subscriber, within the response timeout.
    pub(crate) async fn open(&self) -> Result<Box<dyn Connection>, Error> {
        self.open_for(Purpose::Subscriber, REDIS_RESPONSE_TIMEOUT).await
    }

    /// Resolves the name, connects and logs in, within a timeout.
    pub(crate) async fn open_for(
        &self,
        purpose: Purpose,
        timeout: Duration,
    ) -> Result<Box<dyn Connection>, Error> {
        let attempt = async {
            let mut connection = self.dial(timeout).await.map_err(|error| {
                Error::new(ErrorKind::Unavailable, format!("cannot connect: {error}"))
            })?;
            self.log_in(&mut connection, purpose).await?;
            Ok(connection)
        };
        tokio::time::timeout(timeout, attempt).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", timeout.as_secs_f32());
            Err(Error::new(ErrorKind::Unavailable, message).with_reason("timeout"))
        })
    }

    async fn dial(&self, timeout: Duration) -> io::Result<Box<dyn Connection>> {
        match &self.target {
            Target::Tcp { host, port } => Ok(Box::new(dial_tcp(host, *port, timeout).await?)),
            #[cfg(feature = "tls")]
            Target::Tls(tls) => Ok(Box::new(tls.connect(timeout).await?)),
            #[cfg(unix)]
            Target::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
        }
    }

    async fn log_in(
        &self,
        connection: &mut Box<dyn Connection>,
        purpose: Purpose,
    ) -> Result<(), Error> {
        let mut words: Vec<&[u8]> = vec![b"HELLO", purpose.protocol()];
        if let Some(password) = &self.password {
            let user = self.user.as_deref().unwrap_or("default");
            words.extend([b"AUTH".as_slice(), user.as_bytes(), password.as_bytes()]);
        }
        words.extend([b"SETNAME".as_slice(), purpose.client_name()]);
        let (mut commands, mut answers_left) = (BytesMut::new(), 1);
        resp::encode_command(words, &mut commands);
        if purpose == Purpose::Commands && self.database != 0 {
            let database = self.database.to_string();
            resp::encode_command([b"SELECT".as_slice(), database.as_bytes()], &mut commands);
            answers_left += 1;
        }
        let lost = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, format!("the connection was lost: {error}"))
        };
        connection.write_all(&commands).await.map_err(lost)?;
        connection.flush().await.map_err(lost)?;
        let mut input = BytesMut::new();
        while answers_left > 0 {
            if let Parsed::Value(value, length) = resp::parse(&input)? {
                if let Value::Error(answer) = value {
                    return Err(login_error(answer));
                }
                input.advance(length);
                answers_left -= 1;
            } else if connection.read_buf(&mut input).await.map_err(lost)? == 0 {
                return Err(lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        Ok(())
    }
}

/// The wait before the next attempt to connect: exponential backoff with full jitter.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    pub(crate) fn next_wait(&mut self) -> Duration {
        let longest = RECONNECT_WAIT_MIN.saturating_mul(1 << self.failures.min(16));
        self.failures += 1;
        longest.min(RECONNECT_WAIT_MAX).mul_f64(fastrand::f64())
    }
}

/// Resolves the name, and tries its addresses in turn. An address that does not answer leaves time
/// for the others.
async fn dial_tcp(host: &str, port: u16, timeout: Duration) -> io::Result<TcpStream> {
    let deadline = Instant::now() + timeout;
    let addresses: Vec<_> = tokio::net::lookup_host((host, port)).await?.collect();
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (at, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - at).unwrap_or(u32::MAX);
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        match tokio::time::timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return set_options(stream),
            Ok(Err(error)) => failure = error,
            Err(_) => failure = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(failure)
}

fn set_options(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&KEEPALIVE)?;
    #[cfg(any(target_os = "linux", target_os = "android"))]
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))?;
    Ok(stream)
}

/// The target of a TLS connection.
#[cfg(feature = "tls")]
#[derive(Clone)]
struct Tls {
    host: String,
    port: u16,
    name: rustls::pki_types::ServerName<'static>,
    connector: tokio_rustls::TlsConnector,
}

#[cfg(feature = "tls")]
impl Tls {
    /// Uses the program's crypto provider and the system's certificates.
    fn new(host: &str, port: u16) -> Result<Self, Error> {
        use std::sync::Arc;

        let name = rustls::pki_types::ServerName::try_from(host.to_owned()).map_err(|error| {
            Error::invalid(format!("the host {host} of the Redis URL is no valid certificate name"))
                .with_source(error)
        })?;
        // Without a provider, both this connection and the one for commands would panic.
        let provider = rustls::crypto::CryptoProvider::get_default().ok_or_else(|| {
            Error::invalid(
                "rediss:// needs a crypto provider of rustls: call `install_default` on one, such \
                 as `rustls::crypto::ring::default_provider()`, before connecting to Redis",
            )
        })?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        let config = rustls::ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| Error::invalid("TLS cannot be set up").with_source(error))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { host: host.to_owned(), port, name, connector: Arc::new(config).into() })
    }

    async fn connect(
        &self,
        timeout: Duration,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let tcp = dial_tcp(&self.host, self.port, timeout).await?;
        self.connector.connect(self.name.clone(), tcp).await
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            Target::Tcp { host, port } => write!(f, "{host}:{port}"),
            #[cfg(feature = "tls")]
            Target::Tls(tls) => write!(f, "{}:{} (TLS)", tls.host, tls.port),
            #[cfg(unix)]
            Target::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Omits the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_between_attempts_are_bounded() {
        let mut backoff = Backoff::default();
        for count in 0..100 {
            let wait = backoff.next_wait();
            let longest = RECONNECT_WAIT_MIN * (1 << count.min(20));
            assert!(wait <= RECONNECT_WAIT_MAX && wait <= longest);
        }
    }
}
