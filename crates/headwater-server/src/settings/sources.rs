//! Where values come from: flags, the environment, a file, the defaults, in this order. Look here
//! for precedence and for what is rejected before a value is parsed.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::{Arg, ArgAction, ArgMatches, Command};
use headwater::channel::ChannelPatterns;
use headwater::log::RetentionRules;

use super::error::SettingsError;
use super::file::{self, Place};
use super::schema::{Kind, SETTINGS, Setting, find};
use super::secret_places::SecretPlaces;
use super::suggest::closest;
use super::value::{self, TrustedProxies};

/// The flags of `headwater serve`, as typed. No `Debug`: one may hold a password.
#[derive(Clone, Default)]
pub struct Flags {
    config: Option<PathBuf>,
    /// Several for one setting only if it is a list.
    texts: BTreeMap<&'static str, Vec<String>>,
}

const CONFIG_VARIABLE: &str = "HEADWATER_CONFIG";

/// Variables with the same prefix that are not settings: URL and token of the client commands, and
/// the binary that tests run.
const OTHER_VARIABLES: [&str; 4] =
    [CONFIG_VARIABLE, "HEADWATER_URL", "HEADWATER_TOKEN", "HEADWATER_BIN"];

impl clap::Args for Flags {
    fn augment_args(command: Command) -> Command {
        let config = Arg::new("config")
            .long("config")
            .value_name("FILE")
            .value_parser(clap::value_parser!(PathBuf))
            .help_heading(SETTINGS[0].heading)
            .help(format!("Read settings from this TOML file [env: {CONFIG_VARIABLE}]"));
        command.arg(config).args(SETTINGS.iter().map(flag))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl clap::FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let mut flags = Self::default();
        flags.update_from_arg_matches(matches)?;
        Ok(flags)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        if let Some(path) = matches.get_one::<PathBuf>("config") {
            self.config = Some(path.clone());
        }
        for Setting { name, .. } in SETTINGS {
            if let Some(texts) = matches.get_many::<String>(name) {
                self.texts.insert(name, texts.cloned().collect());
            }
        }
        Ok(())
    }
}

fn flag(setting: &Setting) -> Arg {
    let default = setting.default.map(|text| format!(" [default: {text}]")).unwrap_or_default();
    let variable = setting.variable();
    let Setting { name, value_name, heading, summary, details, .. } = setting;
    let arg = Arg::new(*name)
        .long(*name)
        .value_name(*value_name)
        .help_heading(*heading)
        .help(format!("{summary}{default}"))
        .long_help(
            format!("{summary}.\n{details}\n[env: {variable}]{default}").replace("\n\n", "\n"),
        );
    match setting.kind {
        Kind::Switch => arg.num_args(0..=1).require_equals(true).default_missing_value("true"),
        _ if setting.is_list() => arg.action(ArgAction::Append),
        _ => arg,
    }
}

/// A value as it was typed, and where.
struct Typed {
    text: String,
    origin: Origin,
}

enum Origin {
    Flag,
    Environment,
    File(Place),
}

