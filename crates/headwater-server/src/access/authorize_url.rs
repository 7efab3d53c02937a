//! Asks the application whether a client may subscribe or publish. Look here for the request, the
//! response, and how a storm of reconnecting clients is kept away from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use headwater::Channel;
use headwater::access::{AccessRequest, Denied};
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderName, HeaderValue, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use serde_json::{Map, Value};
use tokio::sync::{OnceCell, Semaphore};
use tokio::time::Instant;

use super::time::time_of;
use crate::limits::{
    APPLICATION_ANSWER_BYTES_MAX, APPLICATION_CACHE_MAX, APPLICATION_CACHE_TIME,
    APPLICATION_QUESTIONS_MAX,
};
use crate::outbound::{self, Client};
use crate::settings::{HttpUrl, as_text, show_duration};

/// The application, and its recent responses.
pub(super) struct AuthorizeUrl {
    url: HttpUrl,
    timeout: Duration,
    client: Client,
    /// Requests in flight.
    asking: Semaphore,
    answers: Mutex<HashMap<Question, Remembered>>,
}

/// The subject of a request, without its secrets.
type Question = [u8; 32];

#[derive(Clone)]
struct Remembered {
    asked_at: Instant,
    /// Empty while the request is in flight: identical requests wait for it.
    answer: Arc<OnceCell<Result<Answer, Denied>>>,
}

/// A yes.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Answer {
    /// The channels that are allowed among those requested; `None` for all.
    pub(super) only: Option<Vec<Channel>>,
    pub(super) until: Option<SystemTime>,
    pub(super) user: Option<String>,
}

/// The body of a positive response.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Body {
    channels: Option<Vec<String>>,
    user: Option<Value>,
    /// Seconds since 1970.
    expires: Option<f64>,
    /// Seconds from now.
    expires_in: Option<f64>,
}

/// Headers that are copied to the application.
const FORWARDED: [HeaderName; 2] = [COOKIE, AUTHORIZATION];

/// The address of the client.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl AuthorizeUrl {
    pub(super) fn new(url: HttpUrl, timeout: Duration) -> anyhow::Result<Self> {
        // An unusable URL must be noticed at startup.
        outbound::get(&url, "", [])?;
        let asking = Semaphore::new(APPLICATION_QUESTIONS_MAX);
        Ok(Self { url, timeout, client: Client::new(), asking, answers: Mutex::default() })
    }

    /// The decision of the application. Identical requests within a short time are sent once.
    pub(super) async fn decide(&self, request: &AccessRequest<'_>) -> Result<Answer, Denied> {
        let query = query(request);
        let headers = forwarded(request);
        let remembered = self.remembered(digest_of(&query, &headers));
        let answer = remembered.answer.get_or_init(|| async {
            let answer = tokio::time::timeout(self.timeout, self.request(&query, headers)).await;
            answer.unwrap_or_else(|_| {
                let (url, timeout) = (&self.url, show_duration(self.timeout));
                tracing::warn!(%url, timeout, "authorize-url: no answer, request denied");
                Err(Denied::unavailable())
            })
        });
        answer.await.clone()
    }

    fn remembered(&self, question: Question) -> Remembered {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = |known: &Remembered| known.asked_at.elapsed() < APPLICATION_CACHE_TIME;
        if let Some(known) = answers.get(&question).filter(|known| is_fresh(known)) {
            return known.clone();
        }
        if answers.len() >= APPLICATION_CACHE_MAX {
            answers.retain(|_, known| is_fresh(known));
        }
        let new = Remembered { asked_at: Instant::now(), answer: Arc::default() };
        // Full of fresh entries: this request is sent, and its response is not cached.
        if answers.len() < APPLICATION_CACHE_MAX {
            answers.insert(question, new.clone());
        }
        new
    }

    async fn request(
        &self,
        query: &str,
        headers: Vec<(HeaderName, HeaderValue)>,
    ) -> Result<Answer, Denied> {
        let unavailable = |_| Denied::unavailable();
        let _asking = self.asking.acquire().await.map_err(|_| Denied::unavailable())?;
        let request = outbound::get(&self.url, query, headers).map_err(unavailable)?;
        let url = self.url.to_string();
        let sent =
            self.client.exchange(request, &url, self.timeout, APPLICATION_ANSWER_BYTES_MAX).await;
        let answer = sent.map_err(|error| {
            tracing::warn!("authorize-url: no answer, request denied: {error:#}");
            Denied::unavailable()
        })?;
        match answer.status {
            StatusCode::UNAUTHORIZED => Err(Denied::no_credentials()),
            StatusCode::FORBIDDEN => Err(Denied::forbidden()),
            status if status.is_success() => read(&answer, SystemTime::now()).ok_or_else(|| {
                tracing::warn!(
                    url,
                    "authorize-url: answer not understood, request denied: see \
                     docs/access/authorize-url.md"
                );
                Denied::unavailable()
            }),
            status => {
                tracing::warn!(url, %status, "authorize-url: unexpected status, request denied");
                Err(Denied::unavailable())
            }
        }
    }
}

fn query(request: &AccessRequest<'_>) -> String {
    let mut query = format!("action={}", request.action.as_str());
    for channel in request.channels {
        query += &format!("&channel={}", utf8_percent_encode(channel.as_str(), NON_ALPHANUMERIC));
    }
    query
}

