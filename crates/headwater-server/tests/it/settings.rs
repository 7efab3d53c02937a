//! Settings: the three sources of each, their precedence, and the errors. Look here for exact error
//! texts; spellings of single values are tested in `settings/value/`.

use std::ffi::OsString;
use std::fs;
use std::time::Duration;

use clap::{Args as _, Command, FromArgMatches as _};
use headwater::log::RetentionRules;
use headwater::{Channel, limits};
use headwater_server::settings::schema::{Kind, SETTINGS, Setting};
use headwater_server::settings::{Flags, LogFormat, Rate, Settings};

/// What somebody typed, everywhere it can be typed.
#[derive(Default)]
pub(crate) struct Said<'a> {
    pub(crate) flags: &'a [&'a str],
    pub(crate) environment: &'a [(&'a str, &'a str)],
    pub(crate) file: Option<&'a str>,
}

/// The settings, or the error's text with `FILE` for the path of the file.
pub(crate) fn load(said: &Said<'_>) -> Result<Settings, String> {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("a.toml");
    let shown_path = path.to_str().expect("a path that is UTF-8").to_owned();
    let mut flags: Vec<String> = said.flags.iter().map(ToString::to_string).collect();
    if let Some(text) = said.file {
        fs::write(&path, text).expect("the file is written");
        flags.push(format!("--config={shown_path}"));
    }
    let environment = said.environment.iter().map(|(name, value)| (name.into(), value.into()));
    Settings::load(&parse_flags(&flags), environment)
        .map_err(|error| error.to_string().replace(&shown_path, "FILE"))
}

fn parse_flags<T: AsRef<str>>(arguments: &[T]) -> Flags {
    let command = Flags::augment_args(Command::new("serve").no_binary_name(true));
    let matches = command.try_get_matches_from(arguments.iter().map(AsRef::as_ref));
    let matches = matches.unwrap_or_else(|error| panic!("{error}"));
    Flags::from_arg_matches(&matches).expect("the flags of a command with flags")
}

pub(crate) fn by_flag(flags: &[&str]) -> Result<Settings, String> {
    load(&Said { flags, ..Said::default() })
}

pub(crate) fn by_environment(environment: &[(&str, &str)]) -> Result<Settings, String> {
    load(&Said { environment, ..Said::default() })
}

pub(crate) fn by_file(file: &str) -> Result<Settings, String> {
    load(&Said { file: Some(file), ..Said::default() })
}

/// The setting as a line of the file, bare where TOML has a type for it.
fn line_of(setting: &Setting) -> String {
    let Setting { name, example, .. } = setting;
    match setting.kind {
        Kind::Count { .. } | Kind::Switch => format!("{name} = {example}"),
        _ if setting.is_list() => format!("{name} = [\"{example}\"]"),
        _ => format!("{name} = \"{example}\""),
    }
}

/// The flags without which a setting is rejected.
fn companions(name: &str) -> &'static [&'static str] {
    match name {
        "tls-cert" => &["--tls-key=privkey.pem"],
        "tls-key" => &["--tls-cert=fullchain.pem"],
        "acme-domain" => &["--acme-dir=acme"],
        "acme-dir" => &["--acme-domain=a.example"],
        "acme-contact" | "acme-server" => &["--acme-domain=a.example", "--acme-dir=acme"],
        "trusted-proxy" => &["--client-address-header=Forwarded"],
        "client-address-header" => &["--trusted-proxy=192.0.2.1"],
        "proxy-protocol" => &["--trusted-proxy=192.0.2.1", "--client-address-header=Forwarded"],
        _ => &[],
    }
}

