//! Splits Rust source into tokens and cuts out what only tests see.
//!
//! Look here when `tidy` reads a file wrongly. Comments and literals are dropped; nothing is parsed
//! beyond what finding `use` trees and paths needs.

/// A word, a number, `::`, or one punctuation character. A literal is an empty token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) text: &'a str,
    /// Counted from 1.
    pub(crate) line: usize,
}

impl Token<'_> {
    /// Whether it is an identifier or a keyword.
    pub(crate) fn is_word(&self) -> bool {
        self.text.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// All tokens of a file.
pub(crate) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(first) = text[at..].chars().next() {
        let rest = &text[at..];
        let (length, token) = match first {
            _ if first.is_whitespace() => (first.len_utf8(), None),
            '/' if rest.starts_with("//") => (rest.find('\n').unwrap_or(rest.len()), None),
            '/' if rest.starts_with("/*") => (block_comment(rest), None),
            '"' => (quoted(rest, 1), Some("")),
            '\'' => lifetime_or_character(rest),
            ':' if rest.starts_with("::") => (2, Some("::")),
            _ if first.is_alphanumeric() || first == '_' => word_or_literal(rest),
            _ => (first.len_utf8(), Some(&rest[..first.len_utf8()])),
        };
        tokens.extend(token.map(|text| Token { text, line }));
        line += rest[..length].matches('\n').count();
        at += length;
    }
    tokens
}

/// The length of a comment that may contain others.
fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if text[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of a literal with escapes, whose content begins at `start`, behind its quote.
fn quoted(text: &str, start: usize) -> usize {
    let quote = text.as_bytes()[start - 1];
    let mut bytes = text.bytes().enumerate().skip(start);
    while let Some((at, byte)) = bytes.next() {
        if byte == b'\\' {
            bytes.next();
        } else if byte == quote {
            return at + 1;
        }
    }
    text.len()
}

/// `'a'` is a literal, `'a` is not.
fn lifetime_or_character(text: &str) -> (usize, Option<&'static str>) {
    let mut characters = text.char_indices().skip(1);
    let (_, first) = characters.next().unwrap_or((1, ' '));
    let after = characters.next().map(|(_, after)| after);
    if first == '\\' || after == Some('\'') {
        return (quoted(text, 1), Some(""));
    }
    (1 + word_length(&text[1..]), None)
}

/// A word, unless it is the prefix of a literal or of a raw identifier.
fn word_or_literal(text: &str) -> (usize, Option<&str>) {
    let length = word_length(text);
    let (word, rest) = text.split_at(length);
    let hashes = rest.len() - rest.trim_start_matches('#').len();
    let is_raw = matches!(word, "r" | "br" | "cr") && rest[hashes..].starts_with('"');
    if is_raw {
        let end = format!("\"{}", "#".repeat(hashes));
        let start = length + hashes + 1;
        let content = text[start..].find(&end).map_or(text.len(), |at| start + at + end.len());
        (content, Some(""))
    } else if matches!(word, "b" | "c") && rest.starts_with(['"', '\'']) {
        (quoted(text, length + 1), Some(""))
    } else if word == "r" && hashes == 1 {
        let length = 2 + word_length(&text[2..]);
        (length, Some(&text[2..length]))
    } else {
        (length, Some(word))
    }
}

fn word_length(text: &str) -> usize {
    text.find(|one: char| !one.is_alphanumeric() && one != '_').unwrap_or(text.len())
}

/// Cuts out what stands behind `#[cfg(test)]`. Returns the rest, and the modules in files of their
/// own that were cut; or nothing, when the whole file is for tests.
pub(crate) fn cut_tests<'a>(tokens: &[Token<'a>]) -> Option<(Vec<Token<'a>>, Vec<&'a str>)> {
    let (mut rest, mut modules) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        let Some(end) = attribute_end(tokens, at) else {
            rest.push(tokens[at]);
            at += 1;
            continue;
        };
        let inner = tokens[at + 1].text == "!";
        let content = &tokens[at + 2 + usize::from(inner)..end - 1];
        if !is_for_tests(content) {
            rest.extend_from_slice(&tokens[at..end]);
            at = end;
        } else if inner {
            return None;
        } else {
            let item = end;
            at = item_end(tokens, item);
            modules.extend(declared_module(&tokens[item..at]));
        }
    }
    Some((rest, modules))
}

