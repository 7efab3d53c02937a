//! The claims of a verified token: user, expiry, channels. Look here to add another format of
//! channels in claims. No I/O.

use std::fmt;

use headwater::channel::ChannelPattern;
use serde_json::{Map, Value};

use super::identity::Identity;
use super::time::time_of;
use crate::limits::NOT_BEFORE_LEEWAY_S;
use crate::settings::{Template, as_text};

/// The claims of a token.
pub type Claims = Map<String, Value>;

/// What every token must contain, and what every client with a token may do.
#[derive(Debug, Default)]
pub struct Expected {
    /// The required audience.
    pub audience: Option<String>,
    /// The required issuer.
    pub issuer: Option<String>,
    /// Channels to which every client may subscribe.
    pub subscribe: Vec<Template>,
    /// Channels to which every client may publish.
    pub publish: Vec<Template>,
}

/// Why claims are rejected. It contains no value of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// `exp` is in the past.
    Expired,
    /// `nbf` is in the future.
    NotYetValid,
    /// Its audience is another one.
    Audience,
    /// Its issuer is another one.
    Issuer,
    /// A claim has the wrong type.
    Type(&'static str),
}

/// A format of channels in claims. Each adds the grants that it finds.
type Dialect = fn(&Claims, &mut Identity);

/// All supported formats.
const DIALECTS: &[Dialect] = &[headwater_claim];

impl Identity {
    /// Evaluates claims at a time, in seconds since 1970.
    ///
    /// # Errors
    /// Why they are rejected.
    pub fn read(claims: &Claims, expected: &Expected, now: f64) -> Result<Self, Refusal> {
        let expires = time(claims, "exp")?;
        if expires.is_some_and(|expires| expires <= now) {
            return Err(Refusal::Expired);
        }
        if time(claims, "nbf")?.is_some_and(|begins| begins > now + NOT_BEFORE_LEEWAY_S) {
            return Err(Refusal::NotYetValid);
        }
        check_audience(claims, expected.audience.as_deref())?;
        if let Some(issuer) = &expected.issuer
            && claims.get("iss").and_then(Value::as_str) != Some(issuer)
        {
            return Err(Refusal::Issuer);
        }
        let mut identity = Self {
            until: expires.and_then(time_of),
            user: name(claims, "sub")?,
            token_id: name(claims, "jti")?,
            ..Self::default()
        };
        let fill = |templates: &[Template]| {
            templates.iter().filter_map(|template| template.fill(claims)).collect()
        };
        identity.subscribe = fill(&expected.subscribe);
        identity.publish = fill(&expected.publish);
        for dialect in DIALECTS {
            dialect(claims, &mut identity);
        }
        Ok(identity)
    }
}

/// `{"headwater": {"subscribe": [...], "publish": [...], "admin": true}}`. An invalid pattern
/// grants nothing.
fn headwater_claim(claims: &Claims, identity: &mut Identity) {
    let Some(Value::Object(ours)) = claims.get("headwater") else { return };
    let patterns = |name: &str| {
        let list = ours.get(name).and_then(Value::as_array).into_iter().flatten();
        list.filter_map(Value::as_str)
            .filter_map(|text| ChannelPattern::new(text).ok())
            .collect::<Vec<_>>()
    };
    identity.subscribe.extend(patterns("subscribe"));
    identity.publish.extend(patterns("publish"));
    identity.admin |= ours.get("admin") == Some(&Value::Bool(true));
}

/// A time (RFC 7519, NumericDate): a number, with or without a fraction.
fn time(claims: &Claims, name: &'static str) -> Result<Option<f64>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::Number(number)) => match number.as_f64().filter(|number| number.is_finite()) {
            Some(seconds) => Ok(Some(seconds)),
            None => Err(Refusal::Type(name)),
        },
        Some(_) => Err(Refusal::Type(name)),
    }
}

fn name(claims: &Claims, name: &'static str) -> Result<Option<String>, Refusal> {
    match claims.get(name) {
        None => Ok(None),
        Some(value) => as_text(value).map(Some).ok_or(Refusal::Type(name)),
    }
}

/// RFC 7519, 4.1.3: a token with an audience is for that audience only.
fn check_audience(claims: &Claims, expected: Option<&str>) -> Result<(), Refusal> {
    let ours = |value: &Value| value.as_str().is_some_and(|name| Some(name) == expected);
    let is_for_us = match claims.get("aud") {
        None => expected.is_none(),
        Some(Value::Array(all)) => all.iter().any(ours),
        Some(one) => ours(one),
    };
    if is_for_us { Ok(()) } else { Err(Refusal::Audience) }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Expired => f.write_str("it has expired"),
            Self::NotYetValid => f.write_str("it is not valid yet"),
            Self::Audience => f.write_str("it is not for this audience (see jwt-audience)"),
            Self::Issuer => f.write_str("it is not of this issuer (see jwt-issuer)"),
            Self::Type(claim) => write!(f, "the claim `{claim}` has the wrong type"),
        }
    }
}

