//! Judges imports and dependencies by the tables of `layers.rs`.
//!
//! Look here for what exactly is a fault of the structure. How imports are read is in `imports.rs`.

use std::collections::BTreeSet;

use super::circles;
use super::debt::{Fault, Kind};
use super::imports::{self, Import, Imports, Source};
use super::words;
use crate::layers::{DEPENDENCIES, FORBIDDEN_WORDS, LAYERS, Layers, RESERVED_PATHS};

/// What was found in all crates.
#[derive(Debug, Default)]
pub(crate) struct Structure {
    pub(crate) faults: Vec<Fault>,
    /// Where the tables and the files do not agree, which cannot be listed as debt.
    pub(crate) errors: Vec<String>,
    /// The circles, each with the number of its files.
    pub(crate) circles: Vec<usize>,
}

/// Checks all files of the repository.
pub(crate) fn check(files: &[Source]) -> Structure {
    let mut structure = Structure::default();
    for layers in LAYERS {
        structure.check_crate(layers, &crate_sources(layers, files));
    }
    for file in files {
        structure.check_place(file);
        if file.path.ends_with("Cargo.toml") {
            structure.check_dependencies(&file.path, &file.text);
        }
        structure.check_words(file);
        structure.check_reserved_paths(file);
    }
    structure
}

/// The files of one row of the table, by their paths below its folder.
fn crate_sources(layers: &Layers, files: &[Source]) -> Vec<Source> {
    let mine = |file: &&Source| row_of(&file.path).is_some_and(|row| row.folder == layers.folder);
    let below = |file: &Source| Source {
        path: file.path[layers.folder.len() + 1..].to_owned(),
        text: file.text.clone(),
    };
    files.iter().filter(|file| file.is_rust()).filter(mine).map(below).collect()
}

/// The row of the table that a file belongs to.
fn row_of(path: &str) -> Option<&'static Layers> {
    let rest = |layers: &Layers| {
        path.strip_prefix(layers.folder).is_some_and(|rest| rest.starts_with('/'))
    };
    LAYERS.iter().filter(|layers| rest(layers)).max_by_key(|layers| layers.folder.len())
}

impl Structure {
    fn check_crate(&mut self, layers: &Layers, sources: &[Source]) {
        let Imports { files, imports } = imports::read(sources);
        let order = Order::parse(layers.order);
        let folder = layers.folder;
        let mut used = vec![false; order.entries.len()];
        for file in &files {
            match order.find(file) {
                Some(entry) => used[entry] = true,
                None => self.errors.push(format!(
                    "{folder}/{file}: not in the layer table: add it to xtask/src/layers.rs"
                )),
            }
        }
        for ((name, _), _) in order.entries.iter().zip(used).filter(|(_, used)| !used) {
            self.errors.push(format!(
                "xtask/src/layers.rs: {folder} has no `{name}`: delete or rename the entry"
            ));
        }
        for Import { from, to, line } in &imports {
            let mut fault = |kind, detail: &str| {
                self.faults.push(Fault {
                    subject: format!("{folder}/{from} -> {to}"),
                    kind,
                    count: 1,
                    detail: format!("line {line}: {detail}"),
                });
            };
            if is_parent(to, from) {
                fault(Kind::ChildToParent, "move what children share into a file of its own");
            }
            let (Some(left), Some(right)) = (order.find(from), order.find(to)) else { continue };
            let ((from_entry, from_cell), (to_entry, to_cell)) =
                (order.entries[left], order.entries[right]);
            if to_cell > from_cell {
                fault(Kind::UpALayer, "imports run to the left in xtask/src/layers.rs");
            }
            let are_folders = from_entry.ends_with('/') && to_entry.ends_with('/');
            if left != right && from_cell == to_cell && are_folders {
                fault(Kind::FolderToFolder, "a folder never imports another of its own cell");
            }
        }
        self.check_circles(folder, &imports);
    }

    /// Each import between two files of a circle is a fault, so that none can be added to it.
    fn check_circles(&mut self, folder: &str, imports: &[Import]) {
        let edges: Vec<(&str, &str)> =
            imports.iter().map(|import| (&*import.from, &*import.to)).collect();
        for circle in circles::find(&edges) {
            self.circles.push(circle.len());
            let inside = |file: &String| circle.contains(&file.as_str());
            for Import { from, to, line } in imports {
                if inside(from) && inside(to) {
                    self.faults.push(Fault {
                        subject: format!("{folder}/{from} -> {to}"),
                        kind: Kind::Circle,
                        count: 1,
                        detail: format!("line {line}: {}", circle.join(", ")),
                    });
                }
            }
        }
    }

    /// A crate that is in no table is checked by none.
    fn check_place(&mut self, file: &Source) {
        let path = &file.path;
        let is_in_crate = path.starts_with("crates/") && path.contains("/src/");
        if is_in_crate && file.is_rust() && row_of(path).is_none() {
            self.errors.push(format!("{path}: its crate is not in xtask/src/layers.rs"));
        }
    }

