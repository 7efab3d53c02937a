//! Durations, sizes and counts in the units that settings have.

use std::ops::RangeInclusive;
use std::time::Duration;

use headwater::quantity::{Bare, DURATION_UNITS, Grammar, SIZE_UNITS};

pub(in crate::settings) use headwater::quantity::count;

/// From hours down.
const DURATION: Grammar = Grammar {
    expected: "a duration like 500ms, 2s, 5m or 1h",
    units: DURATION_UNITS.split_at(1).1,
    bare: Bare::MistakeUnlessZero(["s", "ms"]),
    blanks: false,
};

/// From MiB down.
const SIZE: Grammar = Grammar {
    expected: "a size like 65536, 64KiB or 8MiB",
    units: SIZE_UNITS.split_at(1).1,
    bare: Bare::Smallest,
    blanks: true,
};

/// A whole number and a unit: `500ms`, `2s`, `5m`, `1h`. Zero needs no unit.
pub(crate) fn duration(text: &str, bounds: &RangeInclusive<Duration>) -> Result<Duration, String> {
    DURATION.duration(text, bounds)
}

/// A number of bytes: `65536`, `64KiB`, `8MiB`.
pub(in crate::settings) fn bytes(
    text: &str,
    bounds: &RangeInclusive<usize>,
) -> Result<usize, String> {
    SIZE.size(text, bounds)
}

/// A duration as a user would type it.
pub(crate) fn show_duration(duration: Duration) -> String {
    DURATION.show_duration(duration)
}

/// A size as a user would type it.
pub(crate) fn show_bytes(bytes: usize) -> String {
    SIZE.show_size(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::*;

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
    fn counts() {
        check(&count("10", &(1..=100)), Ok(10));
        check(&count("0", &(1..=100)), Err("from 1 to 100"));
        check(&count("1e3", &(1..=100)), Err("not a whole number"));
    }

    #[test]
    fn settings_are_shown_as_they_are_written() {
        assert_eq!(show_duration(Duration::ZERO), "0s");
        assert_eq!(show_duration(Duration::from_millis(1500)), "1500ms");
        assert_eq!(show_duration(Duration::from_secs(90)), "90s");
        assert_eq!(show_duration(Duration::from_secs(7200)), "2h");
        assert_eq!(show_bytes(1 << 20), "1MiB");
        assert_eq!(show_bytes(1536), "1536B");
    }
}
