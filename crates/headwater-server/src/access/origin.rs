//! Whether a page may use a cookie that its browser sent (CSRF). Look here for which pages may. No
//! I/O.

use headwater::access::{AccessRequest, Action, Denied};
use http::HeaderMap;
use http::header::ORIGIN;

use crate::settings::Origin;

const DETAIL: &str = "a cookie alone allows this to pages of this server and of the origins in \
                      cors-origin only: send a header Origin, or a token in a header Authorization";

/// Denies requests with side effects if a cookie is the only credential and the page has a foreign
/// origin. Browsers set `Origin`, and no page can change it.
pub(super) fn check(request: &AccessRequest<'_>, allowed: &[Origin]) -> Result<(), Denied> {
    if request.action == Action::Subscribe {
        // Reading is what CORS is for.
        return Ok(());
    }
    if is_from_allowed_origin(request.headers, request.host, allowed) {
        return Ok(());
    }
    Err(Denied::forbidden().with_detail(DETAIL))
}

fn is_from_allowed_origin(headers: &HeaderMap, asked: Option<&str>, allowed: &[Origin]) -> bool {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if text("sec-fetch-site") == Some("same-origin") {
        return true;
    }
    let Some(origin) = text(ORIGIN.as_str()).map(str::to_ascii_lowercase) else { return false };
    if allowed.iter().any(|it| matches!(it, Origin::One(one) if *one == origin)) {
        return true;
    }
    // Behind a proxy the scheme is not known here, so host and port decide.
    let host = origin.split_once("://").map(|(_, host)| host);
    host.zip(asked)
        .is_some_and(|(host, asked)| !host.is_empty() && host.eq_ignore_ascii_case(asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_origins_are_distinguished_from_others() {
        let allowed = ["https://app.example".parse().unwrap(), Origin::Any];
        let check = |lines: &[(&'static str, &'static str)]| {
            let headers = lines.iter().map(|(name, value)| {
                let name = http::HeaderName::from_static(name);
                (name, http::HeaderValue::from_static(value))
            });
            is_from_allowed_origin(&headers.collect(), Some("hub.example:8000"), &allowed)
        };
        assert!(check(&[("origin", "https://hub.example:8000")]));
        assert!(check(&[("origin", "https://app.example")]));
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
        }
        assert!(!check(&[]), "no header means a foreign page");
        assert!(!check(&[("sec-fetch-site", "same-site")]));
        let origin = http::HeaderValue::from_static("https://hub.example:8000");
        let headers = HeaderMap::from_iter([(ORIGIN, origin)]);
        assert!(!is_from_allowed_origin(&headers, None, &allowed), "the own host is unknown");
    }
}
