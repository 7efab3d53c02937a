//! What the application answered. Look here for what exactly is a yes: everything else denies. No
//! I/O.

use std::time::{Duration, SystemTime};

use headwater::Channel;
use headwater::access::Denied;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, TRANSFER_ENCODING};
use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::time::time_of;
use crate::outbound;
use crate::settings::as_text;

/// A yes, with its bounds.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    /// The channels that are allowed among those requested; `None` for all.
    pub(super) only: Option<Vec<Channel>>,
    pub(super) until: Option<SystemTime>,
    pub(super) user: Option<String>,
}

/// Anything else.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum No {
    /// The application denies it.
    Denied(Denied),
    /// It is not an answer, for this reason: no decision is possible.
    Unclear(&'static str),
}

/// The body of a yes. A field that is not known, is named twice or has a value of another type
/// could be a restriction that would be missed: it makes the answer unclear. So does `null`, except
/// for the user, where it means that nobody is logged in.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body {
    #[serde(default, deserialize_with = "not_null")]
    channels: Option<Vec<String>>,
    user: Option<Value>,
    /// Seconds since 1970.
    #[serde(default, deserialize_with = "not_null")]
    expires: Option<f64>,
    /// Seconds from now.
    #[serde(default, deserialize_with = "not_null")]
    expires_in: Option<f64>,
}

fn not_null<'de, T, D>(value: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    T::deserialize(value).map(Some)
}

/// Reads a response that arrived as a whole.
pub(super) fn read(answer: &outbound::Answer, now: SystemTime) -> Result<Answer, No> {
    match answer.status {
        StatusCode::OK | StatusCode::NO_CONTENT => read_yes(answer, now).map_err(No::Unclear),
        StatusCode::UNAUTHORIZED => Err(No::Denied(Denied::no_credentials())),
        StatusCode::FORBIDDEN => Err(No::Denied(Denied::forbidden())),
        // The channels are in the URL.
        StatusCode::URI_TOO_LONG => Err(No::Denied(Denied::too_many_channels())),
        _ => Err(No::Unclear("its status is none of 200, 204, 401 and 403")),
    }
}

fn read_yes(answer: &outbound::Answer, now: SystemTime) -> Result<Answer, &'static str> {
    if answer.body.is_empty() {
        // A body that ends with the connection may have been cut off.
        let has_end = answer.status == StatusCode::NO_CONTENT
            || answer.headers.contains_key(CONTENT_LENGTH)
            || answer.headers.contains_key(TRANSFER_ENCODING);
        return has_end.then(Answer::default).ok_or("it has no body, and no content-length");
    }
    if !is_json(&answer.headers) {
        return Err("it has a body, and its content-type is not application/json");
    }
    // An object, and not a list of values in the order of the fields, which serde would accept too.
    if !answer.body.trim_ascii_start().starts_with(b"{") {
        return Err("its body is not a JSON object");
    }
    let body = serde_json::from_slice(&answer.body).map_err(
        |_| "its body is not JSON with nothing but channels, user, expires and expires_in",
    )?;
    bounds(body, now)
}

fn bounds(body: Body, now: SystemTime) -> Result<Answer, &'static str> {
    let Body { channels, user, expires, expires_in } = body;
    let only = channels.map(|names| names.into_iter().map(Channel::new).collect()).transpose();
    let only = only.map_err(|_| "channels has a name that no channel can have")?;
    let user = match user {
        None | Some(Value::Null) => None,
        Some(user) => Some(
            as_text(&user)
                .filter(|user| !user.is_empty())
                .ok_or("user is neither a text nor an integer, or is empty")?,
        ),
    };
    let time = |seconds| time_of(seconds).ok_or("expires is not a time in seconds since 1970");
    let later = |seconds| {
        let left = Duration::try_from_secs_f64(seconds).ok();
        left.and_then(|left| now.checked_add(left)).ok_or("expires_in is not a duration in seconds")
    };
    let until = [expires.map(time).transpose()?, expires_in.map(later).transpose()?];
    Ok(Answer { only, until: until.into_iter().flatten().min(), user })
}

