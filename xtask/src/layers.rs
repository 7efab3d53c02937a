//! The layers of every crate: which file may import which, and which crate may depend on which.
//!
//! Look here when files move, or when `tidy` says that an import runs up a layer. ARCHITECTURE.md
//! explains the order.

/// The order of one crate. Cells stand between `|`; imports run to the left, or stay in their cell.
///
/// An entry is a file without `.rs`, or a folder with `/` at its end. A file belongs to the longest
/// entry that fits. A folder never imports another folder of its own cell. There is no circle
/// anywhere, and no file imports the `mod.rs` of a folder it is in.
pub(crate) struct Layers {
    /// The folder of the crate's root, from the root of the repository.
    pub(crate) folder: &'static str,
    pub(crate) order: &'static str,
}

pub(crate) const LAYERS: &[Layers] = &[
    Layers {
        folder: "crates/headwater-core/src",
        order: "limits error counter clock private_file budget/
            | quantity channel pattern event sse/
            | log/ gap close revocation publish
            | frame/ | stream/ | broker/ | memory/ | hub/
            | transport testing/ | lib",
    },
    Layers {
        folder: "crates/headwater/src",
        order: "limits problem last_event_id throttled_log
            | access/ | response/ | engine/ | serve/
            | testing lib",
    },
    Layers {
        folder: "crates/headwater-redis/src",
        order: "limits keys errors resp envelope ephemeral pace
            | connect | link | commands
            | library/ history
            | desired/ | node revocations
            | session/ reconcile publish | subscriber | broker | lib",
    },
    Layers {
        folder: "crates/headwater-server/src",
        order: "limits printable exit throttled_log | settings/value/ | settings/
            | outbound/ logging/ signals
            | client/ tls/ | access/ | app/ | sse/
            | metrics admin/ demo banner risks price
            | router | server | cli/ | main lib",
    },
    Layers {
        folder: "crates/headwater-bench/src",
        order: "limits error stamp socket
            | control framing process scanner server target window
            | floor/ worker/ publisher/ generator
            | options report | session | run
            | lib bin/floor bin/worker",
    },
    Layers {
        folder: "bench/compare/src",
        order: "programs sizes median measure startup | redis machine | contender | group | run
            | results scene | goals | table | main",
    },
    Layers {
        folder: "crates/soak/src",
        order: "id data log phase requests tally fault topology | result | ledger redis_calls
            | check/ start | counterexample scenario | connection world | outage
            | faults client publisher | round | storm hostile/ | lib main",
    },
    Layers {
        folder: "crates/test-support/src",
        order: "secrets wait ports process | http http2 proxy | stream redis_server node
            | tls versions
            | acme_server | lib",
    },
    Layers {
        folder: "xtask/src",
        order: "layers arguments repo report | tools | packages tidy/ | redis_servers
            | compare fuzz lint mutations soak
            test | main",
    },
];

/// What a crate may have under `[dependencies]`.
pub(crate) struct Dependencies {
    /// The folder of its `Cargo.toml`. One that does not exist yet is passed over.
    pub(crate) folder: &'static str,
    /// Crates of this workspace.
    pub(crate) ours: &'static [&'static str],
    /// All others that it may have; `None` is no rule.
    pub(crate) others: Option<&'static [&'static str]>,
}

pub(crate) const DEPENDENCIES: &[Dependencies] = &[
    Dependencies {
        folder: "crates/headwater-core",
        ours: &[],
        others: Some(&[
            "bytes",
            "crc32fast",
            "fastrand",
            "futures-core",
            "memchr",
            "serde",
            "serde_json",
            "slab",
            "tokio",
            "tracing",
        ]),
    },
    Dependencies {
        folder: "crates/headwater",
        ours: &["headwater-core", "headwater-redis"],
        others: None,
    },
    Dependencies { folder: "crates/headwater-redis", ours: &["headwater-core"], others: None },
    Dependencies {
        folder: "crates/headwater-server",
        ours: &["headwater-core", "headwater", "headwater-redis", "headwater-bench"],
        others: None,
    },
    Dependencies { folder: "crates/headwater-bench", ours: &[], others: None },
    Dependencies {
        folder: "crates/test-support",
        ours: &["headwater-core", "headwater", "headwater-redis"],
        others: None,
    },
    Dependencies {
        folder: "crates/soak",
        ours: &["headwater-core", "headwater", "headwater-redis", "headwater-test-support"],
        others: None,
    },
    Dependencies { folder: "bench/compare", ours: &["headwater-bench"], others: None },
    Dependencies { folder: "bench/contenders/axum", ours: &[], others: None },
    Dependencies { folder: "examples/own_broker", ours: &["headwater-core"], others: None },
    Dependencies { folder: "xtask", ours: &[], others: Some(&[]) },
];

/// Words that no file below a folder has, comments included.
pub(crate) const FORBIDDEN_WORDS: &[(&str, &[&str])] =
    &[("crates/headwater-core/src/", &["redis", "axum", "hyper", "mio", "rustls", "std::net"])];

/// Paths that only files below these folders may name: what is public for one crate only.
pub(crate) const RESERVED_PATHS: &[(&str, &[&str])] =
    &[("headwater_core::transport", &["crates/headwater/"])];
