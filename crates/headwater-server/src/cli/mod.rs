//! The command line: arguments, commands and exit codes. Look here for `--help`.

mod bench;
mod check;
mod follow;
mod output;
mod publish;
mod subscribe;
mod target;
mod token;

use std::env;
use std::future::Future;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::runtime;

use crate::exit::{Failure, exit_code};
use crate::limits::TASKS_PER_POLL;
use crate::settings::{Flags, LogFilter, LogFormat, LogSettings, Settings};
use crate::{logging, server};

use self::publish::Publish;
use self::subscribe::Subscribe;
use self::token::Token;

/// Push events to browsers: publish to a channel, and every connected subscriber receives it.
///
/// Without a command, `headwater` runs `serve` with settings from the environment and the defaults.
#[derive(Parser)]
#[command(name = "headwater", version, after_help = EXAMPLES, max_term_width = 100)]
struct CommandLine {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve streams, publishing and the demo page
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<Flags>),
    Publish(Publish),
    Subscribe(Subscribe),
    Bench(Box<bench::BenchOptions>),
    Token(Token),
    /// Check that a server with these settings would work: settings, keys, application, Redis
    #[command(after_help = CHECK_EXAMPLES)]
    Check(Box<Flags>),
}

const EXAMPLES: &str = "\
Examples:
  headwater                                            serve on 127.0.0.1:8000
  headwater serve --redis redis://127.0.0.1:6379       and deliver `redis-cli PUBLISH` to browsers
  headwater subscribe news                             print what is published to the channel news
  headwater publish news 'hello, browsers'             publish to it
  headwater bench                                      measure the capacity of a server";

const CHECK_EXAMPLES: &str = "\
Examples:
  headwater check --config headwater.toml
  headwater check --redis redis://127.0.0.1:6379 --jwt-secret-file jwt-secret.txt

It takes the settings of `headwater serve`, and starts nothing.
The exit code is 1 if something would not work.";

const SERVE_EXAMPLES: &str = "\
Examples:
  headwater serve                                      on 127.0.0.1:8000, with the embedded broker
  headwater serve --redis redis://127.0.0.1:6379       events travel through Redis
  headwater serve --jwt-secret-file jwt-secret.txt     for clients whose tokens allow it
  headwater serve --listen 0.0.0.0:8000 --open         for anybody who can reach this machine
  HEADWATER_LINGER=2s headwater serve                  every setting is an environment variable too
  headwater serve --config headwater.toml              and a key in a TOML file

A flag wins over the environment, the environment over the file. See docs/configuration.md.";

/// Runs what the command line says.
pub fn main() -> ExitCode {
    // For `rediss://`. It fails only if there is one already, which nothing installs before.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let command_line = match CommandLine::try_parse() {
        Ok(command_line) => command_line,
        Err(answer) => return print_answer(&answer),
    };
    exit_code(run(command_line.command.unwrap_or_else(|| Command::Serve(Box::default()))))
}

fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(flags) => {
            let (settings, places) = Settings::load_with_places(&flags, env::vars_os())?;
            logging::start(&settings.log);
            let mut builder = runtime::Builder::new_multi_thread();
            builder.event_interval(TASKS_PER_POLL);
            block_on(builder, async { Ok(server::serve(settings, places).await?) })
        }
        Command::Publish(publish) => {
            start_client_logging()?;
            block_on(runtime::Builder::new_current_thread(), publish.run())
        }
        Command::Token(token) => token.run(),
        Command::Check(flags) => {
            let (settings, places) = Settings::load_with_places(&flags, env::vars_os())?;
            start_client_logging()?;
            block_on(runtime::Builder::new_current_thread(), check::run(settings, places))
        }
        Command::Subscribe(subscribe) => {
            start_client_logging()?;
            block_on(runtime::Builder::new_current_thread(), subscribe.run())
        }
        // It has a loop of its own, so there is no runtime to start.
        Command::Bench(options) => bench::run(&options),
    }
}

fn block_on(
    mut builder: runtime::Builder,
    future: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let runtime = builder.enable_all().build().map_err(|error| {
        Failure::Failed(anyhow::Error::new(error).context("cannot start the runtime"))
    })?;
    let result = runtime.block_on(future);
    // A thread that waits in a system call, for a name to resolve, must not hold the exit back.
    runtime.shutdown_background();
    result
}

/// Client commands print their own notices; the log is for messages of the library.
fn start_client_logging() -> Result<(), Failure> {
    let text = env::var("HEADWATER_LOG").unwrap_or_default();
    let text = if text.is_empty() { "warn" } else { &text };
    let filter: LogFilter =
        text.parse().map_err(|why| Failure::Usage(format!("HEADWATER_LOG={text}: {why}")))?;
    logging::start(&LogSettings { filter, format: LogFormat::Text });
    Ok(())
}

/// Help, the version, or an error in the arguments. clap repeats what it cannot parse, which may be
/// a URL with a password.
fn print_answer(answer: &clap::Error) -> ExitCode {
    if !answer.use_stderr() {
        let _ = answer.print();
        return ExitCode::SUCCESS;
    }
    let text = answer.render();
    let text = if io::stderr().is_terminal() { text.ansi().to_string() } else { text.to_string() };
    let _ = write!(io::stderr(), "{}", without_credentials(&text));
    ExitCode::from(2)
}

/// The text with `…` for what stands between `://` and the last `@` of the same word.
fn without_credentials(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        shown.push_str(before);
        let word = &after[..after.find(char::is_whitespace).unwrap_or(after.len())];
        let host = word.rfind('@').unwrap_or(0);
        if host > 0 {
            shown.push('…');
        }
        rest = &after[host..];
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        <CommandLine as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn credentials_are_not_repeated() {
        #[track_caller]
        fn check(text: &str, expected: &str) {
            assert_eq!(without_credentials(text), expected);
        }
        check("nothing to hide", "nothing to hide");
        check("'redis://me:s3cret@host' and more", "'redis://…@host' and more");
        check("redis://a:b@h redis://c:d@e@i", "redis://…@h redis://…@i");
        check("see https://example.org, me@example.org", "see https://example.org, me@example.org");
    }
}
