//! The certificate in use, and its files. Look here for which files are accepted, and for the
//! errors about others.

use std::fs::File;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Read as _;
use std::path::Path;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use anyhow::{Context as _, bail};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::{Error as PemError, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::validity::Validity;
use crate::exit::error_chain;
use crate::limits::CERTIFICATE_FILE_BYTES_MAX;
use crate::settings::CertificateFiles;

/// The content of the files at one time.
pub(super) struct Content {
    certificate: Vec<u8>,
    key: Vec<u8>,
}

/// The certificate that handshakes use, and the outcome of changes.
#[derive(Debug)]
pub(crate) struct Certificates {
    files: CertificateFiles,
    /// `None` until the first one was obtained.
    current: RwLock<Option<Arc<CertifiedKey>>>,
    not_after: AtomicI64,
    reloads: AtomicU64,
    failures: AtomicU64,
}

impl CertificateFiles {
    pub(super) fn read(&self) -> anyhow::Result<Content> {
        Ok(Content { certificate: read(&self.certificate)?, key: read(&self.key)? })
    }

    /// Whether all users can read the key's file.
    #[cfg(unix)]
    fn key_is_readable_by_all(&self) -> bool {
        use std::os::unix::fs::PermissionsExt as _;
        self.key.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
    }

    #[cfg(not(unix))]
    fn key_is_readable_by_all(&self) -> bool {
        false
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let shown = path.display();
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(CERTIFICATE_FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .with_context(|| format!("cannot read {shown}"))?;
    if bytes.len() as u64 > CERTIFICATE_FILE_BYTES_MAX {
        bail!(
            "{shown} is over {CERTIFICATE_FILE_BYTES_MAX} bytes: it holds more than a \
             certificate or a key"
        );
    }
    Ok(bytes)
}

impl Content {
    /// Of a file that has both.
    pub(super) fn of_both(pem: &[u8]) -> Self {
        Self { certificate: pem.to_vec(), key: pem.to_vec() }
    }

    /// Distinguishes contents.
    pub(super) fn hash(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.certificate, &self.key).hash(&mut hasher);
        hasher.finish()
    }

    /// The certificate, ready for use, and when it expires in seconds of Unix time.
    fn load(&self, files: &CertificateFiles) -> anyhow::Result<(CertifiedKey, i64)> {
        let chain = certificates(&self.certificate, &files.certificate)?;
        let key = key(&self.key, &files.key)?;
        let validity = chain.first().and_then(|first| Validity::of(first)).with_context(|| {
            format!("{}: the first certificate has no date of expiry", files.certificate.display())
        })?;
        let provider = aws_lc_rs::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider).with_context(|| {
            let (certificate, key) = (files.certificate.display(), files.key.display());
            format!(
                "{certificate} and {key} do not fit together: the first certificate must be the \
                 one of the key"
            )
        })?;
        Ok((certified, validity.not_after))
    }
}

fn certificates(pem: &[u8], path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let chain = chain.with_context(|| format!("{} is invalid PEM", path.display()))?;
    if chain.is_empty() {
        bail!(
            "{} has no certificate in it: it must be PEM, with BEGIN CERTIFICATE",
            path.display()
        );
    }
    Ok(chain)
}

fn key(pem: &[u8], path: &Path) -> anyhow::Result<PrivateKeyDer<'static>> {
    match PrivateKeyDer::from_pem_slice(pem) {
        Ok(key) => Ok(key),
        Err(PemError::NoItemsFound) => bail!(
            "{} has no private key in it: it must be PEM, with BEGIN PRIVATE KEY, and not \
             encrypted",
            path.display()
        ),
        // The cause of others may repeat what stands there.
        Err(_) => bail!("{} is invalid PEM", path.display()),
    }
}

impl Certificates {
    /// Reads the files for the first time.
    pub(crate) fn load(files: CertificateFiles) -> anyhow::Result<Arc<Self>> {
        if files.key_is_readable_by_all() {
            tracing::warn!(
                "every user of this machine can read {}: take the right away with chmod o-r",
                files.key.display()
            );
        }
        let certificates = Self::to_come(files);
        certificates.begin_with(&certificates.files.read()?)?;
        Ok(certificates)
    }

    /// Uses this from the start, if it is valid.
    pub(super) fn begin_with(&self, content: &Content) -> anyhow::Result<()> {
        let (certified, expiry) = content.load(&self.files)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(certified));
        self.not_after.store(expiry, Ordering::Relaxed);
        self.warn_if_expired();
        Ok(())
    }

    /// No certificate yet, and the files that it will be in. Until then handshakes fail.
    pub(super) fn to_come(files: CertificateFiles) -> Arc<Self> {
        Arc::new(Self {
            files,
            current: RwLock::default(),
            not_after: AtomicI64::new(0),
            reloads: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        })
    }

    /// The certificate that is in use.
    pub(super) fn current(&self) -> Option<Arc<CertifiedKey>> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn files(&self) -> &CertificateFiles {
        &self.files
    }

    /// Uses the current content of the files for future handshakes, if it is valid. If not, the
    /// certificate in use stays.
    pub(super) fn take(&self, content: anyhow::Result<Content>) {
        if let Err(error) = content.and_then(|content| self.replace(&content)) {
            self.count_failure();
            tracing::error!(
                "new TLS certificate rejected, the old one stays: {}",
                error_chain(&error)
            );
        }
    }

    /// Uses this for future handshakes. If it is invalid, nothing changes.
    pub(super) fn replace(&self, content: &Content) -> anyhow::Result<()> {
        self.begin_with(content)?;
        self.reloads.fetch_add(1, Ordering::Relaxed);
        tracing::info!(expires_unix_s = self.not_after(), "new TLS certificate in use");
        Ok(())
    }

    /// A new certificate is due, and there is no valid one.
    pub(super) fn count_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    fn warn_if_expired(&self) {
        if self.seconds_left() < 0 {
            let file = self.files.certificate.display();
            tracing::warn!("the TLS certificate in {file} has expired: clients reject it");
        }
    }

    /// When the certificate expires, in seconds of Unix time; 0 if there is none yet.
    pub(crate) fn not_after(&self) -> i64 {
        self.not_after.load(Ordering::Relaxed)
    }

    /// How long the certificate is valid; negative when it has expired.
    pub(crate) fn seconds_left(&self) -> i64 {
        self.not_after() - unix_now()
    }

    /// How often a changed certificate was loaded.
    pub(crate) fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    /// How often a changed file was invalid, or no certificate could be obtained.
    pub(crate) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }
}

pub(super) fn unix_now() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| i64::try_from(now.as_secs()).unwrap_or(i64::MAX))
}
