//! The meaning of Redis' errors. Only this file reads their codes; look here to handle a new one,
//! and for what the users of a hub read when Redis refuses something.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use headwater_core::broker::Part;
use headwater_core::{Error, ErrorKind};
use redis::{ErrorKind as RedisErrorKind, RedisError, RedisResult, ServerError, Value};

/// A state in which Redis refuses a command without executing it: what it means, and what to do.
struct Refusal {
    code: &'static str,
    kind: ErrorKind,
    meaning: &'static str,
    advice: &'static str,
}

const READONLY: Refusal = unavailable(
    "READONLY",
    "it is a replica, which accepts no writes",
    "let the host of the Redis URL lead to the primary; the node resolves it again by itself",
);

const REFUSALS: &[Refusal] = &[
    READONLY,
    unavailable("OOM", "it has reached its maxmemory", "raise maxmemory, or reduce the retention"),
    unavailable(
        "MISCONF",
        "it cannot save its data to disk and therefore accepts no writes",
        "see the log of Redis, and free or repair its disk",
    ),
    unavailable(
        "NOREPLICAS",
        "it has fewer replicas than min-replicas-to-write demands",
        "restore the replicas, or lower that setting",
    ),
    unavailable("LOADING", "it is loading its data after a restart", "retry in a few seconds"),
    unavailable(
        "MASTERDOWN",
        "it is a replica that has lost its primary",
        "let the host of the Redis URL lead to the primary; the node resolves it again by itself",
    ),
    unavailable(
        "CLUSTERDOWN",
        "its cluster does not serve all slots",
        "see `redis-cli --cluster check`",
    ),
    unavailable(
        "MOVED",
        "it is a node of Redis Cluster that does not store the log",
        "use a Redis without Cluster",
    ),
    unavailable("TRYAGAIN", "its cluster is moving the slot of the log", "retry in a few seconds"),
    unavailable(
        "BUSY",
        "it is executing a script for too long",
        "find the script in the slow log of Redis; SCRIPT KILL or FUNCTION KILL ends it",
    ),
    unavailable(
        "UNKILLABLE",
        "it is executing a script for too long, which has written already",
        "wait until the script ends",
    ),
    unavailable("NOSCRIPT", "it has lost the script that publishes", "retry"),
    denied(
        "NOPERM",
        "its ACL denies this to the user of the Redis URL",
        "give that user the permissions that docs/redis.md lists",
    ),
    denied("NOAUTH", "it demands a password", "add user and password to the Redis URL"),
    denied(
        "WRONGPASS",
        "it rejects the user or password of the Redis URL",
        "correct the Redis URL, or the user in Redis",
    ),
];

/// What a program intended to do when an error occurred; the parts of a message that depend on it.
#[derive(Clone, Copy)]
struct Intent {
    /// Completes "Redis refused".
    object: &'static str,
    retry: &'static str,
    /// What holds if Redis surely did not execute the command.
    not_executed: &'static str,
    /// What holds if it may have.
    unknown: &'static str,
}

const PUBLISH: Intent = Intent {
    object: "the event",
    retry: "publish again",
    not_executed: "; the event was not accepted",
    unknown: "; the event may have been accepted, and with an idempotency key it is accepted only \
              once",
};

const READ: Intent =
    Intent { object: "to read the log", retry: "read again", not_executed: "", unknown: "" };

const REVOKE: Intent = Intent {
    object: "the revocation",
    retry: "revoke again",
    not_executed: "; other nodes do not receive it",
    unknown: "; other nodes may not have received it",
};

const fn unavailable(code: &'static str, meaning: &'static str, advice: &'static str) -> Refusal {
    Refusal { code, kind: ErrorKind::Unavailable, meaning, advice }
}

const fn denied(code: &'static str, meaning: &'static str, advice: &'static str) -> Refusal {
    Refusal { code, kind: ErrorKind::PermissionDenied, meaning, advice }
}

// === the errors of commands ===

/// Why a command was not sent, as the cause in a [`RedisError`].
#[derive(Debug, Clone)]
struct NotSent(Arc<Error>);

