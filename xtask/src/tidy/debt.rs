//! Faults that are known: `xtask/layers-debt.txt` lists them, and may only shrink.
//!
//! Look here for the format of that file and for what `--write-debt` does. A line is a fault, with
//! a number where there may be several in one file, and may have a reason behind ` # `.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Where the known faults are listed, from the root of the repository.
pub(crate) const FILE: &str = "xtask/layers-debt.txt";

/// Something that is against a rule, and may be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// A file, or an import: `hub/ring.rs -> limits.rs`.
    pub(crate) subject: String,
    pub(crate) kind: Kind,
    /// How many there are; 1 for a kind that is not counted.
    pub(crate) count: usize,
    /// Where exactly, and what to do.
    pub(crate) detail: String,
}

/// What a rule forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Circle,
    UpALayer,
    ChildToParent,
    FolderToFolder,
    Dependency,
    ReservedPath,
    LongFile,
    ForbiddenWords,
    LongLines,
    BannedWords,
}

impl Kind {
    pub(crate) const ALL: &[Self] = &[
        Self::Circle,
        Self::UpALayer,
        Self::ChildToParent,
        Self::FolderToFolder,
        Self::Dependency,
        Self::ReservedPath,
        Self::LongFile,
        Self::ForbiddenWords,
        Self::LongLines,
        Self::BannedWords,
    ];

    /// As it stands in the file, behind the subject.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Circle => "in a circle",
            Self::UpALayer => "up a layer",
            Self::ChildToParent => "child to parent",
            Self::FolderToFolder => "folder to folder of one cell",
            Self::Dependency => "not a dependency of this crate",
            Self::ReservedPath => "reserved for another crate",
            Self::LongFile => "long file",
            Self::ForbiddenWords => "words forbidden in this crate",
            Self::LongLines => "long lines",
            Self::BannedWords => "banned words",
        }
    }

    fn is_counted(self) -> bool {
        matches!(self, Self::ForbiddenWords | Self::LongLines | Self::BannedWords)
    }
}

impl Fault {
    fn line(&self) -> String {
        if self.kind.is_counted() {
            format!("{}: {} {}", self.subject, self.count, self.kind.text())
        } else {
            format!("{}: {}", self.subject, self.kind.text())
        }
    }
}

/// The file as it was read.
#[derive(Debug, Default)]
pub(crate) struct Debt {
    entries: BTreeMap<(String, Kind), Entry>,
}

#[derive(Debug)]
struct Entry {
    line: usize,
    count: usize,
    /// What stands behind ` # `.
    reason: Option<String>,
}

impl Debt {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut debt = Self::default();
        let mut before = "";
        for (index, line) in text.lines().enumerate() {
            let at = format!("{FILE}:{}", index + 1);
            if line <= before {
                return Err(format!("{at}: out of order, or twice; lines are sorted"));
            }
            before = line;
            let (entry, reason) = match line.split_once(" # ") {
                Some((entry, reason)) => (entry, Some(reason.to_owned())),
                None => (line, None),
            };
            let (subject, kind, count) =
                parse_entry(entry).ok_or_else(|| format!("{at}: not a fault: `{line}`"))?;
            let entry = Entry { line: index + 1, count, reason };
            debt.entries.insert((subject.to_owned(), kind), entry);
        }
        Ok(debt)
    }

    /// What is wrong: faults that are not listed, and lines that no longer hold.
    pub(crate) fn compare(&self, faults: &[Fault]) -> Vec<String> {
        let mut wrong = self.added(faults);
        let mut counts: BTreeMap<(&str, Kind), usize> = BTreeMap::new();
        counts.extend(faults.iter().map(|fault| ((&*fault.subject, fault.kind), fault.count)));
        for ((subject, kind), entry) in &self.entries {
            let now = counts.get(&(subject.as_str(), *kind)).copied().unwrap_or(0);
            let (line, text) = (entry.line, kind.text());
            if now == 0 {
                wrong.push(format!("{FILE}:{line}: delete this line: `{subject}: {text}` is gone"));
            } else if now < entry.count {
                wrong.push(format!(
                    "{FILE}:{line}: lower this count: {subject} has {now} {text}, not {}",
                    entry.count
                ));
            }
        }
        wrong
    }

    /// Faults that are not listed, or more of a kind than are.
    pub(crate) fn added(&self, faults: &[Fault]) -> Vec<String> {
        let describe = |fault: &Fault| {
            let known = self.entries.get(&(fault.subject.clone(), fault.kind));
            match known.map(|entry| entry.count) {
                None => Some(format!("{}: {}", fault.line(), fault.detail)),
                Some(known) if fault.count > known => {
                    Some(format!("{} (known: {known}): {}", fault.line(), fault.detail))
                }
                Some(_) => None,
            }
        };
        faults.iter().filter_map(describe).collect()
    }

    /// The text of the file with today's faults, and the reasons that it had.
    pub(crate) fn rewritten(&self, faults: &[Fault]) -> String {
        let mut lines: Vec<String> = faults
            .iter()
            .map(|fault| {
                let mut line = fault.line();
                let entry = self.entries.get(&(fault.subject.clone(), fault.kind));
                if let Some(reason) = entry.and_then(|entry| entry.reason.as_ref()) {
                    // Writing to a String cannot fail.
                    let _ = write!(line, " # {reason}");
                }
                line
            })
            .collect();
        lines.sort();
        lines.iter().fold(String::new(), |text, line| text + line + "\n")
    }
}

