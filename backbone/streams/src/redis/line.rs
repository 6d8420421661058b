//! The connection that commands share, replaced when it has gone silent.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{Client, RedisError};

/// A reply may take this long; blocking reads have their own limit.
pub const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that gave no answer for so long is not trusted further.
const SILENCE: Duration = Duration::from_secs(2);
/// How long opening a connection may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A multiplexed connection that reconnects when it breaks, and also when it gives no answer: a half-open one, whose
/// other end is gone without a word, would swallow every command until the system gives it up, which takes a quarter
/// of an hour.
pub struct Line {
    client: Client,
    current: Mutex<(u64, ConnectionManager)>,
}

impl Line {
    /// Connects.
    ///
    /// # Errors
    /// When the server does not answer.
    pub async fn open(client: Client) -> Result<Line, RedisError> {
        let connection = ConnectionManager::new_with_config(client.clone(), limits()).await?;
        Ok(Line { client, current: Mutex::new((0, connection)) })
    }

    /// Runs a call once. If its reply does not come in time, or the caller loses patience before, later calls have a
    /// new connection.
    ///
    /// # Errors
    /// Those of the call.
    pub async fn call<T, F, Fut>(&self, call: F) -> Result<T, RedisError>
    where
        F: FnOnce(ConnectionManager) -> Fut,
        Fut: Future<Output = Result<T, RedisError>>,
    {
        let (number, connection) = self.current.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut waiting = Waiting { line: self, number, since: Instant::now(), answered: false };
        let answer = call(connection).await;
        waiting.answered = !answer.as_ref().is_err_and(RedisError::is_timeout);
        answer
    }

    /// Replaces the connection that has this number, unless another call has done so.
    fn replace(&self, number: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.0 == number
            && let Ok(connection) = ConnectionManager::new_lazy_with_config(self.client.clone(), limits())
        {
            tracing::warn!("redis gave no answer: opening a new connection");
            *current = (number + 1, connection);
        }
    }
}

/// A call under way. Callers may drop it, and then nobody else would know that its connection is silent.
struct Waiting<'a> {
    line: &'a Line,
    number: u64,
    since: Instant,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if !self.answered && self.since.elapsed() >= SILENCE {
            self.line.replace(self.number);
        }
    }
}

fn limits() -> ConnectionManagerConfig {
    ConnectionManagerConfig::new()
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT))
        .set_number_of_retries(3)
}
