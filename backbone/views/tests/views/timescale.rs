//! The real extension.
