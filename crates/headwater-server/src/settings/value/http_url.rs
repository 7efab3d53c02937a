//! URLs for outgoing HTTP requests: the application, a key set. Look here for which URLs are
//! accepted.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hyper::Uri;

/// A URL of `http` or `https`, without a user and a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUrl {
    is_tls: bool,
    /// Host and port, as they were typed.
    authority: String,
    path: String,
    query: Option<String>,
}

const FORM: &str = "write http://HOST:PORT/PATH or https://HOST/PATH";

impl HttpUrl {
    /// Whether it uses TLS.
    pub fn is_tls(&self) -> bool {
        self.is_tls
    }

    /// Whether requests to it leave this machine without TLS.
    pub fn crosses_networks_in_the_clear(&self) -> bool {
        let host = self.authority.rsplit_once(':').map_or(&*self.authority, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let is_loopback = host.parse().is_ok_and(|it: IpAddr| it.to_canonical().is_loopback());
        !self.is_tls && !is_loopback && !host.eq_ignore_ascii_case("localhost")
    }

    /// Whether it has a query of its own.
    pub fn has_query(&self) -> bool {
        self.query.is_some()
    }

    /// The whole URL, with additional query parameters if there are any.
    pub fn with_query(&self, more: &str) -> String {
        let parts = [self.query.as_deref().unwrap_or_default(), more];
        let query: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
        if query.is_empty() {
            return self.to_string();
        }
        format!("{self}?{}", query.join("&"))
    }
}

impl FromStr for HttpUrl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let uri: Uri = text.parse().map_err(|_| format!("it is not a URL: {FORM}"))?;
        let is_tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(format!("it does not begin with http:// or https://: {FORM}")),
        };
        let authority = uri.authority().ok_or_else(|| format!("it names no host: {FORM}"))?;
        if authority.as_str().contains('@') {
            return Err("a user and a password in it are not supported: leave them out".to_owned());
        }
        if text.contains('#') {
            return Err("it has a `#`: leave out what begins there".to_owned());
        }
        Ok(Self {
            is_tls,
            authority: authority.to_string(),
            path: uri.path().to_owned(),
            query: uri.query().map(ToOwned::to_owned),
        })
    }
}

/// Without the query, which may hold a key.
impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        let url: HttpUrl = "https://id.example/keys?p=1".parse().unwrap();
        assert!(url.is_tls() && url.has_query());
        assert_eq!(url.with_query(""), "https://id.example/keys?p=1");
        assert_eq!(url.with_query("a=b"), "https://id.example/keys?p=1&a=b");
        assert_eq!(url.to_string(), "https://id.example/keys");
        let url: HttpUrl = "http://[::1]:81".parse().unwrap();
        assert!(!url.is_tls() && !url.has_query());
        assert_eq!(url.with_query(""), "http://[::1]:81/");
        assert_eq!(url.with_query("a=b"), "http://[::1]:81/?a=b");
        for (text, part) in [
            ("", "not a URL"),
            ("127.0.0.1:9000/auth", "not a URL"),
            ("ftp://a/b", "does not begin with"),
            ("http://me:s3cret@a/b", "leave them out"),
            ("http://a/b#c", "`#`"),
        ] {
            let error = text.parse::<HttpUrl>().unwrap_err();
            assert!(error.contains(part) && !error.contains("s3cret"), "{text}: {error}");
        }
    }
}
