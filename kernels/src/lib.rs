//! The arithmetic of Whisper on NVIDIA GPUs: one room per op, and nothing here knows models, events or requests.
//!
//! A room holds the contract and the launcher (`mod.rs`), the kernel (`kernel.cu`), the same in plain Rust
//! (`reference.rs`) and tests. A launcher checks shapes and alignment, picks the kernel and says how it is launched; a
//! [`device::Device`] runs it. In tests that is the emulator (`emulator/emulator.h`), so every kernel's arithmetic is
//! tested where there is no GPU. [`source::UNITS`] is what NVRTC compiles.
//!
//! `docs/kernels.md` tells how to add a room.

pub mod cross_attention;
pub mod cross_cache;
pub mod device;
pub mod layer_norm;
pub mod sample;
pub mod self_attention;
pub mod skinny;
pub mod source;
pub mod view;

#[cfg(test)]
mod testing;
