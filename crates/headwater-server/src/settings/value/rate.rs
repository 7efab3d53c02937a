//! Rates: so many per second, minute or hour.

use std::str::FromStr;
use std::time::Duration;

/// So many per time; as many can come at once, after a time without any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many; at least one.
    pub count: u32,
    /// In which time.
    pub per: Duration,
}

/// The highest rate: beyond it a limit means nothing, and the bucket's clock is too coarse.
const RATE_MAX: u32 = 10_000_000;

impl FromStr for Rate {
    type Err = String;

    /// So many per second, minute or hour: `100/s`, `600/m`, `1000/h`.
    fn from_str(text: &str) -> Result<Self, String> {
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
        let count =
            in_bounds.ok_or_else(|| format!("it must be from 1 to {RATE_MAX} in that time"))?;
        Ok(Self { count, per: Duration::from_secs(per_s) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates() {
        let rate = |text: &str| text.parse::<Rate>();
        let a_rate = |count, s| Ok(Rate { count, per: Duration::from_secs(s) });
        assert_eq!(rate("100/s"), a_rate(100, 1));
        assert_eq!(rate("600/m"), a_rate(600, 60));
        assert_eq!(rate("10000000/h"), a_rate(10_000_000, 3600));
        for text in ["0/s", "10000001/s", "99999999999999999999/s"] {
            assert!(rate(text).unwrap_err().contains("from 1 to 10000000"), "{text}");
        }
        for text in ["", "100", "/s", "100/", "100/d", "+1/s", "1.5/s", "100 / s", "off"] {
            assert!(rate(text).unwrap_err().contains("not a rate"), "{text}");
        }
    }
}
