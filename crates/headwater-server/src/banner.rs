//! What `headwater serve` prints for people at startup: only commands that work with its settings.
//! No I/O.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

/// The channel of the examples.
pub(crate) const CHANNEL: &str = "news";

/// What the banner depends on.
pub(crate) struct Banner {
    /// Scheme, host and port, as one types them into a browser on this machine.
    pub(crate) base: String,
    pub(crate) admin: Option<SocketAddr>,
    pub(crate) redis: Option<RedisFacts>,
    pub(crate) access: AccessFacts,
    /// Whether connections must begin with the PROXY protocol, which a command cannot do.
    pub(crate) is_behind_proxy: bool,
}

/// What is known about Redis.
pub(crate) struct RedisFacts {
    /// Without its password.
    pub(crate) shown: String,
    /// The beginning of a command line for it.
    pub(crate) command: String,
    /// What is wrong with it, after its name: "is unreachable".
    pub(crate) failure: Option<String>,
    /// Whether a plain PUBLISH to [`CHANNEL`] reaches streams.
    pub(crate) delivers_plain: bool,
}

/// Who may subscribe and publish.
pub(crate) enum AccessFacts {
    /// Every client that can reach it.
    Open {
        /// Whether only this machine can.
        is_local: bool,
    },
    /// Clients that the rules allow.
    Rules {
        /// Whether every client may subscribe to [`CHANNEL`].
        is_public: bool,
        /// A command that prints a token for [`CHANNEL`], if one can be created here.
        token_command: Option<String>,
    },
}

impl Banner {
    /// The whole text.
    pub(crate) fn text(&self) -> String {
        let version = env!("CARGO_PKG_VERSION");
        let mut text = format!("\nHeadwater {version} is running.\n\n");
        if self.is_behind_proxy {
            line(&mut text, "Address", &format!("{} behind a proxy (PROXY protocol)", self.base));
        } else {
            line(&mut text, "Demo page", &format!("{}/sse/demo", self.base));
            self.add_http_commands(&mut text);
        }
        if let Some(redis) = &self.redis {
            redis.add_lines(&mut text);
        }
        if let Some(admin) = self.admin {
            line(&mut text, "Health", &format!("http://{admin}/health/ready"));
        }
        text += match &self.access {
            AccessFacts::Open { is_local: true } => {
                "\nOpen: there are no access rules. Only this machine can reach the server, and \
                 every program\non it may subscribe and publish.\n"
            }
            AccessFacts::Open { is_local: false } => {
                "\nOpen: every client that can reach this address may subscribe and publish.\n"
            }
            AccessFacts::Rules { .. } => {
                "\nAccess rules are on: only authorised clients can subscribe or publish.\n"
            }
        };
        text + "Ctrl-C stops it.\n"
    }

    fn add_http_commands(&self, text: &mut String) {
        const BEARER: &str = " -H \"Authorization: Bearer $TOKEN\"";
        let (listens, publishes) = match &self.access {
            AccessFacts::Open { .. } => (Some(""), Some("")),
            AccessFacts::Rules { is_public, token_command } => {
                if let Some(command) = token_command {
                    line(text, "Token", &format!("TOKEN=$({command})"));
                }
                let with_token = token_command.as_ref().map(|_| BEARER);
                (if *is_public { Some("") } else { with_token }, with_token)
            }
        };
        let base = &self.base;
        if let Some(header) = listens {
            let url = format!("{base}/sse/stream?channel={CHANNEL}");
            line(text, "Subscribe", &format!("curl -N{header} '{url}'"));
        }
        if let Some(header) = publishes {
            let url = format!("{base}/sse/publish?channel={CHANNEL}");
            line(text, "Publish", &format!("curl{header} --data-binary 'hello' '{url}'"));
        }
    }
}

impl RedisFacts {
    fn add_lines(&self, text: &mut String) {
        if let Some(failure) = &self.failure {
            line(text, "Redis", &format!("{} {failure}: retrying (see the log)", self.shown));
        } else if self.delivers_plain {
            line(text, "", &format!("{} PUBLISH {CHANNEL} hello", self.command));
        }
    }
}

