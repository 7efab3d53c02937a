//! The query string of a request, parsed and validated. No I/O. Source: the WHATWG URL standard,
//! "application/x-www-form-urlencoded parsing", except that bytes that are not UTF-8 are rejected.

use std::time::Duration;

use headwater::limits::{RETRY_MAX, RETRY_MIN, REWIND_AGE_MAX, REWIND_EVENTS_MAX};
use headwater::{Channel, Event, Rewind, quantity};
use percent_encoding::percent_decode_str;

use crate::limits::PUBLISH_CHANNELS_MAX;

/// The ID of the last event that a client received, in the query.
const LAST_EVENT_ID: &str = "last_event_id";

/// Credentials in the query. Their values are read by the access rules only, so that no message can
/// repeat them.
fn is_credential(name: &str) -> bool {
    matches!(name, "token" | "ticket")
}

/// The channel if none is named.
const DEFAULT_CHANNEL: &str = "default";

/// Names at least this similar count as typos (Jaro-Winkler, 1 is equal).
const ALIKE: f64 = 0.85;

/// The query of `GET /sse/stream`.
#[derive(Debug, PartialEq)]
pub struct StreamQuery {
    /// The channels, at least one, in the order of the query, each once.
    pub channels: Vec<Channel>,
    /// `as=channel`: events without a name get the channel's name.
    pub name_by_channel: bool,
    /// `rewind`: how far back a stream without a last ID starts.
    pub rewind: Option<Rewind>,
}

/// The query of `POST /sse/publish`.
#[derive(Debug, Default, PartialEq)]
pub struct PublishQuery {
    /// The channels; empty if none was named.
    pub channels: Vec<Channel>,
    event: Option<String>,
    id: Option<String>,
    retry: Option<Duration>,
    end: Option<bool>,
}

impl StreamQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// A sentence for the client: what is wrong, and what to do.
    pub fn parse(query: &str, channels_max: usize) -> Result<Self, String> {
        let mut channels = Vec::new();
        let mut name_by_channel = false;
        let mut rewind = None;
        for pair in pairs(query) {
            match pair? {
                (name, value) if name == "channel" => add_channel(&mut channels, &value)?,
                (name, value) if name == "as" => match value.as_str() {
                    "channel" => name_by_channel = true,
                    _ => {
                        return Err(format!(
                            "as={} is not known: only as=channel is",
                            quoted(&value)
                        ));
                    }
                },
                (name, value) if name == "rewind" => {
                    set_once(&mut rewind, "rewind", parse_rewind(&value)?)?;
                }
                // `LastEventId` reads it, or the access rules do.
                (name, _) if name == LAST_EVENT_ID || is_credential(&name) => {}
                (name, _) => check_unknown(&name, &["channel", "as", LAST_EVENT_ID, "rewind"])?,
            }
        }
        if channels.len() > channels_max {
            return Err(format!(
                "{} channels on one stream: at most {channels_max} are allowed, so open more \
                 streams",
                channels.len()
            ));
        }
        if channels.is_empty() {
            channels.push(default_channel()?);
        }
        Ok(Self { channels, name_by_channel, rewind })
    }
}

impl PublishQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// A sentence for the client: what is wrong, and what to do.
    pub fn parse(query: &str) -> Result<Self, String> {
        let mut parsed = Self::default();
        for pair in pairs(query) {
            let (name, value) = pair?;
            match name.as_str() {
                "channel" => add_channel(&mut parsed.channels, &value)?,
                "event" => set_once(&mut parsed.event, "event", value)?,
                "id" => set_once(&mut parsed.id, "id", value)?,
                "retry" => set_once(&mut parsed.retry, "retry", parse_retry(&value)?)?,
                "end" => set_once(&mut parsed.end, "end", parse_end(&value)?)?,
                _ if is_credential(&name) => {}
                _ => check_unknown(&name, &["channel", "event", "id", "retry", "end"])?,
            }
        }
        if parsed.channels.len() > PUBLISH_CHANNELS_MAX {
            return Err(format!(
                "{} channels in one request: at most {PUBLISH_CHANNELS_MAX} are allowed, so send \
                 more requests",
                parsed.channels.len()
            ));
        }
        Ok(parsed)
    }

    /// The channels, or the default one if none was named.
    ///
    /// # Errors
    /// None: the default channel's name is valid.
    pub fn channels_or_default(&self) -> Result<Vec<Channel>, String> {
        if self.channels.is_empty() {
            return Ok(vec![default_channel()?]);
        }
        Ok(self.channels.clone())
    }

    /// Whether it has parameters of a single event.
    pub fn is_about_one_event(&self) -> bool {
        self.event.is_some() || self.id.is_some() || self.retry.is_some() || self.end.is_some()
    }

    /// Whether the event is the last of its channels.
    pub fn is_end(&self) -> bool {
        self.end.unwrap_or(false)
    }

    /// The event with this data.
    ///
    /// # Errors
    /// A sentence for the client if the name or the ID is invalid.
    pub fn event(&self, data: String) -> Result<Event, String> {
        build_event(data, self.event.as_deref(), self.id.as_deref(), self.retry)
    }
}

