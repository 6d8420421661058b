//! Where models run: on a GPU where there is one that may be used, else on the processor.

use std::path::PathBuf;

use half::{bf16, f16};
use kernels::gpu::{self, Gpu, OpenError};
use kernels::view::Half;

use crate::backend::Backend;
use crate::cpu::{Cpu, CpuOptions, Precision};
use crate::cuda::{Cuda, CudaOptions};
use crate::engine::{CANDIDATES_MAX, Setup};
use crate::model::LoadError;
use crate::model::weights::Weights;
use crate::sampling::Rules;

/// What an operator wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A GPU if it can be used, else the processor.
    Auto,
    /// The processor.
    Cpu,
    /// A GPU, and nothing else.
    Cuda,
}

/// Where models run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// On the processor.
    #[default]
    Cpu,
    /// On the GPU that the driver counts as this one, from 0.
    Cuda(usize),
}

/// Windows that a GPU encodes at once: with as many, 30 s each, the smallest model keeps all of an H100 busy, and buffers of the
/// largest take half a gigabyte.
const WINDOWS: usize = 8;

/// Finds out where models run, and says why it is not the GPU where one was not ruled out.
///
/// # Errors
/// When a GPU is wished and cannot be used.
pub fn choose(wish: Wish, ordinal: usize) -> Result<Place, OpenError> {
    if wish == Wish::Cpu {
        return Ok(Place::Cpu);
    }
    match Gpu::open_with(ordinal, &setup()) {
        Ok(gpu) => {
            let about = gpu.about();
            tracing::info!(gpu = about.name, uuid = about.uuid, driver = %about.driver, "models run on the GPU");
            Ok(Place::Cuda(ordinal))
        }
        Err(error) if wish == Wish::Auto => {
            tracing::info!(%error, "models run on the processor: there is no GPU to use");
            Ok(Place::Cpu)
        }
        Err(error) => Err(error),
    }
}

/// Loads a model where it runs.
pub fn load(
    weights: &Weights,
    rules: Rules,
    alignment_heads: Vec<(usize, usize)>,
    setup: Setup,
) -> Result<Box<dyn Backend>, LoadError> {
    let Setup { place, precision, threads, segments, sound } = setup;
    // Rows for a text of each segment, and for all candidates of one.
    let rows = segments.max(CANDIDATES_MAX);
    let on_device = CudaOptions { slots: segments, rows, windows: WINDOWS.min(segments), sound };
    match (place, precision) {
        (Place::Cpu, _) => {
            let processors = || std::thread::available_parallelism().map_or(1, |count| count.get());
            let threads = if threads == 0 { processors() } else { threads };
            let options = CpuOptions { precision, threads, slots: segments, rows };
            Ok(Box::new(Cpu::load(weights, rules, alignment_heads, options)?))
        }
        (Place::Cuda(ordinal), Precision::Bf16) => {
            on_gpu::<bf16>(ordinal, weights, &rules, &alignment_heads, on_device)
        }
        (Place::Cuda(ordinal), _) => on_gpu::<f16>(ordinal, weights, &rules, &alignment_heads, on_device),
    }
}

fn on_gpu<T: Half>(
    ordinal: usize,
    weights: &Weights,
    rules: &Rules,
    alignment_heads: &[(usize, usize)],
    options: CudaOptions,
) -> Result<Box<dyn Backend>, LoadError> {
    let device = Gpu::open_with(ordinal, &setup())?;
    let name = format!("cuda {ordinal} {}", device.about().name);
    Ok(Box::new(Cuda::<_, T>::load(device, name, weights, rules, alignment_heads, options)?))
}

/// Kernels that have to be compiled are kept where programs of this user keep what they can make again.
fn setup() -> gpu::Setup {
    let folder = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let cache = folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")));
    gpu::Setup { cache: cache.map(|cache| cache.join("voiceforge/kernels")), ..gpu::Setup::default() }
}
