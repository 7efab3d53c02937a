//! Settings of addresses, proxies and shutdown. Look here to add or change one.

use std::time::Duration;

use super::setting::{Kind, MINUTE, Setting};

const PROXY: &str = "Behind a proxy";
const STOPPING_HEADING: &str = "Stopping";

/// The heading of addresses, and of where Redis is.
pub(super) const WHERE: &str = "Where";

pub(super) const ADDRESSES: &[Setting] = &[
    Setting {
        name: "listen",
        value_name: "ADDRESS:PORT",
        kind: Kind::Address,
        default: Some("127.0.0.1:8000"),
        example: "127.0.0.1:8080",
        heading: WHERE,
        summary: "Address of streams, publishing and the demo page",
        details: "`localhost` means 127.0.0.1, and port 0 picks a free port. An address that other \
                  machines can reach needs access rules, or `open`.",
    },
    Setting {
        name: "admin",
        value_name: "ADDRESS:PORT",
        kind: Kind::Address,
        default: None,
        example: "127.0.0.1:9000",
        heading: WHERE,
        summary: "Address of /health/live, /health/ready, /metrics and /admin/streams",
        details: "Without it, `listen` serves them if it is a loopback address, to programs of \
                  this machine only and not through a proxy; otherwise they are not served at \
                  all. An address that other machines can reach needs access rules or `open`; \
                  with `open`, streams cannot be closed there.",
    },
    Setting {
        name: "ready-requires",
        value_name: "PARTS",
        kind: Kind::ReadyParts,
        default: Some("delivers,keeps,reads,access"),
        example: "delivers,access",
        heading: WHERE,
        summary: "Parts that must work for /health/ready to answer 200",
        details: "A request can name others: `/health/ready?parts=delivers`. The answer shows all \
                  parts in any case, and metrics do too.",
    },
];

pub(super) const OPEN: &[Setting] = &[
    Setting {
        name: "open",
        value_name: "BOOL",
        kind: Kind::Switch,
        default: Some("false"),
        example: "true",
        heading: WHERE,
        summary: "Allow every client that can reach `listen` to subscribe and publish to all \
                  channels",
        details: "An address that other machines reach needs this or access rules. That is every \
                  address other than loopback, and also a loopback address with a certificate, \
                  `trusted-proxy` or `proxy-protocol`. The two cannot be combined: under access \
                  rules, only what they allow is open.",
    },
    Setting {
        name: "allowed-host",
        value_name: "NAME",
        kind: Kind::Domains,
        default: None,
        example: "events.test",
        heading: WHERE,
        summary: "Host names, besides those of this machine, by which an open loopback address \
                  can be used",
        details: "Without access rules, a loopback address answers to `localhost`, names below it \
                  and loopback addresses only, so that no page on the web can reach it under a \
                  name of its own (DNS rebinding). The flag can be repeated, `;` stands between \
                  names in the environment variable, and the file has a list of them.",
    },
];

pub(super) const PROXIES: &[Setting] = &[
    Setting {
        name: "trusted-proxy",
        value_name: "NETWORK",
        kind: Kind::Networks,
        default: None,
        example: "10.0.0.0/8",
        heading: PROXY,
        summary: "Networks of trusted reverse proxies",
        details: "A network, or a single address. The flag can be repeated, `;` stands between \
                  networks in the environment variable, and the file has a list of them. How \
                  proxies report a client's address is set by `client-address-header`, \
                  `proxy-protocol`, or both.",
    },
    Setting {
        name: "client-address-header",
        value_name: "NAME",
        kind: Kind::Choice(&["X-Forwarded-For", "Forwarded", "X-Real-IP"]),
        default: None,
        example: "X-Forwarded-For",
        heading: PROXY,
        summary: "Header in which trusted proxies send the client's address",
        details: "If it has several addresses, the last one that is not a trusted proxy's counts.",
    },
    Setting {
        name: "proxy-protocol",
        value_name: "BOOL",
        kind: Kind::Switch,
        default: Some("false"),
        example: "true",
        heading: PROXY,
        summary: "Expect the PROXY protocol, version 1 or 2, on every connection to `listen`",
        details: "Only trusted proxies can connect then. The header precedes TLS.",
    },
];

pub(super) const STOPPING: &[Setting] = &[Setting {
    name: "drain-timeout",
    value_name: "DURATION",
    kind: Kind::Duration { min: Duration::ZERO, max: MINUTE.saturating_mul(10), off: false },
    default: Some("10s"),
    example: "30s",
    heading: STOPPING_HEADING,
    summary: "Shutdown grace period",
    details: "Time for streams and requests to end after SIGTERM or SIGINT; a second signal stops \
              the server at once.",
}];
