//! The Lua scripts, one file each.

use redis::Script;

/// Every script, with its digest computed once.
pub struct Scripts {
    pub commit: Script,
    pub emit: Script,
    pub admit: Script,
    pub claim: Script,
    pub retry: Script,
    pub heartbeat: Script,
    pub hand_back: Script,
    pub leave: Script,
    pub settle: Script,
    pub hear: Script,
    pub before: Script,
    pub leave_tail: Script,
    pub announce: Script,
    pub lease: Script,
    pub trim: Script,
    pub append: Script,
    pub append_work: Script,
    pub unwant: Script,
    pub find: Script,
    pub erase: Script,
    pub compact: Script,
    pub facts: Script,
    pub dead: Script,
    pub revive: Script,
    pub revive_work: Script,
    pub resubmit: Script,
    pub waiting: Script,
}

impl Scripts {
    pub fn new() -> Scripts {
        Scripts {
            commit: Script::new(include_str!("../scripts/commit.lua")),
            emit: Script::new(include_str!("../scripts/emit.lua")),
            admit: Script::new(include_str!("../scripts/admit.lua")),
            claim: Script::new(include_str!("../scripts/claim.lua")),
            retry: Script::new(include_str!("../scripts/retry.lua")),
            heartbeat: Script::new(include_str!("../scripts/heartbeat.lua")),
            hand_back: Script::new(include_str!("../scripts/hand_back.lua")),
            leave: Script::new(include_str!("../scripts/leave.lua")),
            settle: Script::new(include_str!("../scripts/settle.lua")),
            hear: Script::new(include_str!("../scripts/hear.lua")),
            before: Script::new(include_str!("../scripts/before.lua")),
            leave_tail: Script::new(include_str!("../scripts/leave_tail.lua")),
            announce: Script::new(include_str!("../scripts/announce.lua")),
            trim: Script::new(include_str!("../scripts/trim.lua")),
            lease: Script::new(include_str!("../scripts/lease.lua")),
            append: Script::new(include_str!("../scripts/append.lua")),
            append_work: Script::new(&strict(include_str!("../scripts/append.lua"))),
            unwant: Script::new(include_str!("../scripts/unwant.lua")),
            find: Script::new(include_str!("../scripts/find.lua")),
            erase: Script::new(include_str!("../scripts/erase.lua")),
            compact: Script::new(include_str!("../scripts/compact.lua")),
            facts: Script::new(include_str!("../scripts/facts.lua")),
            dead: Script::new(include_str!("../scripts/dead.lua")),
            revive: Script::new(include_str!("../scripts/revive.lua")),
            revive_work: Script::new(&strict(include_str!("../scripts/revive.lua"))),
            resubmit: Script::new(include_str!("../scripts/resubmit.lua")),
            waiting: Script::new(include_str!("../scripts/waiting.lua")),
        }
    }
}

/// Returns a script that is refused whole at the memory limit, from one that is not.
fn strict(script: &str) -> String {
    script.replacen("#!lua flags=allow-oom", "#!lua", 1)
}