#[test]
fn every_setting_has_three_sources_for_the_same_value() {
    for setting in SETTINGS {
        let Setting { name, example, .. } = setting;
        // What makes no sense alone. What is about tokens makes none without keys; `open` makes
        // none beside rules.
        let key = if *name == "open" { &[][..] } else { &[("HEADWATER_JWKS", "keys.json")][..] };
        let flags = companions(name);
        let flag = format!("--{name}={example}");
        let flag =
            load(&Said { flags: &[flags, &[&*flag]].concat(), environment: key, file: None });
        let variable = setting.variable();
        let mut both = key.to_vec();
        both.retain(|(other, _)| *other != variable);
        both.push((&variable, example));
        let environment = load(&Said { flags, environment: &both, file: None });
        // The environment takes precedence over the file.
        let key = if *name == "jwks" { &[][..] } else { key };
        let file = load(&Said { flags, environment: key, file: Some(&line_of(setting)) });
        assert_eq!(flag, environment, "{name}");
        assert_eq!(flag, file, "{name}");
        let without = by_environment(if *name == "jwks" { &[] } else { key });
        assert_ne!(flag, without, "{name}: its example is its default, or nobody reads it");
        assert!(flag.is_ok(), "{name}: {flag:?}");
    }
}

#[test]
fn defaults_are_those_of_the_library_and_of_the_design() {
    let settings = by_flag(&[]).expect("the defaults are right");
    assert_eq!(settings.listen.address.to_string(), "127.0.0.1:8000");
    assert_eq!(
        (settings.listen.admin, settings.redis.url.is_none(), settings.listen.open),
        (None, true, false)
    );
    assert_eq!((settings.redis.data, settings.redis.retention), (None, RetentionRules::default()));
    assert_eq!(settings.streams.heartbeat, Some(limits::HEARTBEAT_DEFAULT));
    assert_eq!(settings.streams.retry, limits::RETRY_DEFAULT);
    assert_eq!(settings.streams.linger, limits::LINGER_DEFAULT);
    assert_eq!(settings.streams.max_lifetime, None);
    assert_eq!(settings.streams.send_timeout, limits::SEND_TIMEOUT_DEFAULT);
    assert_eq!(settings.streams.queue_frames, limits::QUEUE_FRAMES_MAX);
    assert_eq!(settings.streams.queue_bytes, limits::QUEUE_BYTES_MAX);
    assert_eq!(settings.listen.max_connections, 10_000);
    assert_eq!((settings.tls, settings.listen.client_address_header), (None, None));
    assert!(settings.listen.trusted_proxies.is_empty() && !settings.listen.proxy_protocol);
    assert_eq!(
        (settings.limits.max_streams, settings.limits.max_streams_per_address),
        (10_000, None)
    );
    assert_eq!(settings.limits.max_streams_per_user, None);
    assert_eq!(
        (settings.limits.max_publishes_per_address, settings.limits.max_publishes_per_user),
        (None, None)
    );
    let rate = Rate { count: 100, per: Duration::from_secs(60) };
    assert_eq!(settings.limits.max_failed_logins, Some(rate));
    assert_eq!(settings.streams.max_channels_per_stream, limits::CHANNELS_PER_STREAM_MAX);
    assert_eq!(settings.limits.max_body_bytes, limits::EVENT_DATA_BYTES_MAX);
    assert_eq!(settings.listen.header_timeout, Duration::from_secs(10));
    assert_eq!(settings.listen.drain_timeout, Duration::from_secs(10));
    assert_eq!(settings.log.filter.to_string(), "info");
    assert_eq!(settings.log.format, LogFormat::Text);
}