/// Where the attribute that begins at `at` ends, if one does.
fn attribute_end(tokens: &[Token<'_>], at: usize) -> Option<usize> {
    let text = |at: usize| tokens.get(at).map(|token| token.text);
    let open = at + 1 + usize::from(text(at + 1) == Some("!"));
    (text(at) == Some("#") && text(open) == Some("[")).then(|| closing(tokens, open) + 1)
}

/// Whether an attribute is `cfg(test)`, or `cfg(all(..))` with `test` among its conditions.
fn is_for_tests(content: &[Token<'_>]) -> bool {
    let texts: Vec<&str> = content.iter().map(|token| token.text).collect();
    match texts.as_slice() {
        ["cfg", "(", "test", ")"] => true,
        ["cfg", "(", "all", "(", conditions @ .., ")", ")"] => {
            let mut depth = 0;
            conditions.iter().any(|text| {
                depth += i32::from(*text == "(") - i32::from(*text == ")");
                depth == 0 && *text == "test"
            })
        }
        _ => false,
    }
}

/// Where the bracket at `open` is closed.
fn closing(tokens: &[Token<'_>], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => continue,
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len().saturating_sub(1)
}

/// Behind an item, a statement, a field or an arm of a match, with its attributes.
fn item_end(tokens: &[Token<'_>], start: usize) -> usize {
    let mut at = start;
    while let Some(end) = attribute_end(tokens, at) {
        at = end;
    }
    let mut first = at;
    if tokens.get(first).is_some_and(|token| token.text == "pub") {
        first += 1;
        if tokens.get(first).is_some_and(|token| token.text == "(") {
            first = closing(tokens, first) + 1;
        }
    }
    let keyword = tokens.get(first).map_or("", |token| token.text);
    let to_semicolon = matches!(keyword, "use" | "static" | "let" | "type")
        || keyword == "const" && tokens.get(first + 1).is_none_or(|next| next.text != "fn");
    let has_block = matches!(
        keyword,
        "fn" | "mod"
            | "struct"
            | "enum"
            | "impl"
            | "trait"
            | "const"
            | "async"
            | "unsafe"
            | "extern"
    );
    while let Some(token) = tokens.get(at) {
        match token.text {
            ";" => return at + 1,
            "," if !to_semicolon && !has_block => return at + 1,
            ")" | "]" | "}" => return at,
            "{" if !to_semicolon => return closing(tokens, at) + 1,
            "(" | "[" | "{" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
    at
}

/// The name in `mod name;`.
fn declared_module<'a>(item: &[Token<'a>]) -> Option<&'a str> {
    match item {
        [.., keyword, name, end] if keyword.text == "mod" && end.text == ";" => Some(name.text),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let found: Vec<&str> = tokens(text).iter().map(|token| token.text).collect();
        assert_eq!(found.join(" "), expected, "{text}");
    }

    #[test]
    fn comments_and_literals_are_dropped() {
        check("a // crate::b\n::c", "a :: c");
        check("a /* crate::b /* x */ y */ c", "a c");
        check(r#"f("crate::a \" b", 'x', '\'', b'"', b"y", c)"#, "f (  ,  ,  ,  ,  , c )");
        check("r#\"a \" b\"# r#use br\"x\\\" y", " use  y");
        check("fn f<'a>(x: &'a str) -> ' '", "fn f < > ( x : & str ) - > ");
        check("'ä' x", " x");
    }

    #[test]
    fn lines_are_counted_through_comments_and_strings() {
        let lines: Vec<usize> =
            tokens("a\n/* x\ny */ b \"\n\" c").iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 3, 3, 4]);
    }

    #[test]
    fn what_only_tests_see_is_cut_out() {
        let check = |text: &str, expected: &str, expected_modules: &[&str]| {
            let all = tokens(text);
            let (rest, modules) = cut_tests(&all).expect("a part is not for tests");
            let rest: Vec<&str> = rest.iter().map(|token| token.text).collect();
            assert_eq!(rest.join(" "), expected, "{text}");
            assert_eq!(modules, expected_modules, "{text}");
        };
        check("a; #[cfg(test)] mod tests { b { c } } d", "a ; d", &[]);
        check("#[cfg(test)] mod tests; d", "d", &["tests"]);
        check("#[cfg(all(test, not(loom)))] #[path = \"x\"] mod more; d", "d", &["more"]);
        check("#[cfg(test)] pub(crate) fn f<A, B>(a: A) -> B { a } d", "d", &[]);
        check("#[cfg(test)] use a::{b, c}; d", "d", &[]);
        check("#[cfg(test)] const A: B = B { c: 1 }; d", "d", &[]);
        check("struct S { #[cfg(test)] pub a: B, c: D }", "struct S { c : D }", &[]);
        check("match x { #[cfg(test)] A => { b } C => d }", "match x { C = > d }", &[]);
        check("f(a, #[cfg(test)] b) c", "f ( a , ) c", &[]);
        assert!(cut_tests(&tokens("#![cfg(test)] a")).is_none());
        check("#[cfg(not(test))] a", "# [ cfg ( not ( test ) ) ] a", &[]);
        check("#[cfg(any(test, x))] a", "# [ cfg ( any ( test , x ) ) ] a", &[]);
    }
}
