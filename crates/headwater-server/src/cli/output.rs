//! Standard output, and one received event as it is printed for people or for programs. Look here
//! for the formats.

use std::fmt::Write as _;
use std::io::{self, Write as _};

use headwater::Channel;
use headwater::event::{EventId, EventName};
use headwater::stream::{Frame, GAP_EVENT, GapReason};
use serde::{Deserialize, Serialize};

use crate::exit::Failure;

/// Writes to standard output at once.
pub(super) fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Failure::OutputClosed),
        Err(error) => {
            let error = anyhow::Error::new(error).context("cannot write to standard output");
            Err(Failure::Failed(error))
        }
    }
}

/// An event received on a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) channel: String,
    /// `message` if the event has no name, as in a browser.
    #[serde(rename = "event")]
    pub(super) name: String,
    /// The position for a reconnect, if there is one.
    pub(super) id: Option<String>,
    pub(super) data: String,
    /// Why events are missing here, if this reports a gap and is no event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gap: Option<String>,
}

/// The data of the event that announces a gap, as far as it is shown.
#[derive(Deserialize)]
struct GapData {
    reason: String,
}

impl Line {
    /// A message on a channel, as a client of the server receives it.
    pub(super) fn new(channel: &Channel, name: String, id: Option<String>, data: String) -> Self {
        let gap = (name == GAP_EVENT)
            .then(|| serde_json::from_str(&data).ok().map(|GapData { reason }| reason))
            .flatten();
        Self { channel: channel.to_string(), name, id, data, gap }
    }

    /// A frame received over Redis; `None` for a frame without a channel, which only custom streams
    /// have.
    pub(super) fn from_frame(frame: &Frame) -> Option<Self> {
        let channel = frame.channel().or(frame.gap().map(|gap| &gap.channel))?;
        let event = frame.event();
        let name = event.name().map_or_else(|| "message".to_owned(), EventName::to_string);
        let id = event.id().map(EventId::to_string);
        Some(Self::new(channel, name, id, event.data().to_owned()))
    }

    /// One JSON object, without a line end.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("strings have a form in JSON")
    }

    /// `channel (name) #id: data`; the name `message` is left out, and data of several lines stands
    /// indented below. A publisher must not control the reader's terminal, so control characters
    /// are escaped; `--json` has the exact data.
    pub(super) fn text(&self) -> String {
        let mut text = visible(&self.channel);
        if let Some(reason) = &self.gap {
            let _ = write!(text, ": GAP: events are missing: {}", why_missing(reason));
            return text;
        }
        if self.name != "message" {
            let _ = write!(text, " ({})", visible(&self.name));
        }
        if let Some(id) = &self.id {
            let _ = write!(text, " #{}", visible(id));
        }
        if self.data.contains('\n') {
            text.push(':');
            for line in self.data.split('\n') {
                let _ = write!(text, "\n    {}", visible(line));
            }
        } else {
            let _ = write!(text, ": {}", visible(&self.data));
        }
        text
    }
}

/// The reason in words; an unknown one, of a newer server, is shown as it is.
fn why_missing(reason: &str) -> String {
    match GapReason::all().find(|known| known.as_str() == reason) {
        Some(GapReason::Trimmed) => "they are no longer retained".to_owned(),
        Some(GapReason::UnknownId) => "the last event id is not known".to_owned(),
        Some(GapReason::Epoch) => {
            "the last event id is from an earlier history, or from another node".to_owned()
        }
        Some(GapReason::BrokerLost) => "the connection to the broker was lost".to_owned(),
        _ => visible(reason),
    }
}

fn visible(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() && character != '\t' {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, id: Option<&str>, data: &str, text: &str, json: &str) {
        let channel = Channel::new("news").expect("it is a good name");
        let line = Line::new(&channel, name.to_owned(), id.map(ToOwned::to_owned), data.to_owned());
        assert_eq!(line.text(), text);
        assert_eq!(line.json(), json);
    }

    #[test]
    fn an_event_is_printed() {
        check(
            "message",
            None,
            "hello",
            "news: hello",
            r#"{"channel":"news","event":"message","id":null,"data":"hello"}"#,
        );
        check(
            "greeting",
            Some("7"),
            "",
            "news (greeting) #7: ",
            r#"{"channel":"news","event":"greeting","id":"7","data":""}"#,
        );
        check(
            "message",
            Some("7"),
            "one\n\ttwo\n",
            "news #7:\n    one\n    \ttwo\n    ",
            r#"{"channel":"news","event":"message","id":"7","data":"one\n\ttwo\n"}"#,
        );
    }

    #[test]
    fn a_gap_is_not_an_event() {
        check(
            "headwater-gap",
            Some("7"),
            r#"{"channel":"news","reason":"trimmed"}"#,
            "news: GAP: events are missing: they are no longer retained",
            concat!(
                r#"{"channel":"news","event":"headwater-gap","id":"7","#,
                r#""data":"{\"channel\":\"news\",\"reason\":\"trimmed\"}","gap":"trimmed"}"#
            ),
        );
        check(
            "headwater-gap",
            None,
            r#"{"reason":"new\u001b"}"#,
            r"news: GAP: events are missing: new\u{1b}",
            concat!(
                r#"{"channel":"news","event":"headwater-gap","id":null,"#,
                r#""data":"{\"reason\":\"new\\u001b\"}","gap":"new\u001b"}"#
            ),
        );
        for reason in GapReason::all() {
            assert_ne!(why_missing(reason.as_str()), reason.as_str());
        }
    }

    #[test]
    fn an_event_cannot_drive_the_terminal() {
        check(
            "message",
            None,
            "\u{1b}[2J\u{7f}\u{9b}0m",
            r"news: \u{1b}[2J\u{7f}\u{9b}0m",
            "{\"channel\":\"news\",\"event\":\"message\",\"id\":null,\
             \"data\":\"\\u001b[2J\u{7f}\u{9b}0m\"}",
        );
    }
}
