//! What every handler works with.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use metrics_exporter_prometheus::PrometheusHandle;
use service::admin::Readiness;
use service::store::AudioStore;
use streams::SharedLog;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use views::Views;

use crate::config::Limits;
use crate::keys::Keys;
use crate::pressure::Pressure;
use crate::reply::Error;

/// How long the queue may take to answer a request. The log itself tries for ever, which a client cannot.
const QUEUE_PATIENCE: Duration = Duration::from_secs(4);

/// What an [`Api`] is made of.
pub struct Parts {
    /// The queue.
    pub log: SharedLog,
    /// Where audio goes.
    pub store: AudioStore,
    /// The read side.
    pub views: Views,
    /// How much is taken.
    pub limits: Limits,
    /// Where the program says whether it can work.
    pub readiness: Readiness,
    /// The metrics of this process, for `/metrics`.
    pub metrics: Option<PrometheusHandle>,
}

/// Everything behind the routes. Clones share it.
#[derive(Clone)]
pub struct Api(Arc<Inner>);

/// The fields of [`Api`].
pub struct Inner {
    /// The queue. Ask it through [`Api::ask`].
    pub log: SharedLog,
    /// Where audio goes.
    pub store: AudioStore,
    /// The read side.
    pub views: Views,
    /// How much is taken.
    pub limits: Limits,
    /// Who may call.
    pub keys: Keys,
    /// Whether there is room.
    pub pressure: Pressure,
    /// One permit for each upload that may be under way.
    pub uploads: Semaphore,
    /// Cancelled when the program is ending: nobody should wait any longer.
    pub ending: CancellationToken,
    /// Where the program says whether it can work.
    pub readiness: Readiness,
    /// The metrics of this process.
    pub metrics: Option<PrometheusHandle>,
}

impl Api {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Api {
        let Parts { log, store, views, limits, readiness, metrics } = parts;
        Api(Arc::new(Inner {
            keys: Keys::new(views.clone(), &limits),
            pressure: Pressure::new(&store),
            uploads: Semaphore::new(limits.uploads),
            ending: CancellationToken::new(),
            log,
            store,
            views,
            limits,
            readiness,
            metrics,
        }))
    }

    /// Asks the queue, for as long as a client can wait.
    ///
    /// # Errors
    /// 503 when it does not answer, 429 when it is full.
    pub async fn ask<T>(
        &self,
        question: impl Future<Output = Result<T, streams::Error>>,
    ) -> Result<T, Error> {
        match tokio::time::timeout(QUEUE_PATIENCE, question).await {
            Ok(answer) => Ok(answer?),
            Err(_) => {
                Err(Error::down("the queue", format!("no answer within {} s", QUEUE_PATIENCE.as_secs())))
            }
        }
    }
}

impl Deref for Api {
    type Target = Inner;

    fn deref(&self) -> &Inner {
        &self.0
    }
}
