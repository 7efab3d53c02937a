//! Runs a command of the binary without an environment. Look here for what its output is searched
//! for.

use headwater_test_support::secrets;
use tokio::process::Command;

use crate::support::BINARY;

pub(crate) async fn run(arguments: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_clear().envs(variables.iter().copied()).kill_on_drop(true);
    let output = tokio::time::timeout(headwater_test_support::PATIENCE, command.output()).await;
    let output = output.expect("it ends in time").expect("it runs");
    let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
    secrets::search("what it says", &text);
    (output.status.code(), text)
}
