//! Series of launches that come again: which are recorded, and how one is.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::sys::{CUgraphInstantiate_flags, CUresult, CUstreamCaptureMode};
use cudarc::driver::{CudaGraph, CudaStream, DriverError};

use crate::accelerator::GraphKey;

/// Launches that were recorded on a stream.
pub struct Graph(CudaGraph);

// SAFETY: a graph may be used by any thread, by one at a time; only the device that owns it does.
unsafe impl Send for Graph {}

impl Graph {
    /// From here on this stream's launches are recorded and not done. Others' threads are free to do what they like meanwhile.
    pub fn begin(stream: &CudaStream) -> Result<(), DriverError> {
        stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)
    }

    /// What was recorded. The stream does again what it is asked for, whatever comes of this.
    pub fn end(stream: &Arc<CudaStream>) -> Result<Graph, DriverError> {
        let graph = stream.end_capture(CUgraphInstantiate_flags(0))?;
        graph.map(Graph).ok_or(DriverError(CUresult::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED))
    }

    /// Launches everything in it.
    pub fn replay(&self) -> Result<(), DriverError> {
        self.0.launch()
    }
}

/// What is known of each key.
pub struct Graphs<G> {
    known: HashMap<GraphKey, State<G>>,
}

/// Keys that are kept: some hundred kernels each are some megabytes.
const KEYS_MAX: usize = 512;

enum State<G> {
    /// Its work was done once, as it stands.
    Done,
    Recorded(G),
    /// It could not be recorded.
    Refused,
}

/// What is to be done with a key's work.
#[derive(Debug, PartialEq, Eq)]
pub enum Turn<'a, G> {
    /// It is done as it stands. A key that never comes again costs no recording, and the driver, which loads a kernel when it is
    /// first launched and may not while it records, has loaded all when it is.
    Do,
    /// It is recorded, and replayed.
    Record,
    /// It is replayed.
    Replay(&'a G),
}

impl<G> Graphs<G> {
    /// None.
    pub fn new() -> Graphs<G> {
        Graphs { known: HashMap::new() }
    }

    /// What comes next for a key.
    pub fn turn(&self, key: &GraphKey) -> Turn<'_, G> {
        match self.known.get(key) {
            None | Some(State::Refused) => Turn::Do,
            Some(State::Done) => Turn::Record,
            Some(State::Recorded(graph)) => Turn::Replay(graph),
        }
    }

    /// Its work was done without an error.
    pub fn done(&mut self, key: GraphKey) {
        self.known.entry(key).or_insert(State::Done);
    }

    /// It cannot be recorded, and is done as it stands each time.
    pub fn refused(&mut self, key: GraphKey) {
        self.known.insert(key, State::Refused);
    }

    /// Whether there are so many that they should be [forgotten](Graphs::forget).
    pub fn is_full(&self) -> bool {
        self.known.len() >= KEYS_MAX
    }

    /// Its work is in this graph from now on.
    pub fn recorded(&mut self, key: GraphKey, graph: G) -> &G {
        let state = self.known.entry(key).or_insert(State::Done);
        *state = State::Recorded(graph);
        let State::Recorded(graph) = state else { unreachable!("it was just set") };
        graph
    }

    /// Begins anew.
    pub fn forget(&mut self) {
        self.known.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_then_recorded_then_replayed() {
        let mut graphs = Graphs::new();
        let key = |rows| GraphKey { name: "step", numbers: [rows, 0, 0, 0] };
        assert_eq!(graphs.turn(&key(1)), Turn::Do);
        assert_eq!(graphs.turn(&key(1)), Turn::Do, "it failed, so it is not yet done");
        graphs.done(key(1));
        assert_eq!(graphs.turn(&key(1)), Turn::Record);
        assert_eq!(graphs.turn(&key(2)), Turn::Do);
        assert_eq!(graphs.recorded(key(1), "graph"), &"graph");
        assert_eq!(graphs.turn(&key(1)), Turn::Replay(&"graph"));
        graphs.forget();
        assert_eq!(graphs.turn(&key(1)), Turn::Do);
    }

    #[test]
    fn what_cannot_be_recorded_is_done_and_many_keys_are_too_many() {
        let mut graphs = Graphs::<&str>::new();
        let key = |rows| GraphKey { name: "step", numbers: [rows, 0, 0, 0] };
        graphs.done(key(0));
        graphs.refused(key(0));
        graphs.done(key(0));
        assert_eq!(graphs.turn(&key(0)), Turn::Do);
        (1..KEYS_MAX - 1).for_each(|rows| graphs.done(key(rows)));
        assert!(!graphs.is_full());
        graphs.done(key(KEYS_MAX));
        assert!(graphs.is_full());
    }
}
