//! Rules for the files themselves, which no compiler checks.
//!
//! Look here when `cargo xtask tidy` complains about a line, to see the rule.

use std::path::Path;

use super::debt::{Fault, Kind};
use super::imports::Source;
use super::words;

/// STYLE.md: files stay readable in one go. Those that were longer when the rule came are debt.
const RUST_LINES_MAX: usize = 500;

/// Longer than this is not even allowed as debt.
const RUST_LINES_LIMIT: usize = 600;

/// STYLE.md: code and prose fit beside each other on a screen.
const COLUMNS_MAX: usize = 100;

/// STYLE.md: the map must be short, or nobody reads it.
const ARCHITECTURE_LINES_MAX: usize = 150;

/// Names the default registry in every entry, whatever mirror was used: cargo wants it so.
const CARGO_LOCK: &str = "Cargo.lock";

/// Folders of one person's machine. Assembled, so that this file passes its own check.
const MACHINE_FOLDERS: &[&str] =
    &[concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/")];

/// Hosts of package registries: a build may use a mirror.
const REGISTRY_HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("registry.npm", "js.org"),
    concat!("npm", "js.com"),
    concat!("py", "pi.org"),
    concat!("pythonhost", "ed.org"),
    concat!("deb.deb", "ian.org"),
    concat!("archive.ubun", "tu.com"),
];

/// Faults of one file that may be listed as debt.
pub(crate) fn faults(file: &Source, banned: &[&str]) -> Vec<Fault> {
    let Source { path, text } = file;
    let mut faults = Vec::new();
    if ends_in(path, &["rs", "lua", "md"]) {
        let lines = long_lines(path, text);
        let shown: Vec<String> = lines.iter().map(ToString::to_string).collect();
        faults.extend((!lines.is_empty()).then(|| Fault {
            subject: path.clone(),
            kind: Kind::LongLines,
            count: lines.len(),
            detail: format!("over {COLUMNS_MAX} columns: line {}", shown.join(", ")),
        }));
    }
    if ends_in(path, &["rs", "lua", "md", "toml", "html", "js"]) {
        let found = words::find(text, banned.iter().copied());
        faults.extend(words::fault(path, Kind::BannedWords, &found));
    }
    let length = text.lines().count();
    faults.extend((ends_in(path, &["rs"]) && length > RUST_LINES_MAX).then(|| Fault {
        subject: path.clone(),
        kind: Kind::LongFile,
        count: 1,
        detail: format!("{length} lines, over {RUST_LINES_MAX}: split it by noun"),
    }));
    faults
}

/// The faults of one file that are never allowed; each begins with `:`, and a line number where
/// there is one.
pub(crate) fn check(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if Path::new(name).ends_with(CARGO_LOCK) {
        return faults;
    }
    if ends_in(name, &["rs"]) && !text.starts_with("//!") {
        faults
            .push(":1: does not open with `//!`; say what it is and when to look here".to_owned());
    }
    if ends_in(name, &["rs"]) && text.lines().count() > RUST_LINES_LIMIT {
        faults.push(format!(": over {RUST_LINES_LIMIT} lines; split it by noun"));
    }
    if name == "ARCHITECTURE.md" && text.lines().count() >= ARCHITECTURE_LINES_MAX {
        faults.push(format!(": {ARCHITECTURE_LINES_MAX} lines or more; move detail to the code"));
    }
    let spaces_matter = ends_in(name, &["rs", "md"]);
    for (index, line) in text.lines().enumerate() {
        let mut fault = |what: &str| faults.push(format!(":{}: {what}", index + 1));
        if spaces_matter && line.contains('\t') {
            fault("a tab; use spaces, or \\t in a string");
        }
        if spaces_matter && line.ends_with([' ', '\t']) {
            fault("white space at the end of the line");
        }
        if let Some(folder) = MACHINE_FOLDERS.iter().find(|folder| has_path(line, folder)) {
            fault(&format!("`{folder}` is a folder of one machine; use a relative path"));
        }
        if let Some(host) = REGISTRY_HOSTS.iter().find(|host| line.contains(*host)) {
            fault(&format!("`{host}` is the host of a package registry; name only the package"));
        }
    }
    faults
}

/// The lines that are too long: rows of Markdown tables are exempt, and an address that cannot be
/// broken does not count.
fn long_lines(path: &str, text: &str) -> Vec<usize> {
    let is_markdown = ends_in(path, &["md"]);
    let too_long = |line: &str| {
        let content = line.trim_start();
        let comment = content.trim_start_matches(['/', '!']);
        let is_prose = is_markdown || comment.len() < content.len();
        let is_table = is_prose && comment.trim_start().starts_with('|');
        let address = line.split_whitespace().filter(|word| is_prose && word.contains("://"));
        let counted =
            line.chars().count() - address.map(|word| word.chars().count()).sum::<usize>();
        !is_table && counted > COLUMNS_MAX
    };
    let lines = text.lines().enumerate().filter(|(_, line)| too_long(line));
    lines.map(|(index, _)| index + 1).collect()
}