/// `SUBJECT: KIND` or `SUBJECT: COUNT KIND`.
fn parse_entry(entry: &str) -> Option<(&str, Kind, usize)> {
    let (subject, rest) = entry.split_once(": ")?;
    let kind = Kind::ALL.iter().copied().find(|kind| rest.ends_with(kind.text()))?;
    let number = rest.strip_suffix(kind.text())?;
    let count = match number.trim_end() {
        "" if !kind.is_counted() => 1,
        number if kind.is_counted() => number.parse().ok().filter(|count| *count > 0)?,
        _ => return None,
    };
    Some((subject, kind, count))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(subject: &str, kind: Kind, count: usize) -> Fault {
        Fault { subject: subject.to_owned(), kind, count, detail: "line 7".to_owned() }
    }

    const TEXT: &str = "a.rs -> b.rs: in a circle\na.rs: 3 long lines # move 9\n";

    fn check(faults: &[Fault], expected: &[&str]) {
        let debt = Debt::parse(TEXT).expect("it is well formed");
        let wrong = debt.compare(faults);
        assert_eq!(wrong.len(), expected.len(), "{wrong:?}");
        for (wrong, word) in wrong.iter().zip(expected) {
            assert!(wrong.contains(word), "{wrong}");
        }
    }

    #[test]
    fn debt_may_only_shrink() {
        let circle = fault("a.rs -> b.rs", Kind::Circle, 1);
        let lines = |count| fault("a.rs", Kind::LongLines, count);
        check(&[circle.clone(), lines(3)], &[]);
        check(&[circle.clone(), lines(4)], &["a.rs: 4 long lines (known: 3): line 7"]);
        check(&[circle.clone(), lines(2)], &["layers-debt.txt:2: lower this count: a.rs has 2"]);
        check(std::slice::from_ref(&circle), &["layers-debt.txt:2: delete this line"]);
        check(&[lines(3)], &["layers-debt.txt:1: delete this line"]);
        let other = fault("a.rs -> c.rs", Kind::Circle, 1);
        check(&[circle.clone(), lines(3), other], &["a.rs -> c.rs: in a circle: line 7"]);
        let other = fault("a.rs -> b.rs", Kind::UpALayer, 1);
        check(&[circle, lines(3), other], &["a.rs -> b.rs: up a layer: line 7"]);
    }

    #[test]
    fn the_file_is_rewritten_with_its_reasons() {
        let debt = Debt::parse(TEXT).expect("it is well formed");
        let faults = [fault("b.rs", Kind::BannedWords, 1), fault("a.rs", Kind::LongLines, 2)];
        let text = debt.rewritten(&faults);
        assert_eq!(text, "a.rs: 2 long lines # move 9\nb.rs: 1 banned words\n");
        assert!(Debt::parse(&text).is_ok());
    }

    #[test]
    fn every_kind_is_read_as_it_is_written() {
        for kind in Kind::ALL {
            let fault = fault("a.rs", *kind, 1);
            assert_eq!(parse_entry(&fault.line()), Some(("a.rs", *kind, 1)), "{}", fault.line());
        }
    }

    #[test]
    fn a_file_that_is_not_well_formed_is_an_error() {
        for wrong in [
            "a.rs: 3 lines\n",
            "a.rs: long lines\n",
            "a.rs: 0 long lines\n",
            "a.rs: 2 in a circle\n",
            "a.rs\n",
            "\n",
            "b.rs: 1 long lines\na.rs: 1 long lines\n",
        ] {
            assert!(Debt::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
