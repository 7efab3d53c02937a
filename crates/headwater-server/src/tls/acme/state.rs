//! What is kept over restarts: the account, and the certificate with its key. Look here for the files, and for when
//! a certificate is due.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use instant_acme::AccountCredentials;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Serialize};

use super::domain::DomainName;
use crate::tls::certificates::{CertificateFiles, unix_now};
use crate::tls::validity::Validity;

/// A directory of our own.
pub(super) struct State {
    directory: PathBuf,
}

/// When a certificate is to be asked for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    Now(String),
    In(Duration),
}

impl Due {
    /// A certificate is due when a third of the time of the last one is left (with ninety days, thirty), and
    /// when that is not for all names.
    pub(super) fn of(pem: &[u8], domains: &[DomainName]) -> Self {
        let leaf = CertificateDer::from_pem_slice(pem).ok();
        let validity = leaf.as_ref().and_then(|leaf| Validity::of(leaf));
        let parsed = leaf.as_ref().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
        let (Some(Validity { not_before, not_after }), Some(parsed)) = (validity, parsed) else {
            return Self::Now("it is no certificate".to_owned());
        };
        for domain in domains {
            let name = ServerName::try_from(domain.as_str());
            if !name.is_ok_and(|name| verify_server_name(&parsed, &name).is_ok()) {
                return Self::Now(format!("it is not for {domain}"));
            }
        }
        let at = not_after - (not_after - not_before) / 3;
        match u64::try_from(at - unix_now()) {
            Ok(left) if left > 0 => Self::In(Duration::from_secs(left)),
            _ => Self::Now("it expires soon, or has expired".to_owned()),
        }
    }
}

/// An account belongs to one server.
#[derive(Serialize, Deserialize)]
struct Account {
    server: String,
    credentials: AccountCredentials,
}

impl State {
    /// Makes the directory if it is not there, and sees that it can be written to: an ACME server gives few
    /// certificates, and none should be lost.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).with_context(|| {
            format!("cannot make {}, which acme-dir names", directory.display())
        })?;
        let state = Self { directory: directory.to_owned() };
        let probe = directory.join("probe");
        state.write(&probe, b"")?;
        fs::remove_file(&probe).with_context(|| format!("cannot remove {}", probe.display()))?;
        Ok(state)
    }

    /// Certificate and key are in one file, so that they always fit.
    fn certificate(&self) -> PathBuf {
        self.directory.join("certificate.pem")
    }

    fn account_file(&self) -> PathBuf {
        self.directory.join("account.json")
    }

    pub(super) fn files(&self) -> CertificateFiles {
        CertificateFiles { certificate: self.certificate(), key: self.certificate() }
    }

    pub(super) fn has_certificate(&self) -> bool {
        self.certificate().exists()
    }

    /// When the next certificate is due, by the one that is there.
    pub(super) fn due(&self, domains: &[DomainName]) -> Due {
        match fs::read(self.certificate()) {
            Ok(pem) => Due::of(&pem, domains),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Due::Now("there is none yet".to_owned())
            }
            Err(error) => Due::Now(format!("the one that is there cannot be read: {error}")),
        }
    }

    /// Keeps a certificate and its key.
    pub(super) fn keep_certificate(&self, pem: &str) -> anyhow::Result<()> {
        self.write(&self.certificate(), pem.as_bytes())
    }

    /// The account on a server, if there is one.
    pub(super) fn account(&self, server: &str) -> anyhow::Result<Option<AccountCredentials>> {
        let path = self.account_file();
        let text = match fs::read(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            text => text.with_context(|| format!("cannot read {}", path.display()))?,
        };
        // The cause may repeat what stands there.
        let account: Account = serde_json::from_slice(&text).map_err(|_| {
            anyhow::anyhow!(
                "{} is no account of an ACME server: remove it, and a new account is made",
                path.display()
            )
        })?;
        Ok((account.server == server).then_some(account.credentials))
    }

    /// Keeps an account, in the place of the one before.
    pub(super) fn keep_account(
        &self,
        server: &str,
        credentials: AccountCredentials,
    ) -> anyhow::Result<()> {
        let account = Account { server: server.to_owned(), credentials };
        self.write(&self.account_file(), &serde_json::to_vec(&account)?)
    }

    /// Writes a file that only its owner can read, whole or not at all.
    fn write(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        let new = path.with_extension("new");
        let write = || {
            let mut options = OpenOptions::new();
            let mut file =
                options.write(true).create(true).truncate(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            File::open(&self.directory)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    /// So many days from now.
    fn days(days: i64) -> SystemTime {
        let time = Duration::from_secs(days.unsigned_abs() * 24 * 60 * 60);
        if days < 0 { SystemTime::now() - time } else { SystemTime::now() + time }
    }

    /// A state with a certificate for these names, which is valid from and until so many days from now.
    fn state(names: &[&str], from: i64, until: i64) -> (tempfile::TempDir, State) {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("acme")).unwrap();
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_before = days(from).into();
        parameters.not_after = days(until).into();
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem() + &key.serialize_pem();
        state.keep_certificate(&pem).unwrap();
        (directory, state)
    }

    fn due(state: &State, names: &[&str]) -> Due {
        let names: Vec<DomainName> = names.iter().map(|name| name.parse().unwrap()).collect();
        state.due(&names)
    }

    #[track_caller]
    fn assert_now(due: Due, part: &str) {
        match due {
            Due::Now(why) => assert!(why.contains(part), "{why}"),
            Due::In(time) => panic!("in {time:?}"),
        }
    }

    #[test]
    fn a_certificate_is_due_when_a_third_of_its_time_is_left() {
        let (_directory, fresh) = state(&["a.example", "b.example"], -10, 80);
        let Due::In(time) = due(&fresh, &["a.example", "b.example"]) else { panic!("due") };
        let days = time.as_secs_f64() / 86_400.0;
        assert!((49.9..=50.1).contains(&days), "{days}");
        let (_directory, old) = state(&["a.example"], -61, 29);
        assert_now(due(&old, &["a.example"]), "expires soon");
        let (_directory, expired) = state(&["a.example"], -90, -1);
        assert_now(due(&expired, &["a.example"]), "expired");
    }

    #[test]
    fn a_certificate_is_due_when_there_is_none_for_all_names() {
        let directory = tempfile::tempdir().unwrap();
        let empty = State::open(directory.path()).unwrap();
        assert!(!empty.has_certificate());
        assert_now(due(&empty, &["a.example"]), "none yet");
        let (_directory, state) = state(&["a.example"], -1, 89);
        assert_now(due(&state, &["a.example", "c.example"]), "it is not for c.example");
        state.keep_certificate("no PEM").unwrap();
        assert_now(due(&state, &["a.example"]), "no certificate");
    }

    #[test]
    fn what_is_kept_is_for_its_owner_only() {
        use std::os::unix::fs::PermissionsExt as _;

        let (directory, state) = state(&["a.example"], -1, 89);
        for (path, mode) in [(directory.path().join("acme"), 0o700), (state.certificate(), 0o600)] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode);
        }
        fs::write(state.account_file(), "{\"server\": \"s3cret\"}").unwrap();
        let Err(error) = state.account("https://a/dir") else { panic!("no account") };
        assert!(error.to_string().contains("remove it"), "{error:#}");
        assert!(!format!("{error:#}").contains("s3cret"), "{error:#}");
    }
}
