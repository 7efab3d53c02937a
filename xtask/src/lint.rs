//! `cargo xtask lint`: everything CI checks without running the product.
//!
//! Look here for the exact commands and flags. The rules for the files themselves are in `tidy/`.

use crate::report::{Report, run as run_command};
use crate::tools::{self, Tool};
use crate::{repo, tidy as rules};

const FUZZ: &[&str] = &["--manifest-path", "fuzz/Cargo.toml"];

/// Sets of features that compile on their own: each feature of the libraries alone, and none. CI's
/// workflow checks all sets.
const FEATURES: &[(&str, &[&str])] = &[
    ("headwater-core", &["", "hub"]),
    ("headwater-redis", &["", "tls"]),
    ("headwater", &["", "serve", "tls", "redis", "redis-tls", "testing"]),
];

/// Runs all checks, the quick ones first.
pub(crate) fn run(report: &mut Report, install: bool) {
    report.step("formatting", || cargo(&["fmt", "--all", "--check"]));
    tidy(report, rules::Options::default());
    report.step("clippy", || {
        cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--all-features",
            "--locked",
            "--",
            "-D",
            "warnings",
        ])
    });
    report.step("documentation", documentation);
    report.step("each feature alone", features);
    report.step("fuzz targets", || fuzz_targets(install));
}

/// Only the rules for files, imports and words: takes no time.
pub(crate) fn tidy(report: &mut Report, options: rules::Options) {
    report.step("tidy", || rules::run(options));
}

fn documentation() -> Result<(), String> {
    let mut cargo = repo::cargo();
    cargo.args([
        "doc",
        "--workspace",
        "--no-deps",
        "--document-private-items",
        "--all-features",
        "--locked",
    ]);
    run_command(cargo.env("RUSTDOCFLAGS", "-D warnings"))
}

fn features() -> Result<(), String> {
    for (package, sets) in FEATURES {
        for features in *sets {
            let mut check = repo::cargo();
            check.args(["check", "--package", package, "--no-default-features", "--locked"]);
            check.args(["--features", features]);
            run_command(&mut check)?;
        }
    }
    Ok(())
}

/// They are a workspace of their own, and build libFuzzer from C++.
fn fuzz_targets(install: bool) -> Result<(), String> {
    tools::provide(&[Tool::CppCompiler], install)?;
    cargo(&[&["fmt"], FUZZ, &["--check"]].concat())?;
    // Into our own folder: what the fuzz targets share with the workspace is built already.
    let mut check = repo::cargo();
    check.arg("check").args(FUZZ).arg("--target-dir").arg(repo::target_dir());
    run_command(&mut check)
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    run_command(repo::cargo().args(arguments))
}
