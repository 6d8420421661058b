//! The kernels as text, for a compiler that reads no files.

/// A file that is compiled: one op.
#[derive(Debug, Clone, Copy)]
pub struct Unit {
    /// The op.
    pub name: &'static str,
    /// Its text.
    pub text: &'static str,
    /// Whether its products are for tensor cores.
    pub tensor_cores: bool,
    /// Whether it reads 16 bytes a load: all but rows of logits, which begin anywhere.
    pub wide_loads: bool,
}

/// Every op.
pub const UNITS: &[Unit] = &[
    Unit {
        name: "cross_attention",
        text: include_str!("cross_attention/kernel.cu"),
        tensor_cores: true,
        wide_loads: true,
    },
    Unit {
        name: "cross_cache",
        text: include_str!("cross_cache/kernel.cu"),
        tensor_cores: false,
        wide_loads: true,
    },
    Unit {
        name: "layer_norm",
        text: include_str!("layer_norm/kernel.cu"),
        tensor_cores: false,
        wide_loads: true,
    },
    Unit { name: "sample", text: include_str!("sample/kernel.cu"), tensor_cores: false, wide_loads: false },
    Unit {
        name: "self_attention",
        text: include_str!("self_attention/kernel.cu"),
        tensor_cores: false,
        wide_loads: true,
    },
    Unit { name: "skinny", text: include_str!("skinny/kernel.cu"), tensor_cores: true, wide_loads: true },
];

/// What they include, by name.
pub const HEADERS: &[(&str, &str)] = &[
    ("device.cuh", include_str!("../cuda/device.cuh")),
    ("normalise.cuh", include_str!("../cuda/normalise.cuh")),
];

/// Options of the compiler, beside the architecture. Products and sums are fused where they stand, nothing else is
/// loosened: no fast mathematics, which would change exponentials and divisions everywhere.
pub const OPTIONS: &[&str] = &["--std=c++17", "--fmad=true"];
