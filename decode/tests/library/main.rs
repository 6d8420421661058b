//! The decode library on real files: every format against ffmpeg, runs that are resumed, bad input.
//!
//! ffmpeg and espeak-ng make the files, but for those of `tests/fixtures`. Tests that need them say so and pass when they are not there.

mod bad_input;
mod fixtures;
mod formats;
mod make;
mod mutations;
mod resume;
mod run;
