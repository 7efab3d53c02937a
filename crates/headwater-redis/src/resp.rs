//! Redis' protocol (RESP2 and RESP3), as far as a subscriber needs it. It does no IO. Look here for
//! how replies are parsed; the source is the "Redis serialization protocol specification" in Redis'
//! documentation.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};

use crate::limits::REDIS_MESSAGE_BYTES_MAX;
use headwater_core::{Error, ErrorKind};

/// Longest line of a header or a simple value; lines from Redis are far shorter.
const LINE_BYTES_MAX: usize = 64 << 10;
/// Maximum nesting: the answer to HELLO is a map that holds a list.
const DEPTH_MAX: usize = 4;
/// Maximum number of values in one aggregate: a push has three, the answer to HELLO fourteen.
const ITEMS_MAX: usize = 1024;

/// A value, borrowed from the read buffer.
#[derive(Debug, PartialEq)]
pub(crate) enum Value<'a> {
    /// A simple, bulk or verbatim string, a big number, a double or a boolean, as bytes.
    Text(&'a [u8]),
    Error(&'a [u8]),
    Integer(i64),
    /// Any aggregate; a map's keys and values alternate.
    List(Vec<Value<'a>>),
    Null,
}

/// The result of parsing the buffer.
#[derive(Debug, PartialEq)]
pub(crate) enum Parsed<'a> {
    /// A value, and its length in bytes.
    Value(Value<'a>, usize),
    /// An incomplete value: the buffer needs at least this many bytes in total.
    Incomplete(usize),
}

/// Parses the value at the start of the buffer. Its cost does not grow with the length of texts, so
/// it can be called again for each piece that arrives.
pub(crate) fn parse(buffer: &[u8]) -> Result<Parsed<'_>, Error> {
    let mut cursor = Cursor { buffer, at: 0 };
    match cursor.value(0) {
        Ok(value) => Ok(Parsed::Value(value, cursor.at)),
        Err(Stop::Incomplete(needed)) => Ok(Parsed::Incomplete(needed)),
        Err(Stop::Broken(what)) => Err(Error::new(
            ErrorKind::Protocol,
            format!("received bytes that are not Redis' protocol: {what}"),
        )),
    }
}

/// Writes a command.
pub(crate) fn encode_command<'a>(
    words: impl IntoIterator<Item = &'a [u8], IntoIter: ExactSizeIterator>,
    out: &mut BytesMut,
) {
    let words = words.into_iter();
    // Writing to memory does not fail.
    let _ = write!(out, "*{}\r\n", words.len());
    for word in words {
        let _ = write!(out, "${}\r\n", word.len());
        out.put_slice(word);
        out.put_slice(b"\r\n");
    }
}

enum Stop {
    Incomplete(usize),
    Broken(&'static str),
}

struct Cursor<'a> {
    buffer: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn value(&mut self, depth: usize) -> Result<Value<'a>, Stop> {
        let line = self.line()?;
        let (&kind, rest) = line.split_first().ok_or(Stop::Broken("an empty line"))?;
        match kind {
            b'+' | b',' | b'(' | b'#' => Ok(Value::Text(rest)),
            b'-' => Ok(Value::Error(rest)),
            b':' => Ok(Value::Integer(number(rest)?)),
            b'_' => Ok(Value::Null),
            b'$' | b'=' | b'!' => match length(rest, REDIS_MESSAGE_BYTES_MAX)? {
                Some(length) => {
                    let text = self.text(length)?;
                    Ok(if kind == b'!' { Value::Error(text) } else { Value::Text(text) })
                }
                None => Ok(Value::Null),
            },
            b'*' | b'>' | b'~' | b'%' => match length(rest, ITEMS_MAX)? {
                Some(items) => self.list(if kind == b'%' { 2 * items } else { items }, depth),
                None => Ok(Value::Null),
            },
            _ => Err(Stop::Broken("a value of an unknown type")),
        }
    }

    fn list(&mut self, items: usize, depth: usize) -> Result<Value<'a>, Stop> {
        if depth == DEPTH_MAX {
            return Err(Stop::Broken("lists that are nested too deeply"));
        }
        (0..items).map(|_| self.value(depth + 1)).collect::<Result<_, _>>().map(Value::List)
    }

    fn line(&mut self) -> Result<&'a [u8], Stop> {
        let rest = &self.buffer[self.at..];
        let Some(end) = memchr::memchr(b'\n', &rest[..rest.len().min(LINE_BYTES_MAX)]) else {
            return Err(if rest.len() < LINE_BYTES_MAX {
                Stop::Incomplete(self.buffer.len() + 1)
            } else {
                Stop::Broken("a line without an end")
            });
        };
        self.at += end + 1;
        rest[..end].strip_suffix(b"\r").ok_or(Stop::Broken("a line that does not end in CRLF"))
    }

    fn text(&mut self, length: usize) -> Result<&'a [u8], Stop> {
        let end = self.at + length;
        if self.buffer.len() < end + 2 {
            return Err(Stop::Incomplete(end + 2));
        }
        let text = &self.buffer[self.at..end];
        if &self.buffer[end..end + 2] != b"\r\n" {
            return Err(Stop::Broken("a text that does not end in CRLF"));
        }
        self.at = end + 2;
        Ok(text)
    }
}

