//! The audio store.
