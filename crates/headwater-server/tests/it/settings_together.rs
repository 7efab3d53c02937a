//! Settings that need, or exclude, each other, and what is never shown of them.

use std::path::Path;

use super::settings::{Said, by_environment, by_file, by_flag, load};

#[test]
fn an_address_that_others_can_reach_needs_open() {
    #[track_caller]
    fn check(flags: &[&str], expected: Result<(), &str>) {
        match (by_flag(flags), expected) {
            (Ok(_), Ok(())) => {}
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            (got, _) => panic!("{flags:?}: {got:?}"),
        }
    }
    check(
        &["--listen", "0.0.0.0:8000"],
        Err(
            "listen = 0.0.0.0:8000: other machines can reach this address, and there are no access \
             rules. Accept tokens (--jwt-secret-file, --jwt-public-key or --jwks), ask your \
             application (--authorize-url), or say --open (HEADWATER_OPEN=true, or open = true in \
             the file)",
        ),
    );
    check(&["--listen", "0.0.0.0:8000"], Err("Or listen on 127.0.0.1:8000"));
    check(&["--listen", "0.0.0.0:8000", "--public", "news"], Ok(()));
    check(&["--listen", "[::]:8000"], Err("say --open"));
    check(&["--listen", "192.0.2.1:8000", "--open=false"], Err("say --open"));
    check(&["--listen", "0.0.0.0:8000", "--open"], Ok(()));
    check(&["--listen", "127.1.2.3:8000"], Ok(()));
    check(&["--listen", "[::1]:8000"], Ok(()));
    check(&["--listen", "[::ffff:127.0.0.1]:8000"], Ok(()));
    check(&["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"], Ok(()));
    check(&["--admin", "127.0.0.1:8000"], Err("give one of them another port"));
}

#[test]
fn an_address_is_local_only_if_nothing_leads_others_there() {
    const HEADER: &str = "--client-address-header=X-Forwarded-For";
    for (flags, part) in [
        (&["--trusted-proxy=127.0.0.1", HEADER][..], "through the proxies in trusted-proxy"),
        (&["--trusted-proxy=10.0.0.0/8", HEADER], "through the proxies in trusted-proxy"),
        (&["--trusted-proxy=127.0.0.1", "--proxy-protocol"], "through the proxy of proxy-protocol"),
        (&["--tls-cert=a.pem", "--tls-key=b.pem"], "by the name in the certificate"),
        (&["--acme-domain=a.example", "--acme-dir=acme"], "by the name in acme-domain"),
        (&["--admin=0.0.0.0:9000"], "Or use admin = 127.0.0.1:9000"),
        (&["--admin=[::]:9000"], "admin = [::]:9000: other machines can reach this address"),
        (&["--admin=192.0.2.1:9000"], "admin = 192.0.2.1:9000"),
    ] {
        for listen in ["127.0.0.1:8000", "[::1]:8000", "[::ffff:127.0.0.1]:8000"] {
            let flags = [flags, &["--listen", listen]].concat();
            let refused = by_flag(&flags).expect_err(listen);
            for part in [part, "there are no access rules", "--jwt-secret-file", "say --open"] {
                assert!(refused.contains(part), "{flags:?}: {refused}");
            }
            for decided in ["--open", "--public=news", "--jwks=keys.json"] {
                let flags = [&flags[..], &[decided]].concat();
                assert!(by_flag(&flags).is_ok(), "{flags:?}");
            }
        }
    }
}

#[test]
fn data_is_a_path_and_not_for_redis() {
    let settings = by_flag(&["--data", "a/b c"]).expect("a path");
    assert_eq!(settings.redis.data.as_deref(), Some(Path::new("a/b c")));
    assert_eq!(
        by_flag(&["--data="]).expect_err("no path"),
        "--data=: it is empty: write the path of a directory, or leave it out"
    );
    let both = Said {
        flags: &["--data=kept"],
        environment: &[("HEADWATER_REDIS", "redis://:s3cret@redis.example:6379")],
        file: None,
    };
    assert_eq!(
        load(&both).expect_err("not both"),
        "data = kept: it is for the embedded broker, and redis = redis://redis.example:6379 keeps \
         the history itself: leave out one of the two"
    );
}