/// The error of a command that was surely not sent, with its reason.
pub(crate) fn not_sent(why: Arc<Error>) -> RedisError {
    io::Error::new(io::ErrorKind::NotConnected, NotSent(why)).into()
}

/// The error of a command that was sent and not answered in time.
pub(crate) fn not_answered(after: Duration) -> RedisError {
    let text = format!("no answer within {} s", after.as_secs_f32());
    io::Error::new(io::ErrorKind::TimedOut, text).into()
}

/// Whether the connection failed that the command was sent on, in contrast to an answer of Redis.
pub(crate) fn is_connection_failure(error: &RedisError) -> bool {
    matches!(error.kind(), RedisErrorKind::Io | RedisErrorKind::Parse)
}

/// The code among the answers that shows that another connection is needed: this one leads to a
/// replica, or is not logged in any more. The name is resolved again then, since it may lead
/// elsewhere now.
pub(crate) fn needs_other_connection(answers: &RedisResult<Vec<Value>>) -> Option<&'static str> {
    match answers {
        Ok(answers) => answers.iter().find_map(|answer| match answer {
            Value::ServerError(error) => code_of_wrong_server(error),
            _ => None,
        }),
        // A transaction.
        Err(error) => self::answers(error).iter().find_map(|(_, it)| code_of_wrong_server(it)),
    }
}

fn code_of_wrong_server(answer: &ServerError) -> Option<&'static str> {
    let code = refusal_of(answer)?.code;
    matches!(code, "READONLY" | "MASTERDOWN" | "NOAUTH").then_some(code)
}

/// The error of an answer to HELLO or SELECT.
pub(crate) fn login_error(answer: &[u8]) -> Error {
    let text = String::from_utf8_lossy(answer);
    let (code, details) = text.split_once(' ').unwrap_or((&text, ""));
    if details.contains("unknown command") {
        let message = "it is too old: Redis 6.2 or newer is needed, for HELLO";
        return Error::new(ErrorKind::Protocol, message);
    }
    // Redis uses this text if the URL has a password and the server has none.
    let is_superfluous = details.contains("without any password configured");
    let code = if is_superfluous { "WRONGPASS" } else { code };
    let is_denied =
        find_refusal(code, details).is_some_and(|it| it.kind == ErrorKind::PermissionDenied);
    let (kind, message) = if is_denied {
        let message = format!("it rejects the user or password of the Redis URL ({text})");
        (ErrorKind::PermissionDenied, message)
    } else {
        (ErrorKind::Unavailable, format!("it is not ready ({text})"))
    };
    Error::new(kind, message).with_reason(code.to_owned())
}

// === questions about an error ===

/// Whether the text of an error, as the subscriber connection has it, is a denial of Redis' ACL.
pub(crate) fn is_denial(text: &str) -> bool {
    text.starts_with("NOPERM")
}

/// Whether Redis' ACL denied the command, or any command of the pipeline. A rejected login is none:
/// it says nothing about permissions.
pub(crate) fn is_denied(error: &RedisError) -> bool {
    let answers = answers(error);
    let mut known = answers.iter().filter_map(|(_, answer)| refusal_of(answer));
    known.any(|refusal| refusal.code == "NOPERM")
}

/// Whether the function or the script is missing: Redis restarted without it. Install it and call
/// again.
pub(crate) fn is_missing(error: &RedisError) -> bool {
    has_error(error, "ERR", "Function not found") || has_error(error, "NOSCRIPT", "")
}

/// Whether the event was rejected because its channel has ended.
pub(crate) fn is_ended(error: &RedisError) -> bool {
    has_error(error, "ENDED", "")
}

/// The function's message about invalid arguments or rules.
pub(crate) fn rejection(error: &RedisError) -> Option<String> {
    let answers = answers(error);
    let mut details = answers.iter().filter_map(|(_, answer)| answer.details());
    details.find_map(|details| details.strip_prefix("headwater: ")).map(str::to_owned)
}

/// Whether Redis does not know functions, or denies them.
pub(crate) fn is_unsupported(error: &RedisError) -> bool {
    has_error(error, "ERR", "unknown command") || has_error(error, "NOPERM", "")
}

