//! A rate per address. Look here for how the many networks of one IPv6 site count together. No I/O.

use std::time::Duration;

use super::address::ClientAddress;
use super::rate_limit::RateLimit;
use crate::limits::SITE_TIMES;
use crate::settings::Rate;

/// A rate for every address, and a higher one for every site of IPv6.
pub(super) struct AddressRate {
    addresses: RateLimit,
    sites: RateLimit,
}

impl AddressRate {
    pub(super) fn new(rate: Rate) -> Self {
        let times = u32::try_from(SITE_TIMES).unwrap_or(u32::MAX);
        let of_sites = Rate { count: rate.count.saturating_mul(times), ..rate };
        Self { addresses: RateLimit::new(rate), sites: RateLimit::new(of_sites) }
    }

    /// Takes this many, if there is at least one. Otherwise returns the time until there is. Zero
    /// only checks.
    pub(super) fn take(&self, client: ClientAddress, count: usize) -> Result<(), Duration> {
        let Some(site) = client.site() else { return self.addresses.take(client.key(), count) };
        self.sites.take(site, 0)?;
        self.addresses.take(client.key(), count)?;
        self.sites.take(site, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_networks_of_one_site_have_a_rate_together() {
        let rate = AddressRate::new(Rate { count: 3, per: Duration::from_secs(3600) });
        let take = |text: &str| rate.take(ClientAddress::new(text.parse().unwrap()), 1).is_ok();
        assert_eq!((0..5).filter(|_| take("2001:db8:7:1::1")).count(), 3, "one network");
        let all = (0..100).filter(|number| take(&format!("2001:db8:7:{number:x}::1"))).count();
        assert_eq!(all + 3, 3 * SITE_TIMES);
        assert!(take("2001:db8:8::1"), "another site");
        let of_version_4 = (0..100).filter(|number| take(&format!("192.0.2.{number}"))).count();
        assert_eq!(of_version_4, 100);
    }
}
