//! Launching a kernel: what is launched, with what, and who does it.

use std::fmt;

use crate::view::{View, ViewMut};

/// Why an op was not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// What was asked for is not in the op's contract. Nothing was launched.
    #[error("{op} cannot take this: {reason}")]
    Contract {
        /// The op.
        op: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// The device has not as much memory.
    #[error("{needed} bytes of the device's memory are needed, and {free} are free")]
    Room {
        /// Bytes.
        needed: usize,
        /// Bytes.
        free: usize,
    },
    /// The device refused or failed. What was asked for before stands, and more can be asked for.
    #[error("{what}: {reason}")]
    Device {
        /// The kernel, or what else was asked for.
        what: &'static str,
        /// What the device said.
        reason: String,
    },
    /// Something that the device was asked for, now or before, broke it. Its memory is lost, and this process can use it no
    /// more.
    #[error("{what}: {reason}; the device is lost to this process, which has to be started anew")]
    Lost {
        /// What was asked for when it showed. What broke the device may lie before.
        what: &'static str,
        /// What the device said.
        reason: String,
    },
}

impl Error {
    /// Whether nothing but a new process can go on.
    pub fn is_lost(&self) -> bool {
        matches!(self, Error::Lost { .. })
    }
}

/// What runs kernels.
pub trait Device {
    /// Launches a kernel; it may run later, behind what was launched before.
    ///
    /// # Safety
    /// The arguments are those of the kernel's parameters, and what they point to is as the kernel needs it until it has
    /// run.
    unsafe fn launch(&mut self, launch: &Launch, arguments: &Arguments) -> Result<(), Error>;
}

/// Which kernel, and by how many threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Its name in the compiled module.
    pub kernel: &'static str,
    /// Blocks.
    pub grid: [u32; 3],
    /// Threads of a block, all in the first direction.
    pub threads: u32,
    /// Bytes of shared memory beside what the kernel declares: at most 48 KiB, which every device gives unasked.
    pub shared_bytes: u32,
}

/// Most bytes of shared memory that a launch may ask for.
pub const SHARED_BYTES_MAX: usize = 48 << 10;

/// Most parameters of a kernel.
pub(crate) const ARGUMENTS_MAX: usize = 20;

/// The values of a kernel's parameters.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Arguments {
    values: [u64; ARGUMENTS_MAX],
    sizes: [usize; ARGUMENTS_MAX],
    count: usize,
}

impl Arguments {
    /// None yet.
    pub fn new() -> Arguments {
        Arguments::default()
    }

    /// Adds an array that is read.
    pub fn read<T>(self, view: &View<'_, T>) -> Arguments {
        self.with(view.address(), 8)
    }

    /// Adds an array that is read, or null.
    pub fn read_maybe<T>(self, view: Option<&View<'_, T>>) -> Arguments {
        self.with(view.map_or(0, View::address), 8)
    }

    /// Adds an array that is written.
    pub fn write<T>(self, view: &ViewMut<'_, T>) -> Arguments {
        self.with(view.address(), 8)
    }

    /// Adds an array by its address.
    pub fn address(self, address: u64) -> Arguments {
        self.with(address, 8)
    }

    /// Adds a number; launchers have checked that it fits.
    pub fn number(self, number: usize) -> Arguments {
        self.with(number as u64 & 0xffff_ffff, 4)
    }

    /// The values, each in the low bytes of its place (devices and their hosts are little-endian), and their sizes in
    /// bytes.
    pub fn parts(&self) -> (&[u64], &[usize]) {
        (&self.values[..self.count], &self.sizes[..self.count])
    }

    fn with(mut self, value: u64, size: usize) -> Arguments {
        self.values[self.count] = value;
        self.sizes[self.count] = size;
        self.count += 1;
        self
    }
}

impl fmt::Debug for Arguments {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x?}", self.parts().0)
    }
}

/// Refuses what is not in an op's contract: `check(condition, "layer norm", || reason)?`.
pub(crate) fn check(holds: bool, op: &'static str, reason: impl FnOnce() -> String) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(Error::Contract { op, reason: reason() }) }
}

/// Refuses an array that has too few elements or does not begin at a multiple of 16 bytes, as vector loads need.
pub(crate) fn check_array(
    op: &'static str,
    name: &str,
    (address, len): (u64, usize),
    needed: usize,
) -> Result<(), Error> {
    check(len >= needed, op, || format!("{name} has {len} elements of the {needed} that its shape needs"))?;
    check(address.is_multiple_of(16), op, || format!("{name} does not begin at a multiple of 16 bytes"))
}