fn forwarded(request: &AccessRequest<'_>) -> Vec<(HeaderName, HeaderValue)> {
    let as_they_came = |name: HeaderName| {
        let values = request.headers.get_all(&name).iter().cloned();
        values.map(move |value| (name.clone(), value))
    };
    let mut headers: Vec<_> = FORWARDED.into_iter().flat_map(as_they_came).collect();
    let address = request.address.map(|address| address.to_canonical().to_string());
    if let Some(address) = address.and_then(|address| HeaderValue::try_from(address).ok()) {
        headers.push((FORWARDED_FOR, address));
    }
    headers
}

fn digest_of(query: &str, headers: &[(HeaderName, HeaderValue)]) -> Question {
    let mut context = digest::Context::new(&digest::SHA256);
    let mut add = |bytes: &[u8]| {
        context.update(&bytes.len().to_be_bytes());
        context.update(bytes);
    };
    add(query.as_bytes());
    for (name, value) in headers {
        add(name.as_str().as_bytes());
        add(value.as_bytes());
    }
    let mut question = Question::default();
    question.copy_from_slice(context.finish().as_ref());
    question
}

/// Parses a positive response; `None` if it is invalid. A body without a JSON content type is
/// ignored.
fn read(answer: &outbound::Answer, now: SystemTime) -> Option<Answer> {
    if !answer.is_json() || answer.body.is_empty() {
        return Some(Answer::default());
    }
    // An object, and not a list of values in the order of the fields, which serde would accept too.
    let object: Map<String, Value> = serde_json::from_slice(&answer.body).ok()?;
    let Body { channels, user, expires, expires_in } =
        serde_json::from_value(Value::Object(object)).ok()?;
    let only = match channels {
        Some(names) => {
            let channels: Result<Vec<_>, _> = names.into_iter().map(Channel::new).collect();
            Some(channels.ok()?)
        }
        None => None,
    };
    let user = match user {
        None | Some(Value::Null) => None,
        Some(user) => Some(as_text(&user)?),
    };
    let until = match (expires, expires_in) {
        (Some(seconds), _) => Some(time_of(seconds)?),
        (None, Some(seconds)) => Some(now.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?),
        (None, None) => None,
    };
    Some(Answer { only, until, user })
}

/// Whether the application responds, for `headwater check`: the request has no credentials.
pub(crate) async fn try_out(url: &HttpUrl, timeout: Duration) -> anyhow::Result<StatusCode> {
    let request = outbound::get(url, "action=subscribe&channel=headwater-check", [])?;
    let shown = url.to_string();
    let client = Client::new();
    let answer = client.exchange(request, &shown, timeout, APPLICATION_ANSWER_BYTES_MAX).await?;
    Ok(answer.status)
}

#[cfg(test)]
mod tests {
    use http::header::CONTENT_TYPE;

    use super::*;

    fn check(is_json: bool, body: &str) -> Option<Answer> {
        let media_type = if is_json { "application/json" } else { "text/html" };
        let headers = [(CONTENT_TYPE, HeaderValue::from_static(media_type))].into_iter().collect();
        let body = body.to_owned().into();
        let answer = outbound::Answer { status: StatusCode::OK, headers, body };
        read(&answer, SystemTime::UNIX_EPOCH)
    }

    #[test]
    fn a_grant_may_contain_restrictions() {
        let all = Some(Answer::default());
        assert_eq!(check(false, "<html>"), all);
        assert_eq!(check(true, ""), all);
        assert_eq!(check(true, "{}"), all);
        assert_eq!(check(true, "{\"user\": null, \"more\": 1}"), all);
        let full = check(true, r#"{"channels": ["a"], "user": 42, "expires_in": 1.5}"#).unwrap();
        assert_eq!(full.only, Some(vec![Channel::new("a").unwrap()]));
        assert_eq!(full.user.as_deref(), Some("42"));
        assert_eq!(full.until, time_of(1.5));
        assert_eq!(check(true, r#"{"channels": []}"#).unwrap().only, Some(vec![]));
    }

    #[test]
    fn responses_that_cannot_be_parsed_deny() {
        for body in [
            "x",
            "[]",
            "null",
            r#"{"channels": "a"}"#,
            r#"{"channels": ["headwater:x"]}"#,
            r#"{"user": {}}"#,
            r#"{"expires": "soon"}"#,
            r#"{"expires_in": -1}"#,
            r#"{"expires": 1e400}"#,
        ] {
            assert_eq!(check(true, body), None, "{body}");
        }
    }

    #[test]
    fn requests_differ_by_credentials_and_access() {
        let cookie = |value: &'static str| vec![(COOKIE, HeaderValue::from_static(value))];
        let one = digest_of("action=subscribe&channel=a", &cookie("a"));
        assert_eq!(one, digest_of("action=subscribe&channel=a", &cookie("a")));
        assert_ne!(one, digest_of("action=publish&channel=a", &cookie("a")));
        assert_ne!(one, digest_of("action=subscribe&channel=a", &cookie("b")));
        assert_ne!(one, digest_of("action=subscribe&channel=a", &[]));
    }
}
