//! TLS-ALPN-01 (RFC 8737): a handshake that proves control of a name. Look here for what such a
//! handshake gets.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};

use anyhow::Context as _;
use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::server::ClientHello;
use rustls::sign::CertifiedKey;

/// The only protocol that the ACME server offers in such a handshake, and no other client.
pub(in crate::tls) const ALPN_PROTOCOL: &[u8] = b"acme-tls/1";

/// Certificates for pending challenges, by name.
#[derive(Debug, Default)]
pub(in crate::tls) struct Challenges(RwLock<HashMap<String, Arc<CertifiedKey>>>);

/// Whether a handshake validates a challenge.
pub(in crate::tls) fn is_challenge(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut offered| {
        offered.next() == Some(ALPN_PROTOCOL) && offered.next().is_none()
    })
}

impl Challenges {
    /// The certificate for the requested name. Other handshakes get none, not even the server's
    /// own.
    pub(in crate::tls) fn answer(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let answers = self.0.read().unwrap_or_else(PoisonError::into_inner);
        answers.get(&hello.server_name()?.to_ascii_lowercase()).cloned()
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<String, Arc<CertifiedKey>>> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts responding for a name, with the digest of the key authorization.
    pub(super) fn put(&self, name: &str, digest: &[u8]) -> anyhow::Result<()> {
        let answer = certificate(name, digest).context("the answer to the challenge")?;
        self.write().insert(name.to_owned(), Arc::new(answer));
        Ok(())
    }

    /// Stops responding for all names.
    pub(super) fn clear(&self) {
        self.write().clear();
    }
}

/// Self-signed, for one name, with the digest in its extension.
fn certificate(name: &str, digest: &[u8]) -> anyhow::Result<CertifiedKey> {
    let mut parameters = CertificateParams::new([name.to_owned()])?;
    parameters.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let key = KeyPair::generate()?;
    let certificate = parameters.self_signed(&key)?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let key = aws_lc_rs::default_provider().key_provider.load_private_key(key)?;
    // Not `from_der`, which rejects unknown critical extensions.
    Ok(CertifiedKey::new(vec![certificate.der().clone()], key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_response_is_a_certificate_with_the_digest() {
        let digest = [7; 32];
        let answer = certificate("events.example.org", &digest).unwrap();
        // id-pe-acmeIdentifier, critical, with an octet string in an octet string (RFC 8737, 3).
        let extension = [
            &[0x06, 0x08, 0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x01, 0x1f][..],
            &[0x01, 0x01, 0xff, 0x04, 0x22, 0x04, 0x20],
            &digest,
        ];
        let der = answer.cert[0].as_ref();
        assert!(memchr::memmem::find(der, &extension.concat()).is_some(), "{der:x?}");
        assert!(memchr::memmem::find(der, b"events.example.org").is_some());
    }
}
