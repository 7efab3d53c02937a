//! The data of the checker's events: channel, number, and padding of a known length. Look here for
//! what an event looks like on the wire.

use std::ops::Range;

use fastrand::Rng;

/// Ranges of padding in bytes, and the percentage of events in each. Small events are what most
/// programs send; large ones make sockets block and cut events in the middle.
const PADDING: &[(Range<usize>, u8)] = &[(0..40, 80), (40..300, 18), (1_000..8_000, 2)];

/// Encodes the data of an event.
pub fn encode(channel: &str, number: u64, rng: &mut Rng) -> String {
    let mut share = rng.u8(0..100);
    let mut length = 0;
    for (range, of_100) in PADDING {
        if share < *of_100 {
            length = rng.usize(range.clone());
            break;
        }
        share -= of_100;
    }
    // Each line of the data is a `data:` line on the wire.
    let padding: String = (0..length).map(|at| if at % 61 == 60 { '\n' } else { 'x' }).collect();
    format!("{channel} {number} {length} {padding}")
}

/// Decodes the channel and number of an event.
///
/// # Errors
/// What is wrong with the data.
pub fn decode(data: &str) -> Result<(&str, u64), String> {
    let mut words = data.splitn(4, ' ');
    let mut word = || words.next().ok_or_else(|| shown("is not an event of the checker", data));
    let (channel, number, length, padding) = (word()?, word()?, word()?, word()?);
    let number = number.parse().map_err(|_| shown("has no number", data))?;
    if length.parse() != Ok(padding.len()) {
        return Err(shown(&format!("has {} bytes of padding", padding.len()), data));
    }
    Ok((channel, number))
}

fn shown(what: &str, data: &str) -> String {
    let begin: String = data.chars().take(80).collect();
    format!("`{}` {what}", begin.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decoding_reverses_encoding() {
        let mut rng = Rng::with_seed(1);
        for number in 1..500 {
            let data = encode("soak.a", number, &mut rng);
            assert_eq!(decode(&data), Ok(("soak.a", number)));
            assert!(decode(&format!("{data}x")).is_err());
        }
        for broken in ["", "a", "a b 0 ", "a 1 2 "] {
            assert!(decode(broken).is_err(), "{broken}");
        }
    }
}
