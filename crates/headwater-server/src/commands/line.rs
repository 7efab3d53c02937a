//! One received event as it is printed, for people or for programs. Look here for the formats.

use std::fmt::Write as _;

use headwater::{Channel, EventId, EventName, Frame};
use serde::Serialize;

/// An event that came in on a channel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Line {
    pub(super) channel: String,
    /// `message` if the event has no name, as in a browser.
    #[serde(rename = "event")]
    pub(super) name: String,
    /// The position for a reconnect, if there is one.
    pub(super) id: Option<String>,
    pub(super) data: String,
}

impl Line {
    /// An event as it came over Redis.
    pub(super) fn from_frame(frame: &Frame) -> Self {
        let event = frame.event();
        Self {
            channel: frame.channel().map_or_else(String::new, Channel::to_string),
            name: event.name().map_or_else(|| "message".to_owned(), EventName::to_string),
            id: event.id().map(EventId::to_string),
            data: event.data().to_owned(),
        }
    }

    /// One JSON object, without a line end.
    pub(super) fn json(&self) -> String {
        serde_json::to_string(self).expect("strings have a form in JSON")
    }

    /// `channel (name) #id: data`; the name `message` is left out, and data of several lines stands
    /// indented below. Whoever publishes must not be able to drive the reader's terminal, so control
    /// characters are escaped; `--json` has the exact data.
    pub(super) fn text(&self) -> String {
        let mut text = visible(&self.channel);
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
        let line = Line {
            channel: "news".to_owned(),
            name: name.to_owned(),
            id: id.map(ToOwned::to_owned),
            data: data.to_owned(),
        };
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
    fn an_event_cannot_drive_the_terminal() {
        check(
            "message",
            None,
            "\u{1b}[2J\u{7f}\u{9b}0m",
            r"news: \u{1b}[2J\u{7f}\u{9b}0m",
            "{\"channel\":\"news\",\"event\":\"message\",\"id\":null,\"data\":\"\\u001b[2J\u{7f}\u{9b}0m\"}",
        );
    }
}
