//! Texts into values: addresses, durations, sizes, counts. Look here for which spellings are taken
//! and what the refusals say.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::client::{AddressHeader, Rate};

/// An IP address and a port; `localhost` is 127.0.0.1. Names are not resolved: what the server is
/// reachable from must not depend on a resolver.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let port_of = |text: &str| text.parse::<u16>().ok();
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port_of(port)),
        None => ("", port_of(text)),
    };
    match (host, port) {
        ("localhost", Some(port)) => Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port))),
        ("", Some(port)) => Err(format!(
            "it names no address: write 127.0.0.1:{port} to be reachable from this machine only, or \
             0.0.0.0:{port} for every IPv4 address of it"
        )),
        (host, Some(port)) if host.parse::<Ipv6Addr>().is_ok() => {
            Err(format!("an IPv6 address stands in brackets: write [{host}]:{port}"))
        }
        _ => {
            Err("it is not an IP address and a port, like 127.0.0.1:8000 or [::1]:8000".to_owned())
        }
    }
}

/// The units of durations, longest first, in milliseconds.
const DURATION_UNITS: [(&str, u64); 4] = [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A whole number and a unit: `500ms`, `2s`, `5m`, `1h`. Zero needs no unit.
pub(crate) fn duration(text: &str, bounds: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let factor = match DURATION_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if text == "0" => 1,
        None if unit.is_empty() && !number.is_empty() => {
            return Err(format!("it needs a unit: write {number}s or {number}ms"));
        }
        None => return Err("it is not a duration like 500ms, 2s, 5m or 1h".to_owned()),
    };
    let number = number
        .parse::<u64>()
        .map_err(|_| "it is not a duration like 500ms, 2s, 5m or 1h".to_owned())?;
    let value = Duration::from_millis(number.saturating_mul(factor));
    within(value, bounds, |bound| show_duration(*bound))
}

/// The units of sizes, largest first.
const SIZE_UNITS: [(&str, usize); 3] = [("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A number of bytes: `65536`, `64KiB`, `8MiB`.
pub(super) fn bytes(text: &str, bounds: &RangeInclusive<usize>) -> Result<usize, String> {
    let (number, unit) = split_unit(text);
    let unit = unit.trim_start();
    let factor = match SIZE_UNITS.iter().find(|(name, _)| *name == unit) {
        Some((_, factor)) => *factor,
        None if unit.is_empty() => 1,
        None => return Err("it is not a size like 65536, 64KiB or 8MiB".to_owned()),
    };
    let number = number
        .parse::<usize>()
        .map_err(|_| "it is not a size like 65536, 64KiB or 8MiB".to_owned())?;
    within(number.saturating_mul(factor), bounds, |bound| show_bytes(*bound))
}

/// A whole number, in digits.
pub(super) fn count(text: &str, bounds: &RangeInclusive<usize>) -> Result<usize, String> {
    let value = text.parse::<usize>().map_err(|_| "it is not a whole number".to_owned())?;
    within(value, bounds, ToString::to_string)
}

/// So many per second, minute or hour: `100/s`, `600/m`, `1000/h`.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    let wrong = || "it is not a rate like 100/s, 600/m or 1000/h, or off".to_owned();
    let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
    let per_s = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err(wrong()),
    };
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    let in_bounds = number.parse().ok().filter(|count| (1..=RATE_MAX).contains(count));
    let count = in_bounds.ok_or_else(|| format!("it must be from 1 to {RATE_MAX} in that time"))?;
    Ok(Rate { count, per: Duration::from_secs(per_s) })
}

/// The highest rate: beyond it a limit means nothing, and the bucket's clock is too coarse.
const RATE_MAX: u32 = 10_000_000;

/// The name of a header; upper and lower case are the same, as in HTTP.
pub(super) fn address_header(text: &str) -> Result<AddressHeader, String> {
    match text.to_ascii_lowercase().as_str() {
        "x-forwarded-for" => Ok(AddressHeader::XForwardedFor),
        "forwarded" => Ok(AddressHeader::Forwarded),
        "x-real-ip" => Ok(AddressHeader::XRealIp),
        _ => Err("it is none of X-Forwarded-For, Forwarded and X-Real-IP".to_owned()),
    }
}

/// `true` or `false`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_| "it is neither true nor false".to_owned())
}

