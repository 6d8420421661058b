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
    /// Whether it reads 16 bytes a load: all but rows of logits, which begin anywhere, and states of rows, which are small.
    pub wide_loads: bool,
}

/// Every op.
pub const UNITS: &[Unit] = &[
    Unit { name: "conv", text: include_str!("conv/kernel.cu"), tensor_cores: true, wide_loads: true },
    Unit {
        name: "copy_rows",
        text: include_str!("copy_rows/kernel.cu"),
        tensor_cores: false,
        wide_loads: false,
    },
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
    Unit { name: "embed", text: include_str!("embed/kernel.cu"), tensor_cores: false, wide_loads: true },
    Unit {
        name: "encoder_attention",
        text: include_str!("encoder_attention/kernel.cu"),
        tensor_cores: true,
        wide_loads: true,
    },
    Unit {
        name: "layer_norm",
        text: include_str!("layer_norm/kernel.cu"),
        tensor_cores: false,
        wide_loads: true,
    },
    Unit { name: "log_mel", text: include_str!("log_mel/kernel.cu"), tensor_cores: false, wide_loads: true },
    Unit { name: "matmul", text: include_str!("matmul/kernel.cu"), tensor_cores: true, wide_loads: true },
    Unit {
        name: "probabilities",
        text: include_str!("probabilities/kernel.cu"),
        tensor_cores: false,
        wide_loads: false,
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
    ("output.cuh", include_str!("../cuda/output.cuh")),
    ("product.cuh", include_str!("../cuda/product.cuh")),
];

/// Options of the compiler, beside the architecture. Products and sums are fused where they stand, nothing else is
/// loosened: no fast mathematics, which would change exponentials and divisions everywhere.
pub const OPTIONS: &[&str] = &["--std=c++17", "--fmad=true"];

/// The file that a kernel is in: its name begins with the unit's.
pub fn unit_of(kernel: &str) -> Option<&'static Unit> {
    let begins = |unit: &&Unit| {
        kernel.strip_prefix(unit.name).is_some_and(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    // One name may begin with another.
    UNITS.iter().filter(begins).max_by_key(|unit| unit.name.len())
}

/// All that machine code is made of, in one text: it is of these sources where this is the same.
pub fn whole() -> String {
    let units = UNITS.iter().map(|unit| (unit.name, unit.text));
    let options = OPTIONS.iter().map(|option| ("option", *option));
    let parts = units.chain(HEADERS.iter().copied()).chain(options);
    parts.map(|(name, text)| format!("{name}: {} bytes\n{text}\n", text.len())).collect()
}

#[cfg(test)]
mod tests {
    use super::unit_of;

    #[test]
    fn a_kernel_is_found_by_its_name() {
        let of = |kernel| unit_of(kernel).map(|unit| unit.name);
        assert_eq!(of("skinny_normed_8_f16"), Some("skinny"));
        assert_eq!(of("sample"), Some("sample"));
        assert_eq!(of("layer_norm_512_f16"), Some("layer_norm"));
        assert_eq!(of("samples"), None);
        assert_eq!(of("layer"), None);
    }
}
