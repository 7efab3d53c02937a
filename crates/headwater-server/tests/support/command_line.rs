//! Runs the binary `headwater` and reads its output, its notices and its exit code. Look here for
//! the environment of the child.

use std::process::{Output, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::BINARY;

/// Timeout for everything in a test.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The binary, without settings from the environment.
pub(crate) fn headwater(arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) async fn run(arguments: &[&str]) -> (i32, String, String) {
    outcome(
        timeout(DEADLINE, headwater(arguments).output()).await.expect("it ends").expect("it runs"),
    )
}

pub(crate) async fn run_with_input(arguments: &[&str], input: &[u8]) -> (i32, String, String) {
    let mut child = headwater(arguments).stdin(Stdio::piped()).spawn().expect("it runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    // It may exit before it has read everything.
    let _ = stdin.write_all(input).await;
    drop(stdin);
    let output = timeout(DEADLINE, child.wait_with_output()).await.expect("it ends");
    outcome(output.expect("it is read"))
}

pub(crate) fn outcome(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("output is UTF-8");
    let code = output.status.code().expect("it was not killed");
    (code, text(output.stdout), text(output.stderr))
}

/// Reads notices until one contains the text.
pub(crate) async fn wait_for_notice(child: &mut Child, text: &str) {
    let stderr = child.stderr.take().expect("a pipe");
    let mut lines = BufReader::new(stderr).lines();
    let found = timeout(DEADLINE, async {
        while let Some(line) = lines.next_line().await.expect("it is read") {
            if line.contains(text) {
                return;
            }
        }
        panic!("it ended without {text:?}");
    });
    found.await.unwrap_or_else(|_| panic!("no {text:?} in time"));
    child.stderr = Some(lines.into_inner().into_inner());
}
