//! What Redis' errors mean. The only place that reads their codes; look here for a new one.

use headwater_core::{Error, ErrorKind};
use redis::{ErrorKind as RedisErrorKind, RedisError, ServerError};

/// Whether Redis said no, on connecting or to any command of the pipeline.
pub(crate) fn is_denied(error: &RedisError) -> bool {
    let answers = error.clone().into_server_errors().unwrap_or_default();
    matches!(error.kind(), RedisErrorKind::AuthenticationFailed)
        || answers.iter().any(|(_, answer)| {
            // Redis says it this way when the permission is missing inside of a function or script.
            let details = answer.details().unwrap_or_default();
            is_denial(answer.code()) || details.contains("user executing the script")
        })
}

/// Whether an error's code is about who we are, not about how Redis is.
pub(crate) fn is_denial(code: &str) -> bool {
    matches!(code, "WRONGPASS" | "NOAUTH" | "NOPERM")
}

/// Whether the function or the script is not there: Redis restarted without it. Install it and call again.
pub(crate) fn is_missing(error: &RedisError) -> bool {
    has_error(error, "ERR", "Function not found") || has_error(error, "NOSCRIPT", "")
}

/// Whether the event was refused because its channel has ended.
pub(crate) fn is_ended(error: &RedisError) -> bool {
    has_error(error, "ENDED", "")
}

/// What the function found wrong with what it was asked to publish.
pub(crate) fn rejection(error: &RedisError) -> Option<String> {
    let answers = error.clone().into_server_errors().unwrap_or_default();
    let mut details = answers.iter().filter_map(|(_, answer)| answer.details());
    details.find_map(|details| details.strip_prefix("headwater: ")).map(str::to_owned)
}

/// Whether functions are unknown or not permitted.
pub(crate) fn is_unsupported(error: &RedisError) -> bool {
    has_error(error, "ERR", "unknown command") || has_error(error, "NOPERM", "")
}

/// Whether Redis answered with this error, to one command or to any of a pipeline.
pub(crate) fn has_error(error: &RedisError, code: &str, part: &str) -> bool {
    let matches = |error: &ServerError| {
        error.code() == code && error.details().unwrap_or_default().contains(part)
    };
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| matches(error)))
}

pub(crate) fn publish_error(error: RedisError) -> Error {
    if is_ended(&error) {
        let message = "the channel was ended by its publisher: publish to another channel";
        return Error::new(ErrorKind::Ended, message).with_source(error);
    }
    if let Some(message) = rejection(&error) {
        return Error::invalid(message).with_source(error);
    }
    let kind = if is_denied(&error) { ErrorKind::PermissionDenied } else { ErrorKind::Unavailable };
    let message = match kind {
        ErrorKind::PermissionDenied => {
            "Redis refused it: check user, password and permissions of the Redis URL"
        }
        _ => {
            "Redis did not answer in time or cannot be reached: publish again, though the event may have been taken; with an idempotency key it is taken once"
        }
    };
    Error::new(kind, message).with_source(error)
}
