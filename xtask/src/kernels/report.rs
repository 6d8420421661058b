//! What the compiler and the disassembler say of each kernel, read from their texts.

use std::collections::BTreeMap;

/// What a kernel takes of a multiprocessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of a thread's stack and of registers spilled to it, each way.
    pub spilled: u32,
}

/// Reads the log of `--ptxas-options=-v`.
pub fn usages(log: &str) -> BTreeMap<String, Usage> {
    let mut all = BTreeMap::new();
    let mut kernel = None;
    for line in log.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            kernel = rest.split('\'').next().map(str::to_owned);
            all.extend(kernel.clone().map(|kernel| (kernel, Usage::default())));
        }
        let Some(usage) = kernel.as_ref().and_then(|kernel| all.get_mut(kernel)) else { continue };
        for what in [" bytes stack frame", " bytes spill stores", " bytes spill loads"] {
            usage.spilled += number_before(line, what).unwrap_or(0);
        }
        if line.contains("Used ") {
            usage.registers = number_before(line, " registers").unwrap_or(0);
        }
    }
    all
}

fn number_before(line: &str, what: &str) -> Option<u32> {
    line.split_once(what)?.0.rsplit([' ', ',']).next()?.parse().ok()
}

/// Instructions of a kernel that say how it reads and multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Instructions {
    /// Products on tensor cores.
    pub tensor: u32,
    /// Loads of 16 bytes of global memory.
    pub wide_loads: u32,
    /// Loads and stores of local memory, which are registers that did not fit or arrays that are indexed.
    pub local: u32,
}

/// Reads a disassembly.
pub fn instructions(disassembly: &str) -> BTreeMap<String, Instructions> {
    let mut all: BTreeMap<String, Instructions> = BTreeMap::new();
    let mut kernel = String::new();
    for line in disassembly.lines() {
        if let Some(name) = line.trim().strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            kernel = name.to_owned();
            all.entry(kernel.clone()).or_default();
        }
        let Some(found) = all.get_mut(&kernel) else { continue };
        for word in line.split([' ', '\t', ';']) {
            let mut parts = word.split('.');
            match parts.next() {
                Some("HMMA") => found.tensor += 1,
                Some("LDG") if parts.any(|part| part == "128") => found.wide_loads += 1,
                Some("LDL" | "STL") => found.local += 1,
                _ => {}
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_and_spills_are_read() {
        let log = "ptxas info    : 0 bytes gmem\n\
                   ptxas info    : Compiling entry function 'first' for 'sm_80'\n\
                   ptxas info    : Function properties for first\n    \
                   0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n\
                   ptxas info    : Used 40 registers, used 1 barriers, 400 bytes cmem[0]\n\
                   ptxas info    : Compiling entry function 'second' for 'sm_80'\n    \
                   16 bytes stack frame, 12 bytes spill stores, 8 bytes spill loads\n\
                   ptxas info    : Used 255 registers\n";
        let usages = usages(log);
        assert_eq!(usages["first"], Usage { registers: 40, spilled: 0 });
        assert_eq!(usages["second"], Usage { registers: 255, spilled: 36 });
    }

    #[test]
    fn instructions_are_counted() {
        let text = ".section .text.a\n.text.a:\n  /*0000*/ LDG.E.128.CONSTANT R4, [R2] ;\n  @P0 LDG.E R1, [R2] ;\n\
                    \tHMMA.16816.F32 R4, R8, R10, R4 ;\n.text.b:\n  STL.64 [R1], R2 ;\n  LDL R1, [R1] ;\n";
        let found = instructions(text);
        assert_eq!(found["a"], Instructions { tensor: 1, wide_loads: 1, local: 0 });
        assert_eq!(found["b"], Instructions { tensor: 0, wide_loads: 0, local: 2 });
    }
}
