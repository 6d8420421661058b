//! What a block of queries goes through, and which instructions do it.
//!
//! Shapes: a *tile* is 16 keys; `n` is 1 to 6 queries of one head; a row of scores begins `stride` elements behind the
//! one before it. Four-byte words hold what is narrower than f32, in the order in which it is streamed:
//!
//! - f32 keys (tiles, width, 16); int8 keys (tiles, width / 4, 16) words of four neighbouring elements, each + 128;
//! - f32 values (keys, width); bf16 values (keys / 2, width) words of two neighbouring keys; int8 values
//!   (keys / 4, width) words of four;
//! - exponentials lie in the row of their scores: f32 (keys); bf16 (keys / 2) words; 16-bit (keys / 16, 2, 4) words,
//!   the high bytes of 16 keys and then their low bytes.

use super::portable::{Avx2, Portable};

/// An instruction set that this machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Isa(pub(super) Level);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Isa {
    /// The fastest set that this machine has and that has kernels for heads of `width`.
    pub fn best(width: usize) -> Isa {
        Isa::available(width).last().expect("every machine has the portable set")
    }

    /// The sets that this machine has and that have kernels for heads of `width`, the slowest first.
    pub fn available(width: usize) -> impl DoubleEndedIterator<Item = Isa> {
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && width == super::avx512::WIDTH
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni")
                && is_x86_feature_detected!("avx512bf16");
            [(true, Level::Portable), (avx2, Level::Avx2), (avx512, Level::Avx512)]
                .into_iter()
                .filter_map(|(has, level)| has.then_some(Isa(level)))
        }
        #[cfg(not(target_arch = "x86_64"))]
        {
            let _ = width;
            std::iter::once(Isa(Level::Portable))
        }
    }

    /// Such as `avx512`.
    pub fn name(self) -> &'static str {
        match self.0 {
            Level::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => "avx2",
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => "avx512",
        }
    }
}