    fn check_dependencies(&mut self, path: &str, text: &str) {
        let folder = path.strip_suffix("/Cargo.toml").unwrap_or("");
        let found = dependencies(text);
        let Some(rule) = DEPENDENCIES.iter().find(|rule| rule.folder == folder) else {
            if found.iter().any(|name| is_ours(name)) && folder.starts_with("crates/") {
                self.errors.push(format!("{path}: its crate is not in xtask/src/layers.rs"));
            }
            return;
        };
        for name in found {
            let may = match rule.others {
                _ if is_ours(&name) => rule.ours.contains(&name.as_str()),
                Some(others) => others.contains(&name.as_str()),
                None => true,
            };
            if !may {
                self.faults.push(Fault {
                    subject: format!("{path} -> {name}"),
                    kind: Kind::Dependency,
                    count: 1,
                    detail: "xtask/src/layers.rs says what it may depend on".to_owned(),
                });
            }
        }
    }

    fn check_words(&mut self, file: &Source) {
        for (folder, forbidden) in FORBIDDEN_WORDS {
            if !file.path.starts_with(folder) {
                continue;
            }
            let found = words::find(&file.text, forbidden.iter().copied());
            self.faults.extend(words::fault(&file.path, Kind::ForbiddenWords, &found));
        }
    }

    fn check_reserved_paths(&mut self, file: &Source) {
        if !file.is_rust() {
            return;
        }
        for (reserved, folders) in RESERVED_PATHS {
            if folders.iter().any(|folder| file.path.starts_with(folder)) {
                continue;
            }
            let names: Vec<&str> = reserved.split("::").collect();
            let paths = imports::paths(&file.text);
            if let Some((line, _)) = paths.iter().find(|(_, path)| {
                path.len() >= names.len() && path.iter().zip(&names).all(|(one, name)| one == name)
            }) {
                self.faults.push(Fault {
                    subject: file.path.clone(),
                    kind: Kind::ReservedPath,
                    count: 1,
                    detail: format!("line {line}: `{reserved}` is for {}", folders.join(", ")),
                });
            }
        }
    }
}

/// Whether `to` is the `mod.rs` of a folder that `from` is in.
fn is_parent(to: &str, from: &str) -> bool {
    let (to, from) = (imports::module_path(to), imports::module_path(from));
    !to.is_empty() && to.len() < from.len() && from.starts_with(&to)
}

fn is_ours(name: &str) -> bool {
    name == "headwater" || name.starts_with("headwater-")
}

/// A row of the table: the entries with the numbers of their cells.
struct Order {
    entries: Vec<(&'static str, usize)>,
}

impl Order {
    fn parse(order: &'static str) -> Self {
        let cells = order.split('|').enumerate();
        let entries =
            cells.flat_map(|(cell, names)| names.split_whitespace().map(move |name| (name, cell)));
        Self { entries: entries.collect() }
    }

