//! The parts of readiness. Look here for their names, and for how a set of them is written.

use std::fmt;
use std::str::FromStr;

use headwater::broker::{BrokerStatus, Part};

/// A part of readiness.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyPart {
    /// Events arrive.
    Delivers,
    /// Events can be published and retained.
    Keeps,
    /// Retained events can be read.
    Reads,
    /// Revocations and keys are known.
    Access,
}

/// A set of parts, never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyParts(Vec<ReadyPart>);

impl ReadyPart {
    /// All parts, in the order in which they are shown.
    pub const ALL: [Self; 4] = [Self::Delivers, Self::Keeps, Self::Reads, Self::Access];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delivers => "delivers",
            Self::Keeps => "keeps",
            Self::Reads => "reads",
            Self::Access => "access",
        }
    }

    /// Its state.
    pub fn of(self, status: &BrokerStatus) -> &Part {
        match self {
            Self::Delivers => &status.delivers,
            Self::Keeps => &status.keeps,
            Self::Reads => &status.reads,
            Self::Access => &status.access,
        }
    }
}

impl ReadyParts {
    /// Whether the part is in the set.
    pub fn contains(&self, part: ReadyPart) -> bool {
        self.0.contains(&part)
    }

    /// The parts of both sets.
    #[must_use]
    pub fn with(mut self, others: Self) -> Self {
        self.0.extend(others.0);
        self
    }
}

impl fmt::Display for ReadyPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for ReadyParts {
    type Err = String;

    /// Names with commas between them; a repeated one counts once.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        for name in text.split(',').map(str::trim) {
            let part = ReadyPart::ALL.into_iter().find(|part| part.as_str() == name);
            let part = part.ok_or_else(|| {
                let known = ReadyPart::ALL.map(ReadyPart::as_str).join(", ");
                match name {
                    "" => format!("it has an empty part: the parts are {known}"),
                    name => format!("it has an unknown part, `{name}`: the parts are {known}"),
                }
            })?;
            if !parts.contains(&part) {
                parts.push(part);
            }
        }
        Ok(Self(parts))
    }
}

#[cfg(test)]
mod tests {
    use super::super::check;
    use super::ReadyPart::{Access, Delivers, Reads};
    use super::*;

    #[test]
    fn parts_are_names_with_commas_between_them() {
        let all = ReadyPart::ALL.map(ReadyPart::as_str).join(",");
        check(&all.parse(), Ok(ReadyParts(ReadyPart::ALL.to_vec())));
        check(&"reads, delivers,reads".parse(), Ok(ReadyParts(vec![Reads, Delivers])));
        check(&"access".parse(), Ok(ReadyParts(vec![Access])));
        for text in ["", " ", "delivers,", ",reads", "reads,,keeps"] {
            check::<ReadyParts>(&text.parse(), Err("empty part: the parts are delivers, keeps,"));
        }
        for text in ["writes", "Delivers", "delivers;keeps", "all"] {
            check::<ReadyParts>(&text.parse(), Err("the parts are delivers, keeps, reads, access"));
        }
    }
}
