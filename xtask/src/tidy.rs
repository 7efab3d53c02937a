//! Rules for the files themselves, which no compiler checks.
//!
//! Look here when `cargo xtask tidy` complains, to see the rule or to add a reasoned exception.

use std::fs;
use std::path::Path;

use crate::repo;

/// STYLE.md: files stay readable in one go.
const RUST_LINES_MAX: usize = 600;

/// STYLE.md: the map must be short, or nobody reads it.
const ARCHITECTURE_LINES_MAX: usize = 150;

/// Rust files that may be longer, each with its reason.
const LONG_FILES: &[(&str, &str)] = &[];

/// Names the default registry in every entry, whatever mirror was used: cargo wants it so.
const CARGO_LOCK: &str = "Cargo.lock";

/// Folders of one person's machine. Assembled, so that this file passes its own check.
const MACHINE_FOLDERS: &[&str] =
    &[concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/")];

/// Hosts of package registries: whoever builds this may use a mirror of their own.
const REGISTRY_HOSTS: &[&str] = &[
    concat!("crates", ".io"),
    concat!("registry.npm", "js.org"),
    concat!("npm", "js.com"),
    concat!("py", "pi.org"),
    concat!("pythonhost", "ed.org"),
    concat!("deb.deb", "ian.org"),
    concat!("archive.ubun", "tu.com"),
];

/// Checks every file that is or may be committed.
pub(crate) fn run() -> Result<(), String> {
    let mut faults = Vec::new();
    for file in repo::files()? {
        let name = file.to_string_lossy().replace('\\', "/");
        // Unreadable is what was deleted and not yet committed, or a link; not UTF-8 is a picture.
        let Ok(bytes) = fs::read(repo::root().join(&file)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        faults.extend(check(&name, &text).into_iter().map(|fault| format!("{name}{fault}")));
    }
    let missing = LONG_FILES.iter().filter(|(name, _)| !repo::root().join(name).exists());
    faults.extend(missing.map(|(name, _)| format!("{name}: on the list of long files, but gone")));
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

/// The faults of one file; each begins with `:`, and a line number where there is one.
fn check(name: &str, text: &str) -> Vec<String> {
    let path = Path::new(name);
    let ends_in = |wanted: &str| path.extension().is_some_and(|found| found == wanted);
    let mut faults = Vec::new();
    if path.ends_with(CARGO_LOCK) {
        return faults;
    }
    if ends_in("rs") {
        faults.extend(check_rust_file(name, text));
    }
    if name == "ARCHITECTURE.md" && text.lines().count() >= ARCHITECTURE_LINES_MAX {
        faults.push(format!(": {ARCHITECTURE_LINES_MAX} lines or more; move detail to the code"));
    }
    let spaces_matter = ends_in("rs") || ends_in("md");
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

fn check_rust_file(name: &str, text: &str) -> Vec<String> {
    let mut faults = Vec::new();
    if !text.starts_with("//!") {
        faults
            .push(":1: does not open with `//!`; say what it is and when to look here".to_owned());
    }
    let long = text.lines().count() > RUST_LINES_MAX;
    let may_be_long = LONG_FILES.iter().any(|(exception, _)| *exception == name);
    if long && !may_be_long {
        faults.push(format!(": over {RUST_LINES_MAX} lines; split it by noun"));
    }
    if !long && may_be_long {
        faults.push(": short enough now; take it off the list of long files".to_owned());
    }
    faults
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
