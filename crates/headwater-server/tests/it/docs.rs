//! The Markdown files agree with each other, with the binary and with the tests they name. Look
//! here when a link, a command or a name in the documentation is reported as wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use crate::support::BINARY;

/// Folders with files that are not part of the repository.
const FOREIGN_FOLDERS: &[&str] = &["target", "node_modules", "corpus", "artifacts"];

fn root() -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    path.canonicalize().expect("the repository")
}

/// The text of every file with this extension, by its path from the root of the repository.
fn files(extension: &str) -> BTreeMap<PathBuf, String> {
    let root = root();
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let entry = entry.expect("an entry");
            let path = entry.path();
            let name = entry.file_name().into_string().expect("names are UTF-8");
            let kind = entry.file_type().expect("its type");
            if kind.is_dir() {
                let is_hidden = name.starts_with('.') && name != ".github";
                if !is_hidden && !FOREIGN_FOLDERS.contains(&name.as_str()) {
                    folders.push(path);
                }
            } else if path.extension().is_some_and(|it| it == extension) {
                let text = fs::read_to_string(&path).expect("a text");
                found.insert(path.strip_prefix(&root).expect("below the root").to_owned(), text);
            }
        }
    }
    found
}

/// A Markdown file, taken apart.
#[derive(Default)]
struct Page {
    /// Headings as anchors, as GitHub and mdBook derive them.
    anchors: BTreeSet<String>,
    /// What is between `](` and `)`.
    links: Vec<String>,
    /// Code between backticks in prose.
    inline_code: Vec<String>,
    /// Commands of code blocks; continued lines are joined.
    commands: Vec<String>,
}

impl Page {
    fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let mut prose = String::new();
        let mut language = None;
        let mut command = String::new();
        for line in text.lines() {
            let trimmed = line.trim();
            if let Some(after) = trimmed.strip_prefix("```") {
                language = if language.is_some() { None } else { Some(after.to_owned()) };
                continue;
            }
            let Some(language) = &language else {
                page.read_heading(trimmed);
                prose.push_str(line);
                prose.push('\n');
                continue;
            };
            let is_prompt = trimmed.starts_with("$ ");
            if language == "console" && !is_prompt && command.is_empty() {
                continue; // output
            }
            command.push_str(if is_prompt { &trimmed[2..] } else { trimmed });
            let is_continued = command.ends_with(['\\', '|']);
            if is_continued {
                command = command.trim_end_matches('\\').to_owned();
            } else {
                page.commands.push(std::mem::take(&mut command));
            }
        }
        page.read_prose(&prose);
        page
    }

    fn read_heading(&mut self, line: &str) {
        let text = line.trim_start_matches('#');
        if text.len() == line.len() || !text.starts_with(' ') {
            return;
        }
        let is_allowed = |it: &char| it.is_alphanumeric() || " -_".contains(*it);
        let plain: String = text.trim().to_lowercase().chars().filter(is_allowed).collect();
        let anchor = plain.replace(' ', "-");
        let mut unique = anchor.clone();
        for number in 1.. {
            if self.anchors.insert(unique) {
                break;
            }
            unique = format!("{anchor}-{number}");
        }
    }

    fn read_prose(&mut self, prose: &str) {
        let mut links = String::new();
        // Even parts are outside of backticks.
        for (index, part) in prose.split('`').enumerate() {
            if index % 2 == 0 {
                links.push_str(part);
            } else {
                self.inline_code.push(part.replace('\n', " "));
            }
        }
        let targets = links.split("](").skip(1).filter_map(|it| it.split(')').next());
        self.links.extend(targets.map(str::to_owned));
    }
}

fn pages() -> BTreeMap<PathBuf, Page> {
    files("md").into_iter().map(|(path, text)| (path, Page::parse(&text))).collect()
}

/// The path without `..`, which need not exist.
fn normalize(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            normal.pop();
        } else {
            normal.push(part);
        }
    }
    normal
}

