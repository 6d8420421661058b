//! Every kernel compiled for every architecture, as a GPU would get it, on a machine that has none.

mod report;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail, ensure};
use kernels::nvrtc::{Compiled, Compiler};
use kernels::source::{HEADERS, OPTIONS, UNITS, Unit, unit_of, whole};
use report::{Instructions, Usage};

use crate::say;
use crate::setup::{self, within_temporary};

/// What is compiled for: A100, RTX 30, RTX 40, H100, B200, RTX 50.
const ARCHITECTURES: &[&str] = &["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];

/// Registers of each kernel on each architecture.
const TABLE: &str = "kernels/registers.txt";

/// Machine code that a build of `kernels` embeds: ARCHITECTURE/UNIT.cubin, and `sources.txt`, what it was made of.
const CUBINS: &str = "kernels/cubins";

/// What to do with the table of registers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// A difference is a failure.
    Check,
    /// It is written anew.
    Update,
}

/// Compiles everything and checks what came of it; says so and does nothing where the compiler cannot be had.
pub fn run(table: Table) -> Result<ExitCode> {
    say::title("compiling the kernels for every architecture");
    let tools = match setup::nvrtc() {
        Ok(tools) => tools,
        Err(e) => {
            println!("skipped: NVIDIA's compiler cannot be had: {e:#}");
            return Ok(ExitCode::SUCCESS);
        }
    };
    let compiler = Compiler::load(&tools.compiler, Some(&tools.builtins))?;
    let mut registers: BTreeMap<String, Vec<u32>> = BTreeMap::new();
    let mut mistakes = Vec::new();
    for architecture in ARCHITECTURES {
        say::step(architecture, || {
            for unit in UNITS {
                let compiled = compile(&compiler, unit, architecture)?;
                let found = disassemble(&tools.disassembler, &compiled.cubin)?;
                let usages = report::usages(&compiled.log);
                ensure!(!usages.is_empty(), "the compiler's log names no kernel of {}", unit.name);
                for (kernel, usage) in usages {
                    let looked_for = unit_of(&kernel).map(|unit| unit.name);
                    ensure!(
                        looked_for == Some(unit.name),
                        "{kernel} of {} would be looked for in {looked_for:?}: a kernel's name begins with its unit's",
                        unit.name
                    );
                    let found = found.get(&kernel).with_context(|| format!("find {kernel} disassembled"))?;
                    mistakes.extend(
                        complaints(unit, usage, *found)
                            .map(|why| format!("{kernel} on {architecture} {why}")),
                    );
                    registers.entry(kernel).or_default().push(usage.registers);
                }
            }
            Ok(())
        })?;
    }
    let now = table_of(&registers);
    if table == Table::Update {
        std::fs::write(TABLE, &now).with_context(|| format!("write {TABLE}"))?;
        say::note(format_args!("{TABLE} is written"));
    } else {
        let before = std::fs::read_to_string(TABLE).with_context(|| format!("read {TABLE}"))?;
        mistakes.extend(differences(&before, &now));
    }
    for mistake in &mistakes {
        eprintln!("  {mistake}");
    }
    if !mistakes.is_empty() {
        bail!(
            "{} mistakes in what the compiler made; if registers alone differ and that is meant: `cargo xtask kernels bless`",
            mistakes.len()
        );
    }
    let kernels = registers.len();
    say::note(format_args!("{kernels} kernels for {} architectures, no spills", ARCHITECTURES.len()));
    Ok(ExitCode::SUCCESS)
}

