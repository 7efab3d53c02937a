//! Options that several commands have, and their values. Look here for what a value must be.

/// Takes `--install` out of a command's arguments. Returns whether it was there, and the rest.
pub(crate) fn take_install(arguments: &[String]) -> (bool, Vec<String>) {
    let rest: Vec<String> =
        arguments.iter().filter(|argument| *argument != "--install").cloned().collect();
    (rest.len() < arguments.len(), rest)
}

/// A number of minutes, from one to a command's bound.
pub(crate) fn minutes(text: &str, minutes_max: u64) -> Result<u64, String> {
    text.parse()
        .ok()
        .filter(|minutes| (1..=minutes_max).contains(minutes))
        .ok_or_else(|| format!("`--minutes` needs a number from 1 to {minutes_max}, not `{text}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn install_may_stand_anywhere() {
        let check = |line: &str, install: bool, rest: &str| {
            let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            let (found, left) = take_install(&arguments);
            assert_eq!((found, left.join(" ").as_str()), (install, rest), "{line}");
        };
        check("", false, "");
        check("--install", true, "");
        check("--only rust --install", true, "--only rust");
        check("--install --only=rust", true, "--only=rust");
        check("--installed", false, "--installed");
    }
}
