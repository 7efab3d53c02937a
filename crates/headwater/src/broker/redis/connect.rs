//! Opening the subscriber's connection: TCP, TLS or a unix socket, then HELLO. Look here for what can
//! go wrong on the way, and what the log says about it.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ::redis::{ConnectionAddr, ConnectionInfo};
use bytes::{Buf, BytesMut};
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::resp::{self, Parsed, Value};
use crate::error::{Error, ErrorKind};
use crate::limits::REDIS_RESPONSE_TIMEOUT;

/// The name of the connection in Redis' `CLIENT LIST`.
const CLIENT_NAME: &[u8] = b"headwater-subscriber";

/// A dead peer is noticed by the kernel after about 30 s, should the probe not notice it first.
const KEEPALIVE: TcpKeepalive = TcpKeepalive::new()
    .with_time(Duration::from_secs(15))
    .with_interval(Duration::from_secs(5))
    .with_retries(3);

/// A connection to Redis, whatever carries it.
pub(super) trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}

/// Where Redis is, and as whom to log in.
#[derive(Clone)]
pub(super) struct Address {
    target: Target,
    user: Option<String>,
    password: Option<String>,
}

#[derive(Clone)]
enum Target {
    Tcp { host: String, port: u16 },
    Tls { host: String, port: u16, connector: Arc<TlsConnector>, name: ServerName<'static> },
    Unix(PathBuf),
}

impl Address {
    pub(super) fn new(info: &ConnectionInfo) -> Result<Self, Error> {
        let target = match info.addr() {
            ConnectionAddr::Tcp(host, port) => Target::Tcp { host: host.clone(), port: *port },
            ConnectionAddr::TcpTls { host, port, insecure: false, .. } => Target::Tls {
                host: host.clone(),
                port: *port,
                connector: Arc::new(tls_connector()?),
                name: ServerName::try_from(host.clone()).map_err(|error| {
                    Error::invalid(format!("the Redis URL's host {host:?} is no name for TLS"))
                        .with_source(error)
                })?,
            },
            ConnectionAddr::Unix(path) => Target::Unix(path.clone()),
            _ => {
                return Err(Error::invalid(
                    "the Redis URL asks for TLS without checking the certificate: leave out #insecure and install the authority's certificate in the system",
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
    pub(super) async fn open(&self) -> Result<Box<dyn Connection>, Error> {
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
                format!("no answer within {REDIS_RESPONSE_TIMEOUT:?}"),
            ))
        })
    }

    async fn dial(&self) -> io::Result<Box<dyn Connection>> {
        match &self.target {
            Target::Tcp { host, port } => Ok(Box::new(dial_tcp(host, *port).await?)),
            Target::Tls { host, port, connector, name } => {
                let tcp = dial_tcp(host, *port).await?;
                Ok(Box::new(connector.connect(name.clone(), tcp).await?))
            }
            Target::Unix(path) => Ok(Box::new(UnixStream::connect(path).await?)),
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

fn tls_connector() -> Result<TlsConnector, Error> {
    let mut roots = rustls::RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::invalid("TLS cannot be set up").with_source(error))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Whether an error's code is about who we are, not about how Redis is.
pub(super) fn is_refusal(code: &str) -> bool {
    matches!(code, "WRONGPASS" | "NOAUTH" | "NOPERM")
}

fn check_hello(answer: &Value<'_>) -> Result<(), Error> {
    let Value::Error(message) = answer else { return Ok(()) };
    let message = String::from_utf8_lossy(message);
    let code = message.split(' ').next().unwrap_or_default();
    if is_refusal(code) || message.contains("without any password configured") {
        return Err(Error::new(
            ErrorKind::PermissionDenied,
            format!("it refuses the user or password of the Redis URL ({message})"),
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
            Target::Tls { host, port, .. } => write!(f, "{host}:{port} (TLS)"),
            Target::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Without the password.
impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}