/// Whether Redis answered one command, or any command of a pipeline, with this error.
pub(crate) fn has_error(error: &RedisError, code: &str, part: &str) -> bool {
    let matches = |error: &ServerError| {
        error.code() == code && error.details().unwrap_or_default().contains(part)
    };
    answers(error).iter().any(|(_, error)| matches(error))
}

// === errors as users read them ===

/// The error of a publish, as the hub's users see it.
pub(crate) fn publish_error(error: RedisError) -> Error {
    if is_ended(&error) {
        let message = "the channel was ended by its publisher: publish to another channel";
        return Error::new(ErrorKind::Ended, message).with_source(error);
    }
    if let Some(message) = rejection(&error) {
        return Error::invalid(message).with_source(error);
    }
    explain(error, PUBLISH)
}

/// The error of a `PUBLISH` that a replica accepted: its own subscribers received the event, others
/// did not.
pub(crate) fn published_on_replica() -> Error {
    let Refusal { code, kind, meaning, advice } = READONLY;
    let message = format!("Redis cannot publish the event: {code}: {meaning}: {advice}");
    Error::new(kind, message).with_reason(code)
}

/// Whether the answer of `HELLO` is that of a replica.
pub(crate) fn is_replica(hello: &Value) -> bool {
    let is = |value: &Value, what: &str| match value {
        Value::BulkString(text) => text == what.as_bytes(),
        Value::SimpleString(text) => text == what,
        _ => false,
    };
    let is_role = |name: &Value, role: &Value| is(name, "role") && is(role, "replica");
    match hello {
        Value::Map(pairs) => pairs.iter().any(|(name, role)| is_role(name, role)),
        Value::Array(items) => items.chunks_exact(2).any(|pair| is_role(&pair[0], &pair[1])),
        _ => false,
    }
}

/// What Redis would answer if a replica refused a `PUBLISH`.
pub(crate) fn readonly() -> RedisError {
    redis::make_extension_error(READONLY.code.to_owned(), None)
}

/// The error of reading the log.
pub(crate) fn read_error(error: RedisError) -> Error {
    explain(error, READ)
}

/// The error of a revocation.
pub(crate) fn revoke_error(error: RedisError) -> Error {
    explain(error, REVOKE)
}

/// The state of a part of the broker that does not work because of this error.
pub(crate) fn part(error: &RedisError) -> Part {
    let fault = Fault::of(error);
    Part::failed(match fault.reason {
        Some(reason) => {
            format!("{reason}: {}: {}", fault.meaning, fault.advice.unwrap_or("retrying"))
        }
        None => fault.meaning.into_owned(),
    })
}

fn explain(error: RedisError, intent: Intent) -> Error {
    let Fault { kind, reason, meaning, advice, is_answer, is_executed } = Fault::of(&error);
    let advice = advice.unwrap_or(intent.retry);
    let outcome = if is_executed { intent.unknown } else { intent.not_executed };
    let message = if is_answer {
        let code = reason.as_deref().unwrap_or_default();
        format!("Redis refused {}: {code}: {meaning}: {advice}{outcome}", intent.object)
    } else {
        format!("{meaning}: {advice}{outcome}")
    };
    let explained = Error::new(kind, message).with_source(error);
    match reason {
        Some(reason) => explained.with_reason(reason),
        None => explained,
    }
}

/// What an error means, independent of what the program intended to do.
struct Fault {
    kind: ErrorKind,
    reason: Option<Cow<'static, str>>,
    meaning: Cow<'static, str>,
    /// `None`: retry.
    advice: Option<&'static str>,
    /// Whether Redis answered.
    is_answer: bool,
    /// Whether Redis may have executed the command.
    is_executed: bool,
}

