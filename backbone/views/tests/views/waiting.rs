//! Waiting for a recording.
