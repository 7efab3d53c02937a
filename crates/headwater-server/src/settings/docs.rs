//! Generates docs/configuration.md from the table of settings. Look here to change the text around
//! the settings; `tests/it/settings_docs.rs` checks that the file is current.

use std::fmt::Write as _;

use super::schema::{Kind, SETTINGS, Setting};
use super::value::{ReadyPart, show_bytes, show_duration};

const HEAD: &str = "\
# Configuration

<!-- Generated from the definitions of the settings: do not edit. To update it, run
     UPDATE_DOCS=1 cargo test -p headwater-server --test it settings -->

`headwater serve` needs no configuration: it listens on 127.0.0.1:8000 with the embedded broker.
Every setting can be a flag, an environment variable, or a key in the TOML file that `--config FILE`
or `HEADWATER_CONFIG` names. Flags take precedence over the environment, the environment over the
file, and the file over the defaults.

Invalid settings are rejected at startup, with their location and a suggestion, and so are unknown
ones: a key in the file, a flag, or an environment variable that starts with `HEADWATER_` and
belongs to no setting. Exceptions are `HEADWATER_URL` and `HEADWATER_TOKEN`, which `headwater
publish` and `headwater subscribe` read, and the variables that Kubernetes sets for a service called
`headwater`. An empty environment variable counts as unset.

Durations are a whole number and a unit, `ms`, `s`, `m` or `h`; sizes are a number of bytes, or of
`KiB` or `MiB`; rates are a whole number and `/s`, `/m` or `/h`. Bounds are inclusive.
";

/// The whole of docs/configuration.md.
pub fn markdown() -> String {
    let mut page = HEAD.to_owned();
    let mut heading = "";
    for setting in SETTINGS {
        if setting.heading != heading {
            heading = setting.heading;
            let _ = write!(page, "\n## {heading}\n");
        }
        page.push_str(&section(setting));
    }
    let _ = write!(
        page,
        "\n## A file with every setting\n\nCommented lines show the default, or an example where \
         there is none.\n\n```toml\n{}```\n",
        example_file()
    );
    page
}

fn section(setting: &Setting) -> String {
    let Setting { name, value_name, summary, details, .. } = setting;
    let mut text = format!("{summary}.");
    if !details.is_empty() {
        let _ = write!(text, " {details}");
    }
    let flag = match setting.kind {
        Kind::Switch => format!("--{name}"),
        _ => format!("--{name} {value_name}"),
    };
    let default = setting.default.map_or("none".to_owned(), |text| format!("`{text}`"));
    format!(
        "\n### {name}\n\n{}\n\n| flag | environment | file | default | values |\n\
         |---|---|---|---|---|\n\
         | `{flag}` | `{}` | `{}` | {default} | {} |\n",
        wrapped(&text, 100),
        setting.variable(),
        line(name, setting.kind, setting.example),
        values(setting.kind),
    )
}

/// A TOML file with every setting in a comment.
pub fn example_file() -> String {
    let mut file = String::new();
    for setting in SETTINGS {
        let text = setting.default.unwrap_or(setting.example);
        let line = line(setting.name, setting.kind, text);
        let _ = write!(file, "# {}\n#{line}\n\n", setting.summary);
    }
    file.truncate(file.trim_end().len());
    file.push('\n');
    file
}

/// A setting as a line of the file.
fn line(name: &str, kind: Kind, text: &str) -> String {
    match kind {
        Kind::Count { .. } | Kind::Switch => format!("{name} = {text}"),
        _ if kind.is_list() => format!("{name} = [\"{text}\"]"),
        _ => format!("{name} = \"{text}\""),
    }
}

fn values(kind: Kind) -> String {
    match kind {
        Kind::Address => "an IP address and a port".to_owned(),
        Kind::RedisUrl => "a Redis URL".to_owned(),
        Kind::Duration { min, max, off } => format!(
            "a duration from {} to {}{}",
            show_duration(min),
            show_duration(max),
            if off { ", or `off`" } else { "" }
        ),
        Kind::Bytes { min, max } => {
            format!("a size from {} to {}", show_bytes(min), show_bytes(max))
        }
        Kind::Count { min, max } => format!("a number from {min} to {max}"),
        Kind::Directory | Kind::File => "a path".to_owned(),
        Kind::Rate { off } => format!("a rate{}", if off { ", or `off`" } else { "" }),
        Kind::Networks => "networks and addresses".to_owned(),
        Kind::RetentionRules => "rules".to_owned(),
        Kind::Secret | Kind::Text => "text".to_owned(),
        Kind::HttpUrl => "an http or https URL".to_owned(),
        Kind::Jwks => "an http or https URL, or a path".to_owned(),
        Kind::Templates => "channel patterns with claims".to_owned(),
        Kind::Origins => "origins".to_owned(),
        Kind::Domains => "DNS names".to_owned(),
        Kind::ChannelPatterns => "patterns".to_owned(),
        Kind::ReadyParts => {
            let names = ReadyPart::ALL.map(|part| format!("`{part}`"));
            format!("one or more of {}, separated by commas", names.join(", "))
        }
        Kind::Choice(words) => {
            words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(" or ")
        }
        Kind::LogFilter => "filter directives".to_owned(),
        Kind::Switch => "`true` or `false`".to_owned(),
    }
}

/// The text in lines of at most `width` characters.
fn wrapped(text: &str, width: usize) -> String {
    let mut lines = String::new();
    let mut length = 0;
    for word in text.split_whitespace() {
        let word_length = word.chars().count();
        if length > 0 && length + 1 + word_length > width {
            lines.push('\n');
            length = 0;
        } else if length > 0 {
            lines.push(' ');
            length += 1;
        }
        lines.push_str(word);
        length += word_length;
    }
    lines
}
