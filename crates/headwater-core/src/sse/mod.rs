//! The wire format of Server-Sent Events (WHATWG HTML, "Server-sent events"): its encoder and its
//! decoder. Look here for the format on the wire.

mod decode;
#[doc(hidden)]
pub mod encode;

pub use decode::{Decoder, Item, Message};
#[cfg(feature = "hub")]
pub(crate) use encode::encoded_len_max;
