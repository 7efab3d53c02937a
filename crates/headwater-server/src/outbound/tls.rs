//! TLS to other servers: the trusted authorities.

use std::sync::{Arc, OnceLock};

use anyhow::bail;
use rustls::{ClientConfig, RootCertStore};

/// Trusts the authorities of the system, or those in the file that `SSL_CERT_FILE` names. They are
/// read once.
pub(super) fn config() -> anyhow::Result<ClientConfig> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    let roots = ROOTS.get_or_init(|| {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        Arc::new(roots)
    });
    if roots.is_empty() {
        bail!(
            "this system has no certificates of authorities: install ca-certificates, or name a \
             file with SSL_CERT_FILE"
        );
    }
    with_roots(Arc::clone(roots))
}

/// Trusts no authority, for requests without TLS.
pub(super) fn unused_config() -> anyhow::Result<ClientConfig> {
    with_roots(Arc::new(RootCertStore::empty()))
}

fn with_roots(roots: Arc<RootCertStore>) -> anyhow::Result<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
