//! What goes wrong with a GPU, in words.

use std::fmt;

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use crate::device::Error;
use crate::nvrtc;

/// A release of CUDA: 13.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 13
    pub major: u32,
    /// 0
    pub minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// The oldest driver: machine code of the compiler of CUDA 13 needs one of the same major release.
pub const DRIVER_MIN: Version = Version { major: 13, minor: 0 };

/// The oldest device: kernels use what came with Ampere (bf16 products, copies that bypass registers).
pub const CAPABILITY_MIN: Version = Version { major: 8, minor: 0 };

/// Why a GPU cannot be used, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// No driver.
    #[error(
        "NVIDIA's driver is not here (no libcuda.so.1 can be loaded): install it; a container gets it by `--gpus all` and NVIDIA's \
         container toolkit on its host"
    )]
    NoDriver,
    /// A driver that is too old.
    #[error(
        "NVIDIA's driver is for CUDA {found}, and {DRIVER_MIN} is needed: install a driver of the 580 series or newer"
    )]
    DriverTooOld {
        /// What it is for.
        found: Version,
    },
    /// A driver without any device.
    #[error(
        "NVIDIA's driver shows no GPU: see what `nvidia-smi -L` lists; a container sees those that `--gpus` names, a process those \
         that CUDA_VISIBLE_DEVICES names"
    )]
    NoDevice,
    /// Devices, but not this one.
    #[error(
        "there is no GPU {ordinal}: the driver shows {count}, counted from 0 (`nvidia-smi -L` lists them)"
    )]
    NoSuchDevice {
        /// What was asked for.
        ordinal: usize,
        /// How many there are.
        count: usize,
    },
    /// A device that is too old.
    #[error(
        "{name} has compute capability {capability}, and {CAPABILITY_MIN} is needed: an A100, RTX 30 or newer"
    )]
    DeviceTooOld {
        /// The device.
        name: String,
        /// What it has.
        capability: Version,
    },
    /// Nothing for this device is embedded, and no compiler is here.
    #[error(
        "this program has no kernels for {architecture}, and NVRTC, which would compile them, is not here ({reason}): either \
         `pip install nvidia-cuda-nvrtc` and name its folder (.../site-packages/nvidia/cu13/lib) in LD_LIBRARY_PATH, \
         or install the CUDA toolkit 13"
    )]
    NoCompiler {
        /// The device's.
        architecture: String,
        /// What the loader said.
        reason: String,
    },
    /// The compiler does not know the device.
    #[error(
        "this program has no kernels for {architecture}, and NVRTC {compiler} does not know it: install a newer one (`pip install \
         --upgrade nvidia-cuda-nvrtc`)"
    )]
    CompilerTooOld {
        /// The device's.
        architecture: String,
        /// The compiler's version.
        compiler: Version,
    },
    /// The compiler refused a kernel.
    #[error("compile {unit} for {architecture}: {reason}")]
    Compile {
        /// The op.
        unit: &'static str,
        /// What for.
        architecture: String,
        /// What the compiler said.
        reason: nvrtc::Error,
    },
    /// Too little memory.
    #[error(
        "{} MiB of the GPU's memory are needed, and {} MiB are free: `nvidia-smi` lists who has the rest; a smaller model or fewer \
         texts at once need less",
        needed.div_ceil(1 << 20), free >> 20
    )]
    Memory {
        /// Bytes.
        needed: usize,
        /// Bytes.
        free: usize,
    },
    /// The driver refused.
    #[error("{doing}: NVIDIA's driver says {reason}{}", remedy(*code))]
    Driver {
        /// What it was asked for.
        doing: &'static str,
        /// Its number.
        code: u32,
        /// Its name.
        reason: String,
    },
}

impl OpenError {
    /// The driver's answer to what was being done.
    pub(super) fn driver(doing: &'static str) -> impl Fn(DriverError) -> OpenError {
        move |DriverError(code)| match code {
            CUresult::CUDA_ERROR_NO_DEVICE => OpenError::NoDevice,
            _ => OpenError::Driver { doing, code: code as u32, reason: name(code) },
        }
    }
}

