//! `headwater-floor`: the smallest server of event streams, to compare with; see the module
//! `floor`.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser as _;

/// The smallest possible server of event streams, as the base of comparisons
///
/// It serves GET /sse/stream?channel= and POST /sse/publish?channel=, and nothing else.
#[derive(clap::Parser)]
#[command(name = "headwater-floor")]
struct CommandLine {
    /// Address to listen on
    #[arg(value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Redis to subscribe to
    #[arg(long, value_name = "ADDRESS:PORT")]
    redis: Option<SocketAddr>,
}

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    match headwater_bench::floor::run(command_line.listen, command_line.redis) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
