//! A device that runs the kernels on the processor (`emulator/emulator.h`): for tests, of the rooms and of what is written on
//! them.
//!
//! It finds mistakes that a GPU passes over: races, reads of what nobody wrote, writes outside of arrays (on drop), graphs whose
//! work changed. What cannot be found says `docs/kernels.md`.

mod array;
mod library;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use libloading::Library;

use crate::accelerator::{Accelerator, GraphKey, check_outside};
use crate::device::{Arguments, Device, Error, Launch};
use crate::memory::{Block, HostBlock};
use crate::source::unit_of;

pub use array::Array;

/// Kernels compiled for this processor, each op when its first kernel is launched.
pub struct Emulator {
    /// The only file that is looked at, or all.
    only: Option<Arc<Library>>,
    order: u32,
    arrays: Arc<Arrays>,
    /// What was done for each key since this many arrays were freed.
    graphs: HashMap<GraphKey, Vec<Step>>,
    freed: u64,
    /// What has been done in the present graph.
    recorded: Option<Vec<Step>>,
    replays: bool,
}

/// Bytes of memory that it has.
const ROOM: usize = 4 << 30;

/// What arrays and their device know of each other.
#[derive(Debug)]
struct Arrays {
    room: AtomicUsize,
    freed: AtomicU64,
}

/// What a graph repeats.
#[derive(Debug, Clone, PartialEq)]
enum Step {
    Launch(Launch, Box<Arguments>),
    Fill { to: u64, byte: u8, bytes: usize },
    Copy { from: u64, to: u64, bytes: usize },
}

type EmulatorLaunch = unsafe extern "C" fn(
    *const c_char,
    *const u32,
    *const u32,
    usize,
    *const *const c_void,
    *const usize,
    usize,
    u32,
    *mut c_char,
    usize,
) -> c_int;

impl Emulator {
    /// All ops, the threads of a block running in this order: 0 ascending, 1 descending, any other number the seed of a
    /// shuffle. None where there is no C++ compiler, which it says.
    pub fn open(order: u32) -> Option<Emulator> {
        library::compiler()?;
        Some(Emulator {
            only: None,
            order,
            arrays: Arc::new(Arrays { room: AtomicUsize::new(ROOM), freed: AtomicU64::new(0) }),
            graphs: HashMap::new(),
            freed: 0,
            recorded: None,
            replays: false,
        })
    }

    /// The kernels of a text instead.
    #[cfg(test)]
    pub(crate) fn new(name: &str, text: &str, order: u32) -> Option<Emulator> {
        let emulator = Emulator::open(order)?;
        Some(Emulator { only: Some(library::of(name, text)), ..emulator })
    }

    /// The same with so much memory, to see what runs out of it.
    pub fn with_room(self, bytes: usize) -> Emulator {
        self.arrays.room.store(bytes, Ordering::Relaxed);
        self
    }

    /// The same repeating graphs as a GPU does, without doing their work anew: what a model computes must be the same.
    pub fn with_replays(self) -> Emulator {
        Emulator { replays: true, ..self }
    }

    /// Launches at once, and says what was found.
    pub fn run(&self, launch: &Launch, arguments: &Arguments) -> Result<(), String> {
        let library = match (&self.only, unit_of(launch.kernel)) {
            (Some(library), _) => library.clone(),
            (None, Some(unit)) => library::of(unit.name, unit.text),
            (None, None) => return Err("no op has a kernel of this name".to_owned()),
        };
        let kernel = CString::new(launch.kernel).expect("a kernel's name has no zero");
        let (values, sizes) = arguments.parts();
        let pointers: Vec<*const c_void> = values.iter().map(|value| (&raw const *value).cast()).collect();
        let mut message = [0 as c_char; 512];
        // SAFETY: the function is the emulator's, with this signature; arrays and their lengths go together, and the
        // message ends within its room.
        unsafe {
            let run = library.get::<EmulatorLaunch>(c"emulator_launch").expect("the emulator is in it");
            let failed = run(
                kernel.as_ptr(),
                launch.grid.as_ptr(),
                [launch.threads, 1, 1].as_ptr(),
                launch.shared_bytes as usize,
                pointers.as_ptr(),
                sizes.as_ptr(),
                values.len(),
                self.order,
                message.as_mut_ptr(),
                message.len(),
            );
            if failed == 0 {
                return Ok(());
            }
            Err(CStr::from_ptr(message.as_ptr()).to_string_lossy().into_owned())
        }
    }

    /// Does something that may be part of a graph.
    ///
    /// # Safety
    /// The addresses are right, as [`Device`] and [`Accelerator`] ask.
    unsafe fn step(&mut self, step: Step) -> Result<(), Error> {
        self.recorded.iter_mut().for_each(|recorded| recorded.push(step.clone()));
        match step {
            Step::Launch(launch, arguments) => {
                let failed = |reason| Error::Device { what: launch.kernel, reason };
                return self.run(&launch, &arguments).map_err(failed);
            }
            // SAFETY: by contract.
            Step::Fill { to, byte, bytes } => unsafe { (to as *mut u8).write_bytes(byte, bytes) },
            // SAFETY: by contract.
            Step::Copy { from, to, bytes } => unsafe {
                (to as *mut u8).copy_from_nonoverlapping(from as *const u8, bytes);
            },
        }
        Ok(())
    }

