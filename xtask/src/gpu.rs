//! A GPU checked and measured, here or on a machine that has nothing but a driver.

use std::fs;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::bench::page;
use crate::{cargo, kernels, say, setup};

/// The program.
const PROGRAM: &str = "voiceforge-gpu";

/// What measures Hugging Face's transformers in the same run.
const TRANSFORMERS: &str = "e2e/src/gpu/rival.py";

/// Bytes of a piece of weights in a bundle: what ways onto borrowed machines take.
const PIECE: usize = 16 << 20;

const HELP: &str = "\
  cargo xtask gpu check [--device N]
      tiny.en and base read real recordings on the GPU and on the processor; every token's likelihood and the words are
      compared. Fails where they differ more than rounding explains.
  cargo xtask gpu bench [--device N] [--ops MODEL,...] [--windows MODEL,...]
      what each op takes, and how many windows a second models of Whisper's sizes read; beside them, where PyTorch and
      transformers are installed, transformers at its best. The page is docs/benchmarks/gpu.md.
  cargo xtask gpu bundle
      everything for both in .voiceforge/gpu, for a machine with a driver alone: copy the folder there and run ./run.sh
";

/// The chore.
pub fn run(arguments: &[&str]) -> Result<ExitCode> {
    match arguments {
        ["check", more @ ..] => check(more),
        ["bench", more @ ..] => bench(more),
        ["bundle"] => bundle(),
        [] | ["help" | "-h" | "--help"] => {
            print!("{HELP}");
            Ok(ExitCode::SUCCESS)
        }
        _ => {
            bail!("`cargo xtask gpu {}` is not a chore; `cargo xtask gpu` explains them", arguments.join(" "))
        }
    }
}

fn check(more: &[&str]) -> Result<ExitCode> {
    let (models, recordings) = setup::for_gpu()?;
    build()?;
    say::title("comparing the GPU with the processor");
    let mut command = program();
    command.arg("check").arg(&models).arg(&recordings).args(more);
    let status = cargo::status(&mut command)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bench(more: &[&str]) -> Result<ExitCode> {
    build()?;
    say::title("measuring the GPU");
    let mut command = program();
    command.arg("bench").args(more).stderr(Stdio::inherit());
    let output = command.output().with_context(|| format!("run {PROGRAM}"))?;
    // It has said what is missing.
    ensure!(output.status.success(), "the GPU could not be measured");
    let body = String::from_utf8(output.stdout).context("read what was measured")?;
    let beside = transformers()?;
    let command = ["cargo xtask gpu bench"].into_iter().chain(more.iter().copied()).collect::<Vec<_>>();
    let text = format!("# On a GPU\n\nWritten by `{}`.\n\n{body}\n{beside}", command.join(" "));
    page::write("gpu.md", &text)
}

/// What transformers does on the same GPU, or that it was not measured.
fn transformers() -> Result<String> {
    let mut command = Command::new("python3");
    command.arg(TRANSFORMERS).stdin(Stdio::null()).stderr(Stdio::inherit());
    let Ok(output) = command.output() else {
        return Ok("## transformers\n\nNot measured: there is no python3 here.\n".to_owned());
    };
    String::from_utf8(output.stdout).context("read what transformers took")
}

fn bundle() -> Result<ExitCode> {
    let (models, recordings) = setup::for_gpu()?;
    kernels::pack(&[])?;
    build()?;
    let folder = crate::cache().join("gpu");
    let _ = fs::remove_dir_all(&folder);
    for part in ["recordings", "models/tiny.en"] {
        fs::create_dir_all(folder.join(part))
            .with_context(|| format!("make {}", folder.join(part).display()))?;
    }
    copy(&cargo::programs().join(PROGRAM), &folder.join(PROGRAM))?;
    copy(Path::new(TRANSFORMERS), &folder.join("rival.py"))?;
    copy(Path::new("e2e/src/gpu/run.sh"), &folder.join("run.sh"))?;
    for entry in fs::read_dir(&recordings).context("list the recordings")? {
        let path = entry?.path();
        copy(&path, &folder.join("recordings").join(path.file_name().unwrap_or_default()))?;
    }
    for entry in fs::read_dir(models.join("tiny.en")).context("list the model")? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let to = folder.join("models/tiny.en").join(&name);
        if name == "model.bin" {
            let bytes = fs::read(&path).context("read weights")?;
            for (i, piece) in bytes.chunks(PIECE).enumerate() {
                fs::write(to.with_file_name(format!("{name}.{i:02}")), piece)
                    .context("write a piece of weights")?;
            }
        } else if path.is_file() && !name.starts_with("packed-") {
            copy(&path, &to)?;
        }
    }
    say::note(format_args!("{} is whole: copy it to the machine and run ./run.sh there", folder.display()));
    Ok(ExitCode::SUCCESS)
}

fn build() -> Result<()> {
    say::title("building the program");
    cargo::run(&["build", "--release", "--workspace", "--bin", PROGRAM])
}

fn program() -> Command {
    Command::new(cargo::programs().join(PROGRAM))
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::copy(from, to).with_context(|| format!("copy {} to {}", from.display(), to.display())).map(|_| ())
}
