//! A batch of events as NDJSON: one JSON object per line. No I/O.

use headwater::event::IdempotencyKey;
use headwater::{Channel, Publish};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::query::{build_event, retry_of, retry_range};
use crate::limits::BATCH_EVENTS_MAX;

/// One line as it is sent.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line<'a> {
    channel: Option<String>,
    #[serde(borrow)]
    data: &'a RawValue,
    event: Option<String>,
    id: Option<String>,
    /// Milliseconds.
    retry: Option<u64>,
    /// Whether it is the last event of its channel.
    #[serde(default)]
    end: bool,
    /// An idempotency key.
    key: Option<String>,
}

/// Parses a batch: every line is checked before anything is returned. Empty lines are skipped.
///
/// Lines without a `channel` go to `fallback`. `data` is a string, or any other JSON, which is sent
/// exactly as written.
///
/// # Errors
/// A sentence for the client that names the first invalid line.
pub fn parse(body: &str, fallback: &Channel) -> Result<Vec<Publish>, String> {
    let mut batch = Vec::new();
    for (index, line) in body.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        if batch.len() == BATCH_EVENTS_MAX {
            return Err(format!(
                "the batch has more than {BATCH_EVENTS_MAX} events, and nothing was published: \
                 send it in parts"
            ));
        }
        let event = parse_line(line, fallback).map_err(|why| {
            format!("line {} of the batch is wrong, and nothing was published: {why}", index + 1)
        })?;
        batch.push(event);
    }
    if batch.is_empty() {
        return Err("the batch is empty: send one JSON object per line".into());
    }
    Ok(batch)
}

fn parse_line(line: &str, fallback: &Channel) -> Result<Publish, String> {
    let line: Line = serde_json::from_str(line).map_err(|error| without_line(&error))?;
    let channel = match line.channel {
        Some(name) => Channel::new(name).map_err(|error| error.to_string())?,
        None => fallback.clone(),
    };
    let text = line.data.get();
    let data = if text.starts_with('"') {
        serde_json::from_str(text).map_err(|error| without_line(&error))?
    } else {
        text.to_owned()
    };
    let retry =
        match line.retry {
            Some(ms) => Some(retry_of(ms).ok_or_else(|| {
                format!("retry is {ms}, and must be milliseconds {}", retry_range())
            })?),
            None => None,
        };
    let event = build_event(data, line.event.as_deref(), line.id.as_deref(), retry)?;
    let publish = Publish::to(channel, event).with_end(line.end);
    match line.key {
        Some(key) => {
            Ok(publish.with_key(IdempotencyKey::new(key).map_err(|error| error.to_string())?))
        }
        None => Ok(publish),
    }
}

/// The error without the line that `serde_json` counts, which would always be 1.
fn without_line(error: &serde_json::Error) -> String {
    error.to_string().replace(" at line 1 column ", " at column ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use headwater::Event;

    use super::*;

    fn fallback() -> Channel {
        Channel::new("fallback").unwrap()
    }

    #[test]
    fn lines_become_events_in_order() {
        let body = concat!(
            "{\"channel\":\"a\",\"data\":\"x\\ny\",\"event\":\"n\",\"id\":\"1\",\"retry\":500}\r\n",
            "\n",
            " {\"data\":{\"k\": [1, 2]}}\n",
            "{\"data\":\"\",\"end\":true,\"key\":\"k\"}",
        );
        let batch = parse(body, &fallback()).unwrap();
        let full = Event::new("x\ny").with_name("n").unwrap().with_id("1").unwrap();
        assert_eq!(
            batch,
            [
                Publish::to(
                    Channel::new("a").unwrap(),
                    full.with_retry(Duration::from_millis(500))
                ),
                Publish::to(fallback(), Event::new("{\"k\": [1, 2]}")),
                Publish::to(fallback(), Event::new(""))
                    .with_end(true)
                    .with_key(IdempotencyKey::new("k").unwrap()),
            ]
        );
    }

    #[test]
    fn the_invalid_line_is_named() {
        let good = "{\"data\":\"x\"}\n".repeat(6);
        for (bad, part) in [
            ("nonsense", "expected"),
            ("[]", "invalid"),
            ("{\"data\":\"x\"", "EOF"),
            ("{\"channel\":\"a\"}", "missing field `data`"),
            (
                "{\"data\":\"x\",\"chanel\":\"a\"}",
                "unknown field `chanel`, expected one of `channel`",
            ),
            ("{\"data\":\"x\",\"channel\":\"\"}", "empty"),
            ("{\"data\":\"x\",\"id\":\"a\\nb\"}", "id"),
            ("{\"data\":\"x\",\"event\":\"a\\u0000\"}", "U+0000"),
            ("{\"data\":\"x\",\"event\":\"open\"}", "choose another name"),
            ("{\"data\":\"x\",\"retry\":-1}", "-1"),
            ("{\"data\":\"x\",\"retry\":99}", "from 100 to 300000"),
            ("{\"data\":\"x\",\"retry\":300001}", "from 100 to 300000"),
            ("{\"data\":\"x\",\"end\":1}", "boolean"),
            ("{\"data\":\"x\",\"key\":\"\"}", "idempotency key"),
            ("{\"data\":\"x\",\"retry\":\"1\"}", "string"),
            ("{\"data\":\"\\ud800\"}", "hex escape"),
        ] {
            let error = parse(&format!("{good}{bad}\n{good}"), &fallback()).unwrap_err();
            assert!(error.contains("line 7 of the batch"), "{error}");
            assert!(error.contains("nothing was published"), "{error}");
            assert!(error.contains(part), "{bad}: {error}");
            assert!(!error.contains("line 1"), "{error}");
        }
        assert!(parse("\n \n", &fallback()).unwrap_err().contains("empty"));
        let many = "{\"data\":0}\n".repeat(BATCH_EVENTS_MAX + 1);
        assert!(parse(&many, &fallback()).unwrap_err().contains("in parts"));
    }
}
