//! The settings of `headwater serve`. `schema/` is the one table of them, `value/` has their types,
//! `sources` says where values come from, `sections` what each part of the server gets, and `load`
//! checks what must fit together.

pub mod docs;
pub mod schema;

mod error;
mod file;
mod load;
mod secret_places;
mod sections;
mod sources;
mod suggest;
mod value;

pub use error::SettingsError;
pub use load::Settings;
pub use secret_places::SecretPlaces;
pub use sections::{
    AccessSettings, AcmeSettings, CertificateFiles, LimitSettings, ListenSettings, LogSettings,
    RedisSettings, StreamSettings, TlsSettings,
};
pub use sources::Flags;
pub use value::{
    AddressHeader, DomainName, HttpUrl, JwksPlace, LogFilter, LogFormat, Origin, Rate, ReadyPart,
    ReadyParts, RedisUrl, Secret, Template, TrustedProxies,
};
pub(crate) use value::{as_text, duration, show_bytes, show_duration};
