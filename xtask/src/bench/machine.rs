//! What a measurement was taken on, in a line or two for its page.

use std::process::Command;

/// Says which processor, how much memory, which kernel, and how busy the machine is with other things.
pub fn describe() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let processor = field(&read("/proc/cpuinfo"), "model name");
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let kibibytes: f64 = memory.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0.0);
    let kernel = read("/proc/sys/kernel/osrelease");
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or("?");
    format!(
        "{processor}, {cores} cores for this process, {:.0} GiB of memory, Linux {}; load average at the start {load}",
        kibibytes / 1_048_576.0,
        kernel.trim()
    )
}

/// The first line of what a program says about its version.
pub fn version_of(program: &mut Command) -> String {
    let said = program.output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&said).lines().next().unwrap_or("of unknown version").trim().to_owned()
}
