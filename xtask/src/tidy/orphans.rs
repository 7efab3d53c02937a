//! Finds Rust files that no module declares: they are never compiled, and their tests never run.
//!
//! Look here when `tidy` says that a file belongs to no module.

use std::collections::BTreeSet;

use super::imports::Source;

/// The files that no `mod` reaches and that are no root of a target.
pub(crate) fn find(files: &[Source]) -> Vec<String> {
    let rust = || files.iter().filter(|file| file.is_rust());
    let manifests = files.iter().filter(|file| file.path.ends_with("Cargo.toml"));
    let targets: BTreeSet<String> = manifests.flat_map(targets).collect();
    let declares = |file| declares(file, targets.contains(&file.path));
    let declared: BTreeSet<String> = rust().flat_map(declares).collect();
    rust()
        .map(|file| &file.path)
        .filter(|path| !is_root(path) && !declared.contains(*path) && !targets.contains(*path))
        .map(|path| format!("{path}: no module declares it, so it is never compiled"))
        .collect()
}

/// Whether cargo compiles a file without a `mod`.
fn is_root(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    matches!(
        parts[..],
        [.., "src", "lib.rs" | "main.rs"]
            | [.., "build.rs"]
            | [.., "tests" | "examples" | "bin" | "benches" | "fuzz_targets", _]
            | [.., "tests" | "examples" | "bin", _, "main.rs"]
    )
}

/// The files that a manifest names with `path`.
fn targets(manifest: &Source) -> Vec<String> {
    let folder = manifest.path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let path = |line: &str| {
        let path = line.strip_prefix("path = \"")?.strip_suffix("\"")?;
        Some(normalized(&format!("{folder}/{path}")))
    };
    manifest.text.lines().filter_map(path).collect()
}

/// The paths that the modules of a file may have.
fn declares(file: &Source, is_target: bool) -> Vec<String> {
    let (folder, name) = file.path.rsplit_once('/').unwrap_or(("", &file.path));
    let is_folder = is_target || is_root(&file.path) || name == "mod.rs";
    let below = match name.strip_suffix(".rs") {
        Some(name) if !is_folder => format!("{folder}/{name}"),
        _ => folder.to_owned(),
    };
    let mut paths = Vec::new();
    let mut path_attribute = None;
    for line in file.text.lines().map(str::trim) {
        if let Some(path) = line.strip_prefix("#[path = \"").and_then(|it| it.strip_suffix("\"]")) {
            path_attribute = Some(normalized(&format!("{folder}/{path}")));
            continue;
        }
        let words = line.rsplit_once("mod ").filter(|(before, _)| {
            before.is_empty() || before.starts_with("pub") || before.ends_with("] ")
        });
        let Some(name) = words.and_then(|(_, name)| name.strip_suffix(';')) else { continue };
        match path_attribute.take() {
            Some(path) => paths.push(path),
            None => paths.extend([format!("{below}/{name}.rs"), format!("{below}/{name}/mod.rs")]),
        }
    }
    paths
}

/// A path without `..`.
fn normalized(path: &str) -> String {
    let mut parts = Vec::new();
    for part in path.split('/') {
        if part == ".." {
            parts.pop();
        } else {
            parts.push(part);
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_no_module_declares_are_found() {
        let file = |path: &str, text: &str| Source { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file("crates/a/src/lib.rs", "mod b;\npub(crate) mod c;\n"),
            file("crates/a/src/b.rs", "#[cfg(test)]\nmod tests;\n"),
            file("crates/a/src/b/tests.rs", ""),
            file("crates/a/src/c/mod.rs", "#[path = \"../odd.rs\"]\nmod d;\n"),
            file("crates/a/src/odd.rs", ""),
            file("crates/a/src/lost.rs", "// mod lost;\n"),
            file("crates/a/tests/it/main.rs", "mod one;\n"),
            file("crates/a/tests/it/one.rs", ""),
            file("crates/a/tests/it/two.rs", "mod one;\n"),
            file("examples/own.rs", ""),
            file("crates/a/Cargo.toml", "[[test]]\npath = \"tests/it/soak.rs\"\n"),
            file("crates/a/tests/it/soak.rs", ""),
        ];
        let found: Vec<String> = find(&files);
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("crates/a/src/lost.rs"), "{found:?}");
        assert!(found[1].starts_with("crates/a/tests/it/two.rs"), "{found:?}");
    }
}