/// What helps against what drivers are known to say at the start.
fn remedy(code: u32) -> &'static str {
    const STUB: u32 = CUresult::CUDA_ERROR_STUB_LIBRARY as u32;
    const TAKEN: u32 = CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE as u32;
    const MEMORY: u32 = CUresult::CUDA_ERROR_OUT_OF_MEMORY as u32;
    const SYSTEM: u32 = CUresult::CUDA_ERROR_OPERATING_SYSTEM as u32;
    const NOT_READY: u32 = CUresult::CUDA_ERROR_SYSTEM_NOT_READY as u32;
    const MISMATCH: u32 = CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH as u32;
    const COMPATIBLE: u32 = CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE as u32;
    const UNKNOWN: u32 = CUresult::CUDA_ERROR_UNKNOWN as u32;
    match code {
        STUB => ": the toolkit's stub of libcuda.so is found first; take its folder out of LD_LIBRARY_PATH",
        TAKEN => ": another process has the GPU alone (`nvidia-smi -c DEFAULT` lets several have it)",
        MEMORY => ": others have all of its memory (`nvidia-smi` lists them)",
        SYSTEM => {
            ": the process may not open /dev/nvidia*; look at the files' owners and at the container's devices"
        }
        NOT_READY => ": start nvidia-fabricmanager, which connects the GPUs of this machine",
        MISMATCH => ": the driver's library and its kernel module are of two releases; restart the machine",
        COMPATIBLE => {
            ": the package cuda-compat is for data centers' GPUs; remove it and install a newer driver"
        }
        UNKNOWN => ": load the kernel module nvidia_uvm (`nvidia-modprobe -u`)",
        _ => "",
    }
}

/// The driver's answer to what was asked of an open device.
pub(super) fn failed(what: &'static str) -> impl Fn(DriverError) -> Error {
    move |DriverError(code)| {
        let reason = name(code);
        if is_lost(code) { Error::Lost { what, reason } } else { Error::Device { what, reason } }
    }
}

/// Without asking the driver, which may not be there or may answer no more.
fn name(code: CUresult) -> String {
    format!("{code:?} ({})", code as u32)
}

/// Whether every later call will fail as well. CUDA's manual says of these that the process must be ended and started anew, or
/// that the device or its context are gone.
fn is_lost(code: CUresult) -> bool {
    use CUresult::*;
    matches!(
        code,
        CUDA_ERROR_DEINITIALIZED
            | CUDA_ERROR_ECC_UNCORRECTABLE
            | CUDA_ERROR_NVLINK_UNCORRECTABLE
            | CUDA_ERROR_CONTAINED
            | CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_CONTEXT_IS_DESTROYED
            | CUDA_ERROR_ASSERT
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_TENSOR_MEMORY_LEAK
            | CUDA_ERROR_MPS_RPC_FAILURE
            | CUDA_ERROR_MPS_CLIENT_TERMINATED
            | CUDA_ERROR_EXTERNAL_DEVICE
            | CUDA_ERROR_UNKNOWN
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opening(code: CUresult) -> String {
        OpenError::driver("start the driver")(DriverError(code)).to_string()
    }

    #[test]
    fn refusals_say_what_to_do() {
        let version = |major, minor| Version { major, minor };
        for (error, said) in [
            (OpenError::NoDriver, "--gpus all"),
            (
                OpenError::DriverTooOld { found: version(12, 8) },
                "for CUDA 12.8, and 13.0 is needed: install a driver of the 580",
            ),
            (OpenError::NoDevice, "CUDA_VISIBLE_DEVICES"),
            (
                OpenError::NoSuchDevice { ordinal: 2, count: 2 },
                "no GPU 2: the driver shows 2, counted from 0",
            ),
            (
                OpenError::DeviceTooOld { name: "Tesla T4".into(), capability: version(7, 5) },
                "Tesla T4 has compute capability 7.5, and 8.0 is needed",
            ),
            (
                OpenError::NoCompiler { architecture: "sm_103".into(), reason: "no file".into() },
                "no kernels for sm_103, and NVRTC, which would compile them, is not here (no file): either `pip",
            ),
            (
                OpenError::CompilerTooOld { architecture: "sm_130".into(), compiler: version(13, 0) },
                "NVRTC 13.0 does not know it",
            ),
            (
                OpenError::Memory { needed: (3 << 30) + 1, free: (1 << 30) - 1 },
                "3073 MiB of the GPU's memory are needed, and 1023 MiB are free",
            ),
        ] {
            assert!(error.to_string().contains(said), "{error}");
        }
        assert_eq!(opening(CUresult::CUDA_ERROR_NO_DEVICE), OpenError::NoDevice.to_string());
        assert!(opening(CUresult::CUDA_ERROR_STUB_LIBRARY).contains("LD_LIBRARY_PATH"));
        assert!(opening(CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH).contains("restart the machine"));
        assert_eq!(
            opening(CUresult::CUDA_ERROR_INVALID_VALUE),
            "start the driver: NVIDIA's driver says CUDA_ERROR_INVALID_VALUE (1)"
        );
    }

    #[test]
    fn a_lost_device_is_told_from_a_refusal() {
        for code in [CUresult::CUDA_ERROR_ILLEGAL_ADDRESS, CUresult::CUDA_ERROR_LAUNCH_FAILED] {
            let error = failed("sample")(DriverError(code));
            assert!(error.is_lost() && error.to_string().contains("started anew"), "{error}");
        }
        for code in [CUresult::CUDA_ERROR_INVALID_VALUE, CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES] {
            let error = failed("sample")(DriverError(code));
            assert!(!error.is_lost() && error.to_string().starts_with("sample: CUDA_ERROR_"), "{error}");
        }
    }
}
