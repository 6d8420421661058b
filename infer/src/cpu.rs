//! The processor as a backend.

pub mod attention;