#[test]
fn links_and_anchors_resolve() {
    let pages = pages();
    assert!(pages.contains_key(Path::new("README.md")), "{:?}", pages.keys());
    let mut faults = Vec::new();
    for (path, page) in &pages {
        for link in &page.links {
            if link.starts_with("http://") || link.starts_with("https://") {
                continue;
            }
            let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
            let folder = path.parent().expect("its folder");
            let target =
                if target.is_empty() { path.clone() } else { normalize(&folder.join(target)) };
            let has_anchor = || match pages.get(&target) {
                Some(page) => page.anchors.contains(anchor),
                None => anchor.is_empty(),
            };
            if !root().join(&target).exists() {
                faults.push(format!("{}: no file for the link {link}", path.display()));
            } else if !anchor.is_empty() && !has_anchor() {
                faults.push(format!("{}: no heading for the link {link}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn the_summary_lists_every_page() {
    let pages = pages();
    let summary = &pages[Path::new("docs/SUMMARY.md")];
    let listed: BTreeSet<PathBuf> =
        summary.links.iter().map(|it| Path::new("docs").join(it)).collect();
    let is_page = |path: &&PathBuf| path.starts_with("docs") && !path.ends_with("SUMMARY.md");
    let existing: BTreeSet<PathBuf> = pages.keys().filter(is_page).cloned().collect();
    assert_eq!(listed, existing);
}

/// What `headwater` is called with in this text: the words after it, for each time.
fn calls(command: &str) -> Vec<Vec<String>> {
    let mut simple_commands = vec![Vec::new()];
    let mut word = String::new();
    let mut quote = None;
    let mut before = ' ';
    for character in command.chars().chain(['\n']) {
        let ends_command = quote.is_none() && "|&;()\n".contains(character);
        // A substitution runs a command between double quotes too; this drops its quote.
        let substitutes = quote != Some('\'') && before == '$' && character == '(';
        if ends_command || substitutes || (quote.is_none() && character.is_whitespace()) {
            if !word.is_empty() {
                let words: &mut Vec<String> = simple_commands.last_mut().expect("never empty");
                words.push(std::mem::take(&mut word));
            }
            if ends_command || substitutes {
                simple_commands.push(Vec::new());
                quote = None;
            }
        } else if quote == Some(character) {
            quote = None;
        } else if quote.is_none() && "'\"".contains(character) {
            quote = Some(character);
        } else if quote.is_none() && character == '#' && before.is_whitespace() {
            break; // a comment
        } else {
            word.push(character);
        }
        before = character;
    }
    simple_commands.last_mut().expect("never empty").push(word);
    simple_commands.iter().filter_map(|words| arguments(words)).collect()
}

/// The arguments of `headwater`, if that is what these words run.
fn arguments(words: &[String]) -> Option<Vec<String>> {
    let is_variable = |it: &&String| it.contains('=') && !it.starts_with("ExecStart=");
    let start = words.iter().take_while(is_variable).count();
    let words = &words[start..];
    let cargo = ["cargo", "run", "--release", "--"];
    let runs_server = words.len() > cargo.len() && words.iter().zip(cargo).all(|(a, b)| a == b);
    let first = words.first()?.trim_start_matches("ExecStart=");
    let skipped = match first {
        _ if runs_server => cargo.len(),
        "headwater" => 1,
        _ if first.ends_with("/headwater") => 1,
        _ => return None,
    };
    Some(words[skipped..].iter().filter(|it| !it.is_empty()).cloned().collect())
}

/// The flags that the help of a subcommand lists; none if there is no such subcommand.
fn flags_of(subcommand: &str) -> Option<BTreeSet<String>> {
    let mut command = Command::new(BINARY);
    if !subcommand.is_empty() {
        command.arg(subcommand);
    }
    let output = command.arg("--help").env_clear().output().expect("the binary runs");
    let help = String::from_utf8(output.stdout).expect("help is UTF-8");
    let options = help.lines().map(str::trim).filter(|it| it.starts_with('-'));
    let words = options.flat_map(|it| it.split([' ', ',', '=', '[']).take_while(|it| *it != "<"));
    let flags = words.filter(|it| it.starts_with('-')).map(str::to_owned);
    output.status.success().then(|| flags.collect())
}

#[test]
fn commands_name_subcommands_and_flags_that_exist() {
    let mut known: BTreeMap<String, Option<BTreeSet<String>>> = BTreeMap::new();
    let mut faults = Vec::new();
    let mut count = 0;
    for (path, page) in pages() {
        for command in page.commands.iter().chain(&page.inline_code) {
            for arguments in calls(command) {
                count += 1;
                let subcommand = arguments.first().filter(|it| !it.starts_with('-')).cloned();
                let subcommand = subcommand.unwrap_or_default();
                let flags =
                    known.entry(subcommand.clone()).or_insert_with(|| flags_of(&subcommand));
                let Some(flags) = flags else {
                    faults.push(format!("{}: no such subcommand: {command}", path.display()));
                    continue;
                };
                let given = arguments.iter().filter(|it| it.starts_with('-') && *it != "-");
                for flag in given.map(|it| it.split('=').next().expect("a first part")) {
                    if !flags.contains(flag) {
                        faults.push(format!("{}: no flag {flag}: {command}", path.display()));
                    }
                }
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(count >= 40, "only {count} commands were found");
}

/// Pages name settings as flags: `--listen`. Other programs' flags are in a command of the same
/// page.
#[test]
fn flags_in_prose_exist() {
    let subcommands = ["serve", "publish", "subscribe", "token", "check", "bench"];
    let known: BTreeSet<String> =
        subcommands.iter().flat_map(|it| flags_of(it).expect("a subcommand")).collect();
    let mut faults = Vec::new();
    for (path, page) in pages() {
        if !path.starts_with("docs") && path != Path::new("README.md") {
            continue;
        }
        let flags = page.inline_code.iter().filter(|it| it.starts_with("--"));
        for flag in flags.filter_map(|it| it.split([' ', '=']).next()) {
            let is_foreign = page.commands.iter().any(|it| it.contains(flag));
            if !known.contains(flag) && !is_foreign {
                faults.push(format!("{}: no flag {flag}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn files_of_the_repository_that_are_named_exist() {
    let is_name = |it: char| it.is_alphanumeric() || "-_./".contains(it);
    let mut faults = Vec::new();
    for (path, page) in pages() {
        let code = page.commands.iter().chain(&page.inline_code);
        let names = code.flat_map(|it| it.split(|it| !is_name(it)));
        for name in names.filter(|it| it.starts_with("crates/") || it.starts_with("xtask/")) {
            if !root().join(name).exists() {
                faults.push(format!("{}: no file {name}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn metrics_that_are_named_exist() {
    let sources = files("rs");
    let is_name = |it: char| it.is_ascii_alphanumeric() || it == '_';
    let mut faults = Vec::new();
    for (path, page) in pages().iter().filter(|(path, _)| path.starts_with("docs")) {
        for code in &page.inline_code {
            let name = code.split(|it| !is_name(it)).next().expect("a first part");
            let Some(name) = name.strip_prefix("headwater_") else { continue };
            let is_other = ["publish", "version", "begin", "server"].contains(&name);
            let plain = name.trim_end_matches("_total").trim_end_matches("_seconds");
            let literal = format!("\"{plain}\"");
            if !is_other && !sources.values().any(|it| it.contains(&literal)) {
                faults.push(format!("{}: no metric {code}", path.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// The first section of operations.md names what to look for in the log.
#[test]
fn log_messages_that_are_named_exist() {
    let text = &files("md")[Path::new("docs/operations.md")];
    let section = text.split("\n## ").nth(1).expect("a first section");
    let commands = ["curl ", "headwater ", "redis-cli "];
    let is_message =
        |it: &&String| it.contains(' ') && !commands.iter().any(|command| it.starts_with(command));
    let sources = files("rs");
    let page = Page::parse(section);
    let messages: Vec<&String> = page.inline_code.iter().filter(is_message).collect();
    assert!(messages.len() >= 4, "{messages:?}");
    for message in messages {
        let exists = sources.values().any(|it| it.contains(message.as_str()));
        assert!(exists, "docs/operations.md names a message that no source has: {message}");
    }
}

#[test]
fn the_tests_that_security_names_exist() {
    let text = fs::read_to_string(root().join("SECURITY.md")).expect("SECURITY.md");
    let sources = files("rs");
    let mut faults = Vec::new();
    let mut count = 0;
    for row in text.lines().filter(|it| it.starts_with('|')) {
        let cell = row.trim_end_matches(['|', ' ']).rsplit('|').next().expect("a last cell");
        for name in cell.split('`').skip(1).step_by(2) {
            let exists = if Path::new(name).extension().is_some() {
                sources.keys().any(|it| it.ends_with(name))
            } else if name.contains('_') {
                sources.values().any(|it| it.contains(&format!("fn {name}(")))
            } else {
                continue;
            };
            count += 1;
            if !exists {
                faults.push(name);
            }
        }
    }
    assert!(faults.is_empty(), "SECURITY.md names tests that do not exist: {faults:?}");
    assert!(count >= 20, "only {count} names were found");
}

#[test]
fn calls_are_found() {
    fn check(command: &str, expected: &[&[&str]]) {
        assert_eq!(calls(command), expected, "{command}");
    }
    check("headwater", &[&[]]);
    check(
        "A=1 headwater publish news 'a # b' --end # why",
        &[&["publish", "news", "a # b", "--end"]],
    );
    check("curl -H \"x: $(headwater token --user 42)\" 'a?b&c' &", &[&["token", "--user", "42"]]);
    check("cargo run --release -- serve --redis URL", &[&["serve", "--redis", "URL"]]);
    check("ExecStart=/usr/bin/headwater serve", &[&["serve"]]);
    check("redis-cli ACL SETUSER headwater on", &[]);
}
