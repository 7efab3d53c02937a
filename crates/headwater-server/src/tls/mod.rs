//! TLS of the server: which configuration, which certificate. Look here for versions, ciphers and ALPN; the handshake
//! itself is the library's.

mod certificates;
mod expiry;
mod reload;

use std::sync::Arc;

use anyhow::Context as _;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;

pub use certificates::CertificateFiles;
pub(crate) use certificates::Certificates;
pub(crate) use reload::keep_current;

/// Versions 1.2 and 1.3, with the ciphers that rustls takes for good, and HTTP/2 or HTTP/1.1 as the
/// client likes.
pub(crate) fn config(certificates: Arc<Certificates>) -> anyhow::Result<Arc<ServerConfig>> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .context("TLS cannot be set up")?
        .with_no_client_auth()
        .with_cert_resolver(certificates);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // Clients that come back all at once resume their sessions, which costs no signature; and the state
    // is with the client, not in a table here.
    config.ticketer = aws_lc_rs::Ticketer::new().context("TLS cannot be set up")?;
    Ok(Arc::new(config))
}
