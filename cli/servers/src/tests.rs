use crate::process::Identity;
use crate::{Postgres, Redis, find, postgres, redis};

fn redis_options(folder: &std::path::Path) -> Option<redis::Options> {
    match find::redis_server() {
        Ok(program) => {
            let log = folder.join("redis.log");
            Some(redis::Options {
                program,
                folder: folder.join("redis"),
                log,
                port: None,
                durable: true,
                settings: Vec::new(),
            })
        }
        Err(e) => {
            eprintln!("skipped: {e:#}");
            None
        }
    }
}

#[test]
fn redis_keeps_its_data_and_port_after_being_killed() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut options) = redis_options(folder.path()) else { return };
    let mut first = Redis::start(&options).unwrap();
    options.port = Some(first.port());
    first.process().kill();
    let mut second = Redis::start(&options).unwrap();
    assert_eq!(second.url(), first.url());
    second.stop();
    assert!(!second.process().identity().is_alive());
}

#[test]
fn redis_left_running_in_the_folder_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let Some(options) = redis_options(folder.path()) else { return };
    let mut forgotten = Redis::start(&options).unwrap();
    let left = forgotten.process().identity();
    let mut second = Redis::start(&options).unwrap();
    assert!(!left.is_alive());
    second.stop();
}

#[test]
fn postgres_starts_again_after_kill_9_and_beside_a_stale_pid_file() {
    let folder = tempfile::tempdir().unwrap();
    let bins = find::postgres_bins();
    if bins.is_empty() {
        eprintln!("skipped: no PostgreSQL on this machine");
        return;
    }
    // The folder of a temporary folder is private to its owner, and root's PostgreSQL runs as another user.
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let log = folder.path().join("postgres.log");
    let mut options =
        postgres::Options { bins, folder: folder.path().join("pg"), log, port: None, durable: false };
    let mut first = Postgres::start(&options).unwrap();
    options.port = Some(first.port());
    first.process().kill();
    let mut second = Postgres::start(&options).unwrap();
    assert_eq!(second.url(), first.url());
    second.stop();

    // The number of a process that is certainly alive and certainly no PostgreSQL: this one.
    let pid_file = second.folder().join("cluster/postmaster.pid");
    std::fs::write(&pid_file, format!("{}\n", std::process::id())).unwrap();
    let mut third = Postgres::start(&options).unwrap();
    third.stop();
    assert!(!pid_file.exists());
}

#[test]
fn a_number_that_came_round_again_is_another_process() {
    let here = Identity::of(std::process::id());
    assert!(here.is_alive());
    let earlier = Identity { started: here.started.wrapping_sub(1), ..here };
    assert!(!earlier.is_alive());
}