fn number(digits: &[u8]) -> Result<i64, Stop> {
    std::str::from_utf8(digits)
        .ok()
        .and_then(|digits| digits.parse().ok())
        .ok_or(Stop::Broken("an invalid number"))
}

/// A length; `None` is RESP2's null.
fn length(digits: &[u8], length_max: usize) -> Result<Option<usize>, Stop> {
    match number(digits)? {
        -1 => Ok(None),
        length => usize::try_from(length)
            .ok()
            .filter(|length| *length <= length_max)
            .map(Some)
            .ok_or(Stop::Broken("a length out of bounds")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value<'_> {
        Value::Text(text.as_bytes())
    }

    #[track_caller]
    fn check(input: &str, expected: Value<'_>) {
        let whole = format!("{input}rest");
        let parsed = parse(whole.as_bytes()).unwrap();
        assert_eq!(parsed, Parsed::Value(expected, input.len()));
        for cut in 0..input.len() {
            match parse(&input.as_bytes()[..cut]) {
                Ok(Parsed::Incomplete(needed)) => {
                    assert!(needed > cut && needed <= input.len(), "{needed} at {cut}");
                }
                other => panic!("{other:?} at {cut}"),
            }
        }
    }

    #[test]
    fn complete_values_are_parsed_and_partial_ones_ask_for_more() {
        check("+OK\r\n", text("OK"));
        check("-NOAUTH no\r\n", Value::Error(b"NOAUTH no"));
        check(":-42\r\n", Value::Integer(-42));
        check("$5\r\na\r\nbc\r\n", text("a\r\nbc"));
        check("$0\r\n\r\n", text(""));
        check("$-1\r\n", Value::Null);
        check("_\r\n", Value::Null);
        check(
            ">3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n",
            Value::List(vec![text("message"), text("c"), text("hi")]),
        );
        check(
            "%1\r\n$1\r\nk\r\n*2\r\n:1\r\n#t\r\n",
            Value::List(vec![text("k"), Value::List(vec![Value::Integer(1), text("t")])]),
        );
    }

    #[test]
    fn bytes_that_are_not_resp_are_rejected() {
        for broken in [
            "?\r\n",
            "\r\n",
            "+OK\n",
            ":x\r\n",
            "$x\r\n",
            "$-2\r\n",
            "*9999999\r\n",
            "$99999999999\r\n",
            "$1\r\nabc\r\n",
            "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
        ] {
            assert!(parse(broken.as_bytes()).is_err(), "{broken:?}");
        }
        assert!(parse(&vec![b'+'; LINE_BYTES_MAX]).is_err());
    }

    #[test]
    fn commands_are_encoded_as_lists_of_texts() {
        let mut out = BytesMut::new();
        encode_command([b"PUBLISH".as_slice(), b"c", b""], &mut out);
        assert_eq!(out, "*3\r\n$7\r\nPUBLISH\r\n$1\r\nc\r\n$0\r\n\r\n");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