fn split_unit(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

fn within<T: PartialOrd>(
    value: T,
    bounds: &RangeInclusive<T>,
    show: impl Fn(&T) -> String,
) -> Result<T, String> {
    if bounds.contains(&value) {
        return Ok(value);
    }
    Err(format!("it must be from {} to {}", show(bounds.start()), show(bounds.end())))
}

/// A duration as a user would type it.
pub(super) fn show_duration(duration: Duration) -> String {
    let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if milliseconds == 0 {
        return "0s".to_owned();
    }
    DURATION_UNITS
        .iter()
        .find(|(_, factor)| milliseconds.is_multiple_of(*factor))
        .map_or_else(String::new, |(unit, factor)| format!("{}{unit}", milliseconds / factor))
}

/// A size as a user would type it.
pub(super) fn show_bytes(bytes: usize) -> String {
    SIZE_UNITS
        .iter()
        .find(|(_, factor)| bytes.is_multiple_of(*factor))
        .map_or_else(String::new, |(unit, factor)| format!("{}{unit}", bytes / factor))
}

/// The candidate that `text` was probably meant to be.
pub(super) fn closest<'a>(
    text: &str,
    candidates: impl Iterator<Item = &'a str>,
) -> Option<&'a str> {
    candidates
        .map(|candidate| (strsim::jaro_winkler(text, candidate), candidate))
        // From 0.8 on the words share their beginning or differ by a letter or two.
        .filter(|(likeness, _)| *likeness >= 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: std::fmt::Debug + PartialEq>(got: &Result<T, String>, expected: Result<T, &str>) {
        match (got, expected) {
            (Err(message), Err(part)) => {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
            }
            (got, expected) => assert_eq!(*got, expected.map_err(ToOwned::to_owned)),
        }
    }

    #[test]
    fn addresses() {
        let v4 = |port| SocketAddr::from(([127, 0, 0, 1], port));
        check(&address("127.0.0.1:8000"), Ok(v4(8000)));
        check(&address("127.0.0.1:0"), Ok(v4(0)));
        check(&address("localhost:80"), Ok(v4(80)));
        check(&address("[::1]:80"), Ok("[::1]:80".parse().unwrap()));
        check(&address(":8000"), Err("write 127.0.0.1:8000"));
        check(&address("8000"), Err("or 0.0.0.0:8000"));
        check(&address("::1:80"), Err("write [::1]:80"));
        check(&address("example.org:80"), Err("not an IP address"));
        check(&address("127.0.0.1"), Err("not an IP address"));
        check(&address("127.0.0.1:65536"), Err("not an IP address"));
        check(&address("http://127.0.0.1:80"), Err("not an IP address"));
    }

    #[test]
    fn durations() {
        let bounds = Duration::ZERO..=Duration::from_secs(3600);
        let duration = |text| duration(text, &bounds);
        check(&duration("500ms"), Ok(Duration::from_millis(500)));
        check(&duration("2s"), Ok(Duration::from_secs(2)));
        check(&duration("5m"), Ok(Duration::from_secs(300)));
        check(&duration("1h"), Ok(Duration::from_secs(3600)));
        check(&duration("0"), Ok(Duration::ZERO));
        check(&duration("0s"), Ok(Duration::ZERO));
        check(&duration("5"), Err("it needs a unit: write 5s or 5ms"));
        check(&duration("2h"), Err("from 0s to 1h"));
        check(&duration("99999999999999999999s"), Err("not a duration"));
        check(&duration("9999999999999999h"), Err("from 0s to 1h"));
        for text in ["", "s", "1.5s", "-1s", "2 s", "2S", "2days", "off"] {
            check(&duration(text), Err("not a duration"));
        }
    }

    #[test]
    fn sizes() {
        let bounds = 1024..=(8 << 20);
        let bytes = |text| bytes(text, &bounds);
        check(&bytes("65536"), Ok(65_536));
        check(&bytes("64KiB"), Ok(65_536));
        check(&bytes("8 MiB"), Ok(8 << 20));
        check(&bytes("2048B"), Ok(2048));
        check(&bytes("9MiB"), Err("from 1KiB to 8MiB"));
        check(&bytes("1"), Err("from 1KiB to 8MiB"));
        check(&bytes("18446744073709551615MiB"), Err("from 1KiB to 8MiB"));
        for text in ["", "MiB", "8MB", "8M", "1.5MiB", "-1"] {
            check(&bytes(text), Err("not a size"));
        }
    }

    #[test]
    fn counts_and_switches() {
        check(&count("10", &(1..=100)), Ok(10));
        check(&count("0", &(1..=100)), Err("from 1 to 100"));
        check(&count("1e3", &(1..=100)), Err("not a whole number"));
        check(&switch("true"), Ok(true));
        check(&switch("false"), Ok(false));
        check(&switch("yes"), Err("neither true nor false"));
    }

    #[test]
    fn rates_and_headers() {
        let a_rate = |count, s| Ok(Rate { count, per: Duration::from_secs(s) });
        check(&rate("100/s"), a_rate(100, 1));
        check(&rate("600/m"), a_rate(600, 60));
        check(&rate("10000000/h"), a_rate(10_000_000, 3600));
        for text in ["0/s", "10000001/s", "99999999999999999999/s"] {
            check(&rate(text), Err("from 1 to 10000000"));
        }
        for text in ["", "100", "/s", "100/", "100/d", "+1/s", "1.5/s", "100 / s", "off"] {
            check(&rate(text), Err("not a rate"));
        }
        check(&address_header("x-forwarded-FOR"), Ok(AddressHeader::XForwardedFor));
        check(&address_header("Forwarded"), Ok(AddressHeader::Forwarded));
        check(&address_header("X-Real-IP"), Ok(AddressHeader::XRealIp));
        check(&address_header("Client-IP"), Err("none of X-Forwarded-For"));
    }

    #[test]
    fn what_is_shown_is_what_can_be_typed() {
        assert_eq!(show_duration(Duration::ZERO), "0s");
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        assert_eq!(show_duration(Duration::from_secs(7200)), "2h");
        assert_eq!(show_bytes(1 << 20), "1MiB");
        assert_eq!(show_bytes(1536), "1536B");
    }

    #[test]
    fn suggestions_need_some_likeness() {
        let names = || ["linger", "listen", "log"].into_iter();
        assert_eq!(closest("lingr", names()), Some("linger"));
        assert_eq!(closest("lisen", names()), Some("listen"));
        assert_eq!(closest("colour", names()), None);
    }
}
