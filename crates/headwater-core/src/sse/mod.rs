//! The format of Server-Sent Events (WHATWG HTML, "Server-sent events"): its only writer and its
//! reader. Look here for what stands on the wire.

mod decode;
#[doc(hidden)]
pub mod encode;

pub use decode::{Decoder, Item, Message};