#[test]
fn bounds_are_inclusive_and_apply_to_every_source() {
    for setting in SETTINGS {
        let (inside, outside): (Vec<String>, Vec<String>) = match setting.kind {
            Kind::Duration { min, max, .. } => (
                vec![format!("{}ms", min.as_millis()), format!("{}ms", max.as_millis())],
                vec![format!("{}ms", max.as_millis() + 1)],
            ),
            Kind::Bytes { min, max } | Kind::Count { min, max } => (
                vec![min.to_string(), max.to_string()],
                vec![
                    min.checked_sub(1).map_or("-1".into(), |it| it.to_string()),
                    (max + 1).to_string(),
                ],
            ),
            Kind::Choice(words) => {
                (words.iter().map(ToString::to_string).collect(), vec!["xml".to_owned()])
            }
            Kind::Switch => (vec!["true".into(), "false".into()], vec!["1".into()]),
            Kind::ReadyParts => (
                vec!["delivers".into(), "access, reads,keeps".into()],
                vec!["writes".into(), "reads,".into(), ",".into()],
            ),
            Kind::Address
            | Kind::RedisUrl
            | Kind::Directory
            | Kind::File
            | Kind::Rate { .. }
            | Kind::Networks
            | Kind::RetentionRules
            | Kind::Secret
            | Kind::Text
            | Kind::HttpUrl
            | Kind::Jwks
            | Kind::Templates
            | Kind::Origins
            | Kind::Domains
            | Kind::ChannelPatterns
            | Kind::LogFilter => continue,
        };
        let (name, variable) = (setting.name, setting.variable());
        for text in inside {
            let environment = &[(&*variable, &*text)];
            let key = if name == "open" { &[][..] } else { &["--jwks=keys.json"] };
            let flags = &[companions(name), key].concat();
            let result = load(&Said { flags, environment, ..Said::default() });
            assert!(result.is_ok(), "{name} = {text}: {result:?}");
        }
        for text in outside {
            let by_flag = by_flag(&[&format!("--{name}={text}")]).expect_err(name);
            assert!(by_flag.starts_with(&format!("--{name}={text}: it ")), "{by_flag}");
            let by_variable = by_environment(&[(&variable, &text)]).expect_err(name);
            assert!(by_variable.starts_with(&format!("{variable}={text}: it ")), "{by_variable}");
            let by_file = by_file(&format!("{name} = \"{text}\"")).expect_err(name);
            let place = format!("FILE:1:{}: {name}: it ", name.len() + 4);
            assert!(by_file.starts_with(&place), "{by_file}");
        }
    }
}

#[test]
fn off_turns_off_what_can_be_off() {
    for text in ["off", "0", "0s"] {
        let settings = by_flag(&["--heartbeat", text, "--max-lifetime", text]);
        let settings = settings.expect("both can be off");
        assert_eq!((settings.streams.heartbeat, settings.streams.max_lifetime), (None, None));
    }
    assert_eq!(by_file("heartbeat = 0").expect("it can be off").streams.heartbeat, None);
    let refused = by_flag(&["--retry", "off"]).expect_err("it cannot be off");
    assert_eq!(refused, "--retry=off: it is not a duration like 500ms, 2s, 5m or 1h");
    let linger = by_flag(&["--linger", "0"]).expect("zero is a linger").streams.linger;
    assert_eq!(linger, Duration::ZERO);
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    #[track_caller]
    fn check(said: &Said<'_>, linger_s: u64) {
        assert_eq!(load(said).expect("it is right").streams.linger, Duration::from_secs(linger_s));
    }
    let flags = &["--linger", "1s"][..];
    let environment = &[("HEADWATER_LINGER", "2s")][..];
    let file = Some("linger = \"3s\"");
    check(&Said { flags, environment, file }, 1);
    check(&Said { flags: &[], environment, file }, 2);
    check(&Said { flags: &[], environment: &[], file }, 3);
    check(&Said::default(), 60);
    // Empty is not set.
    check(&Said { flags: &[], environment: &[("HEADWATER_LINGER", "")], file }, 3);
    // What loses is not looked at.
    check(&Said { flags, environment: &[("HEADWATER_LINGER", "soon")], file }, 1);
}

#[test]
fn the_environment_can_name_the_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [first, second] = ["first", "second"].map(|name| directory.path().join(name));
    fs::write(&first, "retry = \"3s\"").expect("the file is written");
    fs::write(&second, "retry = \"4s\"").expect("the file is written");
    let environment = || [(OsString::from("HEADWATER_CONFIG"), OsString::from(&first))];
    let retry = |arguments: &[String]| {
        Settings::load(&parse_flags(arguments), environment()).expect("it is right").streams.retry
    };
    assert_eq!(retry(&[]), Duration::from_secs(3));
    assert_eq!(retry(&[format!("--config={}", second.display())]), Duration::from_secs(4));
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let refused = by_flag(&["--config", "/nowhere/a.toml"]).expect_err("there is no file");
    assert_eq!(
        refused,
        "/nowhere/a.toml: cannot read the settings: No such file or directory (os error 2)"
    );
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("a.toml");
    fs::write(&path, b"open = true\nlog = \"\xff\"\n").expect("the file is written");
    let refused = by_flag(&["--config", path.to_str().expect("UTF-8")]).expect_err("not UTF-8");
    assert_eq!(refused, format!("{}:2: the file is not UTF-8 from here on", path.display()));
}

