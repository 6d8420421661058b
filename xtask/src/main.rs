//! The project's own chores. `cargo xtask` alone explains them.

mod bench;
mod cargo;
mod demo;
mod faults;
mod gpu;
mod kernels;
mod lint;
mod sanitize;
mod say;
mod services;
mod setup;
mod stop;
mod test;
mod up;
mod weights;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
The chores of this project. Each sets up by itself what it needs and says what it does.

  cargo xtask demo [--once]     start everything on this machine, transcribe a real recording, show the transcript;
                                stays up until Ctrl-C (--once: ends, and succeeds only if the transcript is right)
  cargo xtask test [FILTER]     run every test, or those whose name contains FILTER
  cargo xtask lint              formatting, clippy, and a few rules on the text of the tree
  cargo xtask bless [FILTER]    run the tests and write what they got into their expectations; read the diff
  cargo xtask bench [NAME]      measurements; without NAME: which there are
  cargo xtask faults --runs N   many things go wrong at once, on seeded schedules; alone: what it takes
  cargo xtask gpu NAME          a GPU compared with the processor, or measured; alone: what there is
  cargo xtask kernels [bless]   compile every GPU kernel for every architecture, without a GPU: no spills, registers as
                                in kernels/registers.txt, the instructions that are meant (bless: write the registers)
  cargo xtask kernels pack [ARCHITECTURE...]
                                compile them into kernels/cubins; a release that is built then has them inside, and needs
                                no compiler on GPUs of these architectures (alone: all, as sm_80 sm_90a)
  cargo xtask sanitize          the engine's and the kernels' tests under AddressSanitizer
  cargo xtask services          start what tests need (Redis, PostgreSQL, TimescaleDB), print the variables that name
                                it, stay up until Ctrl-C: for running `cargo test -p ...` by hand
  cargo xtask setup             fetch everything the tests and measurements need, ahead of time
  cargo xtask weights           write the weights of the speech detector again, from what its authors publish

What is fetched goes to .voiceforge/ in the repository, or to the folder that VOICEFORGE_CACHE names.
As root on Debian missing system packages are installed; otherwise you are told the one command to run.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(code) => code,
        Err(e) => {
            eprintln!("\nerror: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<ExitCode> {
    std::env::set_current_dir(root())?;
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        [] | ["help" | "-h" | "--help"] => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        ["demo"] => demo::run(demo::Until::CtrlC),
        ["demo", "--once"] => demo::run(demo::Until::Transcript),
        ["test"] => test::run(None, test::Expectations::Check),
        ["test", filter] => test::run(Some(filter), test::Expectations::Check),
        ["bless"] => test::run(None, test::Expectations::Update),
        ["bless", filter] => test::run(Some(filter), test::Expectations::Update),
        ["lint"] => lint::run(),
        ["bench", ref which @ ..] => bench::run(which),
        ["faults", ref arguments @ ..] => faults::run(arguments),
        ["gpu", ref arguments @ ..] => gpu::run(arguments),
        ["kernels"] => kernels::run(kernels::Table::Check),
        ["kernels", "bless"] => kernels::run(kernels::Table::Update),
        ["kernels", "pack", ref architectures @ ..] => kernels::pack(architectures),
        ["sanitize"] => sanitize::run(),
        ["services"] => services::run(),
        ["setup"] => setup::for_tests().map(|_| ExitCode::SUCCESS),
        ["weights"] => weights::run(),
        _ => {
            bail!("`cargo xtask {}` is not a chore; `cargo xtask` alone explains all of them", args.join(" "))
        }
    }
}

/// The root folder of the repository.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the root folder")
}

/// Where fetched things are kept from one run to the next.
fn cache() -> PathBuf {
    match std::env::var_os("VOICEFORGE_CACHE") {
        // Relative to the root, where every chore works.
        Some(named) if !named.is_empty() => root().join(named),
        _ => root().join(".voiceforge"),
    }
}
