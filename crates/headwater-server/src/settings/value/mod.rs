//! Types of settings that parse themselves. They import nothing of the server's.

mod address;
mod domain;
mod http_url;
mod jwks_place;
mod log;
mod networks;
mod origin;
mod quantity;
mod rate;
mod ready_parts;
mod redis_url;
mod secret;
mod template;

pub(in crate::settings) use address::address;
pub use domain::DomainName;
pub use http_url::HttpUrl;
pub use jwks_place::JwksPlace;
pub use log::{LogFilter, LogFormat};
pub use networks::{AddressHeader, TrustedProxies};
pub use origin::Origin;
pub(in crate::settings) use quantity::{bytes, count};
pub(crate) use quantity::{duration, show_bytes, show_duration};
pub use rate::Rate;
pub use ready_parts::{ReadyPart, ReadyParts};
pub use redis_url::RedisUrl;
pub use secret::Secret;
pub use template::Template;
pub(crate) use template::as_text;

/// Tests of single values: the value, or an error that contains this text.
#[cfg(test)]
#[track_caller]
fn check<T: std::fmt::Debug + PartialEq>(got: &Result<T, String>, expected: Result<T, &str>) {
    match (got, expected) {
        (Err(message), Err(part)) => {
            assert!(message.contains(part), "{message:?} lacks {part:?}");
        }
        (got, expected) => assert_eq!(*got, expected.map_err(ToOwned::to_owned)),
    }
}
