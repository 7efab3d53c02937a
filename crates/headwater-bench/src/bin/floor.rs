//! `headwater-floor`: the smallest server of event streams, to compare with. Look in `floor/` for what it does.

use std::net::SocketAddr;
use std::process::ExitCode;

use clap::Parser as _;

/// The smallest possible server of event streams: what others are compared with.
///
/// It has the paths of headwater, GET /sse/stream?channel= and POST /sse/publish?channel=, and nothing else.
#[derive(clap::Parser)]
#[command(name = "headwater-floor")]
struct CommandLine {
    /// Serve on this address
    #[arg(value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// Take what this Redis publishes
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
