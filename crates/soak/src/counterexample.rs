//! A counterexample as a person reads it: what should have been, what was, and the client's log and the
//! faults around it.

use std::fmt::Write as _;

use crate::check::{Counterexample, Violation};
use crate::id::Disorder;
use crate::ledger::Channel;
use crate::log::{ClientLog, Entry, Line};

/// Lines of the log shown before and after the place.
const LINES_AROUND: usize = 12;

/// Most missing numbers that are described one by one.
const MISSING_SHOWN: usize = 5;

/// A fault that was injected.
#[derive(Debug, Clone)]
pub struct Injected {
    /// When it began, in milliseconds since the beginning of the round.
    pub at_ms: u32,
    /// What it was.
    pub what: String,
}

/// Describes a counterexample.
pub fn describe(
    found: &Counterexample,
    channels: &[Channel],
    clients: &[ClientLog],
    faults: &[Injected],
) -> String {
    let client = &clients[found.client];
    let names = |channel: usize| channels[channel].name.clone();
    let of_client: Vec<String> = client.channels.iter().map(|channel| names(*channel)).collect();
    let mut text = format!("{} on {}: ", client.name, of_client.join(", "));
    text += &violation(&found.violation, channels);
    // Writing to a String cannot fail.
    let _ = writeln!(text, "\n  its log around line {}:", found.line);
    let last = match &found.violation {
        Violation::Missing { channel, .. } => next_of(client, found.line, *channel),
        _ => found.line,
    };
    let shown =
        found.line.saturating_sub(LINES_AROUND)..(last + LINES_AROUND).min(client.lines.len());
    let mut faults_shown = faults.iter().peekable();
    if let Some(first) = client.lines.get(shown.start) {
        // The last fault before what is shown may be the cause.
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

/// The line of the next event of a channel after a line, or the last one.
fn next_of(client: &ClientLog, line: usize, channel: usize) -> usize {
    let is_next =
        |line: &Line| matches!(&line.entry, Entry::Event { channel: of, .. } if *of == channel);
    let rest = client.lines.iter().skip(line + 1);
    rest.clone().position(is_next).map_or(client.lines.len(), |at| line + 1 + at)
}

fn violation(violation: &Violation, channels: &[Channel]) -> String {
    let name = |channel: &usize| &channels[*channel].name;
    let told = |channel: &usize, number: u64| {
        let event = channels[*channel].event(number);
        event.map_or("never published".to_owned(), ToString::to_string)
    };
    match violation {
        Violation::Missing { channel, numbers } => {
            let mut text = format!(
                "LOST {} event(s) of {}, though none may be missing, or without a gap in their place:",
                numbers.len(),
                name(channel)
            );
            for number in numbers.iter().take(MISSING_SHOWN) {
                let _ = write!(text, "\n  expected {number}: {}", told(channel, *number));
            }
            if let (true, Some(last)) = (numbers.len() > MISSING_SHOWN, numbers.last()) {
                let _ = write!(text, "\n  ... up to {last}: {}", told(channel, *last));
            }
            text
        }
        Violation::Twice { channel, number, first_line } => format!(
            "{} {number} came TWICE, first at line {first_line} ({})",
            name(channel),
            told(channel, *number)
        ),
        Violation::OutOfOrder { channel, number, before } => format!(
            "{} {number} came after {before}\n  {number}: {}\n  {before}: {}",
            name(channel),
            told(channel, *number),
            told(channel, *before)
        ),
        Violation::Position { id, disorder } => format!(
            "the id {id} {}",
            match disorder {
                Disorder::Back => "is not after the one before it",
                Disorder::NewEpoch => "is of a new epoch, though the log lost no data",
                Disorder::OldEpoch => "is of an epoch that was over",
            }
        ),
        Violation::OtherId { id, first } => {
            format!("the id {id} is another than was told first for this event: {first}")
        }
        Violation::SameId { id, first: (channel, number) } => {
            format!("the id {id} is that of another event too: {} {number}", name(channel))
        }
        Violation::StrangeId(id) => format!("{id:?} is no id"),
        Violation::FalseGap { channel } => {
            format!("a gap in {} was announced, and nothing can be missing", name(channel))
        }
        Violation::SilentEpoch => "the log began anew, and no gap was announced".to_owned(),
        Violation::Alien(what) => what.clone(),
        Violation::Refused(status) => format!("a stream was refused with {status}"),
        Violation::NeverOpened => "it never had a stream".to_owned(),
    }
}
