//! `voiceforge-gpu`: whether a GPU computes what the processor does, and how fast. `cargo xtask gpu` runs it; it also runs by itself
//! on a machine that has NVIDIA's driver and nothing else.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use e2e::gpu::{check, geometry, ops, windows};
use kernels::gpu::Gpu;

const HELP: &str = "\
voiceforge-gpu: a GPU against the processor, and against its own limits.

  voiceforge-gpu about [--device N]
      which GPU it is, and where its kernels come from
  voiceforge-gpu check MODELS RECORDINGS [--device N]
      MODELS: a folder of model folders. RECORDINGS: a folder of NAME.wav (16 kHz, one channel) and NAME.txt. Each model
      reads each recording on the GPU, in f16 and bf16, and on the processor in f32: every token's likelihood, and the words.
      Fails where they differ more than rounding explains.
  voiceforge-gpu bench [--device N] [--ops MODEL,...] [--windows MODEL,...]
      MODEL: tiny, base, small, medium, large-v3, turbo. By default the ops of large-v3 and tiny and the windows of all,
      with random weights. Prints a page in Markdown. large-v3 needs some 40 GiB of the GPU's memory.

--device N counts GPUs as the driver does, from 0. Nobody else should use the GPU meanwhile.
";

fn main() -> ExitCode {
    match start() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<ExitCode> {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.is_empty() || arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return Ok(ExitCode::SUCCESS);
    }
    let device = take(&mut arguments, "--device")?.unwrap_or_else(|| "0".to_owned());
    let device: usize = device.parse().with_context(|| format!("--device {device:?} is no number"))?;
    let only_ops = take(&mut arguments, "--ops")?;
    let only_windows = take(&mut arguments, "--windows")?;
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["about"] => {
            print!("{}", about(&open(device)?));
            Ok(ExitCode::SUCCESS)
        }
        ["check", models, recordings] => {
            print!("{}", about(&open(device)?));
            let (report, is_well) = check::run(&PathBuf::from(models), &PathBuf::from(recordings), device)?;
            print!("{report}");
            Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        ["bench"] => {
            let all = only_ops.is_none() && only_windows.is_none();
            let ops_of =
                only_ops.unwrap_or_else(|| if all { "large-v3,tiny".to_owned() } else { String::new() });
            let mut gpu = open(device)?;
            println!("```\n{}```\n", about(&gpu));
            for geometry in named(&ops_of)? {
                println!("{}", ops::measure(&mut gpu, geometry)?);
            }
            drop(gpu);
            if all || only_windows.is_some() {
                let names = only_windows.unwrap_or_default();
                let names: Vec<&str> = named(&names)?.iter().map(|geometry| geometry.name).collect();
                print!("{}", windows::measure(&names, device)?);
            }
            Ok(ExitCode::SUCCESS)
        }
        _ => bail!("voiceforge-gpu does not take that; see voiceforge-gpu --help"),
    }
}

fn open(device: usize) -> Result<Gpu> {
    Gpu::open(device).context("open the GPU")
}

fn about(gpu: &Gpu) -> String {
    let about = gpu.about();
    let mut text = format!(
        "{}, {} multiprocessors, compute capability {}, {} MiB, driver for CUDA {}\n",
        about.name,
        about.multiprocessors,
        about.capability,
        about.memory >> 20,
        about.driver
    );
    for (op, origin) in &about.kernels {
        text += &format!("{op}: {origin}\n");
    }
    text
}

/// Takes an option with its value out of the arguments.
fn take(arguments: &mut Vec<String>, name: &str) -> Result<Option<String>> {
    let Some(at) = arguments.iter().position(|argument| argument == name) else { return Ok(None) };
    if at + 1 >= arguments.len() {
        bail!("{name} needs a value");
    }
    arguments.remove(at);
    Ok(Some(arguments.remove(at)))
}

fn named(names: &str) -> Result<Vec<&'static geometry::Geometry>> {
    let names = names.split(',').filter(|name| !name.is_empty());
    let find = |name: &str| geometry::ALL.iter().find(|geometry| geometry.name == name);
    names
        .map(|name| {
            let known: Vec<&str> = geometry::ALL.iter().map(|geometry| geometry.name).collect();
            find(name).with_context(|| format!("there is no model {name:?}; there are {}", known.join(", ")))
        })
        .collect()
}
