//! Where a client command goes: to a server, or straight to Redis.

use std::env;
use std::path::PathBuf;

use super::http::BaseUrl;
use crate::access::keys::read_secret;
use crate::exit::Failure;
use crate::settings::{RedisUrl, Secret};

const URL_DEFAULT: &str = "http://127.0.0.1:8000";
const URL_VARIABLE: &str = "HEADWATER_URL";
const TOKEN_VARIABLE: &str = "HEADWATER_TOKEN";

/// Where a command goes: to a server, or straight to Redis.
///
/// No `Debug`: what was typed may hold a password.
#[derive(clap::Args)]
pub(super) struct Target {
    /// The server; a path prefix is kept [env: HEADWATER_URL] [default: http://127.0.0.1:8000]
    #[arg(long, value_name = "URL", conflicts_with = "redis")]
    url: Option<BaseUrl>,
    /// Go straight to this Redis, past any server
    ///
    /// The forms of the URL are those of `headwater serve --redis`.
    // A text, because clap would repeat a URL that it refuses, with its password.
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// The file with the token that allows it [env: HEADWATER_TOKEN, the token itself]
    #[arg(long, value_name = "FILE", conflicts_with = "redis")]
    token_file: Option<PathBuf>,
}

/// Where a command goes, decided.
pub(super) enum Destination {
    Server(BaseUrl),
    Redis(RedisUrl),
}

impl Target {
    /// A flag wins over the environment. The variable is not read by clap, because it would then
    /// conflict with `--redis`; an empty one counts as one that is not set.
    pub(super) fn destination(self) -> Result<Destination, Failure> {
        if let Some(text) = self.redis {
            let url = text.parse().map_err(|why| Failure::Usage(format!("--redis: {why}")))?;
            return Ok(Destination::Redis(url));
        }
        let token = match &self.token_file {
            Some(path) => read_secret(path)?,
            None => Secret::new(env::var(TOKEN_VARIABLE).unwrap_or_default()),
        };
        if let Some(url) = self.url {
            return Ok(Destination::Server(url.with_token(token)));
        }
        let text = env::var(URL_VARIABLE).unwrap_or_default();
        let text = if text.is_empty() { URL_DEFAULT } else { &text };
        let url: Result<BaseUrl, String> = text.parse();
        let url = url.map_err(|why| Failure::Usage(format!("{URL_VARIABLE}: {why}")))?;
        Ok(Destination::Server(url.with_token(token)))
    }
}
