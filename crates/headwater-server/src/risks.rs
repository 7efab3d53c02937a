//! What is risky in the settings, and in the files that they name: weak secrets, files that others
//! can read or replace, rules that allow much. The server logs risks at start, and `headwater
//! check` prints them. Look here to add one.

use std::path::Path;

use crate::access::keys::read_secret;
use crate::settings::{
    AccessSettings, HttpUrl, JwksPlace, Origin, Secret, SecretPlaces, Settings, TlsSettings,
};

/// A secret should have as many bytes as the shortest hash of its algorithms (RFC 7518, 3.2).
const SECRET_BYTES_MIN: usize = 32;

/// Fewest different characters of a secret. Random hexadecimal digits have 14 of 16 on average.
const SECRET_CHARACTERS_MIN: usize = 8;

/// Secrets of examples, which are the first that are tried.
const OF_EXAMPLES: [&str; 5] = [
    "a-secret-of-32-bytes-or-longer-please",
    "a-string-secret-at-least-256-bits-long",
    "!changethismercurehubjwtsecretkey!",
    "your-256-bit-secret-your-256-bit-secret",
    "super-secret-jwt-token-with-at-least-32-characters-long",
];

/// Something that was looked at.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    /// It is as it should be.
    Good(String),
    /// It works, and may harm.
    Risk(String),
}

use Finding::{Good, Risk};

/// Everything that was looked at. What cannot be read is no risk but a failure, and not here.
pub(crate) fn find(settings: &Settings, places: &SecretPlaces) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(of_secrets(&settings.access));
    found.extend(of_files(settings, places));
    for name in &places.flags {
        found.push(Risk(format!(
            "--{name} is on the command line, which every user of the machine can read: set it in \
             the environment or in a file"
        )));
    }
    let access = of_access(settings).into_iter();
    found.extend(access.map(|text| Risk(text.to_owned())));
    found
}

fn of_secrets(access: &AccessSettings) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(secret) = &access.jwt_secret {
        found.push(of_secret("jwt-secret", secret));
    }
    if let Some(path) = &access.jwt_secret_file
        && let Ok(secret) = read_secret(path)
    {
        found.push(of_secret(&path.display().to_string(), &secret));
    }
    found
}

fn of_secret(name: &str, secret: &Secret) -> Finding {
    let text = secret.expose();
    let bytes = text.len();
    if is_weak(text) {
        return Risk(format!(
            "{name}: the secret is weak ({bytes} bytes): `openssl rand -hex 32` makes a good one"
        ));
    }
    Good(format!("{name}: the secret is long enough ({bytes} bytes)"))
}

/// Whether a secret is short, repeats a short one, has few characters, or is that of an example.
fn is_weak(text: &str) -> bool {
    let bytes = text.as_bytes();
    let repeats_after = (1..=bytes.len())
        .find(|period| bytes.iter().zip(&bytes[*period..]).all(|(one, other)| one == other));
    let mut characters: Vec<char> = text.chars().collect();
    characters.sort_unstable();
    characters.dedup();
    repeats_after.unwrap_or(0) < SECRET_BYTES_MIN
        || characters.len() < SECRET_CHARACTERS_MIN
        || OF_EXAMPLES.contains(&&*text.to_lowercase())
}

fn of_files(settings: &Settings, places: &SecretPlaces) -> Vec<Finding> {
    let access = &settings.access;
    let key = match &settings.tls {
        Some(TlsSettings::Files(files)) => Some(&files.key),
        _ => None,
    };
    let secrets = [access.jwt_secret_file.as_ref(), key, places.file.as_ref()];
    let set = match &access.jwks {
        Some(JwksPlace::File(path)) => Some(path),
        _ => None,
    };
    let directory = match &settings.tls {
        Some(TlsSettings::Acme(acme)) => Some(&acme.directory),
        _ => None,
    };
    let trusted = [access.jwt_public_key.as_ref(), set, directory, settings.redis.data.as_ref()];
    let secrets = secrets.into_iter().flatten().filter_map(|path| of_secret_file(path));
    secrets.chain(trusted.into_iter().flatten().filter_map(|path| of_trusted_file(path))).collect()
}

