//! Any pattern, template, URL, origin and name: what is accepted matches as defined. Never a panic.

#![no_main]

use headwater::Channel;
use headwater::channel::ChannelPattern;
use headwater_server::settings::{HttpUrl, Origin, Template};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str)| {
    let (text, name) = input;
    let _ = text.parse::<HttpUrl>();
    let _ = text.parse::<Origin>();
    if let Ok(channel) = Channel::new(name)
        && let Ok(pattern) = ChannelPattern::new(text)
    {
        assert_eq!(pattern.to_string(), text);
        let expected = match text.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => name == text,
        };
        assert_eq!(pattern.matches(&channel), expected);
        assert_eq!(pattern.covers(&ChannelPattern::exact(channel)), expected);
    }
    if let Ok(template) = text.parse::<Template>() {
        let claims = serde_json::json!({ "sub": name });
        let Some(filled) = template.fill(claims.as_object().expect("claims")) else { return };
        // A star in a claim is not a wildcard: only one in the template is.
        assert_eq!(filled.is_exact(), !text.ends_with('*'));
    }
});
