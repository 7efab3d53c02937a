//! The facts of a request that an authorization hook sees. Look here for what a decision can be
//! based on.

use std::fmt;
use std::net::IpAddr;

use headwater_core::Channel;
use http::HeaderMap;
use http::header::HOST;
use http::request::Parts;
use http::uri::Authority;

/// What a client requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Action {
    /// Subscribe to channels.
    Subscribe,
    /// Publish to channels.
    Publish,
    /// Administer the server, for example revoke the streams of a user. Has no channels.
    Admin,
}

impl Action {
    /// The action as one word, in lower case.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Subscribe => "subscribe",
            Self::Publish => "publish",
            Self::Admin => "admin",
        }
    }
}

/// The facts of a request, for an [`Authorize`](super::Authorize).
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct AccessRequest<'a> {
    /// The requested action.
    pub action: Action,
    /// The requested channels. Empty for [`Action::Admin`], and when only the credentials are to be
    /// checked, before the channels are known.
    pub channels: &'a [Channel],
    /// The headers of the request.
    pub headers: &'a HeaderMap,
    /// The query of the request's URL, not decoded.
    pub query: Option<&'a str>,
    /// The host, as the client named it: the header `Host`, or the authority of the URL.
    pub host: Option<&'a str>,
    /// The client's address, if known: the peer of the connection, unless
    /// [`from_address`](Self::from_address) replaced it.
    pub address: Option<IpAddr>,
}

impl<'a> AccessRequest<'a> {
    /// Collects the facts of a request. The address is taken from axum's `ConnectInfo`, which
    /// [`serve`](crate::serve()) provides; without the feature `serve` it is `None`.
    pub fn new(action: Action, channels: &'a [Channel], parts: &'a Parts) -> Self {
        let address = peer_address(parts);
        let (headers, query) = (&parts.headers, parts.uri.query());
        // HTTP/2 has the host in the URL.
        let host = headers.get(HOST).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| parts.uri.authority().map(Authority::as_str));
        Self { action, channels, headers, query, host, address }
    }

    /// The same request from this address, for example the one that a trusted proxy reports.
    #[must_use]
    pub fn from_address(self, address: IpAddr) -> Self {
        Self { address: Some(address), ..self }
    }

    /// The same request for other channels.
    #[must_use]
    pub fn about(&self, channels: &'a [Channel]) -> Self {
        Self { channels, ..*self }
    }
}

/// Omits headers and query, which hold secrets.
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

/// Without axum there is no standard extension that holds the address.
#[cfg(not(feature = "serve"))]
fn peer_address(_: &Parts) -> Option<IpAddr> {
    None
}
