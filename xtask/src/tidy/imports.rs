//! What each file of a crate imports: `use` trees and paths, resolved to the defining file.
//!
//! Look here when `tidy` reports an import that is not there, or misses one. A declaration `mod x;`
//! is not an import, and a name that is re-exported belongs to the file that defines it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::tokens::{Token, cut_tests, tokens};

/// Re-exports of re-exports: more than any crate has, and an end for those that name each other.
const RESOLVE_DEPTH_MAX: usize = 16;

/// A file of a crate: its path below the crate's source folder, and its text.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
}

impl Source {
    pub(crate) fn is_rust(&self) -> bool {
        Path::new(&self.path).extension().is_some_and(|extension| extension == "rs")
    }
}

/// One file imports from another, first in this line.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Import {
    pub(crate) from: String,
    pub(crate) to: String,
    pub(crate) line: usize,
}

/// The files of a crate without those that only tests see, and their imports of each other.
#[derive(Debug, Default)]
pub(crate) struct Imports {
    pub(crate) files: Vec<String>,
    pub(crate) imports: Vec<Import>,
}

/// Reads all files of one crate.
pub(crate) fn read(sources: &[Source]) -> Imports {
    let modules = Modules::of(sources);
    let mut first_lines = BTreeMap::new();
    for (path, module) in &modules.0 {
        for (line, target) in module.paths() {
            let Some(file) = modules.resolve(path, target, RESOLVE_DEPTH_MAX) else { continue };
            if file != module.file {
                let edge = (module.file.clone(), file.to_owned());
                let first = first_lines.entry(edge).or_insert(line);
                *first = line.min(*first);
            }
        }
    }
    let files: BTreeSet<String> = modules.0.values().map(|module| module.file.clone()).collect();
    let imports =
        first_lines.into_iter().map(|((from, to), line)| Import { from, to, line }).collect();
    Imports { files: files.into_iter().collect(), imports }
}

/// All paths of a file that name another crate's item, with their lines; tests are read too.
pub(crate) fn paths(text: &str) -> Vec<(usize, Vec<String>)> {
    let modules = scan("", &tokens(text));
    let all = modules.iter().flat_map(|(_, module)| module.paths());
    all.map(|(line, path)| {
        let path = path.iter().filter(|part| !part.is_empty());
        (line, path.cloned().collect())
    })
    .collect()
}

/// The module of a file: `hub/mod.rs` is `hub`, `hub/ring.rs` is `hub::ring`. The root of the
/// library is the empty path; `main.rs` beside a library is a root of its own.
pub(crate) fn module_path(file: &str) -> Vec<String> {
    let name = file.strip_suffix(".rs").unwrap_or(file);
    let mut parts: Vec<String> = name.split('/').map(str::to_owned).collect();
    if parts.last().is_some_and(|last| last == "mod") || name == "lib" {
        parts.pop();
    }
    parts
}

/// What is written in one module, which is a file or a block in one.
#[derive(Debug, Default)]
struct Module {
    file: String,
    uses: Vec<Use>,
    /// Paths in code.
    inline: Vec<(usize, Vec<String>)>,
    items: BTreeSet<String>,
}

/// One leaf of a `use` tree.
#[derive(Debug)]
struct Use {
    path: Vec<String>,
    /// The name it has here; none for `*` and for `as _`.
    name: Option<String>,
    glob: bool,
    line: usize,
}

impl Module {
    fn paths(&self) -> impl Iterator<Item = (usize, &[String])> {
        let uses = self.uses.iter().map(|one| (one.line, one.path.as_slice()));
        uses.chain(self.inline.iter().map(|(line, path)| (*line, path.as_slice())))
    }
}

/// The modules of a crate by their paths.
struct Modules(BTreeMap<Vec<String>, Module>);

impl Modules {
    fn of(sources: &[Source]) -> Self {
        let mut modules = BTreeMap::new();
        let mut of_tests: Vec<Vec<String>> = Vec::new();
        let has_library = sources.iter().any(|source| source.path == "lib.rs");
        for source in sources {
            let mut root = module_path(&source.path);
            if !has_library && source.path == "main.rs" {
                root.clear();
            }
            let all = tokens(&source.text);
            let Some((rest, cut)) = cut_tests(&all) else {
                of_tests.push(root);
                continue;
            };
            of_tests.extend(cut.into_iter().map(|name| join(&root, name)));
            for (inner, module) in scan(&source.path, &rest) {
                modules.insert([root.as_slice(), inner.as_slice()].concat(), module);
            }
        }
        modules.retain(|path, _| !of_tests.iter().any(|tests| path.starts_with(tests)));
        Self(modules)
    }

