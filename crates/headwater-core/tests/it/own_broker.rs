//! The example of a broker that is implemented outside this crate.

use std::process::Command;

#[test]
fn it_fulfils_the_contract_in_under_80_lines() {
    let source = include_str!("../../../../examples/own_broker.rs");
    assert!(source.lines().count() < 80);
    // Cargo builds the examples next to the tests.
    let tests = std::env::current_exe().unwrap();
    let example = tests.ancestors().nth(2).unwrap().join("examples").join("own_broker");
    let status = Command::new(&example).status();
    let status = status.unwrap_or_else(|error| panic!("{}: {error}", example.display()));
    assert!(status.success());
}
