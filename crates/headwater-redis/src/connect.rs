//! Opens the subscriber connection: TCP, TLS or a Unix socket, then HELLO. Look here for why a
//! connection attempt fails, and for the message that is logged then.

use std::fmt;
use std::io;
#[cfg(unix)]
use std::path::PathBuf;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use headwater_core::{Error, ErrorKind};
use redis::{ConnectionAddr, ConnectionInfo};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::errors::is_denial;
use crate::limits::REDIS_RESPONSE_TIMEOUT;
use crate::resp::{self, Parsed, Value};

/// The name of the connection in Redis' `CLIENT LIST`.
const CLIENT_NAME: &[u8] = b"headwater-subscriber";

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
    pub(crate) fn new(info: &ConnectionInfo) -> Result<Self, Error> {
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
        })
    }

    /// Connects and logs in, within the response timeout.
    pub(crate) async fn open(&self) -> Result<Box<dyn Connection>, Error> {
        let attempt = async {
            let mut connection = self.dial().await.map_err(|error| {
                Error::new(ErrorKind::Unavailable, format!("cannot connect: {error}"))
            })?;
            self.hello(&mut connection).await?;
            Ok(connection)
        };
        tokio::time::timeout(REDIS_RESPONSE_TIMEOUT, attempt).await.unwrap_or_else(|_| {
            Err(Error::new(
                ErrorKind::Unavailable,
                format!("no answer within {} s", REDIS_RESPONSE_TIMEOUT.as_secs()),
            ))
        })
    }

    async fn dial(&self) -> io::Result<Box<dyn Connection>> {
        match &self.target {
            Target::Tcp { host, port } => Ok(Box::new(dial_tcp(host, *port).await?)),
            #[cfg(feature = "tls")]
            Target::Tls(tls) => Ok(Box::new(tls.connect().await?)),
            #[cfg(unix)]
            Target::Unix(path) => Ok(Box::new(tokio::net::UnixStream::connect(path).await?)),
        }
    }

    async fn hello(&self, connection: &mut Box<dyn Connection>) -> Result<(), Error> {
        let mut words: Vec<&[u8]> = vec![b"HELLO", b"3"];
        if let Some(password) = &self.password {
            let user = self.user.as_deref().unwrap_or("default");
            words.extend([b"AUTH".as_slice(), user.as_bytes(), password.as_bytes()]);
        }
        words.extend([b"SETNAME".as_slice(), CLIENT_NAME]);
        let mut command = BytesMut::new();
        resp::encode_command(words, &mut command);
        let lost = |error: io::Error| {
            Error::new(ErrorKind::Unavailable, format!("the connection was lost: {error}"))
        };
        connection.write_all(&command).await.map_err(lost)?;
        connection.flush().await.map_err(lost)?;
        let mut answer = BytesMut::new();
        loop {
            if let Parsed::Value(value, length) = resp::parse(&answer)? {
                check_hello(&value)?;
                answer.advance(length);
                return Ok(());
            }
            if connection.read_buf(&mut answer).await.map_err(lost)? == 0 {
                return Err(lost(io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }
}

async fn dial_tcp(host: &str, port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect((host, port)).await?;
    stream.set_nodelay(true)?;
    SockRef::from(&stream).set_tcp_keepalive(&KEEPALIVE)?;
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

    async fn connect(&self) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let tcp = dial_tcp(&self.host, self.port).await?;
        self.connector.connect(self.name.clone(), tcp).await
    }
}

fn check_hello(answer: &Value<'_>) -> Result<(), Error> {
    let Value::Error(message) = answer else { return Ok(()) };
    let message = String::from_utf8_lossy(message);
    let code = message.split(' ').next().unwrap_or_default();
    if is_denial(code) || message.contains("without any password configured") {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("it rejects the user or password of the Redis URL ({message})"),
        ));
    }
    if message.contains("unknown command") {
        return Err(Error::new(
            ErrorKind::Protocol,
            "it is too old: Redis 6.2 or newer is needed, for HELLO",
        ));
    }
    Err(Error::new(ErrorKind::Unavailable, format!("it is not ready ({message})")))
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
