//! `/health/live` and `/health/ready`, for orchestrators and people.

use axum::Json;
use axum::extract::{RawQuery, State};
use headwater::Problem;
use headwater::broker::{BrokerStatus, Part};
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::sse::query::pairs;

/// The parts of readiness, in the order in which they are shown.
const PARTS: [&str; 4] = ["delivers", "keeps", "reads", "access"];

/// The process responds.
pub(crate) async fn live() -> Json<Value> {
    Json(json!({ "status": "live" }))
}

/// Whether the required parts work: all of them, or those that `parts` in the query names.
pub(crate) async fn ready(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<Json<Value>, Problem> {
    let required = required_parts(query.as_deref().unwrap_or_default())?;
    let draining = app.hub.is_draining();
    answer(&app.hub.status(), app.broker_name, &required, draining)
}

/// The parts that a query requires; all of them if it names none.
fn required_parts(query: &str) -> Result<Vec<&'static str>, Problem> {
    let mut required = Vec::new();
    for pair in pairs(query) {
        let (name, value) = pair.map_err(Problem::bad_request)?;
        // Other parameters are ignored, as they always were here.
        if name != "parts" {
            continue;
        }
        for wanted in value.split(',').map(str::trim) {
            let part = PARTS.into_iter().find(|part| *part == wanted).ok_or_else(|| {
                let known = PARTS.join(", ");
                Problem::bad_request(format!("unknown part {wanted:?}; the parts are {known}"))
            })?;
            required.push(part);
        }
    }
    if required.is_empty() {
        required.extend(PARTS);
    }
    Ok(required)
}

/// A problem document cannot share its `status` with the other answer, so only the members `parts`,
/// `broker` and `lag_ms` are the same in both.
fn answer(
    status: &BrokerStatus,
    broker: &str,
    required: &[&str],
    draining: bool,
) -> Result<Json<Value>, Problem> {
    let named: [(&str, &Part); 4] = [
        (PARTS[0], &status.delivers),
        (PARTS[1], &status.keeps),
        (PARTS[2], &status.reads),
        (PARTS[3], &status.access),
    ];
    let parts: Map<String, Value> = named
        .iter()
        .map(|(name, part)| {
            let state = match part.failure() {
                None => json!({ "state": "ok" }),
                Some(reason) => json!({ "state": "failed", "reason": reason }),
            };
            ((*name).to_owned(), state)
        })
        .collect();
    let mut members = Map::new();
    members.insert("broker".into(), broker.into());
    // The round-trip time of the last probe through Redis.
    if let Some(lag) = status.lag {
        members.insert("lag_ms".into(), (lag.as_secs_f64() * 1000.0).into());
    }
    members.insert("parts".into(), Value::Object(parts));
    let failures: Vec<String> = named
        .iter()
        .filter(|(name, _)| required.contains(name))
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

    #[test]
    fn each_required_part_that_failed_makes_the_server_not_ready() {
        for failed in PARTS {
            let mut status = BrokerStatus::ready();
            let part = Part::failed("OOM: memory is full");
            match failed {
                "delivers" => status.delivers = part,
                "keeps" => status.keeps = part,
                "reads" => status.reads = part,
                _ => status.access = part,
            }
            for required in PARTS {
                let found = answer(&status, "redis", &[required], false);
                assert_eq!(found.is_err(), required == failed, "{failed} {required}");
            }
            let problem = answer(&status, "redis", &PARTS, false).unwrap_err();
            let expected = format!("{failed}: OOM: memory is full; streams stay open meanwhile");
            assert_eq!((problem.status().as_u16(), problem.detail()), (503, &*expected));
            let Json(ready) = answer(&status, "redis", &[], false).unwrap();
            let shown = json!({ "state": "failed", "reason": "OOM: memory is full" });
            assert_eq!(ready["parts"][failed], shown);
        }
        let draining = answer(&BrokerStatus::ready(), "memory", &PARTS, true).unwrap_err();
        assert_eq!(draining.detail(), "the server is stopping");
    }

    #[test]
    fn a_query_names_the_parts() {
        let check = |query: &str, expected: &[&str]| {
            assert_eq!(required_parts(query).unwrap(), expected, "{query}");
        };
        check("", &PARTS);
        check("other=1", &PARTS);
        check("parts=delivers", &["delivers"]);
        check("parts=reads%2Ckeeps&parts=access", &["reads", "keeps", "access"]);
        for query in ["parts=", "parts=deliver", "parts=reads,"] {
            let problem = required_parts(query).unwrap_err();
            assert_eq!(problem.status().as_u16(), 400, "{query}");
            assert!(problem.detail().contains("delivers, keeps, reads, access"), "{query}");
        }
    }
}
