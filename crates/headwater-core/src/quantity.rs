//! The grammar of durations, sizes and counts: digits and a unit. Look here for the units; each use
//! of the grammar states its bounds and its examples.
//!
//! Exempt from semantic versioning: the server's settings and endpoints share it.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A unit: its name, and its size in the smallest unit.
pub type Unit = (&'static str, u64);

/// The units of durations, longest first, in milliseconds.
pub const DURATION_UNITS: &[Unit] =
    &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// The units of sizes, largest first, in bytes.
pub const SIZE_UNITS: &[Unit] = &[("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// What one use of the grammar accepts.
#[derive(Debug, Clone, Copy)]
pub struct Grammar {
    /// What is expected, with examples, for error messages: `a duration like 2s or 5m`.
    pub expected: &'static str,
    /// The units, largest first.
    pub units: &'static [Unit],
    /// What digits without a unit mean.
    pub bare: Bare,
    /// Whether blanks are allowed before the unit.
    pub blanks: bool,
}

/// What digits without a unit mean.
#[derive(Debug, Clone, Copy)]
pub enum Bare {
    /// The smallest unit.
    Smallest,
    /// An error, whose message suggests these two units.
    Mistake([&'static str; 2]),
    /// The same, except that `0` alone is zero.
    MistakeUnlessZero([&'static str; 2]),
}

impl Grammar {
    /// Parses a duration within bounds, both inclusive.
    ///
    /// # Errors
    /// A message that says what is wrong.
    pub fn duration(
        &self,
        text: &str,
        bounds: &RangeInclusive<Duration>,
    ) -> Result<Duration, String> {
        let value = Duration::from_millis(self.number(text)?);
        within(value, bounds, |bound| self.show_duration(*bound))
    }

    /// Parses a number of bytes within bounds, both inclusive.
    ///
    /// # Errors
    /// A message that says what is wrong.
    pub fn size(&self, text: &str, bounds: &RangeInclusive<usize>) -> Result<usize, String> {
        let value = usize::try_from(self.number(text)?).unwrap_or(usize::MAX);
        within(value, bounds, |bound| self.show_size(*bound))
    }

    /// The value in the smallest unit, saturating.
    fn number(&self, text: &str) -> Result<u64, String> {
        let malformed = || format!("it is not {}", self.expected);
        let (digits, unit) = split(text);
        let unit = if self.blanks { unit.trim_start() } else { unit };
        let factor = match (factor(self.units, unit), self.bare) {
            (Some(factor), _) => factor,
            (None, Bare::Smallest) if unit.is_empty() => 1,
            (None, Bare::MistakeUnlessZero(_)) if text == "0" => 1,
            (None, Bare::Mistake([one, other]) | Bare::MistakeUnlessZero([one, other]))
                if unit.is_empty() && !digits.is_empty() =>
            {
                return Err(format!("it needs a unit: write {digits}{one} or {digits}{other}"));
            }
            (None, _) => return Err(malformed()),
        };
        let number: u64 = digits.parse().map_err(|_| malformed())?;
        Ok(number.saturating_mul(factor))
    }

    /// Formats a duration as a user would type it.
    pub fn show_duration(&self, duration: Duration) -> String {
        let milliseconds = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        if milliseconds == 0 { "0s".to_owned() } else { self.show(milliseconds) }
    }

    /// Formats a size as a user would type it.
    pub fn show_size(&self, bytes: usize) -> String {
        self.show(u64::try_from(bytes).unwrap_or(u64::MAX))
    }

    fn show(&self, value: u64) -> String {
        let unit = self.units.iter().find(|(_, factor)| value.is_multiple_of(*factor));
        unit.map_or_else(String::new, |(name, factor)| format!("{}{name}", value / factor))
    }
}

/// Splits a text into its leading digits and the rest.
pub fn split(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// The size of a unit in the smallest unit; `None` if there is no such unit.
pub fn factor(units: &[Unit], unit: &str) -> Option<u64> {
    units.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

/// Parses a whole number within bounds, both inclusive.
///
/// # Errors
/// A message that says what is wrong.
pub fn count(text: &str, bounds: &RangeInclusive<usize>) -> Result<usize, String> {
    let value = text.parse().map_err(|_| "it is not a whole number".to_owned())?;
    within(value, bounds, ToString::to_string)
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

#[cfg(test)]
mod tests {
    use super::*;

    const STRICT: Grammar = Grammar {
        expected: "a duration like 90s",
        units: DURATION_UNITS,
        bare: Bare::Mistake(["s", "m"]),
        blanks: false,
    };
    const ZERO: Grammar = Grammar { bare: Bare::MistakeUnlessZero(["s", "ms"]), ..STRICT };
    const SIZE: Grammar = Grammar {
        expected: "a size like 64KiB",
        units: SIZE_UNITS,
        bare: Bare::Smallest,
        blanks: true,
    };

    #[test]
    fn digits_and_units() {
        let malformed = Err("it is not a duration like 90s");
        let cases = [
            (STRICT, "90s", Ok(90_000)),
            (STRICT, "1d", Ok(86_400_000)),
            (STRICT, "7ms", Ok(7)),
            (STRICT, "0", Err("it needs a unit: write 0s or 0m")),
            (STRICT, "10", Err("it needs a unit: write 10s or 10m")),
            (ZERO, "0", Ok(0)),
            (ZERO, "10", Err("it needs a unit: write 10s or 10ms")),
            (STRICT, "", malformed),
            (STRICT, "s", malformed),
            (STRICT, "1 s", malformed),
            (STRICT, "1.5s", malformed),
            (STRICT, "+1s", malformed),
            (STRICT, "1S", malformed),
            (STRICT, "18446744073709551616s", malformed),
            (STRICT, "18446744073709551615d", Ok(u64::MAX)),
            (SIZE, "65536", Ok(65_536)),
            (SIZE, "64KiB", Ok(65_536)),
            (SIZE, "8 MiB", Ok(8 << 20)),
            (SIZE, "1GiB", Ok(1 << 30)),
            (SIZE, "8B", Ok(8)),
            (SIZE, "", Err("it is not a size like 64KiB")),
            (SIZE, "8MB", Err("it is not a size like 64KiB")),
        ];
        for (grammar, text, expected) in cases {
            assert_eq!(grammar.number(text), expected.map_err(ToOwned::to_owned), "{text}");
        }
    }

    #[test]
    fn bounds_are_shown_as_they_are_typed() {
        let bounds = Duration::ZERO..=Duration::from_secs(3600);
        let too_long = Err("it must be from 0s to 1h".to_owned());
        assert_eq!(STRICT.duration("2h", &bounds), too_long);
        assert_eq!(SIZE.size("1", &(1024..=1536)), Err("it must be from 1KiB to 1536B".to_owned()));
        assert_eq!(count("0", &(1..=100)), Err("it must be from 1 to 100".to_owned()));
        assert_eq!(count("1e3", &(1..=100)), Err("it is not a whole number".to_owned()));
        assert_eq!(count("100", &(1..=100)), Ok(100));
    }
}
