//! TLS for tests: certificate files, a node that serves them, a client that trusts them.

use std::fs;
use std::io;
use std::net::SocketAddr;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::node::Node;
use crate::secrets;
use crate::wait::PATIENCE;

/// A certificate and a private key in files.
pub struct Files {
    directory: TempDir,
    /// The certificate, to compare with what a server presents.
    pub certificate: CertificateDer<'static>,
}

impl Default for Files {
    fn default() -> Self {
        Self::new()
    }
}

impl Files {
    /// Creates the files in a temporary directory, which is removed on drop.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut files = Self { directory, certificate: CertificateDer::from(Vec::new()) };
        files.renew();
        files
    }

    /// The path of the certificate.
    pub fn certificate_path(&self) -> PathBuf {
        self.directory.path().join("fullchain.pem")
    }

    /// The path of the key.
    pub fn key_path(&self) -> PathBuf {
        self.directory.path().join("privkey.pem")
    }

    /// Writes a new long-lived certificate with a new key.
    pub fn renew(&mut self) {
        self.write(&parameters());
    }

    /// Writes a new certificate with a new key that expires at a given time.
    pub fn renew_until(&mut self, expires: SystemTime) {
        let mut parameters = parameters();
        let since_1970 = expires.duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let expires = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(since_1970);
        parameters.not_after = expires;
        self.write(&parameters);
    }

    fn write(&mut self, parameters: &CertificateParams) {
        let key_pair = KeyPair::generate().expect("a key");
        let certificate = parameters.self_signed(&key_pair).expect("a certificate");
        write_private(&self.certificate_path(), &certificate.pem());
        let key = key_pair.serialize_pem();
        // The second line of the base64: the first is the same in all keys.
        secrets::keep(key.lines().nth(2).expect("a key of some length"));
        write_private(&self.key_path(), &key);
        self.certificate = certificate.der().clone();
    }

    /// The key as PEM.
    pub fn key_text(&self) -> String {
        fs::read_to_string(self.key_path()).expect("the key")
    }

    /// Starts a node that serves these files, with an admin listener without TLS. It is open unless
    /// the arguments have rules.
    pub fn start(&self, binary: &str, arguments: &[&str]) -> Node {
        let (certificate, key) = (self.certificate_path(), self.key_path());
        let files = [certificate, key].map(|path| path.to_str().expect("UTF-8").to_owned());
        let tls = ["--tls-cert", &files[0], "--tls-key", &files[1], "--admin", "127.0.0.1:0"];
        let is_rule = |it: &&str| it.starts_with("--jw") || it.starts_with("--public");
        let open = if arguments.iter().any(is_rule) { &[][..] } else { &["--open"] };
        Node::start(binary, &[&tls, arguments, open].concat())
    }

    /// A client configuration that trusts the certificate.
    pub fn client(&self, alpn: &[&str]) -> ClientConfig {
        self.client_of_versions(alpn, rustls::DEFAULT_VERSIONS)
    }

    /// Like [`client`](Self::client), limited to some TLS versions.
    pub fn client_of_versions(
        &self,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        client_of(self.certificate.clone(), alpn, versions)
    }
}

/// A client configuration that trusts a certificate and offers these ALPN protocols and TLS
/// versions.
pub fn client_of(
    trusted: CertificateDer<'static>,
    alpn: &[&str],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(trusted).expect("a certificate");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    config
}

fn parameters() -> CertificateParams {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    CertificateParams::new(names).expect("names")
}

/// Writes a file that only its owner can read; on systems without Unix permissions, a plain file.
pub fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("the file is written");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its permissions");
    }
}

/// The client side of a TLS connection.
pub type Socket = TlsStream<TcpStream>;

/// Connects and performs the handshake.
pub async fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Socket {
    let socket = TcpStream::connect(address).await.expect("the server listens");
    shake_hands(socket, config).await
}

/// Performs the handshake on an open socket.
pub async fn shake_hands(socket: TcpStream, config: &Arc<ClientConfig>) -> Socket {
    try_shake_hands(socket, config, "localhost").await.expect("a handshake")
}

/// Performs the handshake for a server name; it may fail.
///
/// # Errors
/// When the server or the client aborts the handshake.
pub async fn try_shake_hands(
    socket: TcpStream,
    config: &Arc<ClientConfig>,
    name: &'static str,
) -> io::Result<Socket> {
    let name = ServerName::try_from(name).expect("a name");
    let shaken = TlsConnector::from(Arc::clone(config)).connect(name, socket);
    timeout(PATIENCE, shaken).await.expect("an end of the handshake in time")
}
