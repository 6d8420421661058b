//! Attention of the encoder's positions to each other.

use super::memory::{Form, Layout, Memory, Rows};
use super::{Arithmetic, BLOCK, Heads, Isa, Split};
use crate::cpu::parts::Parts;

/// Queries of a task: keys and values of a head are read from the second-level cache ten times a task.
const TASK_QUERIES: usize = 10 * BLOCK;

/// Self-attention over one window: the packed keys and values of one layer at a time, kept to be used again.
#[derive(Debug, Clone)]
pub struct WindowAttention {
    memory: Memory,
}

impl WindowAttention {
    /// Room for windows of at most `positions` positions.
    pub fn new(heads: Heads, positions: usize, arithmetic: Arithmetic) -> WindowAttention {
        WindowAttention::with_isa(heads, positions, arithmetic, Isa::best(heads.width))
    }

    /// The same with other instructions than the fastest.
    pub fn with_isa(heads: Heads, positions: usize, arithmetic: Arithmetic, isa: Isa) -> WindowAttention {
        let form = match arithmetic {
            Arithmetic::Exact => Form::F32,
            Arithmetic::Fast => Form::Bf16,
        };
        WindowAttention { memory: Memory::new(heads, positions, form, isa) }
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.memory.bytes()
    }

    /// Mixes the values of all positions for each: softmax(Q Kᵀ / √width) V.
    ///
    /// `qkv` (positions, 3 layer width) holds each position's queries, keys and values with their bias; `mixed` is
    /// (positions, layer width). Two splits: a task a head to pack, then a task for 60 queries of a head.
    pub fn attend(&mut self, qkv: &[f32], mixed: &mut [f32], split: Split) {
        let width = self.memory.heads().layer_width();
        let positions = mixed.len() / width;
        assert_eq!(mixed.len(), positions * width, "mixed values are (positions, layer width)");
        assert_eq!(
            qkv.len(),
            positions * 3 * width,
            "queries, keys and values are (positions, 3 layer width)"
        );
        if positions == 0 {
            return;
        }
        self.memory.store(
            qkv,
            Layout { stride: 3 * width, keys: width, values: 2 * width },
            positions,
            split,
        );
        let memory = &self.memory;
        let mixed = Parts::new(mixed);
        let blocks = positions.div_ceil(TASK_QUERIES);
        split(memory.heads().count * blocks, &|task| {
            let (head, first) = (task / blocks, task % blocks * TASK_QUERIES);
            let count = TASK_QUERIES.min(positions - first);
            let (queries, out) =
                (Rows { data: qkv, stride: 3 * width }, Rows { data: &mixed, stride: width });
            // SAFETY: each task has queries of a head that no other has.
            unsafe { memory.attend(head, queries, out, first, count) };
        });
    }
}
