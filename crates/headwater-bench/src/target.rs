//! What is measured: where its streams are opened, and where its events are published. Look here for how a URL
//! of the command line becomes addresses and paths.

use std::net::{SocketAddr, ToSocketAddrs};

use crate::error::{Context as _, Error};

/// What stands in a path for the channel's name.
const CHANNEL: &str = "{channel}";

/// What the names of channels begin with; their number follows.
pub(crate) const CHANNEL_PREFIX: &str = "bench-";

/// An address to connect to, and what to say there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpTarget {
    /// Where to connect. Streams are spread evenly if there are several; publishing goes to the first.
    pub addresses: Vec<SocketAddr>,
    /// The `Host` header.
    pub host: String,
    /// The path of a stream, with `{channel}` in it.
    pub stream_path: String,
    /// The path to publish to, with `{channel}` in it.
    pub publish_path: String,
}

impl HttpTarget {
    /// A Headwater at some addresses, or whatever has its paths.
    pub fn headwater(addresses: Vec<SocketAddr>) -> Self {
        let host = addresses.first().map_or_else(|| "localhost".to_owned(), ToString::to_string);
        Self {
            addresses,
            host,
            stream_path: format!("/sse/stream?channel={CHANNEL}"),
            publish_path: format!("/sse/publish?channel={CHANNEL}"),
        }
    }

    /// A Headwater behind a URL, whose path is put before its own paths.
    ///
    /// # Errors
    /// When it is no URL of plain HTTP, or its name is not known.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let usage = |why: &str| Error::Usage(format!("--url {url}: {why}"));
        let rest = url.strip_prefix("http://").ok_or_else(|| {
            usage("only http:// can be measured: the generator speaks no TLS, as in http://127.0.0.1:8000")
        })?;
        let (host, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if host.is_empty() || host.contains(['@', '?', '#']) || prefix.contains(['?', '#']) {
            return Err(usage(
                "give a host, a port and at most a path, as in http://127.0.0.1:8000",
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

    /// Replaces a path that another program than Headwater has.
    ///
    /// # Errors
    /// When a path does not begin with a slash, or does not say where the channel's name goes.
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
                let why =
                    "a path begins with `/` and has `{channel}` where the name of the channel goes";
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
    /// Where it is.
    pub address: SocketAddr,
    /// User and password, if it wants them; the user may be empty.
    pub login: Option<(String, String)>,
}

impl RedisTarget {
    /// From a URL, `redis://USER:PASSWORD@HOST:PORT`. What is wrong is told without the URL, which may hold a
    /// password.
    ///
    /// # Errors
    /// When it is no such URL, or its name is not known.
    pub fn from_url(url: &str) -> Result<Self, Error> {
        let usage = |why: String| Error::Usage(format!("--redis: {why}"));
        let rest = url.strip_prefix("redis://").ok_or_else(|| {
            usage("only redis://HOST:PORT can be measured, without TLS or unix sockets".to_owned())
        })?;
        let (login, host) = match rest.rsplit_once('@') {
            Some((login, host)) => (Some(login.split_once(':').unwrap_or(("", login))), host),
            None => (None, rest),
        };
        // Pub/Sub knows no databases, so the number of one means nothing.
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
    let why = format!("cannot find the address of `{host}`");
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
    fn urls_of_servers() {
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
            ("http:///x", "give a host"),
            ("http://h?x", "give a host"),
            ("http://no.such.host.invalid", "cannot find the address"),
        ] {
            let error = HttpTarget::from_url(url).expect_err(url).to_string();
            assert!(error.contains(word), "{error}");
        }
    }

    #[test]
    fn paths_say_where_the_channel_goes() {
        let target = HttpTarget::headwater(vec![]);
        let changed = target.clone().with_paths(Some("/sub/{channel}"), None).expect("a path");
        assert_eq!(path_of(&changed.stream_path, 0), "/sub/bench-0");
        for path in ["sub/{channel}", "/sub", "/sub {channel}"] {
            assert!(target.clone().with_paths(None, Some(path)).is_err(), "{path}");
        }
    }

    #[test]
    fn urls_of_redis() {
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
