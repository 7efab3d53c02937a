//! Formats a counterexample for people: what was expected, what arrived, and the client's log with
//! the faults around it.

use std::fmt::Write as _;

use crate::check::{Counterexample, Violation};
use crate::id::Disorder;
use crate::ledger::Channel;
use crate::log::{ClientLog, Entry, Line};

/// Log lines shown before and after the violation.
const LINES_AROUND: usize = 12;

/// Last lines shown of the client's start before.
const LINES_BEFORE: usize = 8;

/// Names of channels shown for a client, at most.
const NAMES_SHOWN: usize = 5;

/// Missing events described one by one.
const MISSING_SHOWN: usize = 5;

/// A fault that was injected.
#[derive(Debug, Clone)]
pub struct Injected {
    /// When it began, in milliseconds since the start of the round.
    pub at_ms: u32,
    /// What was done.
    pub what: String,
    /// If data of Redis were replaced by an older copy: since when events are lost, in milliseconds
    /// since the start of the round.
    pub restored_since_ms: Option<u32>,
}

/// Formats a counterexample.
pub fn describe(
    found: &Counterexample,
    channels: &[Channel],
    clients: &[ClientLog],
    faults: &[Injected],
) -> String {
    let client = &clients[found.client];
    let names = |channel: usize| channels[channel].name.clone();
    let of_client: Vec<String> = client.channels.iter().map(|channel| names(*channel)).collect();
    let of_client = match of_client.len() {
        many if many > NAMES_SHOWN => format!("{many} channels"),
        _ => of_client.join(", "),
    };
    let mut text = format!("{} on {of_client}: ", client.name);
    text += &violation(&found.violation, channels);
    if client.name.contains(", start ") {
        let before = &clients[found.client - 1];
        // Writing to a String cannot fail.
        let _ = write!(text, "\n  the end of the log of {}:", before.name);
        let skipped = before.lines.len().saturating_sub(LINES_BEFORE);
        for line in &before.lines[skipped..] {
            let _ = write!(text, "\n            {}", shown_line(line, &names));
        }
    }
    let _ = writeln!(text, "\n  its log around line {}:", found.line);
    let last = match &found.violation {
        Violation::Missing { channel, .. } => next_of(client, found.line, *channel),
        _ => found.line,
    };
    let shown =
        found.line.saturating_sub(LINES_AROUND)..(last + LINES_AROUND).min(client.lines.len());
    let mut faults_shown = faults.iter().peekable();
    if let Some(first) = client.lines.get(shown.start) {
        // A fault shortly before the first line shown may be the cause.
        while faults_shown.peek().is_some_and(|fault| fault.at_ms + 5_000 < first.at_ms) {
            faults_shown.next();
        }
    }
    for (at, line) in client.lines.iter().enumerate().skip(shown.start).take(shown.len()) {
        while let Some(fault) = faults_shown.next_if(|fault| fault.at_ms <= line.at_ms) {
            let _ = writeln!(text, "    ------- {:>7} ms  FAULT  {}", fault.at_ms, fault.what);
        }
        let is_middle = at > found.line + LINES_AROUND && at + LINES_AROUND < last;
        if is_middle && matches!(line.entry, Entry::Event { .. }) {
            continue;
        }
        let _ = writeln!(text, "    {at:>7} {}", shown_line(line, &names));
    }
    text
}

fn shown_line(line: &Line, names: &dyn Fn(usize) -> String) -> String {
    line.shown(names)
}

/// The line of the next event of a channel after a line, or the end of the log.
fn next_of(client: &ClientLog, line: usize, channel: usize) -> usize {
    let is_next =
        |line: &Line| matches!(&line.entry, Entry::Event { channel: of, .. } if *of == channel);
    let rest = client.lines.iter().skip(line + 1);
    rest.clone().position(is_next).map_or(client.lines.len(), |at| line + 1 + at)
}

fn violation(violation: &Violation, channels: &[Channel]) -> String {
    let name = |channel: &usize| &channels[*channel].name;
    let published = |channel: &usize, number: u64| {
        let event = channels[*channel].event(number);
        event.map_or("never published".to_owned(), ToString::to_string)
    };
    match violation {
        Violation::Missing { channel, numbers } => {
            let mut text = format!(
                "LOST {} event(s) of {}, which the rules forbid or no gap event reports:",
                numbers.len(),
                name(channel)
            );
            for number in numbers.iter().take(MISSING_SHOWN) {
                let _ = write!(text, "\n  expected {number}: {}", published(channel, *number));
            }
            if let (true, Some(last)) = (numbers.len() > MISSING_SHOWN, numbers.last()) {
                let _ = write!(text, "\n  ... up to {last}: {}", published(channel, *last));
            }
            text
        }
        Violation::Twice { channel, number, first_line } => format!(
            "{} {number} arrived TWICE, first at line {first_line} ({})",
            name(channel),
            published(channel, *number)
        ),
        Violation::OutOfOrder { channel, number, before } => format!(
            "{} {number} arrived after {before}\n  {number}: {}\n  {before}: {}",
            name(channel),
            published(channel, *number),
            published(channel, *before)
        ),
        Violation::Position { id, disorder } => format!(
            "the id {id} {}",
            match disorder {
                Disorder::Back => "is not after the one before it",
                Disorder::NewEpoch => "has a new epoch, though the log lost no data",
                Disorder::OldEpoch => "has an epoch that had ended",
            }
        ),
        Violation::OtherId { id, first } => {
            format!("the id {id} differs from the first one seen for this event: {first}")
        }
        Violation::SameId { id, first: (channel, number) } => {
            format!("the id {id} is also that of another event: {} {number}", name(channel))
        }
        Violation::InvalidId(id) => format!("`{}` is not a valid id", id.escape_debug()),
        Violation::FalseGap { channel } => {
            format!("a gap event for {}, though nothing can be missing", name(channel))
        }
        Violation::SilentEpoch => "the log was reset without a gap event".to_owned(),
        Violation::Alien(what) => what.clone(),
        Violation::Rejected(status) => format!("a stream was rejected with {status}"),
        Violation::NeverOpened => "no stream ever opened".to_owned(),
    }
}
