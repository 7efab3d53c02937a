//! Publishing directly in Redis, with the function and with plain `PUBLISH`. Look here for the
//! commands.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Pipeline, Value};

use crate::requests::Failure;

/// How long connecting and a reply may take, each.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// The key prefix of the log, which is the function's key argument.
const LOG: &str = "headwater:{0}";

/// A publisher's connection to Redis.
pub struct RedisCalls {
    url: String,
    connection: Option<MultiplexedConnection>,
}

/// A call of the function for one event.
pub struct Call {
    /// The name of the channel.
    pub channel: String,
    /// The data.
    pub data: String,
    /// Further arguments: `id ID`, `key KEY`.
    pub options: Vec<String>,
}

impl RedisCalls {
    /// Connects to the Redis at a URL with the first command.
    pub fn new(url: String) -> Self {
        Self { url, connection: None }
    }

    /// Calls the function for each event in one pipeline, and returns their ids.
    ///
    /// # Errors
    /// When the pipeline fails; some events may have been published nevertheless.
    pub async fn publish_durable(
        &mut self,
        calls: &[Call],
    ) -> Result<Vec<Option<String>>, Failure> {
        let mut pipeline = redis::pipe();
        for call in calls {
            pipeline.cmd("FCALL").arg("headwater_publish").arg(1).arg(LOG);
            pipeline.arg(&call.channel).arg(&call.data).arg(&call.options);
        }
        let answers = self.run(&pipeline).await?;
        let id = |answer: &Value| match answer {
            Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            Value::SimpleString(text) => Some(text.clone()),
            _ => None,
        };
        Ok(answers.iter().map(id).collect())
    }

    /// Publishes ephemeral events with `PUBLISH` in one pipeline.
    ///
    /// # Errors
    /// When the pipeline fails; some events may have been published nevertheless.
    pub async fn publish_ephemeral(
        &mut self,
        channel: &str,
        data: &[String],
    ) -> Result<(), Failure> {
        let mut pipeline = redis::pipe();
        for data in data {
            pipeline.cmd("PUBLISH").arg(channel).arg(data);
        }
        self.run(&pipeline).await.map(drop)
    }

    async fn run(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, Failure> {
        let answers = self.exchange(pipeline).await;
        answers.map_err(|error| {
            self.connection = None;
            Failure::Unknown(error.to_string())
        })
    }

    async fn exchange(&mut self, pipeline: &Pipeline) -> Result<Vec<Value>, redis::RedisError> {
        let connection = if let Some(connection) = &mut self.connection {
            connection
        } else {
            let config = AsyncConnectionConfig::new()
                .set_connection_timeout(Some(ANSWER_TIMEOUT))
                .set_response_timeout(Some(ANSWER_TIMEOUT));
            let client = Client::open(self.url.as_str())?;
            let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
            self.connection.insert(connection)
        };
        pipeline.query_async(connection).await
    }
}
