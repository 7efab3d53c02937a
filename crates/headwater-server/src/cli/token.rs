//! `headwater token`: creates a token for development. Look here for its claims.

use std::env;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use headwater::channel::ChannelPattern;
use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::output::print;
use crate::access::keys::read_secret;
use crate::access::seconds_since_1970;
use crate::exit::Failure;
use crate::settings::{Secret, duration};

const EXAMPLES: &str = "\
Examples:
  export HEADWATER_JWT_SECRET=$(openssl rand -hex 32)
  headwater token --subscribe news --subscribe 'user:42:*' --user 42
  headwater token --publish '*' --ttl 24h --secret-file jwt-secret.txt
  HEADWATER_TOKEN=$(headwater token --publish news) headwater publish news hello
  TOKEN=$(headwater token --subscribe news)
  curl -N -H \"Authorization: Bearer $TOKEN\" 'http://127.0.0.1:8000/sse/stream?channel=news'

The token is signed with the server's secret (HS256). It is for development and for backends;
a page should get its tokens from your application.";

/// The longest lifetime of a token.
const TTL_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

/// Create a token for subscribing or publishing, for development
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Token {
    /// Channels it may subscribe to; can be repeated
    #[arg(long, value_name = "PATTERN")]
    subscribe: Vec<ChannelPattern>,
    /// Channels it may publish to; can be repeated
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<ChannelPattern>,
    /// Allow it to close other clients' streams
    #[arg(long)]
    admin: bool,
    /// The user (`sub`)
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Its ID (`jti`), for revocation
    #[arg(long, value_name = "ID")]
    id: Option<String>,
    /// The audience (`aud`), as in the setting `jwt-audience`
    #[arg(long, value_name = "NAME")]
    audience: Option<String>,
    /// The issuer (`iss`), as in the setting `jwt-issuer`
    #[arg(long, value_name = "NAME")]
    issuer: Option<String>,
    /// Its lifetime
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_ttl)]
    ttl: Duration,
    /// The file with the secret [default: the secret in HEADWATER_JWT_SECRET]
    #[arg(long, value_name = "FILE")]
    secret_file: Option<PathBuf>,
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    duration(text, &(Duration::from_secs(1)..=TTL_MAX))
}

impl Token {
    /// Prints the token.
    pub(super) fn run(self) -> Result<(), Failure> {
        let secret = match &self.secret_file {
            Some(path) => read_secret(path)?,
            None => Secret::new(env::var("HEADWATER_JWT_SECRET").unwrap_or_default()),
        };
        if secret.expose().is_empty() {
            return Err(Failure::Usage(
                "there is no secret to sign with: set HEADWATER_JWT_SECRET, or say --secret-file; \
                 `openssl rand -hex 32` makes a good one"
                    .to_owned(),
            ));
        }
        let key = EncodingKey::from_secret(secret.expose().as_bytes());
        let claims = self.claims(SystemTime::now());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key);
        let token = token.map_err(|error| anyhow!("{error}")).context("cannot sign the token")?;
        print(&format!("{token}\n"))
    }

    fn claims(self, now: SystemTime) -> serde_json::Value {
        let texts = |patterns: Vec<ChannelPattern>| {
            patterns.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let now = seconds_since_1970(now).floor();
        let mut claims = serde_json::json!({
            "iat": now,
            "exp": now + self.ttl.as_secs_f64(),
            "headwater": {
                "subscribe": texts(self.subscribe),
                "publish": texts(self.publish),
            },
        });
        if self.admin {
            claims["headwater"]["admin"] = true.into();
        }
        let named =
            [("sub", self.user), ("jti", self.id), ("aud", self.audience), ("iss", self.issuer)];
        for (name, value) in named {
            if let Some(value) = value {
                claims[name] = value.into();
            }
        }
        claims
    }
}
