//! Where the credentials of a request are: header, cookie, query. Look here for which one takes
//! precedence. No I/O.

use headwater::access::{AccessRequest, Action};
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderName};
use percent_encoding::percent_decode_str;

use crate::limits::{TICKET_BYTES_MAX, TOKEN_BYTES_MAX};
use crate::settings::AccessSettings;

/// The headers by which an application may know who sends a request.
pub(super) const CREDENTIAL_HEADERS: [HeaderName; 2] = [COOKIE, AUTHORIZATION];

/// Whether an application could know who sends a request.
pub(super) fn has_any(headers: &HeaderMap) -> bool {
    CREDENTIAL_HEADERS.iter().any(|name| headers.contains_key(name))
}

/// A credential. No `Debug`: it is a secret.
#[derive(PartialEq, Eq)]
pub enum Credential {
    /// A signed token, and where it was.
    Token(String, Place),
    /// A one-time ticket.
    Ticket(String),
}

/// Where a token was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In `Authorization: Bearer`.
    Header,
    /// In a cookie, which browsers send without being asked.
    Cookie,
    /// In `?token=`.
    Query,
}

/// The credential that takes precedence: the header's, else the query's, else the cookie's.
pub fn find(request: &AccessRequest<'_>, settings: &AccessSettings) -> Option<Credential> {
    let query = request.query.unwrap_or_default();
    if let Some(token) = bearer(request.headers) {
        return Some(Credential::Token(token, Place::Header));
    }
    if request.action == Action::Subscribe
        && let Some(ticket) = in_query(query, "ticket", TICKET_BYTES_MAX)
    {
        return Some(Credential::Ticket(ticket));
    }
    if settings.jwt_in_query
        && let Some(token) = in_query(query, "token", TOKEN_BYTES_MAX)
    {
        return Some(Credential::Token(token, Place::Query));
    }
    let token = cookie(request.headers, &settings.jwt_cookie)?;
    Some(Credential::Token(token, Place::Cookie))
}

/// The token of `Authorization: Bearer` (RFC 6750). Other schemes are ignored, and so are two
/// headers.
pub fn bearer(headers: &HeaderMap) -> Option<String> {
    let mut all = headers.get_all(AUTHORIZATION).iter();
    let value = all.next()?.to_str().ok()?;
    if all.next().is_some() {
        return None;
    }
    let (scheme, token) = value.split_once(' ')?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= TOKEN_BYTES_MAX)
        .then(|| token.to_owned())
}

/// The cookie with this name (RFC 6265, 5.4). If there are two, a sibling host may have set one:
/// both are ignored.
pub fn cookie(headers: &HeaderMap, name: &str) -> Option<String> {
    // Over HTTP/2 they are split over several headers.
    let pairs = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = pairs.flat_map(|value| value.split(';')).filter_map(|pair| {
        let (found, value) = pair.split_once('=')?;
        (found.trim() == name).then(|| value.trim().trim_matches('"'))
    });
    let value = values.next()?;
    (values.next().is_none() && !value.is_empty() && value.len() <= TOKEN_BYTES_MAX)
        .then(|| value.to_owned())
}

/// The value of this name in a query, if it occurs once.
fn in_query(query: &str, name: &str, bytes_max: usize) -> Option<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let mut values = pairs.filter(|(found, _)| *found == name).map(|(_, value)| value);
    let value = values.next()?;
    if values.next().is_some() || value.is_empty() || value.len() > bytes_max {
        return None;
    }
    percent_decode_str(value).decode_utf8().ok().map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        headers
    }

    #[test]
    fn bearer_tokens() {
        let of = |lines: &[(&'static str, &str)]| bearer(&headers(lines));
        assert_eq!(of(&[("authorization", "Bearer a.b.c")]).as_deref(), Some("a.b.c"));
        assert_eq!(of(&[("authorization", "bearer  a.b.c ")]).as_deref(), Some("a.b.c"));
        assert_eq!(of(&[("authorization", "Basic a.b.c")]), None);
        assert_eq!(of(&[("authorization", "Bearer")]), None);
        assert_eq!(of(&[("authorization", "Bearer ")]), None);
        assert_eq!(of(&[("authorization", "Bearer a"), ("authorization", "Bearer b")]), None);
        assert_eq!(of(&[("authorization", &format!("Bearer {}", "x".repeat(20_000)))]), None);
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn cookies() {
        let of = |lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("cookie", *line)).collect();
            cookie(&headers(&lines), "__Host-hw")
        };
        assert_eq!(of(&["__Host-hw=a.b"]).as_deref(), Some("a.b"));
        assert_eq!(of(&["x=1; __Host-hw=\"a=b\"; y=2"]).as_deref(), Some("a=b"));
        assert_eq!(of(&["x=1", "__Host-hw=a"]).as_deref(), Some("a"));
        assert_eq!(of(&["__Host-hw=a; __Host-hw=b"]), None);
        assert_eq!(of(&["x__Host-hw=a; __host-hw=b; __Host-hw"]), None);
        assert_eq!(of(&["__Host-hw="]), None);
    }

    #[test]
    fn values_in_a_query() {
        let of = |query: &str| in_query(query, "token", 10);
        assert_eq!(of("a=b&token=x.y").as_deref(), Some("x.y"));
        assert_eq!(of("token=x%2Ey").as_deref(), Some("x.y"));
        for query in
            ["", "token", "token=", "token=a&token=b", "tokens=a", "token=%FF", "token=12345678901"]
        {
            assert_eq!(of(query), None, "{query}");
        }
    }
}
