//! TLS for tests: a certificate in files, a node that speaks it, a client that trusts it.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
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

use crate::{Node, PATIENCE, secrets};

/// Certificate and key in files, as a server gets them.
pub struct Files {
    directory: TempDir,
    /// The certificate, to compare with.
    pub certificate: CertificateDer<'static>,
}

impl Default for Files {
    fn default() -> Self {
        Self::new()
    }
}

impl Files {
    /// Files in a directory of their own, which goes with them.
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut files = Self { directory, certificate: CertificateDer::from(Vec::new()) };
        files.renew();
        files
    }

    /// Where the certificate is.
    pub fn certificate_path(&self) -> PathBuf {
        self.directory.path().join("fullchain.pem")
    }

    /// Where the key is.
    pub fn key_path(&self) -> PathBuf {
        self.directory.path().join("privkey.pem")
    }

    /// Another certificate that lasts long, with another key.
    pub fn renew(&mut self) {
        self.write(&parameters());
    }

    /// Another certificate that expires at a time.
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
        // The second line of the key's own; the first one is the same in all.
        secrets::keep(key.lines().nth(2).expect("a key of some length"));
        write_private(&self.key_path(), &key);
        self.certificate = certificate.der().clone();
    }

    /// The key.
    pub fn key_text(&self) -> String {
        fs::read_to_string(self.key_path()).expect("the key")
    }

    /// Starts a node with these files, and an admin listener without TLS.
    pub fn start(&self, binary: &str, arguments: &[&str]) -> Node {
        let (certificate, key) = (self.certificate_path(), self.key_path());
        let files = [certificate, key].map(|path| path.to_str().expect("UTF-8").to_owned());
        let tls = ["--tls-cert", &files[0], "--tls-key", &files[1], "--admin", "127.0.0.1:0"];
        Node::start(binary, &[&tls, arguments].concat())
    }

    /// A client that trusts the certificate.
    pub fn client(&self, alpn: &[&str]) -> ClientConfig {
        self.client_of_versions(alpn, rustls::DEFAULT_VERSIONS)
    }

    /// The same with some versions of TLS only.
    pub fn client_of_versions(
        &self,
        alpn: &[&str],
        versions: &[&'static rustls::SupportedProtocolVersion],
    ) -> ClientConfig {
        client_of(self.certificate.clone(), alpn, versions)
    }
}

/// A client that trusts a certificate, and offers these protocols over these versions of TLS.
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

/// Writes a file that only its owner can read.
pub fn write_private(path: &Path, text: &str) {
    fs::write(path, text).expect("the file is written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("its permissions");
}

/// A client's end.
pub type Socket = TlsStream<TcpStream>;

/// Connects, and does the handshake.
pub async fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> Socket {
    let socket = TcpStream::connect(address).await.expect("the server listens");
    shake_hands(socket, config).await
}

/// Does the handshake on a socket that is open.
pub async fn shake_hands(socket: TcpStream, config: &Arc<ClientConfig>) -> Socket {
    try_shake_hands(socket, config, "localhost").await.expect("a handshake")
}

/// Does the handshake for a name, which may fail.
///
/// # Errors
/// When the server, or the client, will have none of it.
pub async fn try_shake_hands(
    socket: TcpStream,
    config: &Arc<ClientConfig>,
    name: &'static str,
) -> io::Result<Socket> {
    let name = ServerName::try_from(name).expect("a name");
    let shaken = TlsConnector::from(Arc::clone(config)).connect(name, socket);
    timeout(PATIENCE, shaken).await.expect("an end of the handshake in time")
}