fn line(text: &mut String, name: &str, value: &str) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "  {name:<9}  {value}");
}

/// A command that creates a token which the server accepts.
pub(crate) fn token_command(
    secret_file: Option<&Path>,
    audience: Option<&str>,
    issuer: Option<&str>,
) -> String {
    let mut command = format!("headwater token --subscribe {CHANNEL} --publish {CHANNEL}");
    if let Some(path) = secret_file {
        command += &format!(" --secret-file {}", quoted(&path.display().to_string()));
    }
    for (flag, value) in [("audience", audience), ("issuer", issuer)] {
        if let Some(value) = value {
            command += &format!(" --{flag} {}", quoted(value));
        }
    }
    command
}

/// The text as one word for a shell.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:@=+".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner(redis: Option<RedisFacts>, access: AccessFacts) -> String {
        let base = "http://localhost:8000".to_owned();
        Banner { base, admin: None, redis, access, is_behind_proxy: false }.text()
    }

    fn redis(failure: Option<&str>, delivers_plain: bool) -> RedisFacts {
        RedisFacts {
            shown: "redis://h:1".to_owned(),
            command: "redis-cli -u redis://h:1".to_owned(),
            failure: failure.map(ToOwned::to_owned),
            delivers_plain,
        }
    }

    #[test]
    fn open_servers_show_every_command() {
        let text = banner(Some(redis(None, true)), AccessFacts::Open { is_local: true });
        for part in [
            "  Demo page  http://localhost:8000/sse/demo\n",
            "  Subscribe  curl -N 'http://localhost:8000/sse/stream?channel=news'\n",
            "  Publish    curl --data-binary 'hello' \
             'http://localhost:8000/sse/publish?channel=news'\n",
            "             redis-cli -u redis://h:1 PUBLISH news hello\n",
            "Only this machine",
        ] {
            assert!(text.contains(part), "{part:?} is not in {text}");
        }
        assert!(!banner(None, AccessFacts::Open { is_local: true }).contains("redis"));
    }

    #[test]
    fn rules_show_what_a_token_can_be_issued_for() {
        let rules = |is_public, token: Option<&str>| {
            let token_command = token.map(ToOwned::to_owned);
            banner(None, AccessFacts::Rules { is_public, token_command })
        };
        let text = rules(false, None);
        assert!(!text.contains("curl") && text.contains("only authorised clients"), "{text}");
        let text = rules(true, None);
        assert!(text.contains("curl -N 'http") && !text.contains("Publish"), "{text}");
        let text = rules(false, Some("headwater token"));
        assert!(text.contains("  Token      TOKEN=$(headwater token)\n"), "{text}");
        let bearer = "-H \"Authorization: Bearer $TOKEN\"";
        assert!(text.contains(&format!("curl -N {bearer} 'http")), "{text}");
        assert!(text.contains(&format!("curl {bearer} --data-binary")), "{text}");
    }

    #[test]
    fn commands_that_do_not_work_are_left_out() {
        let open = || AccessFacts::Open { is_local: false };
        assert!(!banner(Some(redis(None, false)), open()).contains("PUBLISH"));
        let text = banner(Some(redis(Some("is unreachable"), true)), open());
        assert!(!text.contains("PUBLISH") && text.contains("redis://h:1 is unreachable"), "{text}");
        let base = "https://a.example".to_owned();
        let behind =
            Banner { base, admin: None, redis: None, access: open(), is_behind_proxy: true };
        let text = behind.text();
        assert!(!text.contains("curl") && text.contains("https://a.example behind"), "{text}");
    }

    #[test]
    fn commands_are_quoted_for_a_shell() {
        let command = token_command(Some(Path::new("/a b/it's")), Some("hw"), None);
        let expected = "headwater token --subscribe news --publish news \
                        --secret-file '/a b/it'\\''s' --audience hw";
        assert_eq!(command, expected);
    }
}
