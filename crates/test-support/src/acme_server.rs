//! A real ACME server, Let's Encrypt's own for tests (`pebble`), and the DNS that it asks: there every name is this
//! machine's.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::{stable_port, tls, wait_for};

/// A running `pebble`; it ends when this is dropped.
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
    /// Starts one that connects to this port of the names it looks at, and whose certificates are valid for
    /// so long, in whole seconds.
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
            // The first is for older versions, the second for newer ones.
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

    /// The URL of its directory.
    pub fn url(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
    }

    /// Who must be trusted to speak to it, a PEM file.
    pub fn trust_path(&self) -> PathBuf {
        self.files.certificate_path()
    }

    /// Starts it again; it has forgotten all accounts.
    pub fn restart(&mut self) {
        let _ = self.pebble.kill();
        let _ = self.pebble.wait();
        self.pebble = pebble(self.config.path().to_str().expect("UTF-8"), self.dns_port);
        self.wait_until_up();
    }

    /// The root of its certificates; another one after each start.
    ///
    /// # Panics
    /// When it does not answer.
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
                assert!(exited.is_none(), "pebble ended: {exited:?}");
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
        // It neither waits before it looks at a name, nor does without a look, nor refuses good nonces.
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
