//! Finds secrets that a server leaks into logs, responses or metrics.
//!
//! Credentials in the headers and queries of requests, Redis passwords and private keys are
//! registered automatically; tests register others with [`keep`]. A node's log is searched when the
//! node ends, at level `trace` unless it was started quiet; responses are searched as they arrive.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shorter secrets could occur in a text by chance.
const BYTES_MIN: usize = 6;

/// Credentials that are registered automatically have at least this many bytes: tests also send
/// `a=1` and `Bearer x`.
const CREDENTIAL_BYTES_MIN: usize = 16;

/// Shared by all tests of the process: no node of any test may leak a secret of another.
static SECRETS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn secrets() -> MutexGuard<'static, BTreeSet<String>> {
    SECRETS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Registers a secret: from now on [`search`] fails when it finds it.
///
/// # Panics
/// When the secret is so short that it could occur in a text by chance.
pub fn keep(secret: &str) {
    assert!(secret.len() >= BYTES_MIN, "{secret:?} is too short to be searched for");
    secrets().insert(secret.to_owned());
}

/// Registers the secret part of a credential: the signature of a token, the whole of a ticket or
/// session.
pub fn keep_credential(credential: &str) {
    // Header and claims are not secret: without the signature they are useless.
    let secret = credential.rsplit('.').next().unwrap_or_default();
    if secret.len() >= CREDENTIAL_BYTES_MIN {
        keep(secret);
    }
}

/// Registers the credentials of a request.
pub(crate) fn keep_from_request(path: &str, headers: &[(&str, &str)]) {
    for (name, value) in headers {
        match *name {
            "authorization" => keep_credential(value.rsplit(' ').next().unwrap_or_default()),
            "cookie" => value.split("; ").for_each(keep_value),
            _ => {}
        }
    }
    let query = path.split_once('?').map_or("", |(_, query)| query);
    let is_secret = |pair: &&str| pair.starts_with("token=") || pair.starts_with("ticket=");
    query.split('&').filter(is_secret).for_each(keep_value);
}

/// Registers the password in a URL among a node's arguments.
pub(crate) fn keep_from_argument(argument: &str) {
    let authority = argument.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
    if let Some((_, password)) = authority.and_then(|(user, _)| user.split_once(':')) {
        keep(password);
    }
}

fn keep_value(pair: &str) {
    keep_credential(pair.split_once('=').map_or("", |(_, value)| value));
}

/// Fails the test, with the place and the line, if the text contains a secret. Does nothing while
/// the test is already panicking.
///
/// # Panics
/// When the text contains a secret.
#[track_caller]
pub fn search(place: &str, text: &str) {
    if std::thread::panicking() {
        return;
    }
    if let Some(line) = line_with_secret(text) {
        panic!("{place} contains a secret: {line}");
    }
}

fn line_with_secret(text: &str) -> Option<String> {
    let secrets = secrets();
    let at = secrets.iter().find_map(|secret| text.find(secret))?;
    let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
    text[begin..].lines().next().map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_finds_a_secret_and_its_line() {
        keep("of-the-first-test");
        assert_eq!(line_with_secret("one\ntwo\n"), None);
        let text = "one\ntwo: of-the-first-test!\nthree";
        assert_eq!(line_with_secret(text).as_deref(), Some("two: of-the-first-test!"));
        let failed = std::panic::catch_unwind(|| search("a log", text)).unwrap_err();
        let message = failed.downcast::<String>().unwrap();
        assert_eq!(*message, "a log contains a secret: two: of-the-first-test!");
    }

    #[test]
    fn credentials_of_requests_are_registered() {
        let headers = [
            ("authorization", "Bearer head.claims.signature-of-the-header"),
            ("cookie", "a=1; session=session-of-the-cookie"),
            ("accept", "what-is-accepted-is-no-secret"),
        ];
        keep_from_request(
            "/?channel=a-channel-that-is-no-secret&ticket=ticket-of-the-query",
            &headers,
        );
        keep_from_argument("redis://name:password-of-redis@127.0.0.1:1/0");
        for secret in [
            "signature-of-the-header",
            "session-of-the-cookie",
            "ticket-of-the-query",
            "password-of-redis",
        ] {
            assert!(line_with_secret(&format!("x{secret}x")).is_some(), "{secret}");
        }
        let others = "head.claims 1 what-is-accepted-is-no-secret a-channel-that-is-no-secret";
        assert_eq!(line_with_secret(others), None);
    }
}