/// A file with a secret.
fn of_secret_file(path: &Path) -> Option<Finding> {
    let (mode, shown) = (mode(path)?, path.display());
    Some(if is_for_owner(mode) {
        Good(format!("{shown} can be read by its owner only"))
    } else {
        Risk(format!("{shown} can be read by others (mode {mode:03o}): chmod 600 {shown}"))
    })
}

/// Whether nobody but the owner has any permission.
#[expect(clippy::verbose_bit_mask, reason = "permissions are written as masks")]
fn is_for_owner(mode: u32) -> bool {
    mode & 0o077 == 0
}

/// A file or directory that decides whom the server trusts, or what it delivers.
fn of_trusted_file(path: &Path) -> Option<Finding> {
    let (mode, shown) = (mode(path)?, path.display());
    (mode & 0o022 != 0).then(|| {
        Risk(format!("{shown} can be changed by others (mode {mode:03o}): chmod go-w {shown}"))
    })
}

/// The permissions of a file; `None` if it cannot be looked at, or has none.
#[cfg(unix)]
fn mode(path: &Path) -> Option<u32> {
    use std::os::unix::fs::PermissionsExt as _;
    Some(std::fs::metadata(path).ok()?.permissions().mode() & 0o777)
}

#[cfg(not(unix))]
fn mode(_path: &Path) -> Option<u32> {
    None
}

fn of_access(settings: &Settings) -> Vec<&'static str> {
    let access = &settings.access;
    let has_jwks_in_the_clear =
        matches!(&access.jwks, Some(JwksPlace::Url(url)) if url.crosses_networks_in_the_clear());
    let asks_in_the_clear =
        access.authorize_url.as_ref().is_some_and(HttpUrl::crosses_networks_in_the_clear);
    [
        (
            !access.has_rules() && !settings.is_local(),
            "open: every client that can reach it may subscribe and publish to all channels",
        ),
        (
            access.has_keys() && access.jwt_audience.is_none(),
            "jwt-audience is not set: tokens with an audience are rejected, and those without one \
             count whatever they were made for",
        ),
        (
            access.public.iter().flatten().any(|pattern| pattern.to_string() == "*"),
            "public has `*`: every client may subscribe to all channels",
        ),
        (
            access.jwt_in_query,
            "jwt-in-query is on: tokens end up in the logs of proxies; tickets do not",
        ),
        (
            access.cors_origins.contains(&Origin::Any),
            "cors-origin has `*`: pages of every site may read what is public",
        ),
        (
            access.has_rules() && settings.limits.max_failed_logins.is_none(),
            "max-failed-logins is off: credentials can be guessed without a limit",
        ),
        (
            has_jwks_in_the_clear,
            "jwks begins with http://: others on the way can replace the keys, so use https://",
        ),
        (
            asks_in_the_clear,
            "authorize-url begins with http://: others on the way can read the credentials of \
             users and answer for the application, so use https://",
        ),
    ]
    .into_iter()
    .filter_map(|(is_so, text)| is_so.then_some(text))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_secrets_are_distinguished_from_good_ones() {
        for weak in [
            "",
            "x",
            "secret",
            "0123456789abcdef0123456789abcde",
            &"a".repeat(64),
            &"ab".repeat(40),
            &"0123456789abcdef".repeat(4),
            &"correct-horse-battery-staple".repeat(2),
            "A-Secret-Of-32-Bytes-Or-Longer-Please",
            "!ChangeThisMercureHubJWTSecretKey!",
        ] {
            assert!(is_weak(weak), "{weak}");
        }
        for good in [
            "correct-horse-battery-staple-0123456789abcdef",
            "0b3f8e6f1c2d4a5b9e8f7a6c5d4e3f2a1b0c9d8e7f6a5b4c3d2e1f0a9b8c7d6e",
        ] {
            assert!(!is_weak(good), "{good}");
        }
    }
}
