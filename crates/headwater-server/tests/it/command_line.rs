//! The binary `headwater`, run as a user runs it: arguments, standard streams, exit codes. Look
//! here for what publish and subscribe do with what a server answers; the server here is a script,
//! so that it can also send what a real one never would.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use crate::support::command_line::{
    DEADLINE, headwater, outcome, run, run_with_input, wait_for_notice,
};

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

const FINISHED: &str = "HTTP/1.1 204 No Content\r\n\r\n";

/// What the script does with one request.
enum Answer {
    /// Writes it and closes the connection.
    Close(String),
    /// Writes it and keeps the connection open.
    Hold(String),
    /// Writes it again and again until the client is gone.
    Repeat(String),
}

/// A server that is a script: the closure gets the number of the request and the request.
struct Script {
    url: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Script {
    async fn start(script: impl Fn(usize, &str) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (script, seen) = (Arc::new(script), Arc::clone(&requests));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, Arc::clone(&script), Arc::clone(&seen)));
            }
        });
        Self { url, requests }
    }

    /// The same answer to every request.
    async fn closing(answer: &str) -> Self {
        let answer = answer.to_owned();
        Self::start(move |_, _| Answer::Close(answer.clone())).await
    }

    fn requests(&self) -> Vec<String> {
        self.requests.lock().expect("no test panicked").clone()
    }

    /// The only request there was.
    fn request(&self) -> String {
        let [request] = self.requests().try_into().expect("one request");
        request
    }
}

async fn answer(
    mut stream: TcpStream,
    script: Arc<impl Fn(usize, &str) -> Answer>,
    seen: Arc<Mutex<Vec<String>>>,
) {
    let request = read_request(&mut stream).await;
    let number = {
        let mut seen = seen.lock().expect("no test panicked");
        seen.push(request.clone());
        seen.len()
    };
    match script(number, &request) {
        Answer::Close(text) => {
            stream.write_all(text.as_bytes()).await.expect("the client reads the answer");
        }
        Answer::Hold(text) => {
            stream.write_all(text.as_bytes()).await.expect("the client reads the answer");
            // Ends with the client.
            let _ = stream.read(&mut [0]).await;
        }
        Answer::Repeat(text) => {
            stream.write_all(STREAM.as_bytes()).await.expect("the client reads the answer");
            while stream.write_all(text.as_bytes()).await.is_ok() {}
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                header(head, "content-length").map_or(0, |it| it.parse().expect("a number"));
            if body.len() >= length {
                return text.into_owned();
            }
        }
        let read = stream.read_buf(&mut bytes).await.expect("the client writes its request");
        assert!(read > 0, "the request ended early: {bytes:?}");
    }
}

fn header<'a>(request: &'a str, name: &str) -> Option<&'a str> {
    let head = request.split("\r\n\r\n").next()?;
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| *key == name)
        .map(|it| it.1)
}

fn json_answer(status: &str, content_type: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\ncontent-length: \
         {length}\r\n\r\n{body}"
    )
}

