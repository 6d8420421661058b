//! What readers ask.
