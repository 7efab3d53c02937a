//! Values of options that several commands have. Look here for what a value must be.

/// A number of minutes, from one to a command's bound.
pub(crate) fn minutes(text: &str, minutes_max: u64) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|minutes| (1..=minutes_max).contains(minutes))
        .ok_or_else(|| format!("`--minutes` needs a number from 1 to {minutes_max}, not `{text}`"))
}
