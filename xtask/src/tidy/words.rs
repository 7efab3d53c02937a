//! Finds words and phrases that the project does not use.
//!
//! Look here for what counts as a word. The list is `xtask/banned-words.txt`.

use super::debt::{Fault, Kind};

/// The entries of a list, one a line: `#` begins a comment, and `->` what to write instead.
pub(crate) fn parse_list(text: &str) -> Vec<&str> {
    let before = |line: &'_ str, end: &str| line.find(end).unwrap_or(line.len());
    let entries = text.lines().map(|line| line[..before(line, "#").min(before(line, "->"))].trim());
    entries.filter(|entry| !entry.is_empty()).collect()
}

/// Each occurrence with its line. Case does not matter, and a phrase may be wrapped.
///
/// `_` stands between words, so that names of functions are read too; `CamelCase` is one word.
pub(crate) fn find<'a>(text: &str, banned: impl Iterator<Item = &'a str>) -> Vec<(usize, &'a str)> {
    let words = split(text);
    let parts = |phrase| split(phrase).into_iter().map(|word| word.text).collect::<Vec<_>>();
    let phrases: Vec<(&str, Vec<String>)> = banned
        .map(|phrase| (phrase, parts(phrase)))
        .filter(|(_, parts)| !parts.is_empty())
        .collect();
    let mut found = Vec::new();
    for (at, first) in words.iter().enumerate() {
        for (phrase, parts) in &phrases {
            let Some(candidate) = words.get(at..at + parts.len()) else { continue };
            let same = candidate.iter().zip(parts).all(|(word, part)| word.text == *part);
            if same && candidate.iter().skip(1).all(|word| word.follows) {
                found.push((first.line, *phrase));
            }
        }
    }
    found
}

/// One fault for all occurrences in a file.
pub(crate) fn fault(path: &str, kind: Kind, found: &[(usize, &str)]) -> Option<Fault> {
    let places: Vec<String> =
        found.iter().map(|(line, word)| format!("line {line} `{word}`")).collect();
    (!found.is_empty()).then(|| Fault {
        subject: path.to_owned(),
        kind,
        count: found.len(),
        detail: places.join(", "),
    })
}

struct Word {
    text: String,
    line: usize,
    /// Whether nothing but space, or the marks of comments, stands between it and the word before.
    follows: bool,
}

fn split(text: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut follows = true;
    for (index, line) in text.lines().enumerate() {
        let mut word = String::new();
        for one in line.chars().chain(std::iter::once('\n')) {
            if one.is_alphanumeric() {
                word.extend(one.to_lowercase());
                continue;
            }
            if !word.is_empty() {
                words.push(Word { text: std::mem::take(&mut word), line: index + 1, follows });
                follows = true;
            }
            follows &= one.is_whitespace() || "_/!*#>:".contains(one);
        }
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(usize, &str)]) {
        let banned = ["gnu", "gnu goat", "std::net"];
        assert_eq!(find(text, banned.into_iter()), expected, "{text}");
    }

    #[test]
    fn words_are_found_whole_and_in_any_case() {
        check("a Gnu,\nGNU", &[(1, "gnu"), (2, "gnu")]);
        check("gnus agnu Gnuish TcpGnu", &[]);
        check("fn a_gnu_runs()", &[(1, "gnu")]);
    }

    #[test]
    fn phrases_are_found_across_lines() {
        let both = [(1, "gnu"), (1, "gnu goat")];
        check("gnu  goat", &both);
        check("//! gnu\n//! goat", &both);
        check("gnu. Goat", &[(1, "gnu")]);
        check("gnu.\nGoat", &[(1, "gnu")]);
        check("use std::net::TcpStream;", &[(1, "std::net")]);
        check("std::{net}", &[]);
    }

    #[test]
    fn a_list_may_explain_its_entries() {
        let list = "# No animals.\ngnu -> system # why\n\n  gnu goat # twice\n";
        assert_eq!(parse_list(list), ["gnu", "gnu goat"]);
    }
}