/// The query of `POST /sse/ticket`.
#[derive(Debug, Default, PartialEq)]
pub struct TicketQuery {
    /// The channels; empty if none was named.
    pub channels: Vec<Channel>,
}

impl TicketQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// A sentence for the client: what is wrong, and what to do.
    pub fn parse(query: &str, channels_max: usize) -> Result<Self, String> {
        let mut channels = Vec::new();
        for pair in pairs(query) {
            match pair? {
                (name, value) if name == "channel" => add_channel(&mut channels, &value)?,
                (name, _) => check_unknown(&name, &["channel"])?,
            }
        }
        if channels.len() > channels_max {
            return Err(format!(
                "a ticket is for one stream, and that has at most {channels_max} channels"
            ));
        }
        Ok(Self { channels })
    }
}

/// Which streams `DELETE /admin/streams` closes.
#[derive(Debug, PartialEq)]
pub enum RevokeQuery {
    /// A user's.
    User(String),
    /// Those that are subscribed to a channel.
    Channel(Channel),
    /// One.
    Stream(String),
    /// A token's.
    Token {
        /// Its id.
        id: String,
        /// When it expires, in seconds since 1970.
        expires: Option<u64>,
    },
}

impl RevokeQuery {
    /// Parses a query string.
    ///
    /// # Errors
    /// A sentence for the client: what is wrong, and what to do.
    pub fn parse(query: &str) -> Result<Self, String> {
        const ONE: &str = "say whose streams end, by one of user=, channel=, stream= and token=";
        let (mut found, mut expires) = (None, None);
        // Here a token is an ID, not a secret.
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = decode(value)?;
            if value.is_empty() {
                return Err(format!("{} in the query is empty: {ONE}", quoted(name)));
            }
            let one = match name {
                "user" => Self::User(value),
                "channel" => Self::Channel(Channel::new(value).map_err(|error| error.to_string())?),
                "stream" => Self::Stream(value),
                "token" => Self::Token { id: value, expires: None },
                "expires" => {
                    let seconds = value
                        .parse()
                        .map_err(|_| "expires is no time in whole seconds since 1970".to_owned())?;
                    set_once(&mut expires, "expires", seconds)?;
                    continue;
                }
                _ => return Err(format!("{} in the query is not known: {ONE}", quoted(name))),
            };
            if found.replace(one).is_some() {
                return Err(format!("there are several in the query: {ONE}"));
            }
        }
        match (found, expires) {
            (Some(Self::Token { id, .. }), expires) => Ok(Self::Token { id, expires }),
            (_, Some(_)) => Err("expires is for token= only".to_owned()),
            (Some(found), None) => Ok(found),
            (None, None) => Err(ONE.to_owned()),
        }
    }
}

/// An event from its checked and unchecked parts, for the query and for NDJSON.
pub(super) fn build_event(
    data: String,
    name: Option<&str>,
    id: Option<&str>,
    retry: Option<Duration>,
) -> Result<Event, String> {
    let mut event = Event::new(data);
    if let Some(name) = name {
        event = event.with_name(name).map_err(|error| error.to_string())?;
    }
    if let Some(id) = id {
        event = event.with_id(id).map_err(|error| error.to_string())?;
    }
    Ok(match retry {
        Some(retry) => event.with_retry(retry),
        None => event,
    })
}

