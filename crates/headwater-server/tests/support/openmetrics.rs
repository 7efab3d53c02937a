//! A strict reader of the OpenMetrics text format. Look here for what /metrics may contain.

use std::collections::HashSet;

/// Reads the OpenMetrics text format, as strictly as we write it.
#[track_caller]
pub(crate) fn check_openmetrics(text: &str) {
    let Some(lines) = text.strip_suffix("# EOF\n") else { panic!("no # EOF ends {text}") };
    let is_name = |name: &str| {
        name.starts_with("headwater_")
            && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let mut described = HashSet::new();
    let mut family = "";
    let mut kind = "";
    let mut seen = HashSet::new();
    for line in lines.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            let mut words = comment.splitn(3, ' ');
            let (word, name) = (words.next().unwrap_or(""), words.next().unwrap_or(""));
            let rest = words.next().unwrap_or_default();
            assert!(is_name(name) && !rest.is_empty(), "{line}");
            match word {
                "HELP" => {
                    assert!(described.insert(name), "{name} is described twice");
                    family = name;
                }
                "TYPE" => {
                    assert!(["counter", "gauge"].contains(&rest), "{line}");
                    kind = rest;
                }
                "UNIT" => assert!(name.ends_with(&format!("_{rest}")), "{line}"),
                _ => panic!("{line}"),
            }
            assert_eq!(name, family, "{line}");
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line:?}"));
        let value: f64 = value.parse().unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(value.is_finite() && value >= 0.0, "{line}");
        let name = series.split('{').next().unwrap_or_default();
        let suffix = if kind == "counter" { "_total" } else { "" };
        assert_eq!(name, format!("{family}{suffix}"), "{line}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let value_of = |label: &str| labels.strip_prefix(label)?.strip_suffix("\"}");
            let is_word = |byte: u8| byte.is_ascii_lowercase() || byte == b'-';
            let word = ["reason", "part", "share"];
            let word = word.into_iter().find_map(|name| value_of(&format!("{{{name}=\"")));
            match (word, value_of("{shard=\"")) {
                (Some(word), _) => assert!(word.bytes().all(is_word), "{line}"),
                (_, Some(shard)) => assert!(shard.parse::<u8>().is_ok(), "{line}"),
                _ => panic!("only reason, part, shard and share are labels: {line}"),
            }
        }
        assert!(seen.insert(series), "{series} stands there twice");
    }
    assert!(!seen.is_empty());
}