#[cfg(test)]
mod tests {
    use headwater::Channel;
    use headwater::access::Action;
    use serde_json::json;

    use super::*;

    const NOW: f64 = 1_000.0;

    fn read(claims: &Value, expected: &Expected) -> Result<Identity, Refusal> {
        Identity::read(claims.as_object().unwrap(), expected, NOW)
    }

    #[track_caller]
    fn check(claims: &Value, expected: Option<Refusal>) {
        assert_eq!(read(claims, &Expected::default()).err(), expected, "{claims}");
    }

    #[test]
    fn times_are_numbers() {
        check(&json!({}), None);
        check(&json!({ "exp": 1001, "nbf": 1000 }), None);
        check(&json!({ "exp": 1000.5, "nbf": 999.5 }), None);
        check(&json!({ "exp": 1e300 }), None);
        check(&json!({ "exp": 1000 }), Some(Refusal::Expired));
        check(&json!({ "exp": 0 }), Some(Refusal::Expired));
        check(&json!({ "exp": -1.5 }), Some(Refusal::Expired));
        check(&json!({ "nbf": 1100 }), Some(Refusal::NotYetValid));
        for wrong in [json!("1001"), json!(null), json!([1001]), json!(true), json!({})] {
            check(&json!({ "exp": wrong }), Some(Refusal::Type("exp")));
            check(&json!({ "nbf": wrong }), Some(Refusal::Type("nbf")));
        }
        check(&json!({ "sub": [] }), Some(Refusal::Type("sub")));
    }

    #[test]
    fn audience_and_issuer() {
        let named = Expected {
            audience: Some("hw".into()),
            issuer: Some("me".into()),
            ..Expected::default()
        };
        assert!(read(&json!({ "aud": "hw", "iss": "me" }), &named).is_ok());
        assert!(read(&json!({ "aud": ["x", "hw"], "iss": "me" }), &named).is_ok());
        for aud in [json!("x"), json!(["x"]), json!([]), json!(7), json!("HW"), json!(null)] {
            let refused = read(&json!({ "aud": aud, "iss": "me" }), &named);
            assert_eq!(refused, Err(Refusal::Audience), "{aud}");
            check(&json!({ "aud": aud }), Some(Refusal::Audience));
        }
        assert_eq!(read(&json!({ "iss": "me" }), &named), Err(Refusal::Audience));
        for iss in [json!("x"), json!(["me"]), json!(null)] {
            let refused = read(&json!({ "aud": "hw", "iss": iss }), &named);
            assert_eq!(refused, Err(Refusal::Issuer), "{iss}");
        }
    }

    #[test]
    fn an_invalid_pattern_grants_nothing() {
        let claims = json!({ "headwater": {
            "subscribe": ["news", "user:42:*", "*a", "", 7, "headwater:*"],
            "publish": "news",
            "admin": 1,
        } });
        let identity = read(&claims, &Expected::default()).unwrap();
        let shown: Vec<String> = identity.subscribe.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["news", "user:42:*"]);
        assert_eq!((identity.publish.len(), identity.admin), (0, false));
        for claims in [json!({ "headwater": [] }), json!({ "headwater": null })] {
            assert_eq!(read(&claims, &Expected::default()), Ok(Identity::default()));
        }
    }

    #[test]
    fn templates_give_each_user_separate_channels() {
        let expected = Expected {
            subscribe: vec!["user:{sub}:*".parse().unwrap()],
            publish: vec!["from:{sub}".parse().unwrap()],
            ..Expected::default()
        };
        let identity = read(&json!({ "sub": 42, "jti": "j" }), &expected).unwrap();
        let channel = |name: &str| [Channel::new(name).unwrap()];
        let allows = |action, name: &str| identity.allows(action, &channel(name), |_| false);
        assert!(allows(Action::Subscribe, "user:42:a"));
        assert!(allows(Action::Publish, "from:42"));
        assert!(!allows(Action::Publish, "user:42:a") && !allows(Action::Subscribe, "user:421:a"));
        assert!(!identity.allows(Action::Admin, &[], |_| false));
        assert_eq!(
            (identity.user.as_deref(), identity.token_id.as_deref()),
            (Some("42"), Some("j"))
        );
        let nobody = read(&json!({}), &expected).unwrap();
        assert!(nobody.subscribe.is_empty() && nobody.publish.is_empty());
    }
}
