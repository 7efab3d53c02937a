//! `cargo xtask tidy`: rules for files, imports and words, which no compiler checks.
//!
//! Look here for what is checked. Each rule is in a file of its own; faults that are known are in
//! `xtask/layers-debt.txt`, and the table of layers is `xtask/src/layers.rs`.

mod circles;
mod debt;
mod files;
mod imports;
mod orphans;
mod structure;
mod tokens;
mod words;

use std::fs;

use crate::repo;
use debt::{Debt, Fault, Kind};
use imports::Source;

/// Words that the project does not use, from the root of the repository.
const BANNED_WORDS: &str = "xtask/banned-words.txt";

/// What to do beside checking.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Options {
    /// Take what is gone off the list of known faults.
    write_debt: bool,
    /// Put what is new on it, too.
    allow_new_debt: bool,
}

impl Options {
    pub(crate) fn from_arguments(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "--write-debt" => options.write_debt = true,
                "--allow-new-debt" => options.allow_new_debt = true,
                other => return Err(format!("`cargo xtask tidy` has no option `{other}`")),
            }
        }
        if options.allow_new_debt && !options.write_debt {
            return Err("`--allow-new-debt` needs `--write-debt`".to_owned());
        }
        Ok(options)
    }
}

/// Checks every file that is or may be committed.
pub(crate) fn run(options: Options) -> Result<(), String> {
    let files = read_files()?;
    let debt = Debt::parse(&find(&files, debt::FILE)?.text)?;
    let found = check(&files)?;
    println!("{}", found.summary());
    let mut wrong = found.errors.clone();
    if options.write_debt {
        if !options.allow_new_debt {
            wrong.extend(debt.added(&found.faults));
        }
        if wrong.is_empty() {
            let text = debt.rewritten(&found.faults);
            fs::write(repo::root().join(debt::FILE), text)
                .map_err(|error| format!("{} cannot be written: {error}", debt::FILE))?;
        }
    } else {
        wrong.extend(debt.compare(&found.faults));
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

/// Everything that is against a rule.
struct Found {
    /// Faults that may be listed as debt.
    faults: Vec<Fault>,
    /// Faults that may not.
    errors: Vec<String>,
    /// The circles of imports, each with the number of its files.
    circles: Vec<usize>,
}

fn check(files: &[Source]) -> Result<Found, String> {
    let banned = words::parse_list(&find(files, BANNED_WORDS)?.text);
    let structure = structure::check(files);
    let mut found =
        Found { faults: structure.faults, errors: structure.errors, circles: structure.circles };
    found.errors.extend(orphans::find(files));
    for file in files {
        let errors = files::check(&file.path, &file.text);
        found.errors.extend(errors.into_iter().map(|error| format!("{}{error}", file.path)));
        found.faults.extend(files::faults(file, &banned));
    }
    Ok(found)
}

impl Found {
    fn summary(&self) -> String {
        let count = |kind| {
            let those = self.faults.iter().filter(|fault| fault.kind == kind);
            those.map(|fault| fault.count).sum::<usize>()
        };
        let kinds = Kind::ALL.iter().filter(|kind| **kind != Kind::Circle);
        let counts: Vec<String> =
            kinds.map(|kind| format!("{}: {}", kind.text(), count(*kind))).collect();
        let files: usize = self.circles.iter().sum();
        let circles = self.circles.len();
        format!("circles: {circles} ({files} files); {}", counts.join("; "))
    }
}

/// All texts under version control, sorted by path.
fn read_files() -> Result<Vec<Source>, String> {
    let mut files = Vec::new();
    for file in repo::files()? {
        let path = file.to_string_lossy().replace('\\', "/");
        // Unreadable is what was deleted and not yet committed, or a link; not UTF-8 is a picture.
        let Ok(bytes) = fs::read(repo::root().join(&file)) else { continue };
        let Ok(text) = String::from_utf8(bytes) else { continue };
        files.push(Source { path, text });
    }
    Ok(files)
}

fn find<'a>(files: &'a [Source], path: &str) -> Result<&'a Source, String> {
    files.iter().find(|file| file.path == path).ok_or_else(|| format!("{path} is missing"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::LAYERS;

    #[test]
    fn options_are_checked() {
        let parse = |arguments: &[&str]| {
            let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
            Options::from_arguments(&arguments).ok()
        };
        let options = |write_debt, allow_new_debt| Some(Options { write_debt, allow_new_debt });
        assert_eq!(parse(&[]), options(false, false));
        assert_eq!(parse(&["--write-debt"]), options(true, false));
        assert_eq!(parse(&["--write-debt", "--allow-new-debt"]), options(true, true));
        assert_eq!(parse(&["--allow-new-debt"]), None);
        assert_eq!(parse(&["--fast"]), None);
    }

    /// The files below a folder. Without git, which a bare machine does not have.
    fn read_folder(folder: &str, files: &mut Vec<Source>) {
        let entries = fs::read_dir(repo::root().join(folder)).expect(folder);
        for entry in entries.map(|entry| entry.expect(folder)) {
            let path = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if entry.path().is_dir() {
                read_folder(&path, files);
            } else if let Ok(text) = fs::read_to_string(entry.path()) {
                files.push(Source { path, text });
            }
        }
    }

    /// Checks the real files, with one more line in the one at `path`.
    fn with_line(path: &str, line: &str) -> Vec<String> {
        let mut files = Vec::new();
        read_folder("crates", &mut files);
        read_folder("xtask", &mut files);
        let debt = &find(&files, debt::FILE).expect("it is committed").text;
        let debt = Debt::parse(debt).expect("it is well formed");
        let file = files.iter_mut().find(|file| file.path.ends_with(path)).expect(path);
        file.text.push_str(line);
        let found = check(&files).expect("all files are there");
        [found.errors, debt.added(&found.faults)].concat()
    }

    /// The words of a text, so that line breaks do not matter.
    fn words(text: &str) -> String {
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_map_shows_the_layers_of_the_published_crates() {
        let map = words(include_str!("../../../ARCHITECTURE.md"));
        for crate_name in ["headwater-core", "headwater", "headwater-redis", "headwater-server"] {
            let folder = format!("crates/{crate_name}/src");
            let row = LAYERS.iter().find(|row| row.folder == folder).expect(crate_name);
            let shown = format!("{folder} {}", words(row.order));
            assert!(map.contains(&shown), "ARCHITECTURE.md lacks: {shown}");
        }
    }

    #[test]
    fn a_channel_that_imports_the_hub_fails_the_check() {
        let wrong = with_line("src/channel.rs", "\nuse crate::hub::Hub;\n").join("\n");
        assert!(wrong.contains("src/channel.rs -> hub/mod.rs: up a layer"), "{wrong}");
        assert!(wrong.contains("src/channel.rs -> hub/mod.rs: in a circle"), "{wrong}");
    }
}