#[test]
fn what_needs_another_setting_says_which() {
    #[track_caller]
    fn check(flags: &[&str], expected: &str) {
        let refusal = by_flag(flags).expect_err("it is refused");
        assert!(refusal.contains(expected), "{refusal}");
    }
    check(&["--tls-cert=a.pem"], "tls-cert is set and tls-key is not");
    check(&["--tls-key=a.pem"], "tls-key is set and tls-cert is not");
    check(
        &["--tls-cert=", "--tls-key=a.pem"],
        "--tls-cert=: it is empty: write the path of a file",
    );
    check(&["--acme-domain=a.example"], "acme-domain is set and acme-dir is not");
    check(&["--acme-dir=acme"], "do nothing without acme-domain");
    check(&["--acme-contact=a@b.example"], "do nothing without acme-domain");
    check(
        &["--acme-domain=*.example", "--acme-dir=acme"],
        "--acme-domain: *.example stands for many",
    );
    check(
        &["--acme-domain=a.example", "--acme-dir=acme"],
        "other machines can reach this address by the name in acme-domain",
    );
    check(
        &["--acme-domain=a.example", "--acme-dir=acme", "--acme-server=https://a.example/dir?a"],
        "leave out what begins with `?`",
    );
    for contact in ["ops", "mailto:ops@a.example", "a@b@c", "@a.example"] {
        let contact = format!("--acme-contact={contact}");
        let flags = ["--acme-domain=a.example", "--acme-dir=acme", &contact];
        check(&flags, "acme-contact: it is no e-mail address");
    }
    check(
        &["--acme-domain=a.example", "--acme-dir=acme", "--acme-server=http://a.example/dir"],
        "it must begin with https://",
    );
    check(
        &["--acme-domain=a.example", "--acme-dir=acme", "--tls-cert=a.pem", "--tls-key=b.pem"],
        "Leave out one of the two",
    );
    check(&["--proxy-protocol"], "with --trusted-proxy");
    check(&["--client-address-header=Forwarded"], "with --trusted-proxy");
    check(&["--trusted-proxy=192.0.2.1"], "set --client-address-header X-Forwarded-For");
    check(&["--trusted-proxy=0.0.0.0/0"], "`0.0.0.0/0` would trust everyone");
    check(&["--trusted-proxy=proxy"], "neither an address nor a network");
}

#[test]
fn the_password_of_redis_is_never_shown() {
    let right = "redis://me:s3cret@redis.example:6379/0";
    let settings = by_flag(&["--redis", right]).expect("it is right");
    let redis = settings.redis.url.clone().expect("it was given");
    assert_eq!(redis.expose(), right);
    assert_eq!(redis.to_string(), "redis://redis.example:6379");
    assert!(!format!("{settings:?}").contains("s3cret"));
    for wrong in
        ["redis://:s3cret@host:port", "redis://s3cret/1@host", ":s3cret@host", "http://s3cret@h"]
    {
        let file = format!("redis = \"{wrong}\"");
        let misspelt = format!("reddis = \"{wrong}\"");
        for message in [
            by_flag(&["--redis", wrong]).expect_err(wrong),
            by_environment(&[("HEADWATER_REDIS", wrong)]).expect_err(wrong),
            by_file(&file).expect_err(wrong),
            by_file(&misspelt).expect_err(wrong),
        ] {
            assert!(!message.contains("s3cret"), "{message}");
        }
    }
    assert_eq!(
        by_file("redis = \":s3cret@host\"").expect_err("it is no URL"),
        "FILE:1:9: redis: it is not a URL: write redis://USER:PASSWORD@HOST:PORT/DB, or \
         unix:///path/to/redis.sock\n  |\n1 | redis = …\n  |         ^"
    );
}