/// Whether the one media type is `application/json`, or one that ends with `+json` (RFC 6839).
fn is_json(headers: &HeaderMap) -> bool {
    let mut types = headers.get_all(CONTENT_TYPE).iter();
    let (Some(one), None) = (types.next(), types.next()) else { return false };
    let Ok(one) = one.to_str() else { return false };
    let media_type = one.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    media_type == "application/json"
        || media_type.starts_with("application/") && media_type.ends_with("+json")
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn response(
        status: u16,
        headers: &[(HeaderName, &'static str)],
        body: &str,
    ) -> outbound::Answer {
        let headers =
            headers.iter().map(|(name, value)| (name.clone(), HeaderValue::from_static(value)));
        let mut map = HeaderMap::new();
        headers.for_each(|(name, value)| {
            map.append(name, value);
        });
        let status = StatusCode::from_u16(status).unwrap();
        outbound::Answer { status, headers: map, body: body.to_owned().into() }
    }

    fn json(body: &str) -> Result<Answer, No> {
        let headers = [(CONTENT_TYPE, "application/json; charset=utf-8")];
        read(&response(200, &headers, body), SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_yes_may_contain_restrictions() {
        let all = Answer::default();
        for body in ["{}", " {} ", "{\"user\": null}"] {
            assert_eq!(json(body), Ok(all.clone()), "{body}");
        }
        let full = json(r#"{"channels": ["a"], "user": 42, "expires_in": 1.5}"#).unwrap();
        assert_eq!(full.only, Some(vec![Channel::new("a").unwrap()]));
        assert_eq!(full.user.as_deref(), Some("42"));
        assert_eq!(full.until, time_of(1.5));
        assert_eq!(json(r#"{"channels": []}"#).unwrap().only, Some(vec![]));
        for body in [r#"{"expires": 5, "expires_in": 9}"#, r#"{"expires": 9, "expires_in": 5}"#] {
            assert_eq!(json(body).unwrap().until, time_of(5.0), "the earlier: {body}");
        }
    }

    #[test]
    fn every_other_body_denies() {
        for body in [
            "x",
            "[]",
            "null",
            "true",
            "\"ok\"",
            "{",
            "{}{}",
            "{} x",
            "\u{feff}{}",
            "[[\"a\"], \"42\", 1, 1]",
            r#"{"allowed": false}"#,
            r#"{"error": "not logged in"}"#,
            r#"{"channel": ["a"]}"#,
            r#"{"Channels": ["a"]}"#,
            r#"{"channels": "a"}"#,
            r#"{"channels": null}"#,
            r#"{"channels": {}}"#,
            r#"{"channels": [1]}"#,
            r#"{"channels": [""]}"#,
            r#"{"channels": ["headwater:x"]}"#,
            r#"{"channels": ["a"], "channels": ["b"]}"#,
            r#"{"user": {}}"#,
            r#"{"user": []}"#,
            r#"{"user": true}"#,
            r#"{"user": 1.5}"#,
            r#"{"user": ""}"#,
            r#"{"user": "a", "user": "b"}"#,
            r#"{"expires": "soon"}"#,
            r#"{"expires": null}"#,
            r#"{"expires": -1}"#,
            r#"{"expires": 1e400}"#,
            r#"{"expires": 5, "expires_in": -1}"#,
            r#"{"expires_in": -1}"#,
            r#"{"expires_in": null}"#,
            r#"{"expires_in": 1e300}"#,
            r#"{"expires_in": true}"#,
        ] {
            assert!(matches!(json(body), Err(No::Unclear(_))), "{body}: {:?}", json(body));
        }
    }

    #[test]
    fn status_and_headers_decide_first() {
        const LENGTH: (HeaderName, &str) = (CONTENT_LENGTH, "0");
        let kind = |value| (CONTENT_TYPE, value);
        let check = |status, headers: &[_], body: &str, expected: Result<(), u16>| {
            let found = read(&response(status, headers, body), SystemTime::UNIX_EPOCH);
            let found = found.map(|_| ()).map_err(|no| match no {
                No::Denied(denied) => denied.status().as_u16(),
                No::Unclear(_) => 503,
            });
            assert_eq!(found, expected, "{status} {headers:?} {body}");
        };
        check(200, &[LENGTH], "", Ok(()));
        check(200, &[LENGTH, kind("text/html")], "", Ok(()));
        check(200, &[(TRANSFER_ENCODING, "chunked")], "", Ok(()));
        check(204, &[], "", Ok(()));
        check(200, &[kind("Application/JSON")], "{}", Ok(()));
        check(200, &[kind("application/vnd.app+json;v=1")], "{}", Ok(()));
        check(200, &[], "", Err(503));
        check(200, &[], "{}", Err(503));
        for wrong in [
            "text/html",
            "text/plain",
            "text/json",
            "application/jsonp",
            "application/x-ndjson",
            "text/html; a=application/json",
            "application/xhtml+xml",
            "",
        ] {
            check(200, &[kind(wrong)], "{}", Err(503));
        }
        check(200, &[kind("application/json"), kind("text/html")], "{}", Err(503));
        for (status, expected) in [
            (201, 503),
            (202, 503),
            (206, 503),
            (301, 503),
            (302, 503),
            (304, 503),
            (400, 503),
            (404, 503),
            (429, 503),
            (500, 503),
            (401, 401),
            (403, 403),
            (414, 400),
        ] {
            check(status, &[kind("application/json")], "{}", Err(expected));
        }
    }
}
