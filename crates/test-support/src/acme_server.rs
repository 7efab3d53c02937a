//! A real ACME server: `pebble`, Let's Encrypt's server for tests, with a DNS server that resolves
//! every name to this machine.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::ports::stable_port;
use crate::tls;
use crate::wait::wait_for;

/// A running `pebble`; killed when dropped.
pub struct AcmeServer {
    pebble: Child,
    dns: Child,
    files: tls::Files,
    port: u16,
    management_port: u16,
    dns_port: u16,
    config: tempfile::NamedTempFile,
}

impl AcmeServer {
    /// Starts a server that validates names by connecting to `tls_port`, and issues certificates
    /// with this validity, in whole seconds.
    ///
    /// # Panics
    /// When `pebble` is not installed or does not start.
    pub fn start(tls_port: u16, validity: Duration) -> Self {
        let files = tls::Files::new();
        let [port, management_port, dns_port] = [(); 3].map(|()| stable_port());
        let path = |path: PathBuf| path.to_str().expect("UTF-8").to_owned();
        let seconds = validity.as_secs();
        let config = json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management_port}"),
            "certificate": path(files.certificate_path()),
            "privateKey": path(files.key_path()),
            "httpPort": stable_port(),
            "tlsPort": tls_port,
            // For older versions of pebble; newer ones read the profile.
            "certificateValidityPeriod": seconds,
            "profiles": {"default": {"description": "short", "validityPeriod": seconds}},
        }});
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(file.path(), config.to_string()).expect("the configuration");
        let dns = dns(dns_port);
        let pebble = pebble(file.path().to_str().expect("UTF-8"), dns_port);
        let mut server = Self { pebble, dns, files, port, management_port, dns_port, config: file };
        server.wait_until_up();
        server
    }

    /// The URL of the ACME directory.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// The PEM file of the certificate that a client of the ACME API must trust.
    pub fn trust_path(&self) -> PathBuf {
        self.files.certificate_path()
    }

    /// Restarts the server; all accounts are lost.
    pub fn restart(&mut self) {
        let _ = self.pebble.kill();
        let _ = self.pebble.wait();
        self.pebble = pebble(self.config.path().to_str().expect("UTF-8"), self.dns_port);
        self.wait_until_up();
    }

    /// The root of the certificates that it issues; each start creates another.
    ///
    /// # Panics
    /// When the server does not answer.
    pub async fn root(&self) -> CertificateDer<'static> {
        let client = Arc::new(self.files.client(&[]));
        let address = ([127, 0, 0, 1], self.management_port).into();
        let mut socket = tls::connect(address, &client).await;
        let request = "GET /roots/0 HTTP/1.0\r\nhost: localhost\r\n\r\n";
        socket.write_all(request.as_bytes()).await.expect("the request is sent");
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).await.expect("an answer");
        CertificateDer::from_pem_slice(&answer).expect("a certificate in the answer")
    }

    fn wait_until_up(&mut self) {
        for port in [self.port, self.management_port] {
            wait_for("pebble listens", || {
                let exited = self.pebble.try_wait().expect("the process");
                assert!(exited.is_none(), "pebble exited: {exited:?}");
                std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
            });
        }
    }
}

impl Drop for AcmeServer {
    fn drop(&mut self) {
        for process in [&mut self.pebble, &mut self.dns] {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn pebble(config: &str, dns_port: u16) -> Child {
    Command::new("pebble")
        .args(["-config", config, "-dnsserver", &format!("127.0.0.1:{dns_port}")])
        // Validate at once, validate every time, and do not reject valid nonces.
        .envs([
            ("PEBBLE_VA_NOSLEEP", "1"),
            ("PEBBLE_AUTHZREUSE", "0"),
            ("PEBBLE_WFE_NONCEREJECT", "0"),
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pebble starts: is it installed?")
}

fn dns(port: u16) -> Child {
    let management = stable_port();
    Command::new("pebble-challtestsrv")
        .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""])
        .args(["-dns01", &format!("127.0.0.1:{port}")])
        .args(["-management", &format!("127.0.0.1:{management}")])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("pebble-challtestsrv starts: is pebble installed?")
}
