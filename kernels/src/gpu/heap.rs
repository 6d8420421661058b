//! The device's memory, and the host's that it reads and writes: who holds it, and when it is given back.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use cudarc::driver::result;
use cudarc::driver::{CudaEvent, CudaStream, DriverError};

use super::error::failed;
use crate::device::Error;
use crate::memory::{Block, HostBlock};

/// The one stream of a device with its context, and what was dropped.
///
/// A drop only makes a note: it may come from any thread and while a graph is recorded, when the driver must not be asked. The
/// memory goes back to the driver when the device next allocates, waits or begins a graph.
pub struct Heap {
    pub stream: Arc<CudaStream>,
    dropped: Mutex<Vec<Dropped>>,
}

enum Dropped {
    Device(u64),
    Host(usize),
}

impl Heap {
    pub fn new(stream: Arc<CudaStream>) -> Arc<Heap> {
        Arc::new(Heap { stream, dropped: Mutex::new(Vec::new()) })
    }

    /// Memory of the device, uninitialised.
    pub fn device(self: &Arc<Heap>, bytes: usize) -> Result<Block, DriverError> {
        self.stream.context().bind_to_thread()?;
        // The driver refuses to allocate nothing.
        // SAFETY: the context is this thread's.
        let address = unsafe { result::malloc_sync(bytes.max(1)) }?;
        Ok(Block::new(address, DeviceBytes { address, heap: self.clone() }))
    }

    /// Memory of the host, all zero.
    pub fn host(self: &Arc<Heap>, bytes: usize) -> Result<HostBytes, DriverError> {
        let context = self.stream.context();
        let asked = context.new_event(None)?;
        // SAFETY: the context is this thread's: the event was made in it.
        let place = unsafe { result::malloc_host(bytes.max(1), 0) }? as usize;
        // SAFETY: as many bytes were allocated just now.
        unsafe { (place as *mut u8).write_bytes(0, bytes) };
        Ok(HostBytes { place, asked, heap: self.clone() })
    }

    /// Gives back what was dropped, once nothing that was asked for before can still use it. Says whether there was anything.
    pub fn give_back(&self) -> Result<bool, DriverError> {
        let dropped = std::mem::take(&mut *self.dropped.lock().unwrap_or_else(PoisonError::into_inner));
        if dropped.is_empty() {
            return Ok(false);
        }
        self.stream.synchronize()?;
        for one in dropped {
            // SAFETY: each was allocated by this heap, was dropped once, and the stream is done with it.
            unsafe {
                match one {
                    Dropped::Device(address) => result::free_sync(address)?,
                    Dropped::Host(place) => result::free_host(place as *mut _)?,
                }
            }
        }
        Ok(true)
    }

    fn note(&self, dropped: Dropped) {
        self.dropped.lock().unwrap_or_else(PoisonError::into_inner).push(dropped);
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        // A device that is lost has lost its memory too.
        let _ = self.give_back();
    }
}

impl fmt::Debug for Heap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the heap of a GPU")
    }
}

struct DeviceBytes {
    address: u64,
    heap: Arc<Heap>,
}

impl Drop for DeviceBytes {
    fn drop(&mut self) {
        self.heap.note(Dropped::Device(self.address));
    }
}

/// Memory of the host that the device reads and writes by itself.
pub struct HostBytes {
    place: usize,
    /// Recorded behind each copy.
    asked: CudaEvent,
    heap: Arc<Heap>,
}

impl HostBlock for HostBytes {
    fn place(&self) -> *mut u8 {
        self.place as *mut u8
    }

    fn asked(&mut self) -> Result<(), Error> {
        self.asked.record(&self.heap.stream).map_err(|e| {
            // What cannot be waited for later is waited for now.
            let _ = self.heap.stream.synchronize();
            failed("note a copy")(e)
        })
    }

    fn wait(&self) -> Result<(), Error> {
        self.asked.synchronize().map_err(failed("wait for a copy"))
    }
}

impl Drop for HostBytes {
    fn drop(&mut self) {
        self.heap.note(Dropped::Host(self.place));
    }
}
