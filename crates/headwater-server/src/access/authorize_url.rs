//! Asks the application whether a client may subscribe or publish. Look here for the request, and
//! for how a storm of reconnecting clients is kept away from it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use bytes::Bytes;
use headwater::access::{AccessRequest, Denied, RevocationMark};
use headwater::{Channel, Hub};
use http::{HeaderName, HeaderValue, Request, StatusCode};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::{OnceCell, watch};
use tokio::time::{Instant, timeout};

use super::answer::{self, Answer, No};
use super::credentials::{self, CREDENTIAL_HEADERS};
use super::questions::{Asker, Questions};
use crate::client::ClientAddress;
use crate::limits::{
    APPLICATION_ANSWER_BYTES_MAX, APPLICATION_ATTEMPTS_MAX, APPLICATION_CACHE_MAX,
    APPLICATION_CACHE_TIME, APPLICATION_QUESTION_TIME_MAX, APPLICATION_URL_BYTES_MAX,
};
use crate::outbound::{self, Client};
use crate::settings::{HttpUrl, show_duration};
use crate::throttled_log::ThrottledLog;

/// The application, and its recent answers.
pub(super) struct AuthorizeUrl {
    hub: Hub,
    application: Arc<Application>,
    timeout: Duration,
    questions: Questions,
    answers: Mutex<HashMap<Digest, Remembered>>,
    late: ThrottledLog,
}

/// How the application is reached.
struct Application {
    url: HttpUrl,
    client: Client,
    unclear: ThrottledLog,
}

/// What the application is asked.
struct Question<'a> {
    query: String,
    headers: Vec<(HeaderName, HeaderValue)>,
    channels: &'a [Channel],
    asker: Asker,
}

/// A question without its secrets.
type Digest = [u8; 32];

#[derive(Clone)]
struct Remembered {
    since: Instant,
    /// Empty until the question has its place: identical requests wait for it.
    asked: Arc<OnceCell<Asked>>,
}

/// A question that was sent.
struct Asked {
    /// From before it was sent.
    mark: RevocationMark,
    at: Instant,
    answer: watch::Receiver<Option<Result<Answer, Denied>>>,
}

/// The address of the client.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl AuthorizeUrl {
    pub(super) fn new(url: HttpUrl, timeout: Duration, hub: Hub) -> anyhow::Result<Self> {
        // An unusable URL must be noticed at startup.
        outbound::get(&url, "", [])?;
        let application =
            Application { url, client: Client::new(), unclear: ThrottledLog::default() };
        Ok(Self {
            hub,
            application: Arc::new(application),
            timeout,
            questions: Questions::new(),
            answers: Mutex::default(),
            late: ThrottledLog::default(),
        })
    }

    /// The decision of the application, and when it was asked for. Identical requests within a
    /// short time are sent once.
    pub(super) async fn decide(
        &self,
        request: &AccessRequest<'_>,
    ) -> Result<(Answer, Instant), Denied> {
        let question = Question::new(request);
        if self.application.url.with_query(&question.query).len() > APPLICATION_URL_BYTES_MAX {
            return Err(Denied::too_many_channels());
        }
        timeout(self.timeout, self.answer(&question)).await.unwrap_or_else(|_| {
            let (url, timeout) = (&self.application.url, show_duration(self.timeout));
            self.late.warn(|more| {
                tracing::warn!(%url, timeout, more, "authorize-url: no answer, request denied");
            });
            Err(Denied::unavailable())
        })
    }

    /// An answer that was not revoked since its question was sent.
    async fn answer(&self, question: &Question<'_>) -> Result<(Answer, Instant), Denied> {
        let digest = question.digest();
        for _ in 0..APPLICATION_ATTEMPTS_MAX {
            let remembered = self.remembered(digest);
            let asked = remembered.asked.get_or_try_init(|| self.ask(question)).await?;
            let answer = asked.answer().await?;
            let user = answer.user.as_deref();
            if !self.hub.is_revoked_since(asked.mark, user, None, question.channels) {
                return Ok((answer, asked.at));
            }
            self.forget(digest, &remembered);
        }
        Err(Denied::unavailable())
    }

    /// Sends a question when there is a place for it.
    async fn ask(&self, question: &Question<'_>) -> Result<Asked, Denied> {
        let place = self.questions.place(question.asker).await;
        let place = place.map_err(|_| Denied::unavailable())?;
        let (mark, at) = (self.hub.revocation_mark(), Instant::now());
        let application = Arc::clone(&self.application);
        let request = outbound::get(&application.url, &question.query, question.headers.clone());
        let request = request.map_err(|_| Denied::too_many_channels())?;
        // The client may leave, or wait no longer: the application works on it all the same, so
        // its place is taken until it has answered.
        let time_max = self.timeout.max(APPLICATION_QUESTION_TIME_MAX);
        let (answered, answer) = watch::channel(None);
        tokio::spawn(async move {
            let answer = application.exchange(request, time_max).await;
            drop(place);
            answered.send_replace(Some(answer));
        });
        Ok(Asked { mark, at, answer })
    }

    fn answers(&self) -> MutexGuard<'_, HashMap<Digest, Remembered>> {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The question if it was asked a moment ago, or a new one.
    fn remembered(&self, digest: Digest) -> Remembered {
        let new = Remembered { since: Instant::now(), asked: Arc::default() };
        // An answer may have been revoked on another node.
        if !self.hub.knows_revocations() {
            return new;
        }
        let mut answers = self.answers();
        let is_fresh = |known: &Remembered| known.since.elapsed() < APPLICATION_CACHE_TIME;
        if let Some(known) = answers.get(&digest).filter(|known| is_fresh(known)) {
            return known.clone();
        }
        if answers.len() >= APPLICATION_CACHE_MAX {
            answers.retain(|_, known| is_fresh(known));
        }
        // Full of fresh entries: this request is sent, and its response is not cached.
        if answers.len() < APPLICATION_CACHE_MAX {
            answers.insert(digest, new.clone());
        }
        new
    }

    /// Forgets a question, unless it was asked again already.
    fn forget(&self, digest: Digest, revoked: &Remembered) {
        let mut answers = self.answers();
        if answers.get(&digest).is_some_and(|known| Arc::ptr_eq(&known.asked, &revoked.asked)) {
            answers.remove(&digest);
        }
    }
}

