//! What is stored across restarts: the account, and the certificate with its key. Look here for the
//! files, and for when a certificate is due.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use headwater::private_file;
use instant_acme::AccountCredentials;
use rustls::client::verify_server_name;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::ParsedCertificate;
use serde::{Deserialize, Serialize};

use crate::settings::{AcmeSettings, CertificateFiles};
use crate::tls::certificates::unix_now;
use crate::tls::validity::Validity;

/// More than a certificate with its chain and key: this much must be free on disk.
const PROBE_BYTES: usize = 16 << 10;

/// Precedes the certificate in its file: the ACME server that issued it. PEM parsers skip it.
const ORIGIN: &str = "From ";

/// The directory.
pub(super) struct State {
    directory: PathBuf,
    /// Held as long as this lives.
    _lock: Option<File>,
}

/// When a certificate is to be requested.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// And why.
    Now(String),
    In(Duration),
}

impl Due {
    /// From the existing certificate: the next one is due when a third of its lifetime is left
    /// (thirty of ninety days), and when it has other names or another issuer.
    pub(super) fn of(pem: &str, settings: &AcmeSettings) -> Self {
        let leaf = CertificateDer::from_pem_slice(pem.as_bytes()).ok();
        let validity = leaf.as_ref().and_then(|leaf| Validity::of(leaf));
        let parsed = leaf.as_ref().and_then(|leaf| ParsedCertificate::try_from(leaf).ok());
        let (Some(Validity { not_before, not_after }), Some(parsed)) = (validity, parsed) else {
            return Self::Now("it is no certificate".to_owned());
        };
        if !pem.starts_with(&origin(settings)) {
            return Self::Now(format!("it is not from {}", settings.server));
        }
        for domain in &settings.domains {
            let name = ServerName::try_from(domain.as_str());
            if !name.is_ok_and(|name| verify_server_name(&parsed, &name).is_ok()) {
                return Self::Now(format!("it is not for {domain}"));
            }
        }
        let at = not_after - (not_after - not_before) / 3;
        match u64::try_from(at - unix_now()) {
            Ok(left) if left > 0 => Self::In(Duration::from_secs(left)),
            _ => Self::Now(
                "less than a third of its time is left, by the clock of this machine".to_owned(),
            ),
        }
    }
}

/// The first line of a certificate's file.
pub(super) fn origin(settings: &AcmeSettings) -> String {
    format!("{ORIGIN}{}\n", settings.server)
}

/// An account belongs to one server.
#[derive(Serialize, Deserialize)]
struct Account {
    server: String,
    credentials: AccountCredentials,
}

impl State {
    /// Read-only: nothing is created.
    pub(super) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), _lock: None }
    }

    /// Creates the directory if it does not exist, and locks it against other servers.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        let shown = directory.display();
        private_file::create_directory(directory)
            .with_context(|| format!("cannot make {shown}, which acme-dir names"))?;
        let lock = private(&directory.join("lock")).with_context(|| no_writing(directory))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => bail!(
                "{shown}, which acme-dir names, is in use by another server: give this one \
                 another directory"
            ),
            Err(TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {shown}"));
            }
        }
        Ok(Self { directory: directory.to_owned(), _lock: Some(lock) })
    }

    /// An ACME server issues few certificates, so none is requested that could not be stored.
    pub(super) fn try_writing(&self) -> anyhow::Result<()> {
        let probe = self.directory.join("probe");
        self.write(&probe, &[b'x'; PROBE_BYTES])?;
        fs::remove_file(&probe).with_context(|| no_writing(&self.directory))
    }

    /// Certificate and key are in one file, so that they always match.
    pub(super) fn certificate_file(&self) -> PathBuf {
        self.directory.join("certificate.pem")
    }

    fn account_file(&self) -> PathBuf {
        self.directory.join("account.json")
    }

    pub(super) fn files(&self) -> CertificateFiles {
        CertificateFiles { certificate: self.certificate_file(), key: self.certificate_file() }
    }

    /// The certificate with its key, if there is one.
    pub(super) fn certificate(&self) -> anyhow::Result<Option<String>> {
        let bytes = read(&self.certificate_file())?;
        Ok(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// Stores a certificate and its key.
    pub(super) fn keep_certificate(&self, pem: &str) -> anyhow::Result<()> {
        self.write(&self.certificate_file(), pem.as_bytes())
    }

    /// The account on a server, if there is one.
    pub(super) fn account(&self, server: &str) -> anyhow::Result<Option<AccountCredentials>> {
        let path = self.account_file();
        let Some(text) = read(&path)? else { return Ok(None) };
        // The cause may repeat what stands there.
        let account: Account = serde_json::from_slice(&text).map_err(|_| {
            anyhow::anyhow!(
                "{} is no account of an ACME server: remove it, and a new account is made",
                path.display()
            )
        })?;
        Ok((account.server == server).then_some(account.credentials))
    }

    /// Stores an account, replacing the previous one.
    pub(super) fn keep_account(
        &self,
        server: &str,
        credentials: AccountCredentials,
    ) -> anyhow::Result<()> {
        let account = Account { server: server.to_owned(), credentials };
        self.write(&self.account_file(), &serde_json::to_vec(&account)?)
    }

    /// Writes a file that only its owner can read, atomically.
    fn write(&self, path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
        let new = path.with_extension("new");
        let write = || -> std::io::Result<()> {
            let mut file = private(&new)?;
            file.set_len(0)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, path)?;
            // Elsewhere a directory cannot be opened as a file.
            #[cfg(unix)]
            File::open(&self.directory)?.sync_all()?;
            Ok(())
        };
        write().with_context(|| no_writing(&self.directory))
    }
}