/// Compiles everything into the folder from which the next build of `kernels` embeds it; for these architectures, or for all.
pub fn pack(architectures: &[&str]) -> Result<ExitCode> {
    say::title("compiling the kernels into kernels/cubins, to be embedded");
    let architectures = if architectures.is_empty() { ARCHITECTURES } else { architectures };
    let tools = setup::nvrtc().context("fetch NVIDIA's compiler")?;
    let compiler = Compiler::load(&tools.compiler, Some(&tools.builtins))?;
    let folder = Path::new(CUBINS);
    for entry in folder.read_dir().with_context(|| format!("list {CUBINS}"))? {
        let path = entry?.path();
        if path.is_dir() {
            std::fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    // Last, so that what an interrupted run leaves is not embedded.
    let sources = folder.join("sources.txt");
    let _ = std::fs::remove_file(&sources);
    let mut bytes = 0;
    for architecture in architectures {
        say::step(architecture, || {
            std::fs::create_dir(folder.join(architecture))?;
            for unit in UNITS {
                let cubin = compile(&compiler, unit, architecture)?.cubin;
                std::fs::write(folder.join(architecture).join(format!("{}.cubin", unit.name)), &cubin)?;
                bytes += cubin.len();
            }
            Ok(())
        })?;
    }
    std::fs::write(&sources, whole()).with_context(|| format!("write {}", sources.display()))?;
    say::note(format_args!("{} KB; the next build of `kernels` embeds them", bytes / 1_000));
    Ok(ExitCode::SUCCESS)
}

fn compile(compiler: &Compiler, unit: &Unit, architecture: &str) -> Result<Compiled> {
    let mut options: Vec<String> = OPTIONS.iter().map(|option| (*option).to_owned()).collect();
    options.push(format!("--gpu-architecture={architecture}"));
    options.push("--ptxas-options=-v".to_owned());
    compiler
        .compile(&format!("{}.cu", unit.name), unit.text, HEADERS, &options)
        .with_context(|| format!("compile {} for {architecture}", unit.name))
}

fn disassemble(disassembler: &Path, cubin: &[u8]) -> Result<BTreeMap<String, Instructions>> {
    let disassembly = within_temporary(|folder| {
        let file = folder.join("kernel.cubin");
        std::fs::write(&file, cubin)?;
        let output = Command::new(disassembler).arg("-c").arg(&file).output().context("run nvdisasm")?;
        ensure!(output.status.success(), "nvdisasm: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    })?;
    Ok(report::instructions(&disassembly))
}

/// What is wrong with a kernel.
fn complaints(unit: &Unit, usage: Usage, found: Instructions) -> impl Iterator<Item = String> {
    let spills =
        (usage.spilled > 0).then(|| format!("has {} bytes of stack and spilled registers", usage.spilled));
    let local = (found.local > 0).then(|| format!("touches local memory in {} instructions", found.local));
    let narrow = (unit.wide_loads && found.wide_loads == 0).then(|| "has no load of 16 bytes".to_owned());
    let tensor = (unit.tensor_cores && found.tensor == 0).then(|| "uses no tensor cores".to_owned());
    [spills, local, narrow, tensor].into_iter().flatten()
}

fn table_of(registers: &BTreeMap<String, Vec<u32>>) -> String {
    let mut text = "# Registers of a thread. `cargo xtask kernels` checks them, `cargo xtask kernels bless` writes them.\n"
        .to_owned();
    let line = |first: &str, rest: Vec<String>| {
        let rest: String = rest.iter().map(|cell| format!("{cell:>8}")).collect();
        format!("{first:32}{rest}\n")
    };
    text += &line("kernel", ARCHITECTURES.iter().map(ToString::to_string).collect());
    for (kernel, counts) in registers {
        text += &line(kernel, counts.iter().map(ToString::to_string).collect());
    }
    text
}

/// Lines that only one of two tables has.
fn differences(before: &str, now: &str) -> Vec<String> {
    let lines = |a: &str, b: &str, what: &str| -> Vec<String> {
        let known: Vec<&str> = b.lines().collect();
        a.lines().filter(|line| !known.contains(line)).map(|line| format!("{what}: {line}")).collect()
    };
    [lines(before, now, "expected"), lines(now, before, "compiled")].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_compared_by_line() {
        let table =
            |count| table_of(&BTreeMap::from([("a".into(), vec![1; 6]), ("b".into(), vec![count; 6])]));
        assert!(differences(&table(2), &table(2)).is_empty());
        let different = differences(&table(2), &table(3));
        assert_eq!(different.len(), 2);
        assert!(different[0].starts_with("expected: b ") && different[1].starts_with("compiled: b "));
    }

    #[test]
    fn every_kernel_has_its_line() {
        let table = std::fs::read_to_string(crate::root().join(TABLE)).unwrap();
        let named: Vec<&str> =
            table.lines().skip(2).filter_map(|line| line.split_whitespace().next()).collect();
        for unit in UNITS {
            assert!(
                named.iter().any(|name| name.starts_with(unit.name)),
                "{} is not in the table",
                unit.name
            );
        }
    }

    #[test]
    fn what_a_kernel_may_not_do_is_told() {
        let unit = Unit { name: "a", text: "", tensor_cores: true, wide_loads: true };
        let good = Instructions { tensor: 2, wide_loads: 1, local: 0 };
        let usage = Usage { registers: 40, spilled: 0 };
        assert_eq!(complaints(&unit, usage, good).count(), 0);
        let bad = Instructions { tensor: 0, wide_loads: 0, local: 3 };
        assert_eq!(complaints(&unit, Usage { spilled: 8, ..usage }, bad).count(), 4);
        assert_eq!(complaints(&Unit { tensor_cores: false, ..unit }, usage, bad).count(), 2);
    }
}