    fn check_outside(&self, op: &'static str) -> Result<(), Error> {
        check_outside(self.recorded.is_some(), op)
    }
}

impl Device for Emulator {
    unsafe fn launch(&mut self, launch: &Launch, arguments: &Arguments) -> Result<(), Error> {
        // SAFETY: by contract.
        unsafe { self.step(Step::Launch(*launch, Box::new(*arguments))) }
    }
}

impl Accelerator for Emulator {
    fn room(&mut self) -> Result<usize, Error> {
        Ok(self.arrays.room.load(Ordering::Relaxed))
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        self.check_outside("wait")
    }

    fn graph<E: From<Error>>(
        &mut self,
        key: GraphKey,
        mut work: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.recorded.is_some() {
            return work(self);
        }
        let freed = self.arrays.freed.load(Ordering::Relaxed);
        if freed != self.freed {
            self.graphs.clear();
            self.freed = freed;
        }
        if let Some(steps) = self.graphs.get(&key).filter(|_| self.replays) {
            for step in steps.clone() {
                // SAFETY: nothing was freed since it was done, so the addresses still are right.
                unsafe { self.step(step) }?;
            }
            return Ok(());
        }
        self.recorded = Some(Vec::new());
        let done = work(self);
        let now = self.recorded.take().unwrap_or_default();
        done?;
        let before = self.graphs.entry(key).or_insert_with(|| now.clone());
        if *before == now {
            return Ok(());
        }
        let first = before.iter().zip(&now).take_while(|(before, now)| before == now).count();
        let (before, now) = (before.get(first), now.get(first));
        Err(E::from(Error::Contract {
            op: key.name,
            reason: format!(
                "graph {:?}: step {first} is {now:?} and would have been done as it was, {before:?}",
                key.numbers
            ),
        }))
    }

    fn allocate_bytes(&mut self, bytes: usize) -> Result<Block, Error> {
        self.check_outside("allocation")?;
        let free = self.arrays.room.load(Ordering::Relaxed);
        if bytes > free {
            return Err(Error::Room { needed: bytes, free });
        }
        self.arrays.room.fetch_sub(bytes, Ordering::Relaxed);
        let mut array = Array::<u8>::poisoned(bytes);
        let address = array.view_mut().address();
        Ok(Block::new(address, Owned { _array: array, bytes, arrays: self.arrays.clone() }))
    }

    fn allocate_pinned_bytes(&mut self, bytes: usize) -> Result<Box<dyn HostBlock>, Error> {
        self.check_outside("pinned allocation")?;
        let mut array = Array::<u8>::poisoned(bytes);
        array.get_mut().fill(0);
        let place = array.view_mut().address();
        Ok(Box::new(HostArray { _array: array, place }))
    }

    unsafe fn fill_bytes(&mut self, to: u64, byte: u8, bytes: usize) -> Result<(), Error> {
        // SAFETY: by contract.
        unsafe { self.step(Step::Fill { to, byte, bytes }) }
    }

    unsafe fn copy_bytes(&mut self, from: u64, to: u64, bytes: usize) -> Result<(), Error> {
        // SAFETY: by contract.
        unsafe { self.step(Step::Copy { from, to, bytes }) }
    }

    unsafe fn upload_bytes(&mut self, from: &[u8], to: u64) -> Result<(), Error> {
        self.check_outside("upload")?;
        // SAFETY: by contract.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(from.as_ptr(), from.len()) };
        Ok(())
    }

    unsafe fn download_bytes(&mut self, from: u64, to: &mut [u8]) -> Result<(), Error> {
        self.check_outside("download")?;
        // SAFETY: by contract.
        unsafe { to.as_mut_ptr().copy_from_nonoverlapping(from as *const u8, to.len()) };
        Ok(())
    }

    unsafe fn upload_bytes_later(
        &mut self,
        from: &mut dyn HostBlock,
        to: u64,
        bytes: usize,
    ) -> Result<(), Error> {
        self.check_outside("upload")?;
        // SAFETY: by contract.
        unsafe { (to as *mut u8).copy_from_nonoverlapping(from.place(), bytes) };
        from.asked()
    }

    unsafe fn download_bytes_later(
        &mut self,
        from: u64,
        to: &mut dyn HostBlock,
        bytes: usize,
    ) -> Result<(), Error> {
        self.check_outside("download")?;
        // SAFETY: by contract.
        unsafe { to.place().copy_from_nonoverlapping(from as *const u8, bytes) };
        to.asked()
    }
}

/// An array of the device.
struct Owned {
    _array: Array<u8>,
    bytes: usize,
    arrays: Arc<Arrays>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.arrays.room.fetch_add(self.bytes, Ordering::Relaxed);
        self.arrays.freed.fetch_add(1, Ordering::Relaxed);
    }
}

/// An array of the host.
struct HostArray {
    _array: Array<u8>,
    place: u64,
}

impl HostBlock for HostArray {
    fn place(&self) -> *mut u8 {
        self.place as *mut u8
    }

    fn asked(&mut self) -> Result<(), Error> {
        Ok(())
    }

    fn wait(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