/// Opens a file that only its owner can read, and creates it if it does not exist.
fn private(path: &Path) -> std::io::Result<File> {
    private_file::open(OpenOptions::new().write(true).create(true).truncate(false), path)
}

fn read(path: &Path) -> anyhow::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        text => Ok(Some(text.with_context(|| format!("cannot read {}", path.display()))?)),
    }
}

fn no_writing(directory: &Path) -> String {
    format!(
        "cannot write to {}, which acme-dir names: check that there is room, and that the \
         server's user has the right to",
        directory.display()
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::time::SystemTime;

    use rcgen::{CertificateParams, KeyPair};

    use super::*;

    fn settings(names: &[&str]) -> AcmeSettings {
        AcmeSettings {
            domains: names.iter().map(|name| name.parse().unwrap()).collect(),
            directory: "acme".into(),
            contact: None,
            server: "https://acme.example/dir".parse().unwrap(),
        }
    }

    /// So many days from now.
    fn days(days: i64) -> SystemTime {
        let time = Duration::from_secs(days.unsigned_abs() * 24 * 60 * 60);
        if days < 0 { SystemTime::now() - time } else { SystemTime::now() + time }
    }

    /// A certificate for these names, which is valid from and until so many days from now.
    fn certificate(names: &[&str], from: i64, until: i64) -> String {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut parameters = CertificateParams::new(names).unwrap();
        parameters.not_before = days(from).into();
        parameters.not_after = days(until).into();
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem() + &key.serialize_pem();
        origin(&settings(&[])) + &pem
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
        let both = settings(&["a.example", "b.example"]);
        let fresh = certificate(&["a.example", "b.example"], -10, 80);
        let Due::In(time) = Due::of(&fresh, &both) else { panic!("due") };
        let days = time.as_secs_f64() / 86_400.0;
        assert!((49.9..=50.1).contains(&days), "{days}");
        let one = settings(&["a.example"]);
        for (from, until) in [(-61, 29), (-90, -1)] {
            assert_now(Due::of(&certificate(&["a.example"], from, until), &one), "a third");
        }
    }

    #[test]
    fn a_certificate_is_due_without_one_for_all_names_from_this_server() {
        let pem = certificate(&["a.example"], -1, 89);
        assert_now(Due::of("no PEM", &settings(&["a.example"])), "no certificate");
        assert_now(Due::of(&pem, &settings(&["a.example", "c.example"])), "not for c.example");
        let mut other = settings(&["a.example"]);
        assert!(matches!(Due::of(&pem, &other), Due::In(_)));
        other.server = "https://staging.example/dir".parse().unwrap();
        assert_now(Due::of(&pem, &other), "not from https://staging.example/dir");
    }

    #[test]
    fn stored_files_are_private_and_belong_to_one_server() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("acme");
        let state = State::open(&path).unwrap();
        assert_eq!(state.certificate().unwrap(), None);
        state.keep_certificate("a longer one").unwrap();
        state.keep_certificate("another").unwrap();
        assert_eq!(state.certificate().unwrap().as_deref(), Some("another"));
        for (path, mode) in [(path.clone(), 0o700), (state.certificate_file(), 0o600)] {
            assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, mode);
        }
        fs::write(state.account_file(), "{\"server\": \"s3cret\"}").unwrap();
        let Err(error) = state.account("https://a/dir") else { panic!("no account") };
        assert!(error.to_string().contains("remove it"), "{error:#}");
        assert!(!format!("{error:#}").contains("s3cret"), "{error:#}");
        let Err(error) = State::open(&path) else { panic!("two servers") };
        assert!(error.to_string().contains("in use by another server"), "{error:#}");
        drop(state);
        State::open(&path).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_written_to_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(directory.path()).unwrap();
        state.try_writing().unwrap();
        // Stands in the way also where the user may do everything.
        fs::create_dir_all(directory.path().join("probe/in the way")).unwrap();
        let error = state.try_writing().unwrap_err();
        assert!(error.to_string().contains("which acme-dir names"), "{error:#}");
    }
}
