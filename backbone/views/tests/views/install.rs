//! Preparing a database.

use std::time::Duration;

use views::{Error, Policies, Views};

use crate::support::{options, with_empty_database};

#[test]
fn programs_that_start_at_once_prepare_it_once() {
    with_empty_database(|db| async move {
        let error = db.views.check().await.unwrap_err();
        assert!(matches!(error, Error::NotInstalled) && error.is_transient(), "{error}");
        let starts: Vec<_> = (0..6)
            .map(|_| {
                let url = db.url.clone();
                tokio::spawn(async move {
                    let views = Views::connect(&url, &options()).await.unwrap();
                    views.migrate(&Policies::default()).await.unwrap()
                })
            })
            .collect();
        for start in starts {
            let installed = start.await.unwrap();
            assert_eq!(installed.timescale, None);
            assert!(installed.missing[0].starts_with("plain tables:"), "{installed}");
        }
        db.views.check().await.unwrap();
    });
}

#[test]
fn a_database_of_a_newer_release_is_refused() {
    with_empty_database(|db| async move {
        db.views.migrate(&Policies::default()).await.unwrap();
        sqlx::query("INSERT INTO control.migrations VALUES (99, 'later', now(), true, '', 0)")
            .execute(&mut db.connection().await)
            .await
            .unwrap();
        for error in
            [db.views.check().await.unwrap_err(), db.views.migrate(&Policies::default()).await.unwrap_err()]
        {
            assert!(matches!(error, Error::Newer { database: 99, program: 7 }), "{error}");
            assert!(!error.is_transient());
        }
    });
}

#[test]
fn tables_of_another_layout_are_not_written() {
    with_empty_database(|db| async move {
        db.views.migrate(&Policies::default()).await.unwrap();
        let own: i32 = sqlx::query_scalar("SELECT layout FROM control.projections")
            .fetch_one(&mut db.connection().await)
            .await
            .unwrap();
        let entries = crate::given::Log::new(0).whole(1, &["one"]);
        for (layout, remedy) in [(0, "voiceforge reproject"), (99, "newer release")] {
            let sql = "UPDATE control.projections SET layout = $1";
            sqlx::query(sql).bind(layout).execute(&mut db.connection().await).await.unwrap();
            let error = db.views.apply(&entries).await.unwrap_err();
            assert!(matches!(error, views::ApplyError::Retry(Error::Layout { .. })), "{error:?}");
            assert!(error.to_string().contains(remedy), "{error}");
        }
        sqlx::query("UPDATE control.projections SET layout = $1")
            .bind(own)
            .execute(&mut db.connection().await)
            .await
            .unwrap();
        assert_eq!(db.apply(&entries).await.fresh, 3);
    });
}

#[test]
fn a_url_that_cannot_work_says_so() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let error = Views::connect("not a url", &options()).await.unwrap_err();
        assert!(matches!(error, Error::Url(_)), "{error}");
        let nobody = views::Options { acquire_timeout: Duration::from_secs(1), ..options() };
        let error = Views::connect("postgres://127.0.0.1:1/x", &nobody).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    });
}

#[test]
fn the_server_ends_what_takes_too_long() {
    with_empty_database(|db| async move {
        let impatient = views::Options { statement_timeout: Duration::from_millis(200), ..options() };
        let views = Views::connect(&db.url, &impatient).await.unwrap();
        views.migrate(&Policies::default()).await.unwrap();
        let mut blocker = db.connection().await;
        sqlx::query("BEGIN").execute(&mut blocker).await.unwrap();
        sqlx::query("LOCK control.inbox").execute(&mut blocker).await.unwrap();
        let entries = crate::given::Log::new(0).whole(1, &["one"]);
        let error = views.apply(&entries).await.unwrap_err();
        assert!(matches!(error, views::ApplyError::Retry(Error::Unavailable(_))), "{error:?}");
        sqlx::query("ROLLBACK").execute(&mut blocker).await.unwrap();
        assert_eq!(views.apply(&entries).await.unwrap().fresh, 3);
    });
}