/// Every value that applies: of several sources for one setting, the one with precedence. Only a
/// list has more than one value.
pub(super) struct Sources(BTreeMap<&'static str, Vec<Typed>>);

impl Sources {
    pub(super) fn gather(
        flags: &Flags,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let environment = Environment::read(environment)?;
        let mut winning: BTreeMap<_, Vec<Typed>> = BTreeMap::new();
        if let Some(path) = flags.config.as_ref().or(environment.config.as_ref()) {
            for (name, text, place) in file::read(path)? {
                let typed = Typed { text, origin: Origin::File(place) };
                winning.entry(name).or_default().push(typed);
            }
        }
        for (name, texts) in environment.texts {
            let typed = |text| Typed { text, origin: Origin::Environment };
            winning.insert(name, texts.into_iter().map(typed).collect());
        }
        for (name, texts) in &flags.texts {
            let typed = |text: &String| Typed { text: text.clone(), origin: Origin::Flag };
            winning.insert(name, texts.iter().map(typed).collect());
        }
        Ok(Self(winning))
    }

    /// Where the secrets are that apply. The URL of Redis is one if it has a password.
    pub(super) fn secret_places(&self) -> SecretPlaces {
        let mut places = SecretPlaces::default();
        for setting in SETTINGS.iter().filter(|setting| setting.is_secret()) {
            for Typed { text, origin } in self.0.get(setting.name).into_iter().flatten() {
                let has_secret = matches!(setting.kind, Kind::Secret) || text.contains('@');
                match origin {
                    Origin::File(place) if has_secret => places.file = Some(place.path()),
                    Origin::Flag if has_secret => places.flags.push(setting.name),
                    _ => {}
                }
            }
        }
        places
    }

    /// The value of a setting that always has one.
    pub(super) fn required<T>(
        &self,
        name: &str,
        get: impl FnOnce(&Self, &str) -> Result<Option<T>, SettingsError>,
    ) -> Result<T, SettingsError> {
        let value = get(self, name)?;
        Ok(value.unwrap_or_else(|| panic!("the setting {name} needs a default that is a value")))
    }

    pub(super) fn address(&self, name: &str) -> Result<Option<SocketAddr>, SettingsError> {
        self.get(name, |_, text| value::address(text).map(Some))
    }

    pub(super) fn directory(&self, name: &str) -> Result<Option<PathBuf>, SettingsError> {
        self.path(name, "a directory")
    }

    pub(super) fn file(&self, name: &str) -> Result<Option<PathBuf>, SettingsError> {
        self.path(name, "a file")
    }

    fn path(&self, name: &str, of_what: &str) -> Result<Option<PathBuf>, SettingsError> {
        self.get(name, |_, text| match text {
            "" => Err(format!("it is empty: write the path of {of_what}, or leave it out")),
            path => Ok(Some(path.into())),
        })
    }

    pub(super) fn rate(&self, name: &str) -> Result<Option<value::Rate>, SettingsError> {
        self.get(name, |kind, text| match kind {
            Kind::Rate { off: true } if text == "off" => Ok(None),
            Kind::Rate { .. } => text.parse().map(Some),
            _ => panic!("the setting {name} is no rate"),
        })
    }

    pub(super) fn networks(&self, name: &str) -> Result<TrustedProxies, SettingsError> {
        let setting = find(name).unwrap_or_else(|| panic!("there is no setting {name}"));
        let mut networks = TrustedProxies::default();
        for typed in self.0.get(name).into_iter().flatten() {
            let added = networks.add(&typed.text);
            added.map_err(|why| SettingsError(typed.refusal(setting, &why)))?;
        }
        Ok(networks)
    }

    /// The rules in the order in which they were typed.
    pub(super) fn retention_rules(&self, name: &str) -> Result<RetentionRules, SettingsError> {
        let setting = find(name).unwrap_or_else(|| panic!("there is no setting {name}"));
        let mut rules = RetentionRules::new();
        for typed in self.0.get(name).into_iter().flatten() {
            rules
                .parse_rule(&typed.text)
                .map_err(|why| SettingsError(typed.refusal(setting, &why.to_string())))?;
        }
        Ok(rules)
    }

    /// Every value of a list, in the order in which they were typed; `None` if there is none.
    pub(super) fn list<T: FromStr<Err: ToString>>(
        &self,
        name: &str,
    ) -> Result<Option<Vec<T>>, SettingsError> {
        let setting = find(name).unwrap_or_else(|| panic!("there is no setting {name}"));
        let Some(all) = self.0.get(name) else { return Ok(None) };
        let parse = |typed: &Typed| match typed.text.parse() {
            Ok(value) => Ok(value),
            Err(why) => {
                let why: T::Err = why;
                Err(SettingsError(typed.refusal(setting, &why.to_string())))
            }
        };
        all.iter().map(parse).collect::<Result<_, _>>().map(Some)
    }

    pub(super) fn parsed<T: FromStr<Err = String>>(
        &self,
        name: &str,
    ) -> Result<Option<T>, SettingsError> {
        self.get(name, |_, text| text.parse().map(Some))
    }

    pub(super) fn text(&self, name: &str) -> Result<Option<String>, SettingsError> {
        self.get(name, |_, text| match text {
            "" => Err("it is empty: write something, or leave it out".to_owned()),
            text => Ok(Some(text.to_owned())),
        })
    }

    /// The patterns in the order in which they were typed.
    pub(super) fn channel_patterns(&self, name: &str) -> Result<ChannelPatterns, SettingsError> {
        let setting = find(name).unwrap_or_else(|| panic!("there is no setting {name}"));
        let mut patterns = ChannelPatterns::new();
        for typed in self.0.get(name).into_iter().flatten() {
            patterns
                .add(&typed.text)
                .map_err(|why| SettingsError(typed.refusal(setting, &why.to_string())))?;
        }
        Ok(patterns)
    }

    pub(super) fn duration_or_off(&self, name: &str) -> Result<Option<Duration>, SettingsError> {
        self.get(name, |kind, text| match kind {
            Kind::Duration { off: true, .. } if ["off", "0", "0s"].contains(&text) => Ok(None),
            Kind::Duration { min, max, off } => value::duration(text, &(min..=max))
                .map(Some)
                .map_err(|why| if off { format!("{why}, or off") } else { why }),
            _ => panic!("the setting {name} is no duration"),
        })
    }

    pub(super) fn bytes(&self, name: &str) -> Result<Option<usize>, SettingsError> {
        self.get(name, |kind, text| match kind {
            Kind::Bytes { min, max } => value::bytes(text, &(min..=max)).map(Some),
            _ => panic!("the setting {name} is no size"),
        })
    }

    pub(super) fn count(&self, name: &str) -> Result<Option<usize>, SettingsError> {
        self.get(name, |kind, text| match kind {
            Kind::Count { min, max } => value::count(text, &(min..=max)).map(Some),
            _ => panic!("the setting {name} is no count"),
        })
    }

    pub(super) fn switch(&self, name: &str) -> Result<Option<bool>, SettingsError> {
        self.get(name, |_, text| match text.parse() {
            Ok(switch) => Ok(Some(switch)),
            Err(_) => Err("it is neither true nor false".to_owned()),
        })
    }

    /// Parses what was typed, else the default, and puts the place in front of what is wrong.
    fn get<T>(
        &self,
        name: &str,
        parse: impl FnOnce(Kind, &str) -> Result<Option<T>, String>,
    ) -> Result<Option<T>, SettingsError> {
        let setting = find(name).unwrap_or_else(|| panic!("there is no setting {name}"));
        let typed = self.0.get(name).and_then(|all| all.last());
        match (typed, setting.default) {
            (Some(typed), _) => parse(setting.kind, &typed.text)
                .map_err(|why| SettingsError(typed.refusal(setting, &why))),
            (None, Some(default)) => parse(setting.kind, default)
                .map_err(|why| SettingsError(format!("the default of {name}: {why}"))),
            (None, None) => Ok(None),
        }
    }
}

impl Typed {
    fn refusal(&self, setting: &Setting, why: &str) -> String {
        // Where a URL was meant, what stands before an `@` may be a password.
        let is_url = matches!(setting.kind, Kind::HttpUrl | Kind::Jwks);
        let is_hidden = setting.is_secret() || is_url && self.text.contains('@');
        let text = if is_hidden { "…" } else { &self.text };
        match &self.origin {
            // What is wrong with one of several says which it is.
            Origin::Flag if setting.is_list() => format!("--{}: {why}", setting.name),
            Origin::Environment if setting.is_list() => {
                format!("{}: {why}", setting.variable())
            }
            Origin::Flag => format!("--{}={text}: {why}", setting.name),
            Origin::Environment => format!("{}={text}: {why}", setting.variable()),
            Origin::File(place) => place.refusal(&format!("{}: {why}", setting.name)),
        }
    }
}

/// Values of the environment. An empty variable counts as unset, because a compose file or a unit
/// file often cannot omit one.
#[derive(Default)]
struct Environment {
    config: Option<PathBuf>,
    texts: BTreeMap<&'static str, Vec<String>>,
}

impl Environment {
    fn read(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, SettingsError> {
        let mut environment = Self::default();
        for (variable, value) in variables {
            let Some(variable) = variable.to_str().filter(|name| name.starts_with("HEADWATER_"))
            else {
                continue;
            };
            if value.is_empty() {
                continue;
            }
            if variable == CONFIG_VARIABLE {
                environment.config = Some(value.into());
                continue;
            }
            let found = SETTINGS.iter().find(|setting| setting.variable() == variable);
            match (found, value.into_string()) {
                (Some(setting), Ok(text)) if setting.is_list() => {
                    let items = text.split(';').map(str::trim).filter(|item| !item.is_empty());
                    let items = items.map(ToOwned::to_owned).collect();
                    environment.texts.insert(setting.name, items);
                }
                (Some(setting), Ok(text)) => {
                    environment.texts.insert(setting.name, vec![text]);
                }
                (Some(_), Err(_)) => {
                    return Err(SettingsError(format!("{variable}: its value is not UTF-8")));
                }
                (None, Ok(text)) if is_foreign(variable, &text) => {}
                (None, _) => return Err(unknown_variable(variable)),
            }
        }
        Ok(environment)
    }
}

/// Whether another system set this variable. Kubernetes sets in every container
/// `NAME_SERVICE_HOST`, `NAME_PORT=tcp://...` and the like for each service, and a service is
/// likely to be called `headwater` or `headwater-redis`: rejecting them would keep the server from
/// starting there.
fn is_foreign(variable: &str, value: &str) -> bool {
    let of_service = variable.ends_with("_SERVICE_HOST")
        || variable.ends_with("_SERVICE_PORT")
        || variable.contains("_SERVICE_PORT_")
        || ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
            variable.contains("_PORT_")
                && ["", "_PROTO", "_PORT", "_ADDR"]
                    .iter()
                    .any(|end| variable.ends_with(&format!("{protocol}{end}")))
        })
        || variable.ends_with("_PORT") && value.contains("://");
    of_service || OTHER_VARIABLES.contains(&variable)
}

fn unknown_variable(variable: &str) -> SettingsError {
    let names: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
    // The common prefix would make all names similar.
    let ends = names.iter().map(|name| &name["HEADWATER_".len()..]).chain(["CONFIG"]);
    let advice = match closest(&variable["HEADWATER_".len()..], ends) {
        Some(end) => format!("did you mean HEADWATER_{end}?"),
        None => "`headwater serve --help` lists them; unset it".to_owned(),
    };
    SettingsError(format!("{variable}: no setting has this environment variable: {advice}"))
}
