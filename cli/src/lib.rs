//! What the command `voiceforge` is made of.

pub mod stack;
