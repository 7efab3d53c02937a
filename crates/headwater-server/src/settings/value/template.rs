//! Channels that depend on the user: `user:{sub}:*`. Look here for what may be between braces, and
//! for what a value must not contain.

use std::fmt;
use std::str::FromStr;

use headwater::Channel;
use headwater::channel::ChannelPattern;
use serde_json::{Map, Value};

/// A pattern of channels with the names of claims in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    /// Whether a `*` stands at the end.
    is_beginning: bool,
    text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Claim(String),
}

impl Template {
    /// The channels for these claims. `None` if a claim is missing, is neither a string nor a whole
    /// number, or contains the separator that follows it: with `user:{sub}:*`, the user `4:2` must
    /// not reach the channels of `4`.
    pub fn fill(&self, claims: &Map<String, Value>) -> Option<ChannelPattern> {
        let mut name = String::new();
        for (at, part) in self.parts.iter().enumerate() {
            match part {
                Part::Text(text) => name += text,
                Part::Claim(claim) => {
                    let value = as_text(claims.get(claim)?)?;
                    let separator = match self.parts.get(at + 1) {
                        Some(Part::Text(next)) => next.chars().next(),
                        _ => None,
                    };
                    if value.is_empty() || separator.is_some_and(|it| value.contains(it)) {
                        return None;
                    }
                    name += &value;
                }
            }
        }
        // A value from a claim is never a wildcard.
        if self.is_beginning {
            return ChannelPattern::beginning(name).ok();
        }
        Channel::new(name).ok().map(ChannelPattern::exact)
    }
}

/// A claim that names a user: a string or a whole number.
pub(crate) fn as_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) if !number.is_f64() => Some(number.to_string()),
        _ => None,
    }
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (rest, is_beginning) = match text.strip_suffix('*') {
            Some(rest) => (rest, true),
            None => (text, false),
        };
        let parts = parts(rest)?;
        // No name is empty, so a letter stands for each in this check.
        let sample: String =
            parts.iter().map(|part| if let Part::Text(text) = part { text } else { "x" }).collect();
        let star = if is_beginning { "*" } else { "" };
        ChannelPattern::new(sample + star).map_err(|error| error.to_string())?;
        let ends_with_claim = matches!(parts.last(), Some(Part::Claim(_)));
        if is_beginning && ends_with_claim {
            return Err(format!(
                "`{text}` gives each user the channels of all names with the same prefix: put a \
                 separator in front of the `*`, like `user:{{sub}}:*`"
            ));
        }
        if parts.windows(2).any(|two| matches!(two, [Part::Claim(_), Part::Claim(_)])) {
            return Err(format!("`{text}` has two claims in a row: put a separator between them"));
        }
        Ok(Self { parts, is_beginning, text: text.to_owned() })
    }
}

fn parts(text: &str) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut rest = text;
    let wrong =
        || format!("`{text}` is no template: write a claim between braces, like `user:{{sub}}`");
    while let Some((before, after)) = rest.split_once('{') {
        let (claim, behind) = after.split_once('}').ok_or_else(wrong)?;
        if claim.is_empty() || claim.contains('{') || before.contains('}') {
            return Err(wrong());
        }
        if !before.is_empty() {
            parts.push(Part::Text(before.to_owned()));
        }
        parts.push(Part::Claim(claim.to_owned()));
        rest = behind;
    }
    if rest.contains('}') {
        return Err(wrong());
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    Ok(parts)
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(template: &str, claims: &Value, expected: Option<&str>) {
        let template: Template = template.parse().unwrap();
        let filled = template.fill(claims.as_object().unwrap());
        assert_eq!(filled.map(|pattern| pattern.to_string()).as_deref(), expected, "{claims}");
    }

    #[test]
    fn claims_are_inserted_literally() {
        let sub = |sub: &str| serde_json::json!({ "sub": sub, "n": 7, "f": 1.5, "o": {} });
        check("user:{sub}", &sub("42"), Some("user:42"));
        check("user:{sub}:*", &sub("42"), Some("user:42:*"));
        check("{sub}", &sub("42"), Some("42"));
        check("t:{n}:u:{sub}", &sub("42"), Some("t:7:u:42"));
        check("news", &sub("42"), Some("news"));
        check("news:*", &sub("42"), Some("news:*"));
        check("user:{sub}:*", &sub("4:2"), None);
        check("user:{sub}", &sub(""), None);
        check("user:{sub}", &sub("a\nb"), None);
        check("user:{name}", &sub("42"), None);
        check("user:{f}", &sub("42"), None);
        check("user:{o}", &sub("42"), None);
        check("{sub}", &sub("headwater:x"), None);
    }

    #[test]
    fn a_star_in_a_claim_is_literal() {
        let claims = serde_json::json!({ "sub": "*" });
        let template: Template = "user:{sub}".parse().unwrap();
        let pattern = template.fill(claims.as_object().unwrap()).unwrap();
        assert!(!pattern.matches(Channel::new("user:42").unwrap()));
        assert!(pattern.matches(Channel::new("user:*").unwrap()));
    }

    #[test]
    fn an_invalid_template_is_rejected() {
        for (text, part) in [
            ("", "empty"),
            ("user:{", "no template"),
            ("user:}", "no template"),
            ("user:{}", "no template"),
            ("user:{{sub}}", "no template"),
            ("user:{sub}*", "separator"),
            ("{a}{b}", "separator"),
            ("a*b", "at its end"),
            ("headwater:{sub}", "reserved"),
        ] {
            let error = text.parse::<Template>().unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