fn ends_in(path: &str, extensions: &[&str]) -> bool {
    let extension = Path::new(path).extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| extensions.contains(&extension))
}

/// Whether the absolute path stands in the line, and not the end of a longer one.
fn has_path(line: &str, folder: &str) -> bool {
    line.match_indices(folder).any(|(at, _)| {
        !line[..at].ends_with(|before: char| before.is_alphanumeric() || "._-~}*".contains(before))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(name: &str, text: &str, expected: &[&str]) {
        let faults = check(name, text);
        assert_eq!(faults.len(), expected.len(), "{name}: {faults:?}");
        for (fault, word) in faults.iter().zip(expected) {
            assert!(fault.contains(word), "{name}: {fault}");
        }
    }

    #[test]
    fn rust_files_have_a_head_and_a_bound() {
        check_one("a.rs", "//! A thing.\n", &[]);
        check_one("a.rs", "fn main() {}\n", &["does not open"]);
        check_one("a.rs", &"//! x\n".repeat(600), &[]);
        check_one("a.rs", &"//! x\n".repeat(601), &["over 600 lines"]);
        check_one("a.mjs", &"x\n".repeat(601), &[]);
    }

    fn check_faults(path: &str, text: &str, expected: &[(Kind, usize)]) {
        let file = Source { path: path.to_owned(), text: text.to_owned() };
        let found = faults(&file, &["gnu"]);
        let found: Vec<_> = found.into_iter().map(|fault| (fault.kind, fault.count)).collect();
        assert_eq!(found, expected, "{path}: {text}");
    }

    #[test]
    fn files_over_500_lines_are_debt() {
        check_faults("a.rs", &"x\n".repeat(500), &[]);
        check_faults("a.rs", &"x\n".repeat(501), &[(Kind::LongFile, 1)]);
        check_faults("a.md", &"x\n".repeat(501), &[]);
    }

    #[test]
    fn lines_have_100_columns() {
        let (fits, long) = ("ä".repeat(100), "ä".repeat(101));
        let one = [(Kind::LongLines, 1)];
        check_faults("a.rs", &fits, &[]);
        check_faults("a.rs", &long, &one);
        check_faults("a.lua", &format!("{long}\n{long}"), &[(Kind::LongLines, 2)]);
        check_faults("a.md", &long, &one);
        check_faults("a.toml", &long, &[]);
        check_faults("a.md", &format!("  | {long} |"), &[]);
        check_faults("a.rs", &format!("//! | {long} |"), &[]);
        check_faults("a.rs", &format!("    | {long}"), &one);
        check_faults("a.md", &format!("see https://{long}"), &[]);
        check_faults("a.rs", &format!("/// see <https://{long}>"), &[]);
        check_faults("a.rs", &format!("const A: &str = \"https://{long}\";"), &one);
        check_faults("a.md", &format!("{long} https://a"), &one);
    }

    #[test]
    fn banned_words_are_counted() {
        check_faults("a.md", "Gnu gnu", &[(Kind::BannedWords, 2)]);
        check_faults("a.toml", "gnu", &[(Kind::BannedWords, 1)]);
        check_faults("a.txt", "gnu", &[]);
    }

    #[test]
    fn white_space_is_clean_where_people_read() {
        check_one("a.rs", "//! x \n\tlet x;\n", &["white space", "a tab"]);
        check_one("a.md", "x  \n", &[":1: white space"]);
        check_one("Makefile", "\tall: \n", &[]);
    }

    #[test]
    fn no_machine_and_no_registry_is_named() {
        let [home, registry] = [MACHINE_FOLDERS[1], REGISTRY_HOSTS[0]];
        check_one("a.toml", &format!("x = \"{home}me\"\n"), &["folder of one machine"]);
        check_one("a.toml", &format!("x = \"src{home}me\"\n"), &[]);
        check_one("a.md", &format!("get it from https://{registry}/x\n"), &["package registry"]);
        check_one("fuzz/Cargo.lock", registry, &[]);
        check_one("web/package-lock.json", REGISTRY_HOSTS[1], &["package registry"]);
    }

    #[test]
    fn the_map_stays_short() {
        check_one("ARCHITECTURE.md", &"x\n".repeat(149), &[]);
        check_one("ARCHITECTURE.md", &"x\n".repeat(150), &["150 lines"]);
    }
}
