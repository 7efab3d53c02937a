//! Suggestions for misspelt names.

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

    #[test]
    fn suggestions_need_some_likeness() {
        let names = || ["linger", "listen", "log"].into_iter();
        assert_eq!(closest("lingr", names()), Some("linger"));
        assert_eq!(closest("lisen", names()), Some("listen"));
        assert_eq!(closest("colour", names()), None);
    }
}
