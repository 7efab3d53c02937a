//! Secrets that tests hand out, and the search for them in what a server tells. Look here for what counts as one.
//!
//! Credentials in the headers and queries of requests, passwords of Redis and keys of certificates are kept without a
//! word of the test; others it names with [`keep`]. What a node logs is searched when the node ends, at the level
//! `trace` unless it was started quiet; answers are searched when they come.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Shorter ones could stand in a text by chance.
const BYTES_MIN: usize = 6;

/// Credentials that are kept without a word have this many bytes; tests also send `a=1` and `Bearer x`.
const CREDENTIAL_BYTES_MIN: usize = 16;

/// Of all tests in this process: what one hands out, no node of another may tell either.
static KEPT: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

fn kept() -> MutexGuard<'static, BTreeSet<String>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on nobody may tell this.
///
/// # Panics
/// When it is so short that it could stand in a text by chance.
pub fn keep(secret: &str) {
    assert!(secret.len() >= BYTES_MIN, "{secret:?} is too short to be searched for");
    kept().insert(secret.to_owned());
}

/// Keeps what is secret of a token, its signature, or of a ticket or session all of it.
pub fn keep_credential(credential: &str) {
    // Head and claims are no secret: whoever has them cannot use them.
    let secret = credential.rsplit('.').next().unwrap_or_default();
    if secret.len() >= CREDENTIAL_BYTES_MIN {
        keep(secret);
    }
}

/// Keeps the credentials of a request.
pub(crate) fn keep_of_request(path: &str, headers: &[(&str, &str)]) {
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

/// Keeps the password in a URL that a node is started with.
pub(crate) fn keep_of_argument(argument: &str) {
    let authority = argument.split_once("://").and_then(|(_, rest)| rest.split_once('@'));
    if let Some((_, password)) = authority.and_then(|(user, _)| user.split_once(':')) {
        keep(password);
    }
}

fn keep_value(pair: &str) {
    keep_credential(pair.split_once('=').map_or("", |(_, value)| value));
}

/// Fails the test if a secret is told, with the place and the line. A test that is failing already goes on.
///
/// # Panics
/// When there is one.
#[track_caller]
pub fn search(place: &str, text: &str) {
    if std::thread::panicking() {
        return;
    }
    if let Some(line) = line_with_a_secret(text) {
        panic!("a secret is told in {place}: {line}");
    }
}

fn line_with_a_secret(text: &str) -> Option<String> {
    let kept = kept();
    let at = kept.iter().find_map(|secret| text.find(secret))?;
    let begin = text[..at].rfind('\n').map_or(0, |end| end + 1);
    text[begin..].lines().next().map(ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_found_with_its_line() {
        keep("of-the-first-test");
        assert_eq!(line_with_a_secret("one\ntwo\n"), None);
        let text = "one\ntwo: of-the-first-test!\nthree";
        assert_eq!(line_with_a_secret(text).as_deref(), Some("two: of-the-first-test!"));
        let failed = std::panic::catch_unwind(|| search("a log", text)).unwrap_err();
        let said = failed.downcast::<String>().unwrap();
        assert_eq!(*said, "a secret is told in a log: two: of-the-first-test!");
    }

    #[test]
    fn credentials_of_requests_are_kept() {
        let headers = [
            ("authorization", "Bearer head.claims.signature-of-the-header"),
            ("cookie", "a=1; session=session-of-the-cookie"),
            ("accept", "what-is-accepted-is-no-secret"),
        ];
        keep_of_request(
            "/?channel=a-channel-that-is-no-secret&ticket=ticket-of-the-query",
            &headers,
        );
        keep_of_argument("redis://name:password-of-redis@127.0.0.1:1/0");
        for secret in [
            "signature-of-the-header",
            "session-of-the-cookie",
            "ticket-of-the-query",
            "password-of-redis",
        ] {
            assert!(line_with_a_secret(&format!("x{secret}x")).is_some(), "{secret}");
        }
        let others = "head.claims 1 what-is-accepted-is-no-secret a-channel-that-is-no-secret";
        assert_eq!(line_with_a_secret(others), None);
    }
}
