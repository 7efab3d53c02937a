//! The one table of the settings of `headwater serve`: flag, environment variable, TOML key,
//! `--help` and docs/configuration.md all come from it. Look here to add or change a setting.

mod access;
mod limits;
mod logs;
mod redis;
mod server;
mod setting;
mod streams;
mod tls;

pub use setting::{Kind, Setting};

/// Every setting, in the order of `--help` and of the documentation.
pub const SETTINGS: &[Setting] = &joined::<{ count(TABLES) }>(TABLES);

const TABLES: &[&[Setting]] = &[
    server::ADDRESSES,
    redis::CONNECTION,
    server::OPEN,
    tls::SETTINGS,
    server::PROXIES,
    redis::HISTORY,
    streams::SETTINGS,
    limits::SETTINGS,
    server::STOPPING,
    logs::SETTINGS,
    access::SETTINGS,
];

/// The setting with this name.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

const fn count(tables: &[&[Setting]]) -> usize {
    let (mut count, mut table) = (0, 0);
    while table < tables.len() {
        count += tables[table].len();
        table += 1;
    }
    count
}

/// The tables as one.
const fn joined<const N: usize>(tables: &[&[Setting]]) -> [Setting; N] {
    let mut all = [tables[0][0]; N];
    let (mut at, mut table) = (0, 0);
    while table < tables.len() {
        let mut row = 0;
        while row < tables[table].len() {
            all[at] = tables[table][row];
            at += 1;
            row += 1;
        }
        table += 1;
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_texts_fit_their_places() {
        for (at, setting) in SETTINGS.iter().enumerate() {
            let name = setting.name;
            assert!(SETTINGS[..at].iter().all(|earlier| earlier.name != name), "{name} twice");
            assert!(!setting.summary.ends_with('.'), "{name}: the summary has no full stop");
            let details = setting.details;
            assert!(details.is_empty() || details.ends_with('.'), "{name}: details are sentences");
            assert!(name.chars().all(|c| c.is_ascii_lowercase() || c == '-'), "{name}");
        }
    }
}
