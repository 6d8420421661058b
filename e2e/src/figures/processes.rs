//! What the system tells of processes: their memory and the processor time they spent.

/// Clock ticks a second in `/proc`, the same on every Linux that we know of.
const TICKS: f64 = 100.0;

/// Seconds of processor time that a process spent; 0 where it is gone.
pub fn spent_s(pid: u32) -> f64 {
    Stat::of(pid).map_or(0.0, |stat| stat.ticks as f64 / TICKS)
}

/// The same with its children, those that ended included.
pub fn spent_with_children_s(pid: u32) -> f64 {
    let children = servers::process::children(pid).into_iter().map(|child| spent_s(child.pid));
    let ended = Stat::of(pid).map_or(0, |stat| stat.of_children) as f64 / TICKS;
    spent_s(pid) + ended + children.sum::<f64>()
}

/// Bytes of memory that a process has resident; `None` where it is gone.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    resident_in(&std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?)
}

fn resident_in(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The times in `/proc/PID/stat`.
#[derive(Debug, PartialEq)]
struct Stat {
    ticks: u64,
    of_children: u64,
}

impl Stat {
    fn of(pid: u32) -> Option<Stat> {
        Stat::parse(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// utime, stime, cutime and cstime are fields 14 to 17; the name, in brackets, may hold anything.
    fn parse(stat: &str) -> Option<Stat> {
        let (_, rest) = stat.rsplit_once(')')?;
        let times: Vec<u64> =
            rest.split_whitespace().skip(11).take(4).filter_map(|n| n.parse().ok()).collect();
        let [user, system, children_user, children_system] = times[..] else { return None };
        Some(Stat { ticks: user + system, of_children: children_user + children_system })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_behind_any_name() {
        let stat = "17 (a) b (c) S 1 17 17 0 -1 4194560 1 2 3 4 250 50 7 3 20 0 9 0 12345 99 11";
        assert_eq!(Stat::parse(stat), Some(Stat { ticks: 300, of_children: 10 }));
        assert_eq!(Stat::parse("17 (short) S 1"), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(resident_in("Name:\tx\nVmRSS:\t    2048 kB\nThreads:\t3\n"), Some(2 << 20));
        assert_eq!(resident_in("Name:\tkthreadd\n"), None);
    }
}
