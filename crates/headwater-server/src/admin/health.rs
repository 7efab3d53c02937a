//! `/health/live` and `/health/ready`, for orchestrators and people.

use axum::Json;
use axum::extract::State;
use headwater::Problem;
use serde::Serialize;

use crate::app::App;

#[derive(Serialize)]
pub(crate) struct Ready {
    status: &'static str,
    broker: &'static str,
    /// The round-trip time of the last probe through Redis.
    #[serde(skip_serializing_if = "Option::is_none")]
    lag_ms: Option<f64>,
}

/// The process responds.
pub(crate) async fn live() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "status": "live" }))
}

/// Events are known to arrive: the broker is the embedded one, or the last probe made the round
/// trip through Redis.
pub(crate) async fn ready(State(app): State<App>) -> Result<Json<Ready>, Problem> {
    if app.hub.is_draining() {
        return Err(Problem::unavailable("the server is stopping"));
    }
    let health = app.hub.status();
    if !health.is_ready() {
        return Err(Problem::unavailable(
            "Redis does not answer or does not deliver: see the log; streams stay open meanwhile",
        ));
    }
    let lag_ms = health.lag.map(|lag| lag.as_secs_f64() * 1000.0);
    Ok(Json(Ready { status: "ready", broker: app.broker_name, lag_ms }))
}
