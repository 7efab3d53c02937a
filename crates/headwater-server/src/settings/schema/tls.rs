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
        details: "The server's certificate first, then those that lead to the root. It is read \
                  again when it changes and at SIGHUP; open streams stay. `admin` speaks no TLS.",
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
        details: "Port 443 of the name must lead to `listen`: there the ACME server verifies that \
                  the name is yours (TLS-ALPN-01, RFC 8737). Since others reach the server by this \
                  name, it needs access rules or `open`, whatever `listen` is. The certificate is \
                  renewed when a third of its time is left; open streams stay. Setting it means \
                  agreeing to the terms of the ACME server. The flag can be repeated, `;` stands \
                  between names in the environment variable, and the file has a list of them.",
    },
    Setting {
        name: "acme-dir",
        value_name: "DIRECTORY",
        kind: Kind::Directory,
        default: None,
        example: "headwater-acme",
        heading: TLS,
        summary: "Directory of the certificate, its key and the ACME account",
        details: "It is made if it does not exist, and only the server should be able to read it. \
                  Each server needs its own.",
    },
    Setting {
        name: "acme-contact",
        value_name: "ADDRESS",
        kind: Kind::Text,
        default: None,
        example: "ops@example.org",
        heading: TLS,
        summary: "E-mail address for the operator of the ACME server",
        details: "It is sent when the account is made, which is at the first start. To change it \
                  later, remove account.json from `acme-dir`.",
    },
    Setting {
        name: "acme-server",
        value_name: "URL",
        kind: Kind::HttpUrl,
        default: Some("https://acme-v02.api.letsencrypt.org/directory"),
        example: "https://acme-staging-v02.api.letsencrypt.org/directory",
        heading: TLS,
        summary: "URL of the ACME server's directory",
        details: "With the example, Let's Encrypt's server for tests, browsers do not trust the \
                  certificates. Servers that require an external account are not supported.",
    },
];
