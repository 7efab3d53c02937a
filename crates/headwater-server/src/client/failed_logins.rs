//! Invalid credentials, counted per address and per credential. Look here for which credentials are
//! still looked at when an address has shown too many. No I/O.
//!
//! Many clients may share an address, so one of them must not lock out the others. A token or
//! ticket that the server verifies itself is always verified, unless the very same one has failed
//! too often. The application is spared: from such an address it is asked about credentials that it
//! accepted lately, and about no others.

use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::address::ClientAddress;
use super::address_rate::AddressRate;
use super::rate_limit::RateLimit;
use crate::limits::{ACCEPTED_CREDENTIALS_MAX, ACCEPTED_CREDENTIALS_TIME};
use crate::settings::Rate;

/// What a client shows, to count it by. No `Debug`: it is a secret.
pub(crate) struct ShownCredential {
    /// The credential, or all headers that may have one.
    pub(crate) bytes: Vec<u8>,
    /// Whether the server verifies it itself, without asking the application.
    pub(crate) is_verified_here: bool,
}

/// The rate of invalid credentials, and which were accepted lately.
pub(super) struct FailedLogins {
    per_address: AddressRate,
    per_credential: RateLimit,
    hasher: RandomState,
    /// A table by hash: a newer credential takes an older one's place.
    accepted: Mutex<Vec<Option<(u64, Instant)>>>,
}

impl FailedLogins {
    pub(super) fn new(rate: Rate) -> Self {
        Self {
            per_address: AddressRate::new(rate),
            per_credential: RateLimit::new(rate),
            hasher: RandomState::new(),
            accepted: Mutex::new(vec![None; ACCEPTED_CREDENTIALS_MAX]),
        }
    }

    /// Whether a credential is to be looked at; checked before it is.
    pub(super) fn check(
        &self,
        client: ClientAddress,
        shown: &ShownCredential,
    ) -> Result<(), Duration> {
        let key = self.hasher.hash_one(&shown.bytes);
        if shown.is_verified_here {
            return self.per_credential.take(key, 0);
        }
        match self.per_address.take(client, 0) {
            Err(_) if self.is_accepted(key) => Ok(()),
            checked => checked,
        }
    }

    /// Records an invalid credential; an error if its address had shown too many already. One that
    /// was verified here is none: the work is done, and a client whose token has expired must learn
    /// that, whatever others at its address did.
    pub(super) fn failed(
        &self,
        client: ClientAddress,
        shown: &ShownCredential,
    ) -> Result<(), Duration> {
        let key = self.hasher.hash_one(&shown.bytes);
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        let place = place_of(&mut accepted, key);
        if place.is_some_and(|(other, _)| other == key) {
            *place = None;
        }
        drop(accepted);
        // What counts is the next request with it.
        let _ = self.per_credential.take(key, 1);
        let of_address = self.per_address.take(client, 1);
        if shown.is_verified_here { Ok(()) } else { of_address }
    }

    /// Records a credential that was accepted.
    pub(super) fn accepted(&self, shown: &ShownCredential) {
        if shown.is_verified_here {
            return;
        }
        let key = self.hasher.hash_one(&shown.bytes);
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        *place_of(&mut accepted, key) = Some((key, Instant::now()));
    }

    fn is_accepted(&self, key: u64) -> bool {
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        place_of(&mut accepted, key)
            .is_some_and(|(known, at)| known == key && at.elapsed() < ACCEPTED_CREDENTIALS_TIME)
    }
}

fn place_of(table: &mut [Option<(u64, Instant)>], key: u64) -> &mut Option<(u64, Instant)> {
    let length = table.len() as u64;
    #[expect(clippy::cast_possible_truncation, reason = "the remainder is less than a usize")]
    &mut table[(key % length) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str, is_verified_here: bool) -> ShownCredential {
        ShownCredential { bytes: text.as_bytes().to_vec(), is_verified_here }
    }

    #[test]
    fn a_credential_that_is_good_passes_whatever_its_address_has_shown() {
        let logins = FailedLogins::new(Rate { count: 3, per: Duration::from_secs(3600) });
        let client = ClientAddress::new([192, 0, 2, 1].into());
        let (token, cookie) = (shown("good token", true), shown("good cookie", false));
        logins.accepted(&cookie);
        for number in 0..10 {
            let bad = shown(&format!("bad {number}"), number % 2 == 0);
            let is_ok = number < 3 || bad.is_verified_here;
            assert_eq!(logins.failed(client, &bad).is_ok(), is_ok, "{number}");
        }
        assert!(logins.check(client, &token).is_ok(), "it is verified");
        assert!(logins.check(client, &cookie).is_ok(), "it was accepted lately");
        assert!(logins.check(client, &shown("another cookie", false)).is_err());
        let other = ClientAddress::new([192, 0, 2, 2].into());
        assert!(logins.check(other, &shown("another cookie", false)).is_ok());
        // It was accepted, and is no longer.
        assert!(logins.failed(client, &cookie).is_err());
        assert!(logins.check(client, &cookie).is_err());
    }

    #[test]
    fn a_token_that_fails_again_and_again_is_no_longer_verified() {
        let logins = FailedLogins::new(Rate { count: 3, per: Duration::from_secs(3600) });
        let bad = shown("bad", true);
        for last in 1..=3 {
            let client = ClientAddress::new([192, 0, 2, last].into());
            assert!(logins.check(client, &bad).is_ok() && logins.failed(client, &bad).is_ok());
        }
        let client = ClientAddress::new([192, 0, 2, 4].into());
        assert!(logins.check(client, &bad).is_err(), "whatever the address");
        assert!(logins.check(client, &shown("another", true)).is_ok());
    }
}