impl Fault {
    fn of(error: &RedisError) -> Self {
        let answers = answers(error);
        // The first error with a known code, or else the first one.
        let known = answers.iter().find_map(|(_, answer)| Some((refusal_of(answer)?, answer)));
        if let Some((refusal, answer)) = known {
            let is_executed = is_denied_in_script(answer.details().unwrap_or_default());
            return Self { is_executed, ..Self::from(refusal) };
        }
        if let Some((_, answer)) = answers.first() {
            return Self::from(answer);
        }
        if let Some(cause) = not_sent_cause(error) {
            return Self::from(cause);
        }
        let (reason, meaning) = if error.is_timeout() {
            ("timeout", "Redis did not answer in time")
        } else if is_connection_failure(error) {
            ("lost", "the connection to Redis was lost before it answered")
        } else {
            ("protocol", "Redis answered in an unexpected form")
        };
        Self {
            kind: ErrorKind::Unavailable,
            reason: Some(reason.into()),
            meaning: meaning.into(),
            advice: None,
            is_answer: false,
            is_executed: true,
        }
    }
}

impl From<&Refusal> for Fault {
    fn from(refusal: &Refusal) -> Self {
        Self {
            kind: refusal.kind,
            reason: Some(refusal.code.into()),
            meaning: refusal.meaning.into(),
            advice: Some(refusal.advice),
            is_answer: true,
            is_executed: false,
        }
    }
}

/// An answer whose code is not in the table.
impl From<&ServerError> for Fault {
    fn from(answer: &ServerError) -> Self {
        /// Enough for the texts of Redis.
        const DETAILS_CHARS_MAX: usize = 200;
        let details = answer.details().unwrap_or_default();
        // What follows are the arguments of the command, so the event.
        let details = details.split(", with args beginning with").next().unwrap_or_default();
        Self {
            kind: ErrorKind::Unavailable,
            reason: Some(answer.code().to_owned().into()),
            meaning: details.chars().take(DETAILS_CHARS_MAX).collect::<String>().into(),
            advice: None,
            is_answer: true,
            is_executed: true,
        }
    }
}

/// A command that was not sent, since there was no connection.
impl From<&Error> for Fault {
    fn from(cause: &Error) -> Self {
        Self {
            kind: cause.kind(),
            reason: Some(cause.reason().map_or("unreachable".into(), |it| it.to_owned().into())),
            meaning: format!("Redis cannot be used: {cause}").into(),
            advice: (cause.kind() == ErrorKind::PermissionDenied)
                .then_some("correct the Redis URL, or the user in Redis"),
            is_answer: false,
            is_executed: false,
        }
    }
}

// === reading codes ===

fn answers(error: &RedisError) -> Arc<[(usize, ServerError)]> {
    error.clone().into_server_errors().unwrap_or_default()
}

fn refusal_of(answer: &ServerError) -> Option<&'static Refusal> {
    find_refusal(answer.code(), answer.details().unwrap_or_default())
}

fn find_refusal(code: &str, details: &str) -> Option<&'static Refusal> {
    if let Some(found) = REFUSALS.iter().find(|refusal| refusal.code == code) {
        return Some(found);
    }
    if is_denied_in_script(details) {
        return REFUSALS.iter().find(|refusal| refusal.code == "NOPERM");
    }
    // Redis 6.2 answers "ERR Error running script (...): -OOM command not allowed ...".
    if !matches!(code, "ERR" | "EXECABORT") {
        return None;
    }
    REFUSALS.iter().find(|refusal| {
        let mut parts = details.match_indices(refusal.code);
        parts.any(|(at, code)| {
            details[..at].ends_with('-') && details[at + code.len()..].starts_with(' ')
        })
    })
}

/// Whether a permission is missing inside a function or script, which has been executed until then.
/// These are the texts of Redis up to 7.0, and from 7.2 on.
fn is_denied_in_script(details: &str) -> bool {
    ["user executing the script", "ACL failure in script"].iter().any(|it| details.contains(it))
}

fn not_sent_cause(error: &RedisError) -> Option<&Error> {
    let cause = StdError::source(error)?;
    let cause = cause.downcast_ref::<Arc<dyn StdError + Send + Sync>>()?;
    let cause = cause.downcast_ref::<io::Error>()?.get_ref()?;
    cause.downcast_ref::<NotSent>().map(|NotSent(cause)| &**cause)
}

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not sent: {}", self.0)
    }
}

impl StdError for NotSent {}

#[cfg(test)]
mod tests;