#[test]
fn errors_show_the_position_and_a_remedy() {
    #[track_caller]
    fn check(file: &str, expected: &str) {
        assert_eq!(by_file(file).expect_err(file), expected);
    }
    check(
        "# ours\nopen = true\nlingr = \"2s\"\n",
        "FILE:3:1: there is no setting `lingr`: did you mean `linger`?\n  |\n\
         3 | lingr = \"2s\"\n  | ^^^^^",
    );
    check(
        "linger = \"2 minutes\"",
        "FILE:1:10: linger: it is not a duration like 500ms, 2s, 5m or 1h\n  |\n\
         1 | linger = \"2 minutes\"\n  |          ^^^^^^^^^^^",
    );
    check(
        "linger = 5",
        "FILE:1:10: linger: it needs a unit: write 5s or 5ms\n  |\n1 | linger = 5\n  |          ^",
    );
    check(
        "open = true\nlinger = \"2s\nretry = \"2s\"",
        "FILE:2:13: invalid basic string, expected `\"`\n  |\n2 | linger = \"2s\n  |             ^",
    );
    check(
        "retry = \"2s\"\nretry = \"3s\"",
        "FILE:2:1: duplicate key\n  |\n2 | retry = \"3s\"\n  | ^^^^^",
    );
    check(
        "log = \"inof\"",
        "FILE:1:7: log: `inof` is none of the levels error, warn, info, debug, trace, off; for one \
         part of the program write TARGET=LEVEL\n  |\n1 | log = \"inof\"\n  |       ^^^^^^",
    );
}

#[test]
fn unknown_variables_are_rejected_with_a_suggestion() {
    #[track_caller]
    fn check(variable: &str, value: &str, expected: Result<(), &str>) {
        let result = by_environment(&[(variable, value)]).map(drop);
        assert_eq!(result, expected.map_err(ToOwned::to_owned), "{variable}");
    }
    check(
        "HEADWATER_LINGR",
        "2s",
        Err("HEADWATER_LINGR: no setting has this environment variable: did you mean \
             HEADWATER_LINGER?"),
    );
    check(
        "HEADWATER_PORT",
        "9000",
        Err("HEADWATER_PORT: no setting has this environment variable: `headwater serve --help` \
             lists them; unset it"),
    );
    check("HEADWATER_LINGR", "", Ok(()));
    check("HEADWATER_URL", "http://127.0.0.1:8000", Ok(()));
    check("HEADWATER_BIN", "/bin/true", Ok(()));
    check("LINGER", "soon", Ok(()));
    // What Kubernetes sets for the services `headwater` and `headwater-redis`.
    check("HEADWATER_PORT", "tcp://10.0.0.1:8000", Ok(()));
    check("HEADWATER_SERVICE_HOST", "10.0.0.1", Ok(()));
    check("HEADWATER_SERVICE_PORT", "8000", Ok(()));
    check("HEADWATER_SERVICE_PORT_HTTP", "8000", Ok(()));
    check("HEADWATER_PORT_8000_TCP", "tcp://10.0.0.1:8000", Ok(()));
    check("HEADWATER_PORT_8000_TCP_PROTO", "tcp", Ok(()));
    check("HEADWATER_PORT_8000_TCP_ADDR", "10.0.0.1", Ok(()));
    check("HEADWATER_REDIS_PORT_6379_TCP_PORT", "6379", Ok(()));
    check("HEADWATER_REDIS_SERVICE_HOST", "10.0.0.2", Ok(()));
}

