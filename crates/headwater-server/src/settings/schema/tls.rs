//! The settings of TLS. Look here to add or change one.

use super::setting::{Kind, Setting};

const TLS: &str = "TLS";

pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        name: "tls-cert",
        value_name: "FILE",
        kind: Kind::File,
        default: None,
        example: "fullchain.pem",
        heading: TLS,
        summary: "Certificate chain for TLS on `listen`, a PEM file",
        details: "The server's certificate first, then the chain to the root. It is reloaded when \
                  it changes and at SIGHUP; open streams stay. `admin` does not use TLS.",
    },
    Setting {
        name: "tls-key",
        value_name: "FILE",
        kind: Kind::File,
        default: None,
        example: "privkey.pem",
        heading: TLS,
        summary: "Private key of the certificate, a PEM file",
        details: "Only the server should be able to read it.",
    },
    Setting {
        name: "acme-domain",
        value_name: "NAME",
        kind: Kind::Domains,
        default: None,
        example: "events.example.org",
        heading: TLS,
        summary: "Name for which a certificate is requested from Let's Encrypt, for TLS on \
                  `listen`",
        details: "Port 443 of the name must lead to `listen`: the ACME server connects there to \
                  verify that you control the name (TLS-ALPN-01, RFC 8737). Since the server can \
                  be reached by this name, it needs access rules or `open`, whatever `listen` is. \
                  The certificate is renewed when a third of its lifetime is left; open streams \
                  stay. By setting it you agree to the terms of service of the ACME server. The \
                  flag can be repeated, `;` stands between names in the environment variable, and \
                  the file has a list of them.",
    },
    Setting {
        name: "acme-dir",
        value_name: "DIRECTORY",
        kind: Kind::Directory,
        default: None,
        example: "headwater-acme",
        heading: TLS,
        summary: "Directory of the certificate, its key and the ACME account",
        details: "It is created if it does not exist, and only the server should be able to read \
                  it. Each server needs its own.",
    },
    Setting {
        name: "acme-contact",
        value_name: "ADDRESS",
        kind: Kind::Text,
        default: None,
        example: "ops@example.org",
        heading: TLS,
        summary: "E-mail address for the operator of the ACME server",
        details: "It is sent when the account is created, which is at the first start. To change \
                  it later, remove account.json from `acme-dir`.",
    },
    Setting {
        name: "acme-server",
        value_name: "URL",
        kind: Kind::HttpUrl,
        default: Some("https://acme-v02.api.letsencrypt.org/directory"),
        example: "https://acme-staging-v02.api.letsencrypt.org/directory",
        heading: TLS,
        summary: "URL of the ACME server's directory",
        details: "The example is Let's Encrypt's staging server, whose certificates browsers do \
                  not trust. Servers that require an external account are not supported.",
    },
];
