//! By which names an open loopback address answers (DNS rebinding). Look here for which hosts are
//! this machine's. No I/O, but for the layer.
//!
//! A page on the web can let a name of its own lead to 127.0.0.1. Its requests are then of the same
//! origin for the browser, and only `Host`, or `:authority`, shows the name.

use std::net::IpAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use headwater::Problem;
use http::header::HOST;
use http::{HeaderMap, StatusCode, Uri};

use crate::settings::DomainName;

/// Rejects requests for other hosts than this machine's and those that are allowed.
pub(crate) fn for_hosts_of_this_machine(router: Router, allowed: &[DomainName]) -> Router {
    let allowed: Arc<[DomainName]> = allowed.into();
    router.layer(from_fn_with_state(allowed, check))
}

async fn check(State(allowed): State<Arc<[DomainName]>>, request: Request, next: Next) -> Response {
    if is_of_this_machine(request.uri(), request.headers(), &allowed) {
        return next.run(request).await;
    }
    let detail = "there are no access rules, so the server answers to names of this machine only: \
                  use localhost or 127.0.0.1, or list the name in allowed-host";
    Problem::new(StatusCode::MISDIRECTED_REQUEST, detail).into_response()
}

/// Whether every host that a request names is this machine's or allowed. A request without one is
/// not a browser's.
pub(crate) fn is_of_this_machine(uri: &Uri, headers: &HeaderMap, allowed: &[DomainName]) -> bool {
    let is_own = |host: &str| is_own(host, allowed);
    uri.authority().is_none_or(|authority| is_own(authority.as_str()))
        && headers.get_all(HOST).iter().all(|host| host.to_str().is_ok_and(is_own))
}

fn is_own(host: &str, allowed: &[DomainName]) -> bool {
    let Some(name) = without_port(host) else { return false };
    if let Ok(address) = name.parse::<IpAddr>() {
        return address.to_canonical().is_loopback();
    }
    let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
    // Browsers resolve names below `localhost` to this machine without asking the DNS.
    name == "localhost"
        || name.ends_with(".localhost")
        || allowed.iter().any(|allowed| allowed.as_str() == name)
}

/// The host without its port, and an IPv6 address without its brackets.
fn without_port(host: &str) -> Option<&str> {
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (address, port.strip_prefix(':').or(port.is_empty().then_some("")))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("")),
        },
    };
    port.filter(|port| port.bytes().all(|byte| byte.is_ascii_digit())).map(|_| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_this_machine_are_distinguished_from_others() {
        let allowed = ["events.test".parse().unwrap()];
        for own in [
            "localhost",
            "LocalHost:8000",
            "localhost.:8000",
            "app.localhost:1",
            "127.0.0.1",
            "127.1.2.3:8000",
            "[::1]:8000",
            "[::1]",
            "[::ffff:127.0.0.1]:80",
            "events.test:8000",
            "Events.Test",
        ] {
            assert!(is_own(own, &allowed), "{own}");
        }
        for other in [
            "",
            ":8000",
            "evil.example:8000",
            "localhost.evil.example",
            "evillocalhost",
            "127.0.0.1.evil.example",
            "127.0.0.1@evil.example",
            "evil.example@127.0.0.1",
            "0.0.0.0:8000",
            "192.0.2.1",
            "[::2]:8000",
            "[::1",
            "[::1]evil.example",
            "::1",
            "localhost:evil",
            "sub.events.test",
        ] {
            assert!(!is_own(other, &allowed), "{other}");
        }
    }

    #[test]
    fn every_host_that_a_request_names_counts() {
        let check = |uri: &str, hosts: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for host in hosts {
                headers.append(HOST, http::HeaderValue::from_static(host));
            }
            is_of_this_machine(&uri.parse().unwrap(), &headers, &[])
        };
        assert!(check("/", &["localhost:1"]) && check("/", &[]));
        assert!(check("http://127.0.0.1:8000/", &[]));
        assert!(!check("http://evil.example/", &[]));
        assert!(!check("http://evil.example/", &["localhost"]));
        assert!(!check("http://localhost/", &["evil.example"]));
        assert!(!check("/", &["localhost", "evil.example"]));
    }
}
