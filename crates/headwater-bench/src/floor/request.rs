//! The two requests that the floor understands. Look here for how little of HTTP it parses.

use memchr::memmem;

/// A request.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Request<'a> {
    Stream { channel: &'a str },
    Publish { channel: &'a str, data: &'a [u8] },
    Other,
}

/// The first request, and its length; `None` while it is incomplete.
pub(super) fn parse(input: &[u8]) -> Option<(Request<'_>, usize)> {
    let head_bytes = memmem::find(input, b"\r\n\r\n")? + 4;
    let head = std::str::from_utf8(&input[..head_bytes]).unwrap_or_default();
    let body_bytes = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .map_or(0, |(_, value)| value.trim().parse().unwrap_or(0));
    let body = input[head_bytes..].get(..body_bytes)?;
    let mut words = head.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let channel = query.strip_prefix("channel=").unwrap_or("default");
    let request = match (method, path) {
        ("GET", "/sse/stream") => Request::Stream { channel },
        ("POST", "/sse/publish") => Request::Publish { channel, data: body },
        _ => Request::Other,
    };
    Some((request, head_bytes + body_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complete_requests_are_parsed() {
        let get = b"GET /sse/stream?channel=a HTTP/1.1\r\nHost: x\r\n\r\n";
        assert_eq!(parse(get), Some((Request::Stream { channel: "a" }, get.len())));
        let post = b"POST /sse/publish?channel=b HTTP/1.1\r\ncontent-length: 5\r\n\r\nhelloGET";
        let expected = (Request::Publish { channel: "b", data: b"hello" }, post.len() - 3);
        assert_eq!(parse(post), Some(expected));
        assert_eq!(parse(&post[..post.len() - 4]), None);
        assert_eq!(parse(b"GET / HTTP/1.1\r\n\r\n"), Some((Request::Other, 18)));
    }
}
