//! Settings from a TOML file, with the place of each, so that an error can show the line. Look here
//! for the form of such an error, and for what it must not show.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::error::SettingsError;
use super::schema::{SETTINGS, find};
use super::suggest::closest;

/// Where in which file something stands, with the line for people to see.
#[derive(Debug)]
pub(super) struct Place {
    path: String,
    line: usize,
    column: usize,
    width: usize,
    shown: String,
}

/// Every setting in the file: name, text, place. A list has one entry for each of its items.
pub(super) fn read(path: &Path) -> Result<Vec<(&'static str, String, Place)>, SettingsError> {
    let shown_path = path.display();
    let bytes = fs::read(path).map_err(|error| {
        SettingsError(format!("{shown_path}: cannot read the settings: {error}"))
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].split(|byte| *byte == b'\n').count();
        SettingsError(format!("{shown_path}:{line}: the file is not UTF-8 from here on"))
    })?;
    parse(&shown_path.to_string(), &text)
}

fn parse(path: &str, text: &str) -> Result<Vec<(&'static str, String, Place)>, SettingsError> {
    let place = |span| Place::new(path, text, span);
    let table = DeTable::parse(text).map_err(|error| {
        SettingsError(place(error.span().unwrap_or_default()).refusal(error.message()))
    })?;
    // The table is sorted by key; people read from the top.
    let mut entries: Vec<_> = table.get_ref().iter().collect();
    entries.sort_by_key(|(key, _)| key.span().start);
    let mut found = Vec::new();
    for (key, value) in entries {
        let Some(setting) = find(key.get_ref()) else {
            let why = unknown_key(key.get_ref(), value.get_ref());
            return Err(SettingsError(place(key.span()).refusal(&why)));
        };
        let name = setting.name;
        let refuse =
            |span, why: &str| SettingsError(place(span).refusal(&format!("{name}: {why}")));
        if setting.is_list() {
            let DeValue::Array(items) = value.get_ref() else {
                let example = setting.example;
                let why = format!("it is a list: write {name} = [\"{example}\"]");
                return Err(refuse(value.span(), &why));
            };
            for item in items {
                let DeValue::String(text) = item.get_ref() else {
                    return Err(refuse(item.span(), "a list of strings has something else in it"));
                };
                found.push((name, text.to_string(), place(item.span())));
            }
            continue;
        }
        match as_text(value.get_ref()) {
            Ok(text) => found.push((name, text, place(value.span()))),
            Err(kind) => {
                return Err(refuse(value.span(), &format!("{kind} is no value for a setting")));
            }
        }
    }
    Ok(found)
}