/// The channel if none is named.
pub(super) fn default_channel() -> Result<Channel, String> {
    Channel::new(DEFAULT_CHANNEL).map_err(|error| error.to_string())
}

fn parse_retry(value: &str) -> Result<Duration, String> {
    let digits = !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit());
    let ms = value.parse().ok().filter(|_| digits);
    ms.and_then(retry_of).ok_or_else(|| {
        format!("retry={} is no number of milliseconds {}", quoted(value), retry_range())
    })
}

/// The reconnect delay, if it is within the bounds of the setting.
pub(super) fn retry_of(ms: u64) -> Option<Duration> {
    Some(Duration::from_millis(ms)).filter(|retry| (RETRY_MIN..=RETRY_MAX).contains(retry))
}

/// The bounds of a reconnect delay, for an error.
pub(super) fn retry_range() -> String {
    format!("from {} to {}", RETRY_MIN.as_millis(), RETRY_MAX.as_millis())
}

fn parse_end(value: &str) -> Result<bool, String> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(format!("end={} is neither 1 nor 0: end=1 ends the channel", quoted(value))),
    }
}

/// A number of events, a time, or everything.
pub(crate) fn parse_rewind(value: &str) -> Result<Rewind, String> {
    let wrong = || {
        format!(
            "rewind={} is no number of events, no time and not \"all\": write rewind=10, \
             rewind=2m (ms, s, m, h, d) or rewind=all",
            quoted(value)
        )
    };
    if value == "all" {
        return Ok(Rewind::All);
    }
    let (digits, unit) = quantity::split(value);
    let number: u32 = digits.parse().map_err(|_| wrong())?;
    if unit.is_empty() {
        let count = usize::try_from(number).map_err(|_| wrong())?;
        if count > REWIND_EVENTS_MAX {
            return Err(format!("rewind={number} is too far: at most {REWIND_EVENTS_MAX} events"));
        }
        return Ok(Rewind::Events(count));
    }
    let ms_each = quantity::factor(quantity::DURATION_UNITS, unit).ok_or_else(wrong)?;
    let age = Duration::from_millis(u64::from(number) * ms_each);
    if age > REWIND_AGE_MAX {
        return Err(format!(
            "rewind={value} is too far: at most {} days",
            REWIND_AGE_MAX.as_secs() / 86_400
        ));
    }
    Ok(Rewind::Age(age))
}

fn add_channel(channels: &mut Vec<Channel>, name: &str) -> Result<(), String> {
    let channel = Channel::new(name).map_err(|error| error.to_string())?;
    if !channels.contains(&channel) {
        channels.push(channel);
    }
    Ok(())
}

fn set_once<T>(slot: &mut Option<T>, name: &str, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{name} is in the query twice: send it once")),
    }
}

/// Unknown names are ignored, since proxies and pages add their own; but typos are rejected,
/// because they would silently select the default channel.
fn check_unknown(name: &str, known: &[&str]) -> Result<(), String> {
    match known.iter().find(|known| strsim::jaro_winkler(name, known) >= ALIKE) {
        Some(meant) => Err(format!(
            "{} in the query is not known: did you mean {}?",
            quoted(name),
            quoted(meant)
        )),
        None => Ok(()),
    }
}

pub(crate) fn pairs(query: &str) -> impl Iterator<Item = Result<(String, String), String>> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let name = decode(name)?;
        // An invalid last ID is no reason to reject the client.
        let is_for_others = name == LAST_EVENT_ID || is_credential(&name);
        let value = if is_for_others { String::new() } else { decode(value)? };
        Ok((name, value))
    })
}

/// A client's text in quotes; control characters are escaped.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.escape_debug().to_string().replace("\\'", "'"))
}

