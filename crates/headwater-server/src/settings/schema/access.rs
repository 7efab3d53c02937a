//! The settings of access: who may listen and publish. Look here to add or change one of them.

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
        summary: "Let anybody listen to these channels",
        details: "A pattern is the name of a channel, or the beginning of names and `*`. As soon as this \
                  setting, a key for tokens or `authorize-url` is given, nothing is open that the rules \
                  do not open; publishing is never public. The flag can be repeated, `;` stands between \
                  patterns in the environment variable, and the file has a list of them.",
    },
    Setting {
        name: "jwt-secret",
        value_name: "SECRET",
        kind: Kind::Secret,
        default: None,
        example: "a-secret-of-32-bytes-or-longer-please",
        heading: ACCESS,
        summary: "Take tokens (JWT) that are signed with this secret: HS256, HS384 or HS512",
        details: "It should have 32 random bytes or more: `openssl rand -hex 32` makes one. A command line \
                  can be read by every user of the machine: give it in the environment, in the file, or \
                  with `jwt-secret-file`. docs/access/tokens.md says what stands in a token.",
    },
    Setting {
        name: "jwt-secret-file",
        value_name: "FILE",
        kind: Kind::File,
        default: None,
        example: "jwt-secret.txt",
        heading: ACCESS,
        summary: "Take tokens that are signed with the secret in this file",
        details: "A line end behind it does not count. Nobody but the server's user should be able to read \
                  the file.",
    },
    Setting {
        name: "jwt-public-key",
        value_name: "FILE",
        kind: Kind::File,
        default: None,
        example: "jwt-public.pem",
        heading: ACCESS,
        summary: "Take tokens whose signature this public key proves: RSA, EC or Ed25519, as PEM",
        details: "The type of the key decides which algorithms count: RS256 to RS512 and PS256 to PS512; \
                  ES256 and ES384; EdDSA.",
    },
    Setting {
        name: "jwks",
        value_name: "URL-OR-FILE",
        kind: Kind::Jwks,
        default: None,
        example: "https://id.example/.well-known/jwks.json",
        heading: ACCESS,
        summary: "Take tokens that a key of this JSON Web Key Set signed",
        details: "It is read again when it is 10 minutes old, or when a token names a key that is not in \
                  it, so keys can change without a restart. While it cannot be read, the keys that are \
                  known go on to count.",
    },
    Setting {
        name: "jwt-audience",
        value_name: "NAME",
        kind: Kind::Text,
        default: None,
        example: "headwater",
        heading: ACCESS,
        summary: "Take only tokens that are for this audience (`aud`)",
        details: "Without it, a token that names an audience is for somebody else, and is refused.",
    },
    Setting {
        name: "jwt-issuer",
        value_name: "NAME",
        kind: Kind::Text,
        default: None,
        example: "https://id.example/",
        heading: ACCESS,
        summary: "Take only tokens of this issuer (`iss`)",
        details: "",
    },
    Setting {
        name: "jwt-cookie",
        value_name: "NAME",
        kind: Kind::Text,
        default: Some("headwater"),
        example: "__Host-headwater",
        heading: ACCESS,
        summary: "Look for a token in the cookie of this name too",
        details: "A header `Authorization: Bearer` wins over it.",
    },
    Setting {
        name: "jwt-in-query",
        value_name: "BOOL",
        kind: Kind::Switch,
        default: Some("false"),
        example: "true",
        heading: ACCESS,
        summary: "Look for a token in `?token=` too",
        details: "URLs end up in logs of proxies and in histories of browsers. A ticket, from \
                  POST /sse/ticket, is good for one stream only: prefer it.",
    },
    Setting {
        name: "allow-subscribe",
        value_name: "TEMPLATE",
        kind: Kind::Templates,
        default: None,
        example: "user:{sub}:*",
        heading: ACCESS,
        summary: "Let everybody with a token listen to these channels, beside those that the token names",
        details: "A pattern in which `{claim}` stands for the token's claim of this name, so that \
                  everybody has channels of their own. The flag can be repeated, `;` stands between \
                  templates in the environment variable, and the file has a list of them.",
    },
    Setting {
        name: "allow-publish",
        value_name: "TEMPLATE",
        kind: Kind::Templates,
        default: None,
        example: "from:{sub}",
        heading: ACCESS,
        summary: "Let everybody with a token publish to these channels, beside those that the token names",
        details: "Its form is that of `allow-subscribe`.",
    },
    Setting {
        name: "authorize-url",
        value_name: "URL",
        kind: Kind::HttpUrl,
        default: None,
        example: "http://127.0.0.1:9000/sse-auth",
        heading: ACCESS,
        summary: "Ask the application here whether somebody without a token may listen or publish",
        details: "It gets the cookies and the `Authorization` of the request, and answers 2xx, 401 or 403. \
                  Whatever else it answers, and when it does not, the answer is no. \
                  docs/access/authorize-url.md has the whole contract.",
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
        summary: "Take no answer of the application for a no after this long",
        details: "",
    },
    Setting {
        name: "redis-channels",
        value_name: "PATTERN",
        kind: Kind::ChannelPatterns,
        default: None,
        example: "news:*",
        heading: ACCESS,
        summary: "Let streams hear what other programs PUBLISH on these Redis channels",
        details: "Without it, all of them if access is open, and none if there are access rules. What is \
                  published through Headwater or its Redis function reaches every channel in any case. \
                  Names that begin with `headwater:` are never reachable.",
    },
    Setting {
        name: "cors-origin",
        value_name: "ORIGIN",
        kind: Kind::Origins,
        default: None,
        example: "https://app.example",
        heading: ACCESS,
        summary: "Let pages of this origin listen and publish, with their cookies",
        details: "`*` lets all pages, without their cookies. The flag can be repeated, `;` stands between \
                  origins in the environment variable, and the file has a list of them. It opens no \
                  channel: whether a page's user may listen is for the rules to say.",
    },
];
