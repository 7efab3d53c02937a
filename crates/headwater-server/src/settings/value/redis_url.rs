//! Where Redis is, checked, and with a password that cannot be printed by accident. Look here for
//! which URLs are accepted.

use std::fmt;
use std::str::FromStr;

/// The URL of a Redis server. `Debug` and `Display` show scheme and address only; the whole URL,
/// which may hold a password, is at [`RedisUrl::expose`].
#[derive(Clone, PartialEq, Eq)]
pub struct RedisUrl {
    url: String,
    shown: String,
    cli_command: String,
}

const SCHEMES: [&str; 4] = ["redis", "rediss", "unix", "redis+unix"];

const FORM: &str = "redis://USER:PASSWORD@HOST:PORT/DB, or unix:///path/to/redis.sock";

const FRAGMENT: &str = "what stands behind its `#` is not supported: leave it out";

impl RedisUrl {
    /// The whole URL, with the password. For connecting only, never for a message.
    pub fn expose(&self) -> &str {
        &self.url
    }

    /// The beginning of a command line of `redis-cli` for this server. It asks for the password, if
    /// there is one.
    pub fn cli_command(&self) -> &str {
        &self.cli_command
    }
}

impl FromStr for RedisUrl {
    type Err = String;

    /// Checks a URL. The message says what is wrong without repeating any part of the URL but its
    /// scheme.
    fn from_str(text: &str) -> Result<Self, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(format!("it is not a URL: write {FORM}"));
        };
        if !SCHEMES.contains(&scheme) {
            return Err(format!(
                "it must begin with {}: write {FORM}",
                SCHEMES.join("://, ") + "://"
            ));
        }
        if !scheme.ends_with("unix") && cut_by_its_password(rest) {
            return Err(
                "its user or password has a `/`, `?`, `#` or `@` that cuts the URL: write \
                        them as %2F, %3F, %23 and %40"
                    .to_owned(),
            );
        }
        let client = redis::Client::open(text).map_err(|error| describe(&error))?;
        let address = client.get_connection_info().addr();
        if matches!(address, redis::ConnectionAddr::TcpTls { insecure: true, .. }) {
            return Err(FRAGMENT.to_owned());
        }
        let shown = format!("{scheme}://{address}");
        let cli_command = cli_command(client.get_connection_info());
        Ok(Self { url: text.to_owned(), shown, cli_command })
    }
}

fn cli_command(info: &redis::ConnectionInfo) -> String {
    let (scheme, host, port) = match info.addr() {
        redis::ConnectionAddr::Tcp(host, port) => ("redis", host, *port),
        redis::ConnectionAddr::TcpTls { host, port, .. } => ("rediss", host, *port),
        redis::ConnectionAddr::Unix(path) => {
            let path = path.display().to_string().replace('\'', "'\\''");
            return with_credentials(format!("redis-cli -s '{path}'"), info);
        }
        _ => return "redis-cli".to_owned(),
    };
    if (scheme, port) == ("redis", 6379) && ["127.0.0.1", "localhost"].contains(&host.as_str()) {
        return with_credentials("redis-cli".to_owned(), info);
    }
    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
    with_credentials(format!("redis-cli -u {scheme}://{host}:{port}"), info)
}

fn with_credentials(mut command: String, info: &redis::ConnectionInfo) -> String {
    let settings = info.redis_settings();
    if settings.password().is_some() {
        if let Some(user) = settings.username().filter(|user| *user != "default") {
            command += &format!(" --user '{}'", user.replace('\'', "'\\''"));
        }
        command += " --askpass";
    }
    command
}

/// Whether an `@` stands where no URL has one: behind the authority, or twice in it. The parts of a
/// password would then be taken for a host and a port, and be shown.
fn cut_by_its_password(rest: &str) -> bool {
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    rest[end..].contains('@') || rest[..end].matches('@').count() > 1
}

/// The client's errors are fixed texts today; only those that help are distinguished, so that no
/// later version of it can print a part of the URL through us.
fn describe(error: &redis::RedisError) -> String {
    let text = error.to_string();
    if text.contains("database number") {
        return format!("its database is not a number: write {FORM}");
    }
    if text.contains("wildcard") {
        return "0.0.0.0 and [::] are addresses to listen on: write the address of the Redis \
                server, 127.0.0.1 if it runs on this machine"
            .to_owned();
    }
    if text.contains("fragment") || text.contains("insecure") {
        return FRAGMENT.to_owned();
    }
    format!(
        "it is not complete: write {FORM}, with special characters of the password percent-encoded"
    )
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RedisUrl({})", self.shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<&str, &str>) {
        match (text.parse::<RedisUrl>(), expected) {
            (Ok(url), Ok(shown)) => {
                assert_eq!(url.to_string(), shown);
                assert_eq!(format!("{url:?}"), format!("RedisUrl({shown})"));
                assert_eq!(url.expose(), text);
            }
            (Err(message), Err(part)) => {
                assert!(message.contains(part), "{message:?} lacks {part:?}");
                assert!(!message.contains("s3cret"), "{message:?} shows the password");
            }
            (got, expected) => panic!("{text:?}: got {got:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn urls_are_checked_and_shown_without_credentials() {
        check("redis://127.0.0.1", Ok("redis://127.0.0.1:6379"));
        check("redis://me:s3cret@redis.example:7000/3", Ok("redis://redis.example:7000"));
        check("rediss://:s3cret@redis.example", Ok("rediss://redis.example:6379"));
        check("redis://:s3cret%2F@[::1]:6380/1", Ok("redis://::1:6380"));
        check("unix:///run/redis.sock?pass=s3cret", Ok("unix:///run/redis.sock"));
        check("redis+unix:///run/redis.sock?db=1", Ok("redis+unix:///run/redis.sock"));
        check("", Err("not a URL"));
        check("127.0.0.1:6379", Err("not a URL"));
        check(":s3cret@127.0.0.1:6379", Err("not a URL"));
        check("http://:s3cret@127.0.0.1", Err("must begin with redis://, rediss://, unix://"));
        check("redis://", Err("not complete"));
        check("redis://:s3cret@", Err("not complete"));
        check("redis://:s3cret@host:port", Err("not complete"));
        check("redis://:s3cret@host/zero", Err("database is not a number"));
        check("redis://0.0.0.0", Err("127.0.0.1 if it runs on this machine"));
        check("rediss://host/#fast", Err("behind its `#`"));
        check("rediss://:s3cret@host/#insecure", Err("behind its `#`"));
        check("unix://", Err("not complete"));
    }

    #[test]
    fn commands_reach_the_same_server() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            assert_eq!(text.parse::<RedisUrl>().expect("a URL").cli_command(), expected);
        }
        check("redis://127.0.0.1", "redis-cli");
        check("redis://localhost:6379/3", "redis-cli");
        check("redis://h:7000", "redis-cli -u redis://h:7000");
        check("redis://[::1]:7000", "redis-cli -u redis://[::1]:7000");
        check("rediss://h", "redis-cli -u rediss://h:6379");
        check("redis://:s3cret@127.0.0.1", "redis-cli --askpass");
        check("redis://me:s3cret@h", "redis-cli -u redis://h:6379 --user 'me' --askpass");
        check("unix:///run/redis.sock", "redis-cli -s '/run/redis.sock'");
    }

    #[test]
    fn a_password_with_a_separator_is_not_parsed_as_a_host() {
        check("redis://s3cret:1/2@host", Err("%2F"));
        check("redis://s3cret:1#2@host", Err("%23"));
        check("redis://s3cret:1?2@host", Err("%3F"));
        check("redis://:s3cret@2@host", Err("%40"));
    }
}