/// The value as it would stand behind a flag, or the name of a type that no setting has.
fn as_text(value: &DeValue<'_>) -> Result<String, &'static str> {
    match value {
        DeValue::String(text) => Ok(text.to_string()),
        DeValue::Integer(number) => Ok(number.to_string()),
        DeValue::Boolean(switch) => Ok(switch.to_string()),
        DeValue::Float(_) => Err("a number with a fraction"),
        DeValue::Datetime(_) => Err("a date or time"),
        DeValue::Array(_) => Err("a list"),
        DeValue::Table(_) => Err("a table"),
    }
}

fn unknown_key(key: &str, value: &DeValue<'_>) -> String {
    let names = SETTINGS.iter().map(|setting| setting.name);
    if matches!(value, DeValue::Table(_)) {
        return format!(
            "`{key}` is a table: all settings stand at the top of the file, outside of tables"
        );
    }
    match closest(&key.to_ascii_lowercase().replace('_', "-"), names) {
        Some(name) => format!("there is no setting `{key}`: did you mean `{name}`?"),
        None => format!("there is no setting `{key}`: `headwater serve --help` lists them"),
    }
}

impl Place {
    fn new(path: &str, text: &str, span: Range<usize>) -> Self {
        let start = character_start(text, span.start);
        let before = &text[..start];
        let line_start = before.rfind('\n').map_or(0, |at| at + 1);
        let line = text[line_start..].lines().next().unwrap_or_default();
        let number = before.matches('\n').count() + 1;
        let end = character_start(text, span.end.min(line_start + line.len()));
        Self {
            path: path.to_owned(),
            line: number,
            column: text[line_start..start].chars().count() + 1,
            width: text.get(start..end).map_or(1, |marked| marked.chars().count().max(1)),
            shown: without_secrets(line, &text[..line_start + line.len()]),
        }
    }

    /// The file.
    pub(super) fn path(&self) -> PathBuf {
        PathBuf::from(&self.path)
    }

    /// `path:line:column: why`, then the line with the place marked.
    pub(super) fn refusal(&self, why: &str) -> String {
        let Self { path, line, column, width, shown } = self;
        let number = line.to_string();
        let margin = " ".repeat(number.len());
        let length = shown.chars().count();
        let indent = " ".repeat((column - 1).min(length));
        let marks = "^".repeat((*width).min(length.saturating_sub(indent.len())).max(1));
        format!(
            "{path}:{line}:{column}: {why}\n{margin} |\n{number} | {shown}\n\
             {margin} | {indent}{marks}"
        )
    }
}

/// The start of the character that the byte at `at` belongs to. A span of an error can be anywhere.
fn character_start(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

/// The line, cut where a secret may begin: at the value of a secret setting, also when its name is
/// misspelt or its string goes over several lines, and behind `://` wherever it stands.
fn without_secrets(line: &str, up_to_line: &str) -> String {
    let secret = |name: &str| SETTINGS.iter().any(|it| it.is_secret() && it.name == name);
    let of_a_secret = |line: &str| {
        let key = line.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        let names = SETTINGS.iter().map(|setting| setting.name);
        closest(&key, names).is_some_and(secret)
            || SETTINGS.iter().any(|it| it.is_secret() && key.contains(it.name))
    };
    let statement = up_to_line.lines().rev().find(|line| line.contains('='));
    if statement.is_some_and(of_a_secret) {
        return match line.split_once('=') {
            Some((key, _)) if of_a_secret(line) => format!("{key}= …"),
            _ => "…".to_owned(),
        };
    }
    match line.split_once("://") {
        Some((before, _)) => format!("{before}://…"),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&[(&str, &str)], &str>) {
        match (parse("a.toml", text), expected) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<_> = found.iter().map(|(name, text, _)| (*name, &**text)).collect();
                assert_eq!(found, expected);
            }
            (Err(SettingsError(message)), Err(expected)) => assert_eq!(message, expected),
            (got, expected) => panic!("{text:?}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn values_become_texts() {
        check("", Ok(&[]));
        check(
            "retry = \"5s\"\nmax-connections = 10_000\nopen = true\n\"log\" = 'warn'",
            Ok(&[("retry", "5s"), ("max-connections", "10000"), ("open", "true"), ("log", "warn")]),
        );
    }

    #[test]
    fn an_error_shows_the_line() {
        check(
            "open = true\nlingr = \"2s\"\n",
            Err("a.toml:2:1: there is no setting `lingr`: did you mean `linger`?\n  |\n\
                 2 | lingr = \"2s\"\n  | ^^^^^"),
        );
        check(
            "max_body = 1",
            Err("a.toml:1:1: there is no setting `max_body`: did you mean `max-body`?\n  |\n\
                 1 | max_body = 1\n  | ^^^^^^^^"),
        );
        check(
            "colour = 1",
            Err(
                "a.toml:1:1: there is no setting `colour`: `headwater serve --help` lists them\n  \
                 |\n\
                 1 | colour = 1\n  | ^^^^^^",
            ),
        );
        check(
            "# grüße\n\n[streams]\nlinger = 1",
            Err("a.toml:3:2: `streams` is a table: all settings stand at the top of the file, \
                 outside of tables\n  |\n3 | [streams]\n  |  ^^^^^^^"),
        );
        check(
            "linger = 1.5",
            Err("a.toml:1:10: linger: a number with a fraction is no value for a setting\n  |\n\
                 1 | linger = 1.5\n  |          ^^^"),
        );
    }

    #[test]
    fn an_error_shows_no_secret() {
        for text in [
            "redis = [\"redis://:s3cret@host\"]",
            "redis = \":s3cret@host",
            "reddis = \":s3cret@host\"",
            "redis_url = \":s3cret@host\"",
            "REDIS = \":s3cret@host\"",
            "colour = \"redis://:s3cret@host\"",
            "log = \"redis://:s3cret@host",
            "redis = \"\"\"\n:s3cret\\q@host\"\"\"",
            "[redis]\nurl = \"redis://:s3cret@host\"",
            "redis.url = 'redis://:s3cret@host'",
        ] {
            let SettingsError(message) = parse("a.toml", text).expect_err(text);
            assert!(!message.contains("s3cret"), "{message}");
        }
    }
}
