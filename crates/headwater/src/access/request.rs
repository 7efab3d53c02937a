//! The facts of a request, for the hook that decides. Look here for what a decision can be based on.

use std::fmt;
use std::net::IpAddr;

use headwater_core::Channel;
use http::HeaderMap;
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Listen to channels.
    Subscribe,
    /// Publish to channels.
    Publish,
    /// End streams of others, and the like. It is about no channel.
    Admin,
}

impl Action {
    /// The action as one word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Admin => "admin",
        }
    }
}

/// The facts of a request, for an [`Authorize`].
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct AccessRequest<'a> {
    /// What is asked for.
    pub action: Action,
    /// The channels that it is about. Empty for [`Action::Admin`], and when only the credentials are to
    /// be checked, before the channels are known.
    pub channels: &'a [Channel],
    /// The headers of the request.
    pub headers: &'a HeaderMap,
    /// The query of its URL, as it came.
    pub query: Option<&'a str>,
    /// The host that was asked, as the client named it.
    pub host: Option<&'a str>,
    /// Who asks, if it is known: where the connection comes from, unless
    /// [`from_address`](Self::from_address) says otherwise.
    pub address: Option<IpAddr>,
}

impl<'a> AccessRequest<'a> {
    /// The facts of a request; the address comes from axum's [`ConnectInfo`], which
    /// [`serve`](crate::serve()) gives.
    pub fn new(action: Action, channels: &'a [Channel], parts: &'a Parts) -> Self {
        let address = peer_address(parts);
        let (headers, query) = (&parts.headers, parts.uri.query());
        // Over HTTP/2 it stands in the URL.
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(Authority::as_str));
        Self { action, channels, headers, query, host, address }
    }

    /// The same request of a client at this address, which a trusted proxy told.
    #[must_use]
    pub fn from_address(self, address: IpAddr) -> Self {
        Self { address: Some(address), ..self }
    }

    /// The same request about other channels.
    #[must_use]
    pub fn about(&self, channels: &'a [Channel]) -> Self {
        Self { channels, ..*self }
    }
}

/// Without headers and query, which hold secrets.
impl fmt::Debug for AccessRequest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessRequest")
            .field("action", &self.action)
            .field("channels", &self.channels)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "serve")]
fn peer_address(parts: &Parts) -> Option<IpAddr> {
    use axum::extract::ConnectInfo;

    let peer = parts.extensions.get::<ConnectInfo<std::net::SocketAddr>>();
    peer.map(|ConnectInfo(peer)| peer.ip())
}

/// Without axum there is no standard place for it.
#[cfg(not(feature = "serve"))]
fn peer_address(_: &Parts) -> Option<IpAddr> {
    None
}
