//! Whether a page may do something with what its browser sends by itself (CSRF). Look here for
//! which credentials need this check, and which pages pass it. No I/O.
//!
//! Browsers send cookies, Basic, Digest, Negotiate and NTLM credentials and client certificates
//! with requests of any page, and reach this machine's loopback addresses for any page. Only a
//! token in `Authorization: Bearer` or in the query, and a ticket, show that a page has them.

use headwater::access::{AccessRequest, Action, Denied};
use http::header::{COOKIE, ORIGIN};

use super::credentials::{self, Credential, Place};
use crate::settings::{AccessSettings, Origin};

const DETAIL: &str = "pages of this server and of the origins in cors-origin only may do this with \
                      what browsers send by themselves, such as a cookie: list the origin, or send \
                      a token in a header Authorization: Bearer";

const DETAIL_OPEN: &str = "there are no access rules, so pages of this server and of the origins \
                           in cors-origin only may do this: list the origin";

/// What a request does, whether or not the page can read the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    /// It opens a stream, which counts as the user's.
    Opens,
    /// It changes something: publishes, closes streams.
    Changes,
}

impl Effect {
    pub(super) fn of(action: Action) -> Self {
        if action == Action::Subscribe { Self::Opens } else { Self::Changes }
    }
}

/// Denies what a page of a foreign origin does, unless a credential shows that it was meant.
pub(super) fn check(
    request: &AccessRequest<'_>,
    effect: Effect,
    found: Option<&Credential>,
    settings: &AccessSettings,
) -> Result<(), Denied> {
    let is_explicit = match found {
        Some(Credential::Ticket(_) | Credential::Token(_, Place::Header)) => true,
        // Without keys it is not looked at, and the application may see a cookie.
        Some(Credential::Token(_, Place::Query)) => settings.has_keys(),
        Some(Credential::Token(_, Place::Cookie)) | None => false,
    };
    if is_explicit || is_from_allowed_page(request, effect, &settings.cors_origins) {
        return Ok(());
    }
    Err(Denied::forbidden().with_detail(DETAIL))
}

/// The same where access is open to programs of this machine, which has no credentials at all.
pub(super) fn check_open(
    request: &AccessRequest<'_>,
    effect: Effect,
    allowed: &[Origin],
) -> Result<(), Denied> {
    if allowed.contains(&Origin::Any) || is_from_allowed_page(request, effect, allowed) {
        return Ok(());
    }
    Err(Denied::forbidden().with_detail(DETAIL_OPEN))
}

/// Browsers set these headers, and no page can change them.
fn is_from_allowed_page(request: &AccessRequest<'_>, effect: Effect, allowed: &[Origin]) -> bool {
    let headers = request.headers;
    let site = headers.get("sec-fetch-site").map(|value| value.to_str().unwrap_or_default());
    if site == Some("same-origin") {
        return true;
    }
    let mut origins = headers.get_all(ORIGIN).iter().peekable();
    match (origins.peek(), site, effect) {
        (Some(_), ..) => origins.all(|origin| {
            let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
            is_allowed(&origin, request, allowed)
        }),
        // The user typed the address; or it is a page's own GET over plain HTTP.
        (None, Some("none") | None, Effect::Opens) => true,
        (None, Some(_), _) => false,
        // Any browser sends `Origin` here, but old ones. Other programs have no cookies.
        (None, None, Effect::Changes) => !headers.contains_key(COOKIE),
    }
}

fn is_allowed(origin: &str, request: &AccessRequest<'_>, allowed: &[Origin]) -> bool {
    if allowed.iter().any(|it| match it {
        Origin::One(one) => one == origin,
        Origin::Any => !credentials::has_any(request.headers),
    }) {
        return true;
    }
    // Behind a proxy the scheme is not known here, so host and port decide.
    let host = origin.split_once("://").map(|(_, host)| host);
    host.zip(request.host)
        .is_some_and(|(host, asked)| !host.is_empty() && host.eq_ignore_ascii_case(asked))
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// Whether a page passes, by the headers that its browser sends.
    fn passes(effect: Effect, lines: &[(&str, &str)], allowed: &[Origin]) -> bool {
        let mut request = Request::post("/");
        for (name, value) in lines {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        let request = AccessRequest::new(Action::Publish, &[], &parts);
        is_from_allowed_page(&request, effect, allowed)
    }

    #[test]
    fn listed_origins_are_distinguished_from_others() {
        const HOST: (&str, &str) = ("host", "hub.example:8000");
        let allowed = ["https://app.example".parse().unwrap()];
        for effect in [Effect::Opens, Effect::Changes] {
            let check = |lines: &[(&str, &str)]| {
                passes(effect, &[&[HOST, ("cookie", "a=b")], lines].concat(), &allowed)
            };
            assert!(check(&[("origin", "https://hub.example:8000")]));
            assert!(check(&[("origin", "https://app.example")]));
            assert!(check(&[("origin", "https://app.example"), ("sec-fetch-site", "cross-site")]));
            assert!(check(&[("sec-fetch-site", "same-origin")]));
            for origin in [
                "null",
                "",
                "https://hub.example",
                "https://hub.example:8001",
                "https://evil.example",
                "https://app.example.evil.example",
                "http://app.example",
                "https://evil.example/https://app.example",
            ] {
                assert!(!check(&[("origin", origin)]), "{origin}");
                let both = [("origin", "https://app.example"), ("origin", origin)];
                assert!(!check(&both), "{origin}");
            }
            for site in ["same-site", "cross-site", "", "unknown"] {
                assert!(!check(&[("sec-fetch-site", site)]), "{site}");
            }
            assert!(!passes(effect, &[("origin", "https://hub.example:8000")], &allowed));
        }
    }

    #[test]
    fn without_headers_of_a_browser_a_cookie_still_counts_as_a_pages() {
        let check = |effect, lines: &[(&str, &str)]| passes(effect, lines, &[]);
        let (cookie, basic) = (("cookie", "a=b"), ("authorization", "Basic dTpw"));
        assert!(!check(Effect::Changes, &[cookie]) && !check(Effect::Changes, &[cookie, basic]));
        assert!(check(Effect::Changes, &[basic]) && check(Effect::Changes, &[]));
        assert!(check(Effect::Opens, &[cookie]) && check(Effect::Opens, &[basic]));
        let typed = ("sec-fetch-site", "none");
        assert!(check(Effect::Opens, &[cookie, typed]));
        assert!(!check(Effect::Changes, &[cookie, typed]));
    }

    #[test]
    fn all_origins_means_without_credentials() {
        let foreign = ("origin", "https://evil.example");
        let check = |lines: &[(&str, &str)]| passes(Effect::Opens, lines, &[Origin::Any]);
        assert!(check(&[foreign]));
        assert!(!check(&[foreign, ("cookie", "a=b")]));
        assert!(!check(&[foreign, ("authorization", "Basic dTpw")]));
    }
}
