//! What can go wrong, and the seeded choice of it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use cli::stack::Program;
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::crew::Name;
use super::deployment::WORKERS;
use super::rebuild::PHASES;

/// A row of the fault table in docs/operations.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row(pub u8);

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "F{}", self.0)
    }
}

impl FromStr for Row {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Row, anyhow::Error> {
        let number = text.trim().strip_prefix(['F', 'f']).and_then(|number| number.parse().ok());
        let known = |row: &Row| Kind::ALL.iter().any(|kind| kind.row() == *row);
        number.map(Row).filter(known).ok_or_else(|| {
            let rows: Vec<String> = Kind::ALL.iter().map(|kind| kind.row().to_string()).collect();
            anyhow::anyhow!("{text:?} is not a row; those of a run are {}", rows.join(" "))
        })
    }
}

/// Which of the two lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// To Redis.
    Redis,
    /// To PostgreSQL.
    Postgres,
}

/// What can go wrong, without its particulars.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "Fault says what each is")]
pub enum Kind {
    Kill,
    FailAt,
    Freeze,
    Silence,
    Terminate,
    LoseRead,
    LoseScript,
    LoseSql,
    RedisRestart,
    RedisKill,
    PowerCut,
    Failover,
    ReadOnly,
    ForgetScripts,
    RemoveGroup,
    Busy,
    Loading,
    Full,
    Slow,
    Trickle,
    HalfOpen,
    Refuse,
    PostgresStop,
    PostgresKill,
    Serialization,
    Deadlock,
    Cancel,
    Poison,
    Trim,
    ClockJump,
    Rebuild,
    UnknownType,
}

impl Kind {
    /// All of them, in the order of their rows.
    pub const ALL: &'static [Kind] = &[
        Kind::Kill,
        Kind::FailAt,
        Kind::Freeze,
        Kind::Silence,
        Kind::Terminate,
        Kind::LoseRead,
        Kind::LoseScript,
        Kind::LoseSql,
        Kind::RedisRestart,
        Kind::RedisKill,
        Kind::PowerCut,
        Kind::Failover,
        Kind::ReadOnly,
        Kind::ForgetScripts,
        Kind::RemoveGroup,
        Kind::Busy,
        Kind::Loading,
        Kind::Full,
        Kind::Slow,
        Kind::Trickle,
        Kind::HalfOpen,
        Kind::Refuse,
        Kind::PostgresStop,
        Kind::PostgresKill,
        Kind::Serialization,
        Kind::Deadlock,
        Kind::Cancel,
        Kind::Poison,
        Kind::Trim,
        Kind::ClockJump,
        Kind::Rebuild,
        Kind::UnknownType,
    ];

    /// The row it is of.
    pub fn row(self) -> Row {
        Row(match self {
            Kind::Kill | Kind::FailAt => 1,
            Kind::Freeze => 2,
            Kind::Silence => 3,
            Kind::Terminate => 4,
            Kind::LoseRead => 5,
            Kind::LoseScript | Kind::LoseSql => 6,
            Kind::RedisRestart => 7,
            Kind::RedisKill => 8,
            Kind::PowerCut => 9,
            Kind::Failover => 10,
            Kind::ReadOnly | Kind::ForgetScripts | Kind::RemoveGroup | Kind::Busy | Kind::Loading => 11,
            Kind::Full => 12,
            Kind::Slow | Kind::Trickle | Kind::HalfOpen | Kind::Refuse => 13,
            Kind::PostgresStop | Kind::PostgresKill => 14,
            Kind::Serialization | Kind::Deadlock | Kind::Cancel => 15,
            Kind::Poison => 17,
            Kind::Trim => 18,
            Kind::ClockJump => 19,
            Kind::Rebuild => 20,
            Kind::UnknownType => 21,
        })
    }
}

