//! `/health/live` and `/health/ready`, for orchestrators and people.

use axum::Json;
use axum::extract::{RawQuery, State};
use headwater::Problem;
use headwater::broker::{BrokerStatus, Part};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::settings::{ReadyPart, ReadyParts};
use crate::sse::query::pairs;

/// The process responds.
pub(crate) async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

/// Whether the required parts work: those that `parts` in the query names, or else those of the
/// setting.
pub(crate) async fn ready(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let named = named_parts(query.as_deref().unwrap_or_default())?;
    let required = named.as_ref().unwrap_or(&app.ready_requires);
    answer(&app.status(), app.broker_name, required, app.hub.is_draining())
}

/// The parts that a query names, if it does.
fn named_parts(query: &str) -> Result<Option<ReadyParts>, Problem> {
    let mut named: Option<ReadyParts> = None;
    for pair in pairs(query) {
        let (name, value) = pair.map_err(Problem::bad_request)?;
        // Other parameters are ignored, as they always were here.
        if name != "parts" {
            continue;
        }
        let parts: ReadyParts =
            value.parse().map_err(|why| Problem::bad_request(format!("parts={value}: {why}")))?;
        named = Some(match named {
            Some(named) => named.with(parts),
            None => parts,
        });
    }
    Ok(named)
}

fn state_of(part: &Part) -> Value {
    let state = match part {
        _ if !part.is_ok() => "failed",
        _ if part.is_off() => "off",
        _ => "ok",
    };
    match part.reason() {
        Some(reason) => json!({ "state": state, "reason": reason }),
        None => json!({ "state": state }),
    }
}

/// A problem document cannot share its `status` with the other answer, so only the members `parts`,
/// `broker` and `lag_ms` are the same in both.
fn answer(
    status: &BrokerStatus,
    broker: &str,
    required: &ReadyParts,
    draining: bool,
) -> Result<Json<Value>, Problem> {
    let named = ReadyPart::ALL.map(|name| (name, name.of(status)));
    let parts: Map<String, Value> =
        named.iter().map(|(name, part)| (name.to_string(), state_of(part))).collect();
    let mut members = Map::new();
    members.insert("broker".into(), broker.into());
    // The round-trip time of the last probe through Redis.
    if let Some(lag) = status.lag {
        members.insert("lag_ms".into(), (lag.as_secs_f64() * 1000.0).into());
    }
    members.insert("parts".into(), Value::Object(parts));
    let failures: Vec<String> = named
        .iter()
        .filter(|(name, _)| required.contains(*name))
        .filter_map(|(name, part)| Some(format!("{name}: {}", part.failure()?)))
        .collect();
    let detail = if draining {
        "the server is stopping".to_owned()
    } else if failures.is_empty() {
        members.insert("status".into(), "ready".into());
        return Ok(Json(Value::Object(members)));
    } else {
        format!("{}; streams stay open meanwhile", failures.join("; "))
    };
    let problem = Problem::unavailable(detail);
    Err(members
        .into_iter()
        .fold(problem, |problem, (name, value)| problem.with_extension(name, value)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(text: &str) -> ReadyParts {
        text.parse().unwrap()
    }

    #[test]
    fn each_required_part_that_failed_makes_the_server_not_ready() {
        let all = parts("delivers,keeps,reads,access");
        for failed in ReadyPart::ALL {
            let mut status = BrokerStatus::ready();
            let part = Part::failed("OOM: memory is full");
            match failed {
                ReadyPart::Delivers => status.delivers = part,
                ReadyPart::Keeps => status.keeps = part,
                ReadyPart::Reads => status.reads = part,
                ReadyPart::Access => status.access = part,
            }
            for required in ReadyPart::ALL {
                let found = answer(&status, "redis", &parts(required.as_str()), false);
                assert_eq!(found.is_err(), required == failed, "{failed} {required}");
                if let Ok(Json(ready)) = found {
                    let shown = json!({ "state": "failed", "reason": "OOM: memory is full" });
                    assert_eq!(ready["parts"][failed.as_str()], shown);
                }
            }
            let problem = answer(&status, "redis", &all, false).unwrap_err();
            let expected = format!("{failed}: OOM: memory is full; streams stay open meanwhile");
            assert_eq!((problem.status().as_u16(), problem.detail()), (503, &*expected));
        }
        let draining = answer(&BrokerStatus::ready(), "memory", &all, true).unwrap_err();
        assert_eq!(draining.detail(), "the server is stopping");
    }

    #[test]
    fn a_part_that_is_off_is_shown_and_no_failure() {
        let mut status = BrokerStatus::ready();
        status.keeps = Part::off("retention is off");
        let Json(ready) = answer(&status, "redis", &parts("keeps"), false).unwrap();
        assert_eq!(ready["parts"]["keeps"], json!({"state": "off", "reason": "retention is off"}));
    }

    #[test]
    fn a_query_names_the_parts() {
        let check = |query: &str, expected: Option<&str>| {
            assert_eq!(named_parts(query).unwrap(), expected.map(parts), "{query}");
        };
        check("", None);
        check("other=1", None);
        check("parts=delivers", Some("delivers"));
        check("parts=reads%2Ckeeps&parts=access", Some("reads,keeps,access"));
        for query in ["parts=", "parts=deliver", "parts=reads,"] {
            let problem = named_parts(query).unwrap_err();
            assert_eq!(problem.status().as_u16(), 400, "{query}");
            assert!(problem.detail().contains("delivers, keeps, reads, access"), "{query}");
        }
    }
}