fn decode(text: &str) -> Result<String, String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().map(Into::into).map_err(|_| {
        format!(
            "{} in the query is not UTF-8: percent-encode names and values as UTF-8",
            quoted(text)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(query: &str, expected: Result<&[&str], &str>) {
        match (StreamQuery::parse(query, 3), expected) {
            (Ok(parsed), Ok(names)) => {
                let channels: Vec<_> = parsed.channels.iter().map(Channel::as_str).collect();
                assert_eq!(channels, names, "{query:?}");
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{query:?}: {error}"),
            (got, expected) => panic!("{query:?}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn texts_of_clients_are_quoted() {
        for text in ["chanel", "it's", "a\"b\\'", "a\u{1b}[2J\n", "grüße", ""] {
            assert_eq!(quoted(text), format!("{text:?}"));
        }
    }

    #[test]
    fn channels_of_a_stream() {
        check("", Ok(&["default"]));
        check("channel=a", Ok(&["a"]));
        check("channel=b&channel=a&channel=b", Ok(&["b", "a"]));
        check("channel=a+b%20c%2Bd", Ok(&["a b c+d"]));
        check("channel=gr%C3%BC%C3%9Fe&&x=y&_=17", Ok(&["grüße"]));
        check(
            "channel=a&channel=b&channel=c&channel=d",
            Err("4 channels on one stream: at most 3"),
        );
        check("channel=", Err("empty"));
        check("channel", Err("empty"));
        check("channel=a%0Ab", Err("U+000A"));
        check("channel=%FF", Err("not UTF-8"));
        check("channel=a&last_event_id=7", Ok(&["a"]));
        check("last_event=7", Err("did you mean \"last_event_id\""));
        check("chanel=a", Err("did you mean \"channel\""));
        check("channels=a", Err("did you mean \"channel\""));
        check("as=name", Err("only as=channel"));
        check("channel=headwater:x", Err("reserved"));
    }

    #[test]
    fn rewinds_of_a_stream() {
        let rewind = |value: &str| {
            StreamQuery::parse(&format!("rewind={value}"), 3).map(|query| query.rewind.unwrap())
        };
        assert_eq!(rewind("10"), Ok(Rewind::Events(10)));
        assert_eq!(rewind("0"), Ok(Rewind::Events(0)));
        assert_eq!(rewind("2m"), Ok(Rewind::Age(Duration::from_secs(120))));
        assert_eq!(rewind("500ms"), Ok(Rewind::Age(Duration::from_millis(500))));
        assert_eq!(rewind("all"), Ok(Rewind::All));
        for (value, part) in [
            ("", "no number"),
            ("m", "no number"),
            ("2x", "no number"),
            ("-1", "no number"),
            ("9999999999", "no number"),
            ("9999999", "too far"),
            ("31d", "at most 30 days"),
        ] {
            let error = rewind(value).unwrap_err();
            assert!(error.contains(part), "{value}: {error}");
        }
        assert!(StreamQuery::parse("rewind=1&rewind=2", 3).unwrap_err().contains("twice"));
    }

    #[test]
    fn ends_of_a_publish() {
        let is_end = |query: &str| PublishQuery::parse(query).map(|query| query.is_end());
        assert_eq!(is_end(""), Ok(false));
        assert_eq!(is_end("end=1"), Ok(true));
        assert_eq!(is_end("end=true"), Ok(true));
        assert_eq!(is_end("end=0"), Ok(false));
        assert!(is_end("end=yes").unwrap_err().contains("end=1"));
        assert!(is_end("end").unwrap_err().contains("end=1"));
    }

    #[test]
    fn events_of_a_publish() {
        let event = |query: &str| PublishQuery::parse(query)?.event("d".into());
        let plain = Event::new("d");
        assert_eq!(event("channel=a"), Ok(plain.clone()));
        assert_eq!(
            event("event=n&id=7&retry=1500"),
            Ok(plain
                .with_name("n")
                .and_then(|event| event.with_id("7"))
                .unwrap()
                .with_retry(Duration::from_millis(1500)))
        );
        for (query, part) in [
            ("event=a%0Ab", "U+000A"),
            ("event=", "empty"),
            ("id=a%0Ab", "id"),
            ("id=a%00b", "id"),
            ("id=", "empty"),
            ("retry=soon", "no number"),
            ("retry=", "no number"),
            ("retry=%2B1", "no number"),
            ("retry=-1", "no number"),
            ("retry=99", "from 100 to 300000"),
            ("retry=300001", "from 100 to 300000"),
            ("retry=99999999999999999999", "no number"),
            ("event=error", "choose another name"),
            ("id=1&id=2", "twice"),
            ("evnt=a", "did you mean \"event\""),
        ] {
            let error = event(query).unwrap_err();
            assert!(error.contains(part), "{query}: {error}");
        }
    }
}
