//! The contract of the streams: one set of expectations, run on the log in memory and on a real Redis; the scripts
//! alone at the edges only a real server has; the stage loop; and a state machine that compares the two logs.
//!
//! Tests of Redis start a private server each (`redis-server` on PATH), because they fill, restart and flush it.

mod contract {
    #[macro_use]
    pub mod fixture;
    pub mod proxy;
    pub mod server;

    mod acts;
    mod admission;
    mod commit;
    mod emit;
    mod facts;
    mod lease;
    mod letters;
    mod line;
    mod machine;
    mod notes;
    mod scripts;
    mod stage;
    mod survey;
}