/// Evaluates an expression with `$kernels` naming the implementation for an [`Isa`].
macro_rules! by_isa {
    ($isa:expr, $kernels:ident => $body:expr) => {
        match $isa.0 {
            $crate::cpu::attention::kernels::Level::Portable => {
                type $kernels = $crate::cpu::attention::portable::Portable;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::attention::kernels::Level::Avx2 => {
                type $kernels = $crate::cpu::attention::portable::Avx2;
                $body
            }
            #[cfg(target_arch = "x86_64")]
            $crate::cpu::attention::kernels::Level::Avx512 => {
                type $kernels = $crate::cpu::attention::avx512::Avx512;
                $body
            }
        }
    };
}
pub(super) use by_isa;

/// Defines the kernels' trait, and its implementations by the bodies in [`super::portable`]: as they are, and compiled
/// for AVX2. The widest set takes those that `$shared` names from AVX2.
macro_rules! kernels {
    (
        own { $($(#[$meta:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)?;)* }
        shared { $($(#[$shared_meta:meta])* fn $shared:ident($($shared_arg:ident: $shared_ty:ty),* $(,)?);)* }
    ) => {
        /// The kernels of one instruction set.
        ///
        /// An implementation is named only by [`by_isa`], for a machine that has its instructions.
        pub(super) trait Kernels: Shared {
            $($(#[$meta])* fn $name($($arg: $ty),*) $(-> $ret)?;)*
        }

        /// Kernels that gain nothing from the widest registers.
        pub(super) trait Shared {
            $($(#[$shared_meta])* fn $shared($($shared_arg: $shared_ty),*);)*
        }

        impl Kernels for Portable {
            $(#[inline] fn $name($($arg: $ty),*) $(-> $ret)? { super::portable::$name::<false>($($arg),*) })*
        }

        impl Shared for Portable {
            $(#[inline] fn $shared($($shared_arg: $shared_ty),*) {
                super::portable::$shared::<false>($($shared_arg),*)
            })*
        }

        #[cfg(target_arch = "x86_64")]
        impl Kernels for Avx2 {
            $(fn $name($($arg: $ty),*) $(-> $ret)? {
                #[target_feature(enable = "avx2,fma")]
                fn compiled($($arg: $ty),*) $(-> $ret)? { super::portable::$name::<true>($($arg),*) }
                // SAFETY: `Avx2` is named only where AVX2 and FMA were found.
                unsafe { compiled($($arg),*) }
            })*
        }

        #[cfg(target_arch = "x86_64")]
        impl Shared for Avx2 {
            $(fn $shared($($shared_arg: $shared_ty),*) {
                #[target_feature(enable = "avx2,fma")]
                fn compiled($($shared_arg: $shared_ty),*) { super::portable::$shared::<true>($($shared_arg),*) }
                // SAFETY: `Avx2` is named only where AVX2 and FMA were found.
                unsafe { compiled($($shared_arg),*) }
            })*
        }

        #[cfg(target_arch = "x86_64")]
        impl Shared for super::avx512::Avx512 {
            $(fn $shared($($shared_arg: $shared_ty),*) { <Avx2 as Shared>::$shared($($shared_arg),*) })*
        }
    };
}

kernels! {
    own {
        /// Products of queries (n, width) with f32 keys.
        fn score_f32(n: usize, queries: &[f32], keys: &[f32], scores: &mut [f32], stride: usize);

        /// Products of queries (n, width / 4) words of int8 with int8 keys, times the keys' scales (tiles, 16).
        fn score_int8(n: usize, queries: &[u32], keys: &[u32], scales: &[f32], scores: &mut [f32], stride: usize);

        /// Turns a row (tiles, 16) of `count` scores into exp(score - max), the rest of it into 0, and returns
        /// the sum.
        fn exponentiate_f32(row: &mut [f32], count: usize) -> f32;

        /// Turns a row (tiles, 16) of `count` scores into bf16 exp2((score - max) * factor), the rest of it into 0,
        /// and returns the sum.
        fn exponentiate_bf16(row: &mut [f32], count: usize, factor: f32) -> f32;

        /// Turns a row (tiles, 16) of `count` scores into whole numbers, 65535 exp2((score - max) * factor), the rest
        /// of it into 0, and returns their sum.
        fn exponentiate_u16(row: &mut [f32], count: usize, factor: f32) -> f32;

        /// Sums of f32 values, each times its exponential: out (n, width).
        fn mix_f32(n: usize, weights: &[f32], stride: usize, values: &[f32], out: &mut [f32]);

        /// Sums of bf16 values, each times its bf16 exponential: out (n, width).
        fn mix_bf16(n: usize, weights: &[f32], stride: usize, values: &[u32], out: &mut [f32]);

        /// Sums of int8 values, each times its 16-bit exponential: out (n, width).
        fn mix_int8(n: usize, weights: &[f32], stride: usize, values: &[u32], out: &mut [f32]);
    }
    shared {
        /// Turns queries (n, width) into int8 (n, width / 4) words and a scale each.
        fn quantise_queries(n: usize, queries: &[f32], words: &mut [u32], scales: &mut [f32]);

        /// Packs f32 keys; rows (positions, stride) begin with a head's key.
        fn pack_keys_f32(rows: &[f32], stride: usize, positions: usize, width: usize, keys: &mut [f32]);

        /// Packs int8 keys, from which their mean (width), that changes no softmax, is taken first.
        fn pack_keys_int8(
            rows: &[f32],
            stride: usize,
            positions: usize,
            mean: &mut [f32],
            scales: &mut [f32],
            keys: &mut [u32],
        );

        /// Packs f32 values; rows (positions, stride) begin with a head's value.
        fn pack_values_f32(rows: &[f32], stride: usize, positions: usize, width: usize, values: &mut [f32]);

        /// Packs bf16 values.
        fn pack_values_bf16(rows: &[f32], stride: usize, positions: usize, width: usize, values: &mut [u32]);

        /// Packs int8 values with a mean and a scale for each element of the width.
        fn pack_values_int8(
            rows: &[f32],
            stride: usize,
            positions: usize,
            mean: &mut [f32],
            scales: &mut [f32],
            values: &mut [u32],
        );
    }
}