#[cfg(unix)]
#[test]
fn a_variable_that_is_not_utf8_is_rejected() {
    use std::os::unix::ffi::OsStringExt as _;
    let value = OsString::from_vec(vec![0xff]);
    let error = Settings::load(&Flags::default(), [("HEADWATER_LOG".into(), value)]);
    let error = error.expect_err("it is not UTF-8").to_string();
    assert_eq!(error, "HEADWATER_LOG: its value is not UTF-8");
}

#[test]
fn retention_is_a_list_in_each_of_its_three_sources() {
    let wanted = RetentionRules::new()
        .with_rule("chat:* events=100 age=1h")
        .and_then(|rules| rules.with_rule("logs:* off"))
        .expect("both are rules");
    let found = by_flag(&["--retention", "chat:* events=100 age=1h", "--retention=logs:* off"]);
    assert_eq!(found.expect("both are rules").redis.retention, wanted);
    let environment =
        |text| by_environment(&[("HEADWATER_RETENTION", text)]).map(|it| it.redis.retention);
    assert_eq!(environment("chat:* events=100 age=1h; logs:* off"), Ok(wanted.clone()));
    assert_eq!(environment(";chat:* events=100 age=1h;;logs:* off;"), Ok(wanted.clone()));
    assert_eq!(environment(" ; "), Ok(RetentionRules::default()));
    let file = |text| by_file(text).map(|it| it.redis.retention);
    assert_eq!(
        file("retention = [\"chat:* events=100 age=1h\", \"logs:* off\"]"),
        Ok(wanted.clone())
    );
    assert_eq!(
        file("retention = [\n  \"chat:* events=100 age=1h\", # ours\n  'logs:* off',\n]"),
        Ok(wanted)
    );
    assert_eq!(file("retention = []"), Ok(RetentionRules::default()));
    // One source applies as a whole: rules of several sources would have no order.
    let said = Said {
        flags: &["--retention", "a off"],
        environment: &[("HEADWATER_RETENTION", "b off")],
        file: Some("retention = [\"c off\"]"),
    };
    let rules = load(&said).expect("all are rules").redis.retention;
    let is_off = |name| rules.for_channel(&Channel::new(name).expect("a name")).is_none();
    assert_eq!((is_off("a"), is_off("b"), is_off("c")), (true, false, false));
}

#[test]
fn an_invalid_rule_is_shown_with_its_position() {
    let why = "the retention rule `chat:* evnts=1`: `evnts=1` is not one of events=COUNT, \
        age=DURATION, \
               bytes=SIZE and off";
    assert_eq!(
        by_flag(&["--retention=a off", "--retention=chat:* evnts=1"]).expect_err("a typo"),
        format!("--retention: {why}")
    );
    assert_eq!(
        by_environment(&[("HEADWATER_RETENTION", "a off;chat:* evnts=1")]).expect_err("a typo"),
        format!("HEADWATER_RETENTION: {why}")
    );
    assert_eq!(
        by_file("retention = [\n  \"a off\",\n  \"chat:* evnts=1\",\n]").expect_err("a typo"),
        format!(
            "FILE:3:3: retention: {why}\n  |\n3 |   \"chat:* evnts=1\",\n  |   ^^^^^^^^^^^^^^^^"
        )
    );
    let never = by_flag(&["--retention=* off", "--retention=a off"]).expect_err("it never applies");
    assert!(never.contains("it never applies, because the earlier rule `*` matches"), "{never}");
    assert_eq!(
        by_file("retention = \"a off\"").expect_err("no list"),
        "FILE:1:13: retention: it is a list: write retention = [\"chat:* events=100 age=1h \
         bytes=1MiB\"]\n  |\n1 | retention = \"a off\"\n  |             ^^^^^^^"
    );
    assert_eq!(
        by_file("retention = [\"a off\", 5]").expect_err("no string"),
        "FILE:1:23: retention: a list of strings has something else in it\n  |\n\
         1 | retention = [\"a off\", 5]\n  |                       ^"
    );
    assert_eq!(
        by_file("linger = [\"2s\"]").expect_err("a list"),
        "FILE:1:10: linger: a list is no value for a setting\n  |\n\
         1 | linger = [\"2s\"]\n  |          ^^^^^^"
    );
}
