//! What endpoints of every dialect share: identity, access, streams and publishing.

mod body;
mod client_address;
mod gate;
mod issue_ticket;
mod open_stream;
mod problem;
mod publish;
mod refused_body;
mod state;
mod this_machine;
mod turns;

pub(crate) use body::{BodySender, read as read_body};
pub(crate) use client_address::with_client_address;
pub(crate) use gate::{check, check_identified, identify};
pub(crate) use issue_ticket::issue_ticket;
pub(crate) use open_stream::{StreamRequest, open_stream, show_stream};
pub(crate) use problem::method_not_allowed;
pub(crate) use publish::{PublishRequest, publish};
pub(crate) use refused_body::discard_rest;
pub(crate) use state::App;
pub(crate) use this_machine::for_this_machine;
pub(crate) use turns::work;
