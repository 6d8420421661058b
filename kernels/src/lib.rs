//! The arithmetic of Whisper on NVIDIA GPUs: one room per op, and nothing here knows models, events or requests.
//!
//! A room holds the contract and the launcher (`mod.rs`), the kernel (`kernel.cu`), the same in plain Rust
//! (`reference.rs`) and tests. A launcher checks shapes and alignment, picks the kernel and says how it is launched; a
//! [`device::Device`] runs it. In tests that is the emulator (`emulator.rs`), so every kernel's arithmetic is
//! tested where there is no GPU; else it is `gpu.rs`. What computes a model is written on [`accelerator::Accelerator`] and
//! runs on both. [`source::UNITS`] is what [`nvrtc`] compiles.
//!
//! `docs/kernels.md` tells how to add a room.

pub mod accelerator;
pub mod conv;
pub mod copy_rows;
pub mod cross_attention;
pub mod cross_cache;
pub mod device;
pub mod embed;
#[cfg(any(test, feature = "emulator"))]
pub mod emulator;
pub mod encoder_attention;
#[cfg(feature = "gpu")]
pub mod gpu;
pub mod layer_norm;
pub mod log_mel;
pub mod matmul;
pub mod memory;
pub mod nvrtc;
pub mod probabilities;
pub mod product;
pub mod sample;
pub mod self_attention;
pub mod skinny;
pub mod source;
pub mod view;

#[cfg(test)]
mod testing;