/// Something that goes wrong, with all its particulars. Times in milliseconds.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs, reason = "the variants say what their fields are")]
pub enum Fault {
    /// A worker is killed and comes back after `pause_ms`.
    Kill { worker: Name, pause_ms: u64 },
    /// A worker dies at a certain step of its work, the nth time it gets there.
    FailAt { worker: Name, point: &'static str, nth: u32 },
    /// A worker is stopped for longer than its lease and goes on as if nothing had been.
    Freeze { worker: Name, ms: u64 },
    /// A worker renews its leases no more while its work takes longer than they last.
    Silence { worker: Name, ms: u64 },
    /// A worker is asked to stop under load.
    Terminate { worker: Name, pause_ms: u64 },
    /// Replies to blocking reads get lost.
    LoseRead { count: u32 },
    /// Scripts are cut off, before or at their replies.
    LoseScript { count: u32, on_reply: bool },
    /// Statements are cut off, before or at their replies: COMMITs, or any.
    LoseSql { count: u32, on_reply: bool, commits: bool },
    /// Redis is stopped in order and started again.
    RedisRestart { down_ms: u64 },
    /// Redis is killed.
    RedisKill { down_ms: u64 },
    /// Redis comes back with its append-only file as it was a while ago.
    PowerCut { lost_ms: u64 },
    /// The replica, which missed the last while, becomes the primary.
    Failover { lost_ms: u64 },
    /// Redis is a replica for a while.
    ReadOnly { ms: u64 },
    /// The script cache is emptied.
    ForgetScripts,
    /// A consumer group vanishes. Which, by its number among all.
    RemoveGroup { which: usize },
    /// A script keeps Redis busy.
    Busy { ms: u64 },
    /// Redis restarts and takes long to load.
    Loading { key_us: u32 },
    /// Redis is at its memory limit.
    Full { ms: u64 },
    /// Everything takes long.
    Slow { line: Line, latency_ms: u64, jitter_ms: u64, ms: u64 },
    /// 10 kB a second, in small pieces.
    Trickle { line: Line, ms: u64 },
    /// Bytes vanish, one way or both.
    HalfOpen { line: Line, up: bool, down: bool, ms: u64 },
    /// Connections are refused.
    Refuse { line: Line, ms: u64 },
    /// PostgreSQL stops at once, as in `pg_ctl stop -m immediate`.
    PostgresStop { down_ms: u64 },
    /// A backend of PostgreSQL is killed: the server ends all sessions and recovers.
    PostgresKill,
    /// Every transaction is `repeatable read`, so that projectors fail each other.
    Serialization { ms: u64 },
    /// Somebody locks rows against the order.
    Deadlock,
    /// Statements are cancelled, as by `statement_timeout`.
    Cancel { times: u32 },
    /// An entry that no program can read.
    Poison { queue: &'static str, how: usize },
    /// An operator trims what is done.
    Trim,
    /// The server's clock was an hour ahead for a moment: ids go on from there.
    ClockJump { which: usize },
    /// The read side is built anew; the program dies in a phase of it and is started again.
    Rebuild { dies_at: &'static str },
    /// A fact of a type that this release does not know.
    UnknownType,
}

/// Steps at which a worker of a program can be made to die, and that the load leads it to. What it does not lead to,
/// because nothing of it is put off and nobody revives dead letters, has tests of its own in
/// `backbone/streams/tests/contract/stage/points.rs`.
fn fail_points(program: Program) -> &'static [&'static str] {
    match program {
        Program::Ingest => &[
            "read.after",
            "heartbeat.before",
            "work.before",
            "admit.before",
            "admit.after",
            "outcome.after",
            "commit.before",
            "commit.after",
        ],
        Program::Decode => &[
            "read.after",
            "heartbeat.before",
            "work.before",
            "emit.before",
            "emit.after",
            DEAD,
            "commit.before",
            "commit.after",
        ],
        Program::Infer => &[
            "read.after",
            "claim.after",
            "heartbeat.before",
            "work.before",
            DEAD,
            "hand_back.before",
            "hand_back.after",
            "commit.before",
            "commit.after",
        ],
        Program::Project => &[
            "read.after",
            "history.after",
            "heartbeat.before",
            "apply.before",
            "apply.after",
            "ack.before",
            "ack.after",
        ],
        Program::Keeper => &[
            "trim.before",
            "trim.after",
            "append.before",
            "append.after",
            "erase.before",
            "erase.page",
            "erase.after",
        ],
        Program::Api => &["submit.before", "submit.after", "unwant.before", "unwant.after"],
        Program::Redis | Program::Postgres => &[],
    }
}

/// Reached where there is something that no program can read, which whoever makes a worker die there plants.
pub const DEAD: &str = "dead.before";

/// What a worker that is asked to stop does with work that it cannot finish.
pub fn is_of_handing_back(point: &str) -> bool {
    point.starts_with("hand_back.")
}

/// Steps that come at most every few seconds: a worker dies there the first time.
fn is_rare(program: Program, point: &str) -> bool {
    program == Program::Keeper || point == DEAD || point.starts_with("unwant.") || is_of_handing_back(point)
}

/// A sequence of faults that a seed decides: every kind once in an order by chance, then again.
pub struct Schedule {
    kinds: Vec<Kind>,
    bag: Vec<Kind>,
}

impl Schedule {
    /// Of all kinds, or those of some rows.
    pub fn new(rows: &[Row]) -> Schedule {
        let wanted = |kind: &&Kind| rows.is_empty() || rows.contains(&kind.row());
        Schedule { kinds: Kind::ALL.iter().filter(wanted).copied().collect(), bag: Vec::new() }
    }

    /// How many faults a run of this length does: ten a minute, and one of each kind at least.
    pub fn faults_in(&self, length: Duration) -> u32 {
        let in_time = (length.as_secs_f64() / 6.0).ceil() as u32;
        in_time.max(self.kinds.len() as u32)
    }

    /// The kinds it chooses from.
    pub fn kinds(&self) -> &[Kind] {
        &self.kinds
    }

    /// The next fault.
    pub fn next(&mut self, random: &mut StdRng) -> Fault {
        if self.bag.is_empty() {
            self.bag.clone_from(&self.kinds);
            self.bag.shuffle(random);
        }
        make(self.bag.pop().expect("a row has at least one kind"), random)
    }
}

fn make(kind: Kind, random: &mut StdRng) -> Fault {
    let mut stage = |programs: &[Program]| {
        let program = programs[random.random_range(0..programs.len())];
        let count = WORKERS.iter().find(|(known, _)| *known == program).map_or(1, |(_, count)| *count);
        Name { program, number: random.random_range(0..count) }
    };
    let worker = stage(&Program::STAGES);
    let in_loop = stage(&[Program::Ingest, Program::Decode, Program::Infer, Program::Project]);
    let mut ms = |from: u64, to: u64| random.random_range(from..=to);
    match kind {
        Kind::Kill => Fault::Kill { worker, pause_ms: ms(0, 2_000) },
        Kind::FailAt => {
            let points = fail_points(worker.program);
            let point = points[random.random_range(0..points.len())];
            let nth = if is_rare(worker.program, point) { 1 } else { random.random_range(1..=4) };
            Fault::FailAt { worker, point, nth }
        }
        Kind::Freeze => Fault::Freeze { worker: in_loop, ms: ms(4_000, 6_000) },
        Kind::Silence => {
            let number = random.random_range(0..2);
            let ms = random.random_range(5_000..=8_000);
            Fault::Silence { worker: Name { program: Program::Infer, number }, ms }
        }
        Kind::Terminate => Fault::Terminate { worker, pause_ms: ms(0, 1_000) },
        Kind::LoseRead => Fault::LoseRead { count: random.random_range(1..=4) },
        Kind::LoseScript => {
            Fault::LoseScript { count: random.random_range(1..=6), on_reply: random.random() }
        }
        Kind::LoseSql => Fault::LoseSql {
            count: random.random_range(1..=4),
            on_reply: random.random(),
            commits: random.random(),
        },
        Kind::RedisRestart => Fault::RedisRestart { down_ms: ms(500, 6_000) },
        Kind::RedisKill => Fault::RedisKill { down_ms: ms(0, 2_000) },
        Kind::PowerCut => Fault::PowerCut { lost_ms: ms(300, 2_000) },
        Kind::Failover => Fault::Failover { lost_ms: ms(300, 2_000) },
        Kind::ReadOnly => Fault::ReadOnly { ms: ms(500, 3_000) },
        Kind::ForgetScripts => Fault::ForgetScripts,
        Kind::RemoveGroup => Fault::RemoveGroup { which: random.random_range(0..1000) },
        Kind::Busy => Fault::Busy { ms: ms(500, 2_000) },
        Kind::Loading => Fault::Loading { key_us: random.random_range(50..=300) },
        Kind::Full => Fault::Full { ms: ms(1_000, 5_000) },
        Kind::Slow => {
            let line = line(random);
            Fault::Slow { line, latency_ms: 500, jitter_ms: 200, ms: 5_000 }
        }
        Kind::Trickle => Fault::Trickle { line: line(random), ms: 5_000 },
        Kind::HalfOpen => {
            let (line, way) = (line(random), random.random_range(0..3));
            let ms = random.random_range(2_000..=6_000);
            Fault::HalfOpen { line, up: way != 1, down: way != 0, ms }
        }
        Kind::Refuse => {
            let ms = ms(500, 4_000);
            Fault::Refuse { line: line(random), ms }
        }
        Kind::PostgresStop => Fault::PostgresStop { down_ms: ms(0, 4_000) },
        Kind::PostgresKill => Fault::PostgresKill,
        Kind::Serialization => Fault::Serialization { ms: ms(2_000, 4_000) },
        Kind::Deadlock => Fault::Deadlock,
        Kind::Cancel => Fault::Cancel { times: random.random_range(1..=10) },
        Kind::Poison => {
            let queue = ["decode:batch", "decode:rt", "segments:batch", "segments:rt"];
            Fault::Poison {
                queue: queue[random.random_range(0..queue.len())],
                how: random.random_range(0..4),
            }
        }
        Kind::Trim => Fault::Trim,
        Kind::ClockJump => Fault::ClockJump { which: random.random_range(0..1000) },
        Kind::Rebuild => Fault::Rebuild { dies_at: PHASES[random.random_range(0..PHASES.len())] },
        Kind::UnknownType => Fault::UnknownType,
    }
}

fn line(random: &mut StdRng) -> Line {
    if random.random() { Line::Redis } else { Line::Postgres }
}

impl Fault {
    /// What kind it is.
    pub fn kind(&self) -> Kind {
        match self {
            Fault::Kill { .. } => Kind::Kill,
            Fault::FailAt { .. } => Kind::FailAt,
            Fault::Freeze { .. } => Kind::Freeze,
            Fault::Silence { .. } => Kind::Silence,
            Fault::Terminate { .. } => Kind::Terminate,
            Fault::LoseRead { .. } => Kind::LoseRead,
            Fault::LoseScript { .. } => Kind::LoseScript,
            Fault::LoseSql { .. } => Kind::LoseSql,
            Fault::RedisRestart { .. } => Kind::RedisRestart,
            Fault::RedisKill { .. } => Kind::RedisKill,
            Fault::PowerCut { .. } => Kind::PowerCut,
            Fault::Failover { .. } => Kind::Failover,
            Fault::ReadOnly { .. } => Kind::ReadOnly,
            Fault::ForgetScripts => Kind::ForgetScripts,
            Fault::RemoveGroup { .. } => Kind::RemoveGroup,
            Fault::Busy { .. } => Kind::Busy,
            Fault::Loading { .. } => Kind::Loading,
            Fault::Full { .. } => Kind::Full,
            Fault::Slow { .. } => Kind::Slow,
            Fault::Trickle { .. } => Kind::Trickle,
            Fault::HalfOpen { .. } => Kind::HalfOpen,
            Fault::Refuse { .. } => Kind::Refuse,
            Fault::PostgresStop { .. } => Kind::PostgresStop,
            Fault::PostgresKill => Kind::PostgresKill,
            Fault::Serialization { .. } => Kind::Serialization,
            Fault::Deadlock => Kind::Deadlock,
            Fault::Cancel { .. } => Kind::Cancel,
            Fault::Poison { .. } => Kind::Poison,
            Fault::Trim => Kind::Trim,
            Fault::ClockJump { .. } => Kind::ClockJump,
            Fault::Rebuild { .. } => Kind::Rebuild,
            Fault::UnknownType => Kind::UnknownType,
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn first(seed: u64, count: usize, rows: &[Row]) -> Vec<Fault> {
        let (mut random, mut schedule) = (StdRng::seed_from_u64(seed), Schedule::new(rows));
        (0..count).map(|_| schedule.next(&mut random)).collect()
    }

    #[test]
    fn a_seed_is_a_schedule() {
        assert_eq!(first(7, 60, &[]), first(7, 60, &[]));
        assert_ne!(first(7, 60, &[]), first(8, 60, &[]));
    }

    #[test]
    fn every_kind_comes_once_before_any_comes_twice() {
        let mut kinds: Vec<Kind> = first(1, Kind::ALL.len(), &[]).iter().map(Fault::kind).collect();
        kinds.sort();
        kinds.dedup();
        assert_eq!(kinds, Kind::ALL);
    }

    #[test]
    fn a_run_has_every_kind_and_ten_faults_a_minute() {
        let faults =
            |seconds, rows: &[Row]| Schedule::new(rows).faults_in(Duration::from_secs(seconds)) as usize;
        assert_eq!(faults(10, &[]), Kind::ALL.len());
        assert_eq!((faults(600, &[]), faults(60, &[Row(8)]), faults(1, &[Row(8)])), (100, 10, 1));
    }

    #[test]
    fn points_are_those_that_programs_know() {
        for program in Program::STAGES {
            for point in fail_points(program) {
                assert!(streams::failpoint::POINTS.iter().any(|(known, _)| known == point), "{point}");
            }
        }
    }

    #[test]
    fn rows_choose_kinds() {
        let rows = ["F9".parse().unwrap(), "f10".parse().unwrap()];
        assert!(first(1, 10, &rows).iter().all(|fault| rows.contains(&fault.kind().row())));
        assert!("F99".parse::<Row>().is_err() && "x".parse::<Row>().is_err());
    }
}
