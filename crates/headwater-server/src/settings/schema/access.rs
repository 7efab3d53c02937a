//! The settings of access: who may subscribe and publish. Look here to add or change one of them.

use std::time::Duration;

use super::setting::{Kind, Setting};

const ACCESS: &str = "Access";

/// The settings of access, in the order of `--help` and of the documentation.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "public",
        value_name: "PATTERN",
        kind: Kind::ChannelPatterns,
        default: None,
        example: "news:*",
        heading: ACCESS,
        summary: "Channels to which every client may subscribe",
        details: "A pattern is a channel name, or a prefix and `*`. As soon as this setting, a key \
                  for tokens or `authorize-url` is set, only what the rules allow is open; \
                  publishing is never public. The flag can be repeated, `;` stands between \
                  patterns in the environment variable, and the file has a list of them.",
    },
    Setting {
        name: "jwt-secret",
        value_name: "SECRET",
        kind: Kind::Secret,
        default: None,
        example: "a-secret-of-32-bytes-or-longer-please",
        heading: ACCESS,
        summary: "HMAC secret that verifies JWTs (HS256, HS384, HS512)",
        details: "It should have 32 random bytes or more: `openssl rand -hex 32` generates one. \
                  All users of the machine can read command lines: set it in the environment, in \
                  the file, or with `jwt-secret-file`. docs/access/tokens.md describes the claims \
                  of a token.",
    },
    Setting {
        name: "jwt-secret-file",
        value_name: "FILE",
        kind: Kind::File,
        default: None,
        example: "jwt-secret.txt",
        heading: ACCESS,
        summary: "File with the HMAC secret that verifies JWTs",
        details: "A trailing line end is ignored. Only the server's user should be able to read \
                  the file.",
    },
    Setting {
        name: "jwt-public-key",
        value_name: "FILE",
        kind: Kind::File,
        default: None,
        example: "jwt-public.pem",
        heading: ACCESS,
        summary: "Public key that verifies JWTs: RSA, EC or Ed25519, a PEM file",
        details: "The type of the key determines the algorithms: RS256 to RS512 and PS256 to \
                  PS512; ES256 and ES384; EdDSA.",
    },
    Setting {
        name: "jwks",
        value_name: "URL-OR-FILE",
        kind: Kind::Jwks,
        default: None,
        example: "https://id.example/.well-known/jwks.json",
        heading: ACCESS,
        summary: "JSON Web Key Set whose keys verify JWTs, a URL or a file",
        details: "It is reloaded when it is 10 minutes old, or when a token names a key that is \
                  not in it, so keys can change without a restart. While it cannot be loaded, the \
                  known keys stay valid.",
    },
    Setting {
        name: "jwt-audience",
        value_name: "NAME",
        kind: Kind::Text,
        default: None,
        example: "headwater",
        heading: ACCESS,
        summary: "Audience (`aud`) that tokens must have",
        details: "Without it, a token with an audience is rejected, since it was issued for \
                  another service.",
    },
    Setting {
        name: "jwt-issuer",
        value_name: "NAME",
        kind: Kind::Text,
        default: None,
        example: "https://id.example/",
        heading: ACCESS,
        summary: "Issuer (`iss`) that tokens must have",
        details: "",
    },
    Setting {
        name: "jwt-cookie",
        value_name: "NAME",
        kind: Kind::Text,
        default: Some("headwater"),
        example: "__Host-headwater",
        heading: ACCESS,
        summary: "Cookie that may hold a token",
        details: "The header `Authorization: Bearer` takes precedence.",
    },
    Setting {
        name: "jwt-in-query",
        value_name: "BOOL",
        kind: Kind::Switch,
        default: Some("false"),
        example: "true",
        heading: ACCESS,
        summary: "Also accept a token in `?token=`",
        details: "URLs end up in the logs of proxies and in browser histories. A ticket, from POST \
                  /sse/ticket, is valid for one stream only: prefer it.",
    },
    Setting {
        name: "allow-subscribe",
        value_name: "TEMPLATE",
        kind: Kind::Templates,
        default: None,
        example: "user:{sub}:*",
        heading: ACCESS,
        summary: "Channels to which every client with a token may subscribe, in addition to those \
                  in the token",
        details: "A pattern in which `{claim}` stands for the token's claim of that name, so that \
                  each user has separate channels. The flag can be repeated, `;` stands between \
                  templates in the environment variable, and the file has a list of them.",
    },
    Setting {
        name: "allow-publish",
        value_name: "TEMPLATE",
        kind: Kind::Templates,
        default: None,
        example: "from:{sub}",
        heading: ACCESS,
        summary: "Channels to which every client with a token may publish, in addition to those in \
                  the token",
        details: "It has the form of `allow-subscribe`.",
    },
    Setting {
        name: "authorize-url",
        value_name: "URL",
        kind: Kind::HttpUrl,
        default: None,
        example: "http://127.0.0.1:9000/sse-auth",
        heading: ACCESS,
        summary: "URL of the application that authorises clients without a token",
        details: "It receives the cookies and the `Authorization` header of the request, and \
                  responds with 200, 204, 401 or 403. Any other response, or none in time, denies \
                  the request. docs/access/authorize-url.md is the contract.",
    },
    Setting {
        name: "authorize-timeout",
        value_name: "DURATION",
        kind: Kind::Duration {
            min: Duration::from_millis(100),
            max: Duration::from_secs(60),
            off: false,
        },
        default: Some("3s"),
        example: "1s",
        heading: ACCESS,
        summary: "Timeout of authorize-url; a timeout denies the request",
        details: "",
    },
    Setting {
        name: "redis-channels",
        value_name: "PATTERN",
        kind: Kind::ChannelPatterns,
        default: None,
        example: "news:*",
        heading: ACCESS,
        summary: "Redis channels whose plain PUBLISH messages are delivered",
        details: "Without it: all if access is open, none under access rules. Events published \
                  through Headwater or its Redis function reach every channel in any case. Names \
                  that start with `headwater:` are never delivered.",
    },
    Setting {
        name: "cors-origin",
        value_name: "ORIGIN",
        kind: Kind::Origins,
        default: None,
        example: "https://app.example",
        heading: ACCESS,
        summary: "Origins whose pages may subscribe and publish, with cookies",
        details: "`*` allows all origins, without cookies. The flag can be repeated, `;` stands \
                  between origins in the environment variable, and the file has a list of them. It \
                  opens no channel: access rules decide what a page's user may do.",
    },
];