#[tokio::test]
async fn publish_sends_every_field_and_prints_the_id() {
    let answer = json_answer("200 OK", "application/json", r#"{"id":"7-12","channel":"a b/ü"}"#);
    let server = Script::closing(&answer).await;
    let prefixed = format!("{}/push/", server.url);
    let arguments =
        ["publish", "a b/ü", "{\"n\": 1}\r\n", "--event", "a&b", "--id", "7", "--retry", "2s"];
    let more = ["--end", "--key", "k/1", "--url", &prefixed];
    let outcome = run(&[&arguments[..], &more].concat()).await;
    let output = "published to a b/ü as 7-12, which has ended\n".to_owned();
    assert_eq!(outcome, (0, output, String::new()));
    let request = server.request();
    let line = "POST /push/sse/publish?channel=a%20b%2F%C3%BC&event=a%26b&id=7&retry=2000&end=1 \
                HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
    assert_eq!(header(&request, "idempotency-key"), Some("k/1"));
    assert!(request.ends_with("\r\n\r\n{\"n\": 1}\r\n"), "{request}");
    assert_eq!(header(&request, "content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(header(&request, "host"), server.url.strip_prefix("http://"));
}

#[tokio::test]
async fn publish_finds_the_server_in_the_environment() {
    let server = Script::closing(&json_answer("200 OK", "application/json", "{}")).await;
    let run = headwater(&["publish", "news", "-", "--"]).env("HEADWATER_URL", &server.url).output();
    let outcome = outcome(timeout(DEADLINE, run).await.expect("it ends").expect("it runs"));
    assert_eq!(outcome, (0, "published to news\n".to_owned(), String::new()));
    assert!(server.request().starts_with("POST /sse/publish?channel=news HTTP/1.1\r\n"));
}

#[tokio::test]
async fn publish_reads_standard_input_as_it_is() {
    let server = Script::closing(&json_answer("200 OK", "application/json", "{}")).await;
    for arguments in [&["publish", "news"][..], &["publish", "news", "-"]] {
        let arguments = [arguments, &["--url", &server.url]].concat();
        let (code, _, error) = run_with_input(&arguments, "  grüße\n\n".as_bytes()).await;
        assert_eq!((code, &*error), (0, ""));
    }
    for request in server.requests() {
        assert!(request.ends_with("\r\n\r\n  grüße\n\n"), "{request}");
    }
}

#[tokio::test]
async fn publish_rejects_invalid_input() {
    let server = Script::closing(FINISHED).await;
    let arguments = ["publish", "news", "--url", &server.url];
    let (code, output, error) = run_with_input(&arguments, b"good \xff bad").await;
    assert_eq!((code, &*output), (1, ""));
    assert_eq!(
        error,
        "error: standard input is not UTF-8 at byte 5: events are text, so encode it, for example \
         with \
         base64\n"
    );
    let (code, _, error) = run_with_input(&arguments, &vec![b'x'; (8 << 20) + 1]).await;
    assert_eq!(code, 1);
    assert!(error.starts_with("error: standard input has more than 8388608 bytes"), "{error}");
    assert_eq!(server.requests(), [""; 0]);
}

#[tokio::test]
async fn publish_shows_the_servers_error() {
    #[track_caller]
    fn check((code, output, error): &(i32, String, String), expected: &str) {
        assert_eq!((*code, &**output), (1, ""));
        assert_eq!(*error, format!("error: {expected}\n"));
    }
    let publish = async |answer: &str| {
        let server = Script::closing(answer).await;
        let (code, output, error) = run(&["publish", "news", "x", "--url", &server.url]).await;
        (code, output, error.replace(&server.url, "URL"))
    };
    let problem = r#"{"title":"Too large","detail":"the body has 9 bytes: at most 8 are allowed"}"#;
    check(
        &publish(&json_answer("413 Payload Too Large", "application/problem+json", problem)).await,
        "the server refused: the body has 9 bytes: at most 8 are allowed (413 Payload Too Large)",
    );
    check(
        &publish(&json_answer("403 Forbidden", "application/problem+json", r#"{"title":"No"}"#))
            .await,
        "the server refused: No (403 Forbidden)",
    );
    check(
        &publish(&json_answer("404 Not Found", "text/html", "<h1>nginx</h1>")).await,
        "the server answered 404 Not Found: is it Headwater, and is the path right?",
    );
    let (code, _, error) = publish(&json_answer("200 OK", "text/html", "<h1>Hi</h1>")).await;
    assert_eq!(code, 1);
    assert!(
        error.starts_with("error: URL took the event, but did not answer as Headwater does: "),
        "{error}"
    );
    let (code, _, error) = publish("").await;
    assert_eq!(code, 1);
    assert!(error.starts_with("error: no answer from URL: "), "{error}");
}

#[tokio::test]
async fn publish_names_a_server_that_cannot_be_reached() {
    // Bound and not listening: nothing responds there, and the port stays reserved.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a free port");
    let url = format!("http://{}", socket.local_addr().expect("an address"));
    let (code, output, error) = run(&["publish", "news", "x", "--url", &url]).await;
    assert_eq!((code, &*output), (1, ""));
    assert!(
        error.starts_with(&format!("error: cannot reach {url}: Connection refused")),
        "{error}"
    );
}

#[tokio::test]
async fn subscribe_prints_text_and_json() {
    const EVENTS: &str = ": hello\nretry: 5\n\ndata: one\n\nid: 7\nevent: greeting\ndata: two\n\
                          data: lines\n\ndata: \u{1b}[2J\n\n";
    let server = Script::start(|_, _| Answer::Hold(format!("{STREAM}{EVENTS}"))).await;
    let arguments = ["subscribe", "news", "--count", "3", "--url", &server.url];
    let (code, output, error) = run(&arguments).await;
    assert_eq!(code, 0, "{error}");
    assert_eq!(output, "news: one\nnews (greeting) #7:\n    two\n    lines\nnews #7: \\u{1b}[2J\n");
    let url = &server.url;
    let notices =
        format!("headwater: news: connecting to {url}\nheadwater: news: connected to {url}\n");
    assert_eq!(error, notices);

    let (code, output, _) = run(&[&arguments[..], &["--json"]].concat()).await;
    assert_eq!(code, 0);
    let expected = [
        r#"{"channel":"news","event":"message","id":null,"data":"one"}"#,
        r#"{"channel":"news","event":"greeting","id":"7","data":"two\nlines"}"#,
        r#"{"channel":"news","event":"message","id":"7","data":"\u001b[2J"}"#,
    ];
    assert_eq!(output.lines().collect::<Vec<_>>(), expected);
    let request = &server.requests()[0];
    assert!(request.starts_with("GET /sse/stream?channel=news HTTP/1.1\r\n"), "{request}");
    assert_eq!(header(request, "accept"), Some("text/event-stream"));
    assert_eq!(header(request, "last-event-id"), None);
}

#[tokio::test]
async fn subscribe_distinguishes_a_gap_from_an_event() {
    const EVENTS: &str = "id: 9\nevent: headwater-gap\n\
                          data: {\"channel\":\"news\",\"reason\":\"trimmed\"}\n\ndata: next\n\n";
    let server = Script::start(|_, _| Answer::Hold(format!("{STREAM}{EVENTS}"))).await;
    let arguments = ["subscribe", "news", "--count", "1", "--url", &server.url];
    let (code, output, error) = run(&arguments).await;
    assert_eq!(code, 0, "{error}");
    let gap = "news: GAP: events are missing: they are no longer retained\n";
    assert_eq!(output, format!("{gap}news #9: next\n"), "a gap is none of the events");
    let (_, output, _) = run(&[&arguments[..], &["--json"]].concat()).await;
    assert!(
        output.starts_with(r#"{"channel":"news","event":"headwater-gap","id":"9","#),
        "{output}"
    );
    assert!(output.contains("\"gap\":\"trimmed\"}\n"), "{output}");
    assert!(output.ends_with("\"data\":\"next\"}\n"), "{output}");
}

#[tokio::test]
async fn subscribe_rewinds_until_it_has_an_id() {
    let server = Script::start(|number, _| match number {
        1 => Answer::Close(format!("{STREAM}retry: 1\n\n")),
        2 => Answer::Close(format!("{STREAM}id: 7\ndata: one\n\n")),
        _ => Answer::Close(FINISHED.to_owned()),
    })
    .await;
    let (code, output, error) =
        run(&["subscribe", "news", "--rewind", "2m", "--url", &server.url]).await;
    assert_eq!((code, &*output), (0, "news #7: one\n"), "{error}");
    let requests = server.requests();
    let asked: Vec<_> = requests
        .iter()
        .map(|request| (request.contains("&rewind=2m "), header(request, "last-event-id")))
        .collect();
    assert_eq!(asked, [(true, None), (true, None), (false, Some("7"))]);
}

#[tokio::test]
async fn subscribe_resumes_until_204() {
    let server = Script::start(|number, _| match number {
        1 => {
            Answer::Close(format!("{STREAM}retry: 1\n\nid: 7\ndata: one\n\nid: 8\ndata: cut off\n"))
        }
        // No id and no data: the position stays.
        2 => Answer::Close(format!("{STREAM}: nothing new\n\n")),
        3 => Answer::Close("HTTP/1.1 503 Service Unavailable\r\n\r\n".to_owned()),
        4 => Answer::Close(String::new()),
        5 => Answer::Close(format!("{STREAM}data: two\n\nid: 9-ü\n\n")),
        _ => Answer::Close(FINISHED.to_owned()),
    })
    .await;
    let arguments = ["subscribe", "news", "--last-event-id", "6", "--url", &server.url];
    let (code, output, error) = run(&arguments).await;
    assert_eq!((code, &*output), (0, "news #7: one\nnews #7: two\n"), "{error}");
    let requests = server.requests();
    let ids: Vec<_> = requests.iter().map(|request| header(request, "last-event-id")).collect();
    assert_eq!(ids, [Some("6"), Some("7"), Some("7"), Some("7"), Some("7"), Some("9-ü")]);
    assert!(
        error.contains("headwater: news: the stream ended; reconnecting in 0.0 s\n"),
        "{error}"
    );
    assert!(error.contains("503 Service Unavailable"), "{error}");
    assert!(error.ends_with("headwater: news: finished\n"), "{error}");
}

#[tokio::test]
async fn subscribe_knows_which_channel_an_event_belongs_to() {
    let server = Script::start(|_, request| {
        let line = request.lines().next().unwrap_or_default();
        let channel = line.split(['=', ' ']).nth(2).unwrap_or_default();
        Answer::Close(if request.contains("last-event-id") {
            FINISHED.to_owned()
        } else {
            format!("{STREAM}retry: 1\nid: 1\ndata: of {channel}\n\n")
        })
    })
    .await;
    let (code, output, error) = run(&["subscribe", "b", "a", "b", "--url", &server.url]).await;
    assert_eq!(code, 0, "{error}");
    let mut lines: Vec<_> = output.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["a #1: of a", "b #1: of b"]);
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn subscribe_fails_when_reconnecting_is_useless() {
    #[track_caller]
    fn check((code, output, error): &(i32, String, String), expected: &str) {
        assert_eq!((*code, &**output), (1, ""));
        let last = error.lines().last().unwrap_or_default();
        assert_eq!(last, format!("error: cannot follow news: {expected}"));
    }
    let subscribe = async |answer: &str| {
        let server = Script::closing(answer).await;
        let (code, output, error) = run(&["subscribe", "news", "--url", &server.url]).await;
        assert_eq!(server.requests().len(), 1);
        (code, output, error.replace(&server.url, "URL"))
    };
    let problem = json_answer("400 Bad Request", "application/problem+json", r#"{"detail":"no"}"#);
    check(&subscribe(&problem).await, "the server refused: no (400 Bad Request)");
    check(
        &subscribe(&json_answer("200 OK", "text/html", "<h1>Hi</h1>")).await,
        "URL answers, but not with an event stream: is it Headwater, and is the path right?",
    );
    check(
        &subscribe("HTTP/1.1 302 Found\r\nlocation: /login\r\n\r\n").await,
        "the server answered 302 Found: is it Headwater, and is the path right?",
    );
}

#[tokio::test]
async fn subscribe_exits_quietly_when_its_output_is_closed() {
    let server = Script::start(|_, _| Answer::Repeat("data: more\n\n".to_owned())).await;
    let mut child =
        headwater(&["subscribe", "news", "--url", &server.url]).spawn().expect("it runs");
    drop(child.stdout.take());
    let output = timeout(DEADLINE, child.wait_with_output()).await.expect("it ends");
    let (code, _, error) = outcome(output.expect("it is read"));
    assert_eq!(code, 0);
    assert!(!error.contains("error"), "{error}");
}

#[tokio::test]
async fn subscribe_ends_with_130_on_ctrl_c() {
    let server = Script::start(|_, _| Answer::Hold(STREAM.to_owned())).await;
    let mut child =
        headwater(&["subscribe", "news", "--url", &server.url]).spawn().expect("it runs");
    wait_for_notice(&mut child, "connected to").await;
    let id = child.id().expect("it runs").to_string();
    let killed = Command::new("/bin/sh").args(["-c", "kill -INT \"$0\"", &id]).status().await;
    assert!(killed.expect("there is a shell").success());
    let status = timeout(DEADLINE, child.wait()).await.expect("it ends").expect("it ran");
    assert_eq!(status.code(), Some(130));
}

#[tokio::test]
async fn publish_does_not_wait_for_an_unreachable_redis() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let url = format!("unix://{}/redis.sock?pass=s3cret", directory.path().display());
    let (code, output, error) = run(&["publish", "news", "x", "--redis", &url]).await;
    assert_eq!((code, &*output), (1, ""), "{error}");
    let message = format!("error: cannot publish to unix://{}", directory.path().display());
    assert!(error.contains(&message), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
}

#[tokio::test]
async fn invalid_arguments_are_rejected_with_2() {
    async fn check(arguments: &[&str], part: &str) {
        let (code, output, error) = run(arguments).await;
        assert_eq!((code, &*output), (2, ""), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error:?} lacks {part:?}");
        assert!(!error.contains("s3cret"), "{arguments:?}: {error}");
    }
    check(&["serv"], "tip: a similar subcommand exists: 'serve'").await;
    check(&["serve", "--lingr", "2s"], "tip: a similar argument exists: '--linger'").await;
    check(&["serve", "--linger", "soon"], "error: --linger=soon: it is not a duration").await;
    check(&["serve", "--listen", "0.0.0.0:8000"], "say --open").await;
    check(&["serve", "redis://:s3cret@host"], "redis://…@host").await;
    check(&["serve", "--redis", ":s3cret@host"], "error: --redis=…: it is not a URL").await;
    check(&["publish"], "<CHANNEL>").await;
    check(&["publish", ""], "a channel's name is empty").await;
    check(&["publish", "a\nb", "x"], "control character U+000A").await;
    check(&["publish", "news", "x", "--event", "a\nb"], "--event").await;
    check(&["publish", "news", "x", "--id", "a\nb"], "--id").await;
    check(&["publish", "news", "x", "--retry", "5"], "write 5s or 5ms").await;
    check(&["publish", "news", "x", "--url", "https://h/?a"], "leave out what begins there").await;
    check(&["publish", "news", "x", "--url", "http://me:s3cret@h"], "leave them out").await;
    check(&["publish", "news", "x", "--redis", ":s3cret@host"], "error: --redis: it is not a URL")
        .await;
    check(&["publish", "news", "x", "--redis", "redis://h", "--url", "http://h"], "cannot be used")
        .await;
    check(&["subscribe"], "<CHANNEL>...").await;
    check(&["subscribe", "news", "--count", "0"], "--count").await;
    check(&["subscribe", "news", "--rewind", "1", "--last-event-id", "7"], "cannot be used").await;
    check(&["subscribe", "news", "--rewind", "soon"], "write rewind=10, rewind=2m").await;
    check(&["publish", "news", "x", "--key", "a b"], "visible ASCII").await;
    let many: Vec<String> = (0..101).map(|number| number.to_string()).collect();
    let many: Vec<&str> =
        ["subscribe"].into_iter().chain(many.iter().map(String::as_str)).collect();
    check(&many, "101 channels: at most 100 can be followed").await;
}

#[tokio::test]
async fn invalid_variables_are_rejected_with_2() {
    async fn check(arguments: &[&str], variable: &str, value: &str, expected: &str) {
        let run = headwater(arguments).env(variable, value).output();
        let outcome = outcome(timeout(DEADLINE, run).await.expect("it ends").expect("it runs"));
        assert_eq!(outcome, (2, String::new(), format!("error: {expected}\n")));
    }
    check(
        &["serve"],
        "HEADWATER_LISTN",
        "127.0.0.1:0",
        "HEADWATER_LISTN: no setting has this environment variable: did you mean HEADWATER_LISTEN?",
    )
    .await;
    check(&[], "HEADWATER_LINGER", "2", "HEADWATER_LINGER=2: it needs a unit: write 2s or 2ms")
        .await;
    check(
        &["publish", "news", "x"],
        "HEADWATER_URL",
        "localhost:8000",
        "HEADWATER_URL: it does not begin with http:// or https://: write http://HOST:PORT/PATH or \
         https://HOST/PATH",
    )
    .await;
    check(
        &["subscribe", "news"],
        "HEADWATER_LOG",
        "=",
        "HEADWATER_LOG==: it is not a filter like info,headwater=debug: invalid filter directive",
    )
    .await;
}

#[tokio::test]
async fn help_and_version_go_to_standard_output() {
    for (arguments, part) in [
        (&["--version"][..], concat!("headwater ", env!("CARGO_PKG_VERSION"), "\n")),
        (&["--help"], "headwater subscribe news"),
        (&["serve", "--help"], "[env: HEADWATER_LINGER] [default: 60s]"),
        (&["publish", "--help"], "date | headwater publish clock"),
        (&["subscribe", "-h"], "every channel was ended by"),
    ] {
        let (code, output, error) = run(arguments).await;
        assert_eq!((code, &*error), (0, ""));
        assert!(output.contains(part), "{output}");
    }
}
