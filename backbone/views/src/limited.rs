//! A pool whose answers are waited for no longer than the server may take for them.

use std::ops::Deref;
use std::time::Duration;

use futures::future::BoxFuture;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryFutureExt, TryStreamExt};
use sqlx::postgres::{PgConnection, PgPool, PgQueryResult, PgRow, PgStatement, PgTypeInfo};
use sqlx::{Describe, Either, Execute, Executor, Postgres, SqlStr};

use crate::session::Session;

/// A pool of which a query gives up once the server must have answered or ended it by itself. Without that a line that
/// is dead at the other end only, and says nothing, holds its query for as long as the system takes to notice: hours.
/// The connection is closed then, and when nobody waits for the answer any more.
#[derive(Clone, Debug)]
pub(crate) struct LimitedPool {
    pool: PgPool,
    limit: Duration,
}

/// How much longer an answer may take than the server's own limit.
pub(crate) const MARGIN: Duration = Duration::from_secs(5);

/// The error of a server that said nothing for so long.
pub(crate) fn no_answer_within(limit: Duration) -> sqlx::Error {
    let what = format!("no answer within {} s", limit.as_secs());
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, what))
}

impl LimitedPool {
    /// Limits a pool whose server ends a statement after `statement_timeout`.
    pub fn new(pool: PgPool, statement_timeout: Duration) -> LimitedPool {
        LimitedPool { pool, limit: statement_timeout + MARGIN }
    }

    async fn ask<T>(
        &self,
        question: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut session = Session::open(&self.pool).await?;
        let answer = tokio::time::timeout(self.limit, question(session.connection())).await;
        let answer = answer.unwrap_or_else(|_| Err(no_answer_within(self.limit)));
        if matches!(answer, Ok(_) | Err(sqlx::Error::Database(_))) {
            session.close();
        }
        answer
    }
}

impl Deref for LimitedPool {
    type Target = PgPool;

    fn deref(&self) -> &PgPool {
        &self.pool
    }
}

impl<'p> Executor<'p> for &'p LimitedPool {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(
        self,
        query: E,
    ) -> BoxStream<'e, Result<Either<PgQueryResult, PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let all =
            self.ask(async move |connection| connection.fetch_many(query).try_collect::<Vec<_>>().await);
        all.map_ok(|all| stream::iter(all.into_iter().map(Ok))).try_flatten_stream().boxed()
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, Result<Option<PgRow>, sqlx::Error>>
    where
        'p: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        Box::pin(self.ask(async move |connection| connection.fetch_optional(query).await))
    }

    fn prepare_with<'e>(
        self,
        sql: SqlStr,
        parameters: &'e [PgTypeInfo],
    ) -> BoxFuture<'e, Result<PgStatement, sqlx::Error>>
    where
        'p: 'e,
    {
        Box::pin(self.ask(async move |connection| connection.prepare_with(sql, parameters).await))
    }
    fn describe<'e>(self, sql: SqlStr) -> BoxFuture<'e, Result<Describe<Postgres>, sqlx::Error>>
    where
        'p: 'e,
    {
        Box::pin(self.ask(async move |connection| connection.describe(sql).await))
    }
}