    /// The longest entry that a file belongs to.
    fn find(&self, file: &str) -> Option<usize> {
        let name = file.strip_suffix(".rs").unwrap_or(file);
        let fits = |entry: &str| {
            if entry.ends_with('/') { name.starts_with(entry) } else { name == entry }
        };
        let fitting = (0..self.entries.len()).filter(|at| fits(self.entries[*at].0));
        fitting.max_by_key(|at| self.entries[*at].0.len())
    }
}

/// The names under `[dependencies]`, also those for one platform only.
fn dependencies(manifest: &str) -> Vec<String> {
    let mut names = BTreeSet::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim) {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            let is_for_target =
                section.starts_with("target.") && section.ends_with(".dependencies");
            inside = section == "dependencies" || is_for_target;
            if let Some(name) = section.strip_prefix("dependencies.") {
                names.insert(name.to_owned());
            }
        } else if inside && !line.starts_with('#') {
            let name = line.split(['.', '=', ' ']).next().unwrap_or("");
            if !name.is_empty() && line.contains('=') {
                names.insert(name.to_owned());
            }
        }
    }
    names.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYERS: Layers = Layers {
        folder: "crates/a/src",
        order: "limits | low sub/ other/ | sub/deep/ | high | lib",
    };

    /// The faults and errors of a crate with these files and all others of its table, empty.
    fn check_crate(files: &[(&str, &str)], expected: &[&str]) {
        let mut sources: Vec<Source> = Vec::new();
        let rest = ["limits", "low", "sub/mod", "other/mod", "sub/deep/mod", "high", "lib"];
        let rest = rest.map(|name| (format!("{name}.rs"), ""));
        let files = files.iter().map(|(name, text)| (format!("{name}.rs"), *text));
        for (path, text) in files.chain(rest) {
            if !sources.iter().any(|source| source.path == path) {
                sources.push(Source { path, text: text.to_owned() });
            }
        }
        let mut structure = Structure::default();
        structure.check_crate(&LAYERS, &sources);
        let faults = structure.faults.iter().map(|fault| {
            let subject = fault.subject.strip_prefix("crates/a/src/").unwrap_or_default();
            format!("{}: {}", subject.replace(".rs", ""), fault.kind.text())
        });
        let found: Vec<String> = faults.chain(structure.errors).collect();
        assert_eq!(found, expected, "{sources:?}");
    }

    #[test]
    fn imports_run_to_the_left() {
        check_crate(&[], &[]);
        check_crate(&[("high", "use crate::low::L;"), ("low", "use crate::limits::L;")], &[]);
        check_crate(&[("low", "use crate::high::H;")], &["low -> high: up a layer"]);
        check_crate(&[("limits", "fn f() { crate::A; }")], &["limits -> lib: up a layer"]);
        check_crate(&[("low", "use crate::sub::S;")], &[]);
    }

    #[test]
    fn a_folder_never_imports_another_of_its_cell() {
        let fault = "other/mod -> sub/mod: folder to folder of one cell";
        check_crate(&[("other/mod", "use crate::sub::S;")], &[fault]);
        check_crate(&[("sub/x", "use super::y::Y;"), ("sub/y", "")], &[]);
    }

    #[test]
    fn a_child_never_imports_its_parent() {
        check_crate(&[("sub/x", "use super::S;")], &["sub/x -> sub/mod: child to parent"]);
        let deep = "sub/deep/x -> sub/mod: child to parent";
        check_crate(&[("sub/deep/x", "use crate::sub::S;")], &[deep]);
        check_crate(&[("sub/mod", "use x::X;"), ("sub/x", "")], &[]);
        // The parent uses what is deeper, which has a layer of its own.
        check_crate(&[("sub/mod", "use deep::D;")], &["sub/mod -> sub/deep/mod: up a layer"]);
        // It is a sibling's, though the parent re-exports it.
        check_crate(
            &[("sub/mod", "pub use y::Y;"), ("sub/y", ""), ("sub/x", "use super::Y;")],
            &[],
        );
    }

    #[test]
    fn each_import_of_a_circle_is_a_fault() {
        let files = [("sub/x", "use super::y::Y;"), ("sub/y", "use super::x::X;")];
        check_crate(&files, &["sub/x -> sub/y: in a circle", "sub/y -> sub/x: in a circle"]);
    }

    #[test]
    fn the_table_has_every_file_and_no_other() {
        let unknown = "crates/a/src/new.rs: not in the layer table: add it to xtask/src/layers.rs";
        check_crate(&[("new", "")], &[unknown]);
        let mut structure = Structure::default();
        structure.check_crate(&LAYERS, &[]);
        assert_eq!(structure.errors.len(), 7, "{:?}", structure.errors);
        assert!(structure.errors[0].contains("has no `limits`"), "{:?}", structure.errors);
        structure.errors.clear();
        let path = "crates/unknown/src/lib.rs".to_owned();
        structure.check_place(&Source { path, text: String::new() });
        assert!(structure.errors[0].contains("its crate is not in"), "{:?}", structure.errors);
    }

    fn check_file(path: &str, text: &str, expected: &[&str]) {
        let found = check(&[Source { path: path.to_owned(), text: text.to_owned() }]);
        let found: Vec<String> = found
            .faults
            .iter()
            .map(|fault| format!("{}: {}", fault.subject, fault.count))
            .collect();
        assert_eq!(found, expected, "{path}");
    }

    #[test]
    fn a_crate_depends_on_what_its_row_says() {
        let core = "crates/headwater-core/Cargo.toml";
        check_file(
            core,
            "[dependencies]\nbytes.workspace = true\ntokio = { version = \"1\" }\n",
            &[],
        );
        let fault = format!("{core} -> axum: 1");
        check_file(core, "[dependencies]\naxum.workspace = true\n", &[&fault]);
        check_file(core, "[dev-dependencies]\naxum.workspace = true\n", &[]);
        check_file(core, "[target.'cfg(unix)'.dependencies]\naxum = \"1\"\n", &[&fault]);
        check_file(core, "[dependencies.axum]\nversion = \"1\"\n", &[&fault]);
        let redis = "crates/headwater-redis/Cargo.toml";
        check_file(redis, "[dependencies]\nredis = \"1\"\nheadwater-core.workspace = true\n", &[]);
        let fault = format!("{redis} -> headwater: 1");
        check_file(redis, "[dependencies]\nheadwater = { path = \"x\" }\n", &[&fault]);
    }

    #[test]
    fn core_names_no_carrier() {
        let text = "// Redis.\nuse std::net::TcpStream;\nlet mio_poll = 1;\n";
        check_file("crates/headwater-core/src/x.rs", text, &["crates/headwater-core/src/x.rs: 3"]);
        check_file("crates/headwater-core/tests/x.rs", text, &[]);
    }

    #[test]
    fn the_transport_is_for_one_crate() {
        for text in [
            "use headwater_core::transport::Mailbox;",
            "use headwater_core::{Hub, transport};",
            "use headwater_core::{transport::{A, B}};",
            "fn f() { headwater_core::transport::f() }",
        ] {
            check_file("crates/x/tests/it.rs", text, &["crates/x/tests/it.rs: 1"]);
            check_file("crates/headwater/src/y.rs", text, &[]);
        }
        check_file("crates/x/tests/it.rs", "use headwater_core::Hub; // transport", &[]);
    }
}
