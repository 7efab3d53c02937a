//! Text of others, for people to read: on one line, without control characters, of bounded length.
//! Look here before you print what a client, the application, an ACME server or Redis has sent.

use std::fmt::{self, Write};

use crate::limits::PRINTED_TEXT_CHARS_MAX;

/// Writes text so that nothing in it ends a line, moves the cursor or hides other text.
pub(crate) struct Printable<W> {
    out: W,
    /// How many characters may follow.
    left: usize,
}

impl<W: Write> Printable<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, left: PRINTED_TEXT_CHARS_MAX }
    }
}

impl<W: Write> Write for Printable<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for character in text.chars() {
            match self.left {
                0 => return Ok(()),
                1 => self.out.write_char('…')?,
                _ if is_printable(character) => self.out.write_char(character)?,
                _ => write!(self.out, "{}", character.escape_default())?,
            }
            self.left -= 1;
        }
        Ok(())
    }
}

/// The text as [`Printable`] writes it.
pub(crate) fn printable(text: impl fmt::Display) -> String {
    let mut printed = String::new();
    // Writing to a string does not fail.
    let _ = write!(Printable::new(&mut printed), "{text}");
    printed
}

/// Not so are control characters, separators of lines, and what changes the direction of text.
fn is_printable(character: char) -> bool {
    let is_invisible = matches!(
        character,
        '\u{61c}'
            | '\u{200e}'
            | '\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{feff}'
    );
    !character.is_control() && !is_invisible
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_ends_the_line_or_moves_the_cursor() {
        for (text, expected) in [
            ("grüße 🌊 \"a\\b\"", "grüße 🌊 \"a\\b\""),
            ("a\nb\r\nc\td", "a\\nb\\r\\nc\\td"),
            ("\u{1b}[2J", "\\u{1b}[2J"),
            ("\u{9b}2J\u{7f}\0", "\\u{9b}2J\\u{7f}\\u{0}"),
            ("a\u{85}b\u{2028}c\u{202e}d", "a\\u{85}b\\u{2028}c\\u{202e}d"),
        ] {
            assert_eq!(printable(text), expected);
        }
    }

    #[test]
    fn long_texts_are_cut() {
        let max = PRINTED_TEXT_CHARS_MAX;
        assert_eq!(printable("x".repeat(max - 1)), "x".repeat(max - 1));
        let cut = printable("ü".repeat(1 << 20));
        assert_eq!((cut.chars().count(), cut.ends_with("ü…")), (max, true));
        // However it is written.
        let mut text = String::new();
        let mut writer = Printable::new(&mut text);
        (0..10 * max).for_each(|_| writer.write_str("\n").unwrap());
        assert!(text.len() < 3 * max && text.ends_with("\\n…"), "{}", text.len());
    }
}