    /// The file that defines what a path names, when it is one of this crate.
    fn resolve(&self, module: &[String], path: &[String], depth: usize) -> Option<&str> {
        match path.first()?.as_str() {
            "crate" => self.step(&[], &path[1..], depth),
            "self" | "super" => self.step(module, path, depth),
            first => {
                let known = self.0.contains_key(&join(module, first))
                    || self.0.get(module)?.uses.iter().any(|one| one.names(first));
                if known { self.step(module, path, depth) } else { None }
            }
        }
    }

    /// Follows a path from a module.
    fn step(&self, at: &[String], path: &[String], depth: usize) -> Option<&str> {
        let depth = depth.checked_sub(1)?;
        let module = self.0.get(at)?;
        let Some((name, rest)) = path.split_first() else { return Some(&module.file) };
        match name.as_str() {
            "self" => return self.step(at, rest, depth),
            "super" => return self.step(at.get(..at.len().checked_sub(1)?)?, rest, depth),
            _ => {}
        }
        let child = join(at, name);
        let has_child = self.0.contains_key(&child);
        // A function may have the name of its module: then only more of the path means the module.
        if has_child && !rest.is_empty() {
            return self.step(&child, rest, depth);
        }
        if let Some(named) = module.uses.iter().find(|one| one.names(name)) {
            let is_itself = named.path.len() == 1 && named.path[0] == *name;
            let path = [named.path.as_slice(), rest].concat();
            match self.resolve(at, &path, depth) {
                Some(file) if !is_itself => return Some(file),
                // From another crate, by way of this file.
                _ if !has_child => return Some(&module.file),
                _ => {}
            }
        }
        if has_child {
            return self.step(&child, rest, depth);
        }
        if !module.items.contains(name) {
            let globs = module.uses.iter().filter(|one| one.glob);
            let mut found = globs.filter_map(|glob| self.through(at, glob, path, depth));
            if let Some(file) = found.next() {
                return Some(file);
            }
        }
        Some(&module.file)
    }

    /// Where `use a::b::*` finds the path, if it does.
    fn through(&self, at: &[String], glob: &Use, path: &[String], depth: usize) -> Option<&str> {
        let file = self.resolve(at, &glob.path, depth)?;
        let (target, module) = self.0.iter().find(|(_, module)| module.file == file)?;
        let has = module.items.contains(&path[0])
            || module.uses.iter().any(|one| one.names(&path[0]))
            || self.0.contains_key(&join(target, &path[0]));
        if has { self.step(target, path, depth) } else { None }
    }
}

impl Use {
    fn names(&self, name: &str) -> bool {
        self.name.as_deref() == Some(name)
    }
}

fn join(path: &[String], name: &str) -> Vec<String> {
    let mut joined = path.to_vec();
    joined.push(name.to_owned());
    joined
}

