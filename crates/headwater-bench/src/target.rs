//! The target of a benchmark: where streams are opened, and where events are published. Look here
//! for how a URL of the command line becomes addresses and paths.

use std::net::{SocketAddr, ToSocketAddrs};

use crate::error::{Context as _, Error};

/// The placeholder for the channel name in a path.
const CHANNEL: &str = "{channel}";

/// The prefix of the channel names; a number follows.
pub(crate) const CHANNEL_PREFIX: &str = "bench-";

/// An HTTP server to measure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    /// The addresses. Streams are spread evenly over them; events are published to the first.
    pub addresses: Vec<SocketAddr>,
    /// The `Host` header.
    pub host: String,
    /// The path of a stream, with `{channel}` in it.
    pub stream_path: String,
    /// The path to publish to, with `{channel}` in it.
    pub publish_path: String,
}

impl HttpTarget {
    /// Headwater, or a server with the same paths, at some addresses.
    pub fn headwater(addresses: Vec<SocketAddr>) -> Self {
        let host = addresses.first().map_or_else(|| "localhost".to_owned(), ToString::to_string);
        Self {
            addresses,
            host,
            stream_path: format!("/sse/stream?channel={CHANNEL}"),
            publish_path: format!("/sse/publish?channel={CHANNEL}"),
        }
    }

    /// Headwater at a URL, whose path is prepended to Headwater's paths.
    ///
    /// # Errors
    /// When the URL is not plain HTTP, or its host cannot be resolved.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let usage = |why: &str| Error::Usage(format!("--url {url}: {why}"));
        let rest = url.strip_prefix("http://").ok_or_else(|| {
            usage("only http:// is supported, the generator speaks no TLS: http://127.0.0.1:8000")
        })?;
        let (host, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.is_empty() || host.contains(['@', '?', '#']) || prefix.contains(['?', '#']) {
            return Err(usage(
                "expected a host and port and optionally a path, as in http://127.0.0.1:8000",
            ));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = resolve(host, has_port, 80).map_err(|why| usage(&why))?;
        let prefix = prefix.trim_end_matches('/');
        let target = Self::headwater(vec![address]);
        Ok(Self {
            host: host.to_owned(),
            stream_path: format!("{prefix}{}", target.stream_path),
            publish_path: format!("{prefix}{}", target.publish_path),
            ..target
        })
    }

    /// Replaces the paths, for servers other than Headwater.
    ///
    /// # Errors
    /// When a path does not begin with a slash, or lacks `{channel}`.
    pub fn with_paths(
        mut self,
        stream: Option<&str>,
        publish: Option<&str>,
    ) -> Result<Self, Error> {
        for (flag, path, place) in [
            ("--stream-path", stream, &mut self.stream_path),
            ("--publish-path", publish, &mut self.publish_path),
        ] {
            let Some(path) = path else { continue };
            if !path.starts_with('/') || !path.contains(CHANNEL) || path.contains([' ', '\r', '\n'])
            {
                let why = "the path must begin with `/` and contain `{channel}`";
                return Err(Error::Usage(format!(
                    "{flag} {path}: {why}, as in /sse/stream?channel={CHANNEL}"
                )));
            }
            path.clone_into(place);
        }
        Ok(self)
    }
}

/// A Redis to publish to with `PUBLISH`. No `Debug`: it may hold a password.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisTarget {
    /// The address.
    pub address: SocketAddr,
    /// User and password, if required; the user may be empty.
    pub login: Option<(String, String)>,
}

impl RedisTarget {
    /// Parses `redis://USER:PASSWORD@HOST:PORT`. Errors do not contain the URL, which may hold a
    /// password.
    ///
    /// # Errors
    /// When the URL has another form, or its host cannot be resolved.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let usage = |why: String| Error::Usage(format!("--redis: {why}"));
        let rest = url.strip_prefix("redis://").ok_or_else(|| {
            usage("only redis://HOST:PORT is supported, without TLS or Unix sockets".to_owned())
        })?;
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (Some(login.split_once(':').unwrap_or(("", login))), host),
            None => (None, rest),
        };
        // Pub/Sub has no databases, so a database number is ignored.
        let host = host.split('/').next().unwrap_or_default();
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = resolve(host, has_port, 6379).map_err(usage)?;
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        Ok(Self { address, login })
    }
}

/// The path of one channel.
pub(crate) fn path_of(template: &str, channel: usize) -> String {
    template.replace(CHANNEL, &format!("{CHANNEL_PREFIX}{channel}"))
}

fn resolve(host: &str, has_port: bool, port: u16) -> Result<SocketAddr, String> {
    let with_port = if has_port { host.to_owned() } else { format!("{host}:{port}") };
    let why = format!("cannot resolve `{host}`");
    with_port
        .to_socket_addrs()
        .context(&why)
        .and_then(|mut addresses| addresses.next().ok_or_else(|| Error::failed(&why)))
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn server_urls_are_parsed() {
        let target = HttpTarget::from_url("http://127.0.0.1:8123/prefix/").expect("a URL");
        assert_eq!(target.addresses, ["127.0.0.1:8123".parse().expect("an address")]);
        assert_eq!(path_of(&target.stream_path, 3), "/prefix/sse/stream?channel=bench-3");
        assert_eq!(
            HttpTarget::from_url("http://127.0.0.1").expect("a URL").addresses[0].port(),
            80
        );
        for (url, word) in [
            ("https://example.org", "speaks no TLS"),
            ("127.0.0.1:80", "only http://"),
            ("http:///x", "expected a host"),
            ("http://h?x", "expected a host"),
            ("http://no.such.host.invalid", "cannot resolve"),
        ] {
            let error = HttpTarget::from_url(url).expect_err(url).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn paths_need_a_place_for_the_channel() {
        let target = HttpTarget::headwater(vec![]);
        let changed = target.clone().with_paths(Some("/sub/{channel}"), None).expect("a path");
        assert_eq!(path_of(&changed.stream_path, 0), "/sub/bench-0");
        for path in ["sub/{channel}", "/sub", "/sub {channel}"] {
            assert!(target.clone().with_paths(None, Some(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn redis_urls_are_parsed() {
        let check = |url: &str, port: u16, login: Option<(&str, &str)>| {
            let target =
                RedisTarget::from_url(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(target.address.port(), port, "{url}");
            assert!(target.login == login.map(|(user, word)| (user.into(), word.into())), "{url}");
        };
        check("redis://127.0.0.1", 6379, None);
        check("redis://127.0.0.1:7000/3", 7000, None);
        check("redis://me:secret@127.0.0.1", 6379, Some(("me", "secret")));
        check("redis://:secret@127.0.0.1", 6379, Some(("", "secret")));
        let Err(error) = RedisTarget::from_url("rediss://:secret@127.0.0.1") else { panic!("TLS") };
        assert!(!error.to_string().contains("secret"), "{error}");
    }
}
