//! The meaning of Redis' errors. Only this file reads their codes; look here to handle a new one.

use headwater_core::{Error, ErrorKind};
use redis::{ErrorKind as RedisErrorKind, RedisError, ServerError};

/// Whether Redis denied the login, or any command of the pipeline.
pub(crate) fn is_denied(error: &RedisError) -> bool {
    let answers = error.clone().into_server_errors().unwrap_or_default();
    matches!(error.kind(), RedisErrorKind::AuthenticationFailed)
        || answers.iter().any(|(_, answer)| {
            // Redis uses this text if the permission is missing inside a function or script.
            let details = answer.details().unwrap_or_default();
            is_denial(answer.code()) || details.contains("user executing the script")
        })
}

/// Whether an error's code concerns the user's identity or permissions, not the state of Redis.
pub(crate) fn is_denial(code: &str) -> bool {
    matches!(code, "WRONGPASS" | "NOAUTH" | "NOPERM")
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
    let answers = error.clone().into_server_errors().unwrap_or_default();
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
    let errors = error.clone().into_server_errors();
    errors.is_some_and(|errors| errors.iter().any(|(_, error)| matches(error)))
}

/// The error of a publish or a read, as the hub's users see it.
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
            "Redis denied the command: check the user, password and permissions of the Redis URL"
        }
        _ => {
            "Redis did not answer in time or cannot be reached: publish again; the event may have \
             been accepted, and with an idempotency key it is accepted only once"
        }
    };
    Error::new(kind, message).with_source(error)
}