/// The modules of a file: its own, and those in blocks.
fn scan(file: &str, tokens: &[Token<'_>]) -> Vec<(Vec<String>, Module)> {
    let new = || Module { file: file.to_owned(), ..Module::default() };
    let mut done = Vec::new();
    // The innermost is the last; each with the depth of braces at which it ends.
    let mut open = vec![(Vec::new(), new(), 0)];
    let mut depth = 0_usize;
    let mut at = 0;
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    while at < tokens.len() {
        let Some((path, module, ends)) = open.last_mut() else { break };
        let before = at.checked_sub(1).map_or("", text);
        match text(at) {
            "use" if text(at + 1) != "<" => {
                let line = tokens[at].line;
                at = use_tree(tokens, at + 1, &[], line, &mut module.uses);
            }
            "mod" if text(at + 2) == "{" => {
                let inner = join(path, text(at + 1));
                depth += 1;
                open.push((inner, new(), depth));
                at += 3;
            }
            // The path in it says who may see the item, and imports nothing.
            "pub" if text(at + 1) == "(" => {
                at += tokens[at..].iter().take_while(|token| token.text != ")").count();
            }
            "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union" => {
                module.items.insert(text(at + 1).to_owned());
                at += 1;
            }
            "{" => {
                depth += 1;
                at += 1;
            }
            "}" => {
                if depth == *ends && open.len() > 1 {
                    done.extend(open.pop().map(|(path, module, _)| (path, module)));
                }
                depth = depth.saturating_sub(1);
                at += 1;
            }
            _ if tokens[at].is_word() && text(at + 1) == "::" => {
                let line = tokens[at].line;
                let mut path = vec![text(at).to_owned()];
                at += 1;
                while text(at) == "::" && tokens.get(at + 1).is_some_and(Token::is_word) {
                    path.push(text(at + 1).to_owned());
                    at += 2;
                }
                if !matches!(before, "::" | ".") && path.len() > 1 {
                    module.inline.push((line, path));
                }
            }
            _ => at += 1,
        }
    }
    done.extend(open.into_iter().map(|(path, module, _)| (path, module)));
    done
}

/// Reads one branch of a `use` tree, and returns where the next one begins.
fn use_tree(
    tokens: &[Token<'_>],
    start: usize,
    prefix: &[String],
    line: usize,
    uses: &mut Vec<Use>,
) -> usize {
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text);
    let mut path = prefix.to_vec();
    let mut at = start;
    if text(at) == "::" && prefix.is_empty() {
        // Another crate's, whatever modules there are: no module has an empty name.
        path.push(String::new());
    }
    loop {
        let line = tokens.get(at).map_or(line, |token| token.line);
        match text(at) {
            "{" => {
                at += 1;
                while !matches!(text(at), "}" | "") {
                    at = use_tree(tokens, at, &path, line, uses);
                    at += usize::from(text(at) == ",");
                }
                at += 1;
                break;
            }
            "*" => {
                uses.push(Use { path, name: None, glob: true, line });
                at += 1;
                break;
            }
            "::" => at += 1,
            _ if tokens.get(at).is_some_and(Token::is_word) => {
                // `a::{self}` is `a`.
                if text(at) != "self" || path.is_empty() {
                    path.push(text(at).to_owned());
                }
                at += 1;
                if text(at) == "::" {
                    continue;
                }
                let mut name = path.last().cloned();
                if text(at) == "as" {
                    name = Some(text(at + 1).to_owned()).filter(|name| name != "_");
                    at += 2;
                }
                uses.push(Use { path, name, glob: false, line });
                break;
            }
            _ => break,
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(files: &[(&str, &str)]) -> Vec<Source> {
        let source = |(path, text): &(&str, &str)| Source {
            path: (*path).to_owned(),
            text: (*text).to_owned(),
        };
        files.iter().map(source).collect()
    }

    /// The imports of small crates, as `from>to`.
    fn check(files: &[(&str, &str)], expected: &[&str]) {
        let found = read(&sources(files));
        let found: Vec<String> = found
            .imports
            .iter()
            .map(|import| format!("{}>{}", import.from, import.to).replace(".rs", ""))
            .collect();
        assert_eq!(found, expected, "{files:?}");
    }

    #[test]
    fn use_trees_are_read() {
        let files =
            |text| [("lib.rs", ""), ("a.rs", text), ("b.rs", ""), ("c/mod.rs", ""), ("c/d.rs", "")];
        check(&files("use crate::b::B;"), &["a>b"]);
        check(&files("use crate::{b::{B, x::Y}, c::{self, d::*}};"), &["a>b", "a>c/d", "a>c/mod"]);
        check(&files("use super::b::B as _;"), &["a>b"]);
        check(&files("use crate::b as x; fn f() { x::g() }"), &["a>b"]);
        check(&files("pub(crate) use crate::c::d::D;"), &["a>c/d"]);
        check(&files("use std::b::B; use b::C; use ::c::D;"), &[]);
        check(&files("fn f() -> impl X + use<'_> { crate::b::x() }"), &["a>b"]);
        check(&files("pub(in crate::c) fn f() {}"), &[]);
    }

    #[test]
    fn paths_in_code_are_read() {
        let files = |text| [("lib.rs", ""), ("a/mod.rs", text), ("a/b.rs", ""), ("c.rs", "")];
        check(&files("fn f() { crate::c::g(); }"), &["a/mod>c"]);
        check(&files("fn f(x: super::c::C) { b::g() }"), &["a/mod>a/b", "a/mod>c"]);
        check(&files("mod b; fn f() { x.b::<u8>(); ::b::g(); std::c::g() }"), &[]);
        check(&files("mod b; use ::b::B;"), &[]);
        check(&files("// crate::c::C\nconst A: &str = \"crate::c::C\";"), &[]);
    }

    #[test]
    fn a_name_belongs_to_the_file_that_defines_it() {
        let files = |text| {
            [
                ("lib.rs", "pub use a::{B, e}; mod a;"),
                ("a/mod.rs", "pub use self::b::B; use c::*; pub use super::f::e; struct A; mod b;"),
                ("a/b.rs", text),
                ("a/c.rs", "pub struct C; pub(crate) use d::D; mod d;"),
                ("a/c/d.rs", "pub struct D;"),
                ("f.rs", "pub fn e() {}"),
            ]
        };
        let rest = ["a/c>a/c/d", "a/mod>a/b", "a/mod>a/c", "a/mod>f", "lib>a/b", "lib>f"];
        let check_b = |text: &'static str, imports: &[&str]| {
            check(&files(text), &[imports, &rest].concat());
        };
        check_b("use super::A;", &["a/b>a/mod"]);
        check_b("use super::c::C;", &["a/b>a/c"]);
        check_b("use super::C;", &["a/b>a/c"]);
        check_b("use crate::a::D;", &["a/b>a/c/d"]);
        check_b("use crate::e;", &["a/b>f"]);
        check_b("use super::{e, Unknown};", &["a/b>a/mod", "a/b>f"]);
    }

    #[test]
    fn blocks_are_modules_of_their_file() {
        let files =
            |text| [("lib.rs", ""), ("a/mod.rs", "mod x { pub struct X; }"), ("a/b.rs", text)];
        check(&files("use super::x::X;"), &["a/b>a/mod"]);
        check(&files("mod y { use super::super::x::X; } use self::y::Z;"), &["a/b>a/mod"]);
        check(&files("mod y { mod z {} fn f() {} } fn g() { super::x::h() }"), &["a/b>a/mod"]);
    }

    #[test]
    fn a_function_may_have_the_name_of_its_module() {
        let files = |text| {
            [
                ("lib.rs", "pub use serve::{Serve, serve}; pub use redis;"),
                ("serve/mod.rs", "pub use x::serve; pub struct Serve;"),
                ("serve/x.rs", "pub fn serve() {}"),
                ("a.rs", text),
            ]
        };
        let rest = ["lib>serve/mod", "lib>serve/x", "serve/mod>serve/x"];
        check(&files("use crate::serve;"), &[&["a>serve/x"], &rest[..]].concat());
        check(&files("use crate::serve::Serve;"), &[&["a>serve/mod"], &rest[..]].concat());
        // Another crate's item comes from the file that re-exports it.
        check(&files("use crate::redis::Client;"), &[&["a>lib"], &rest[..]].concat());
    }

    #[test]
    fn tests_import_what_they_like() {
        let test = "#[cfg(test)] mod tests { use crate::b::B; }";
        check(&[("lib.rs", ""), ("a.rs", test), ("b.rs", "")], &[]);
        let files = [
            ("lib.rs", "#[cfg(test)] mod a;"),
            ("a/mod.rs", "use crate::b::B;"),
            ("a/c.rs", "use crate::b::B;"),
            ("b.rs", ""),
        ];
        check(&files, &[]);
        assert_eq!(read(&sources(&files)).files, ["b.rs", "lib.rs"]);
    }

    #[test]
    fn a_program_beside_a_library_is_a_root_of_its_own() {
        check(&[("main.rs", "mod a; use a::A;"), ("a.rs", "use crate::B;")], &["a>main", "main>a"]);
        check(
            &[("main.rs", "use x::a::A;"), ("lib.rs", "struct B;"), ("a.rs", "use crate::B;")],
            &["a>lib"],
        );
    }

    #[test]
    fn the_first_line_is_reported() {
        let found = read(&sources(&[("lib.rs", "\nuse a::{\nB,\nC};\n"), ("a.rs", "")]));
        let [import] = found.imports.as_slice() else { panic!("{found:?}") };
        assert_eq!(import.line, 3);
    }
}