impl Asked {
    async fn answer(&self) -> Result<Answer, Denied> {
        let mut answer = self.answer.clone();
        let answer = answer.wait_for(Option::is_some).await;
        // The sender is gone without an answer if its task panicked.
        answer.ok().and_then(|answer| answer.clone()).unwrap_or(Err(Denied::unavailable()))
    }
}

impl Application {
    async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        time_max: Duration,
    ) -> Result<Answer, Denied> {
        let url = self.url.to_string();
        let sent =
            self.client.exchange(request, &url, time_max, APPLICATION_ANSWER_BYTES_MAX).await;
        let answer = sent.map_err(|error| {
            self.unclear.warn(|more| {
                tracing::warn!(more, "authorize-url: no answer, request denied: {error:#}");
            });
            Denied::unavailable()
        })?;
        answer::read(&answer, SystemTime::now()).map_err(|no| match no {
            No::Denied(denied) => denied,
            No::Unclear(why) => {
                self.unclear.warn(|more| {
                    tracing::warn!(
                        url,
                        status = %answer.status,
                        more,
                        "authorize-url: answer not understood, request denied: {why}: see \
                         docs/access/authorize-url.md"
                    );
                });
                Denied::unavailable()
            }
        })
    }
}

impl<'a> Question<'a> {
    fn new(request: &AccessRequest<'a>) -> Self {
        let asker = Asker {
            address: request.address.map(|address| ClientAddress::new(address).key()),
            has_credentials: credentials::has_any(request.headers),
        };
        Self {
            query: query(request),
            headers: forwarded(request),
            channels: request.channels,
            asker,
        }
    }

    fn digest(&self) -> Digest {
        digest_of(&self.query, &self.headers)
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
    let mut headers: Vec<_> = CREDENTIAL_HEADERS.into_iter().flat_map(as_they_came).collect();
    let address = request.address.map(|address| address.to_canonical().to_string());
    if let Some(address) = address.and_then(|address| HeaderValue::try_from(address).ok()) {
        headers.push((FORWARDED_FOR, address));
    }
    headers
}

fn digest_of(query: &str, headers: &[(HeaderName, HeaderValue)]) -> Digest {
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
    let mut digest = Digest::default();
    digest.copy_from_slice(context.finish().as_ref());
    digest
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
    use http::header::COOKIE;

    use super::*;

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
