//! The example file and docs/configuration.md, which are written from the table of settings.

use std::fs;
use std::path::Path;

use headwater::channel::ChannelPatterns;
use headwater_server::settings::docs;
use headwater_server::settings::schema::{SETTINGS, find};
use headwater_server::settings::{
    LimitSettings, ListenSettings, Settings, StreamSettings, TrustedProxies,
};

use crate::settings::{by_file, by_flag};

#[test]
fn the_example_file_is_valid_with_and_without_its_comments() {
    let example = docs::example_file();
    let default = by_flag(&[]).expect("the defaults are right");
    assert_eq!(by_file(&example), Ok(default.clone()));
    let mut uncommented = String::new();
    let mut settings = 0;
    for line in example.lines() {
        let name = line.strip_prefix('#').and_then(|line| line.split(' ').next());
        if let Some(setting) = name.and_then(find) {
            settings += 1;
            // Not together with `redis`, and with a certificate in files.
            if setting.name != "data"
                && !["acme-domain", "acme-dir", "acme-contact"].contains(&setting.name)
            {
                uncommented.push_str(&line[1..]);
                uncommented.push('\n');
            }
            assert!(setting.default.is_none_or(|text| line.contains(text)), "{line}");
        }
    }
    assert_eq!(settings, SETTINGS.len());
    let said = by_file(&uncommented).expect("every line is right");
    // Only what has no default differs from it.
    let without_default = Settings {
        listen: ListenSettings {
            admin: None,
            allowed_hosts: Vec::new(),
            trusted_proxies: TrustedProxies::default(),
            client_address_header: None,
            shards: None,
            ..said.listen
        },
        tls: None,
        access: default.access.clone(),
        redis: default.redis.clone(),
        streams: StreamSettings { latest_only: ChannelPatterns::default(), ..said.streams },
        limits: LimitSettings {
            max_streams: default.limits.max_streams,
            max_streams_per_address: None,
            max_streams_per_user: None,
            memory_bytes: None,
            ..said.limits
        },
        log: said.log,
    };
    assert_eq!(without_default, default);
}

#[test]
fn the_documentation_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let wanted = docs::markdown();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder is made");
        fs::write(&path, &wanted).expect("the page is written");
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == wanted,
        "docs/configuration.md is not what the settings say: run `UPDATE_DOCS=1 cargo test -p \
         headwater-server --test it settings` and commit the file"
    );
}
