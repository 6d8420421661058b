//! The real device: an NVIDIA GPU, through CUDA's driver.
//!
//! The driver is loaded when a GPU is opened. Where there is none, or anything else is missing, [`OpenError`] says what and how
//! to mend it. Nothing here panics: cudarc does where the driver's library is missing or lacks a function, so it is looked for
//! and asked for its version before anything else.
//!
//! None of this has been run on a GPU yet: the calls were checked against cudarc's source and the driver's manual.

mod cache;
mod error;
mod graph;
mod heap;
mod images;
mod mark;

use std::collections::HashMap;
use std::ffi::{CString, c_int, c_void};
use std::path::PathBuf;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::driver::sys::{CUdevice_attribute, CUevent_flags, CUfunction, CUfunction_attribute, CUmodule};
use cudarc::driver::sys::{CUresult, CUuuid};
use cudarc::driver::{CudaContext, DriverError, result, sys};

use crate::accelerator::{Accelerator, GraphKey, check_outside};
use crate::device::{ARGUMENTS_MAX, Arguments, Device, Error, Launch};
use crate::memory::{Block, HostBlock};
use crate::source::{UNITS, unit_of};
use error::failed;
use graph::{Graph, Graphs, Turn};
use heap::Heap;

pub use error::{CAPABILITY_MIN, DRIVER_MIN, OpenError, Version};
pub use images::Origin;
pub use mark::Mark;

/// How a GPU is opened.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// The folder in which kernels that had to be compiled are kept for the next start; else they are compiled at each. What is in
    /// it may be deleted at any time.
    pub cache: Option<PathBuf>,
    /// The folder of `libnvrtc.so`; else the system's loader looks for it. Only asked for where this program has no kernels for
    /// the device.
    pub compiler: Option<PathBuf>,
    /// Bytes of the device's memory that must be free.
    pub bytes_needed: usize,
}

/// What a GPU is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct About {
    /// `NVIDIA H100 80GB HBM3`
    pub name: String,
    /// As `nvidia-smi -L` writes it.
    pub uuid: String,
    /// 9.0
    pub capability: Version,
    /// The release of CUDA that the driver is for.
    pub driver: Version,
    /// Multiprocessors.
    pub multiprocessors: usize,
    /// Most bytes of shared memory that a block may have.
    pub shared_bytes: usize,
    /// Bytes of memory.
    pub memory: usize,
    /// Where the kernels of each op come from.
    pub kernels: Vec<(&'static str, Origin)>,
}

/// A GPU with its kernels loaded, on one stream. It can be handed to another thread.
pub struct Gpu {
    about: About,
    // In the order in which they must go: graphs name functions, functions are of modules, all are of the heap's context.
    graphs: Graphs<Graph>,
    in_graph: bool,
    functions: HashMap<&'static str, Function>,
    modules: HashMap<&'static str, Module>,
    heap: Arc<Heap>,
}

impl Gpu {
    /// Opens the GPU that the driver counts as this one, from 0; kernels that must be compiled are not kept.
    pub fn open(ordinal: usize) -> Result<Gpu, OpenError> {
        Gpu::open_with(ordinal, &Setup::default())
    }

    /// The same, in this way.
    pub fn open_with(ordinal: usize, setup: &Setup) -> Result<Gpu, OpenError> {
        // SAFETY: to load the driver's library runs its own initialisers only.
        if !unsafe { sys::is_culib_present() } {
            return Err(OpenError::NoDriver);
        }
        let driver = driver_version()?;
        if driver < DRIVER_MIN {
            return Err(OpenError::DriverTooOld { found: driver });
        }
        result::init().map_err(OpenError::driver("start the driver"))?;
        let count = result::device::get_count().map_err(OpenError::driver("count the GPUs"))?;
        match usize::try_from(count) {
            Ok(0) | Err(_) => return Err(OpenError::NoDevice),
            Ok(count) if ordinal >= count => return Err(OpenError::NoSuchDevice { ordinal, count }),
            Ok(_) => {}
        }
        let (name, capability) = capability(ordinal).map_err(OpenError::driver("ask what the GPU is"))?;
        if capability < CAPABILITY_MIN {
            return Err(OpenError::DeviceTooOld { name, capability });
        }
        let context = CudaContext::new(ordinal).map_err(OpenError::driver("open the GPU"))?;
        // SAFETY: everything is done on one stream, in the order in which it is asked for.
        unsafe { context.disable_event_tracking() };
        let look = OpenError::driver("look at the GPU");
        let (free, memory) = context.mem_get_info().map_err(&look)?;
        if free < setup.bytes_needed {
            return Err(OpenError::Memory { needed: setup.bytes_needed, free });
        }
        let images = images::images(UNITS, images::EMBEDDED, capability, driver, setup)?;
        let number =
            |attribute| context.attribute(attribute).map(|number| number.max(0) as usize).map_err(&look);
        let about = About {
            name,
            uuid: uuid(context.uuid().map_err(&look)?),
            capability,
            driver,
            multiprocessors: number(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
            shared_bytes: number(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
            memory,
            kernels: images.iter().map(|image| (image.unit, image.origin.clone())).collect(),
        };
        // Not the default stream, which cannot be recorded.
        let stream = context.new_stream().map_err(OpenError::driver("make a stream"))?;
        let modules = images.iter().map(|image| Ok((image.unit, Module::load(&context, &image.bytes)?)));
        let modules = modules.collect::<Result<_, _>>().map_err(OpenError::driver("load the kernels"))?;
        Ok(Gpu {
            about,
            graphs: Graphs::new(),
            in_graph: false,
            functions: HashMap::new(),
            modules,
            heap: Heap::new(stream),
        })
    }

    /// What it is.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The moment at which everything that was asked for until now is done.
    pub fn mark(&mut self) -> Result<Mark, Error> {
        check_outside(self.in_graph, "a mark")?;
        let event = self.heap.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT));
        event.map(Mark).map_err(failed("mark a moment"))
    }

    /// Gives back what was dropped. Graphs may name it, so they go too.
    fn give_back(&mut self) -> Result<(), Error> {
        if self.heap.give_back().map_err(failed("give memory back"))? {
            self.graphs.forget();
        }
        Ok(())
    }

    /// Makes the context this thread's, which calls without a stream's or context's method need.
    fn bind(&self) -> Result<sys::CUstream, DriverError> {
        self.heap.stream.context().bind_to_thread()?;
        Ok(self.heap.stream.cu_stream())
    }

    /// A kernel, allowed as much shared memory.
    fn function(&mut self, kernel: &'static str, shared_bytes: u32) -> Result<CUfunction, Error> {
        let function = match self.functions.get_mut(kernel) {
            Some(function) => function,
            None => {
                let module = unit_of(kernel).and_then(|unit| self.modules.get(unit.name));
                let no_op =
                    || Error::Device { what: kernel, reason: "no op has a kernel of this name".to_owned() };
                let function = module.ok_or_else(no_op)?.function(kernel).map_err(failed(kernel))?;
                self.functions.entry(kernel).or_insert(function)
            }
        };
        // More than 48 KiB are given to those that ask for it alone; less than was asked for before is allowed already.
        if shared_bytes > function.shared_bytes {
            let most = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function is of a module that is loaded.
            unsafe { result::function::set_function_attribute(function.handle, most, shared_bytes as i32) }
                .map_err(failed(kernel))?;
            function.shared_bytes = shared_bytes;
        }
        Ok(function.handle)
    }

    fn record<E: From<Error>>(
        &mut self,
        key: GraphKey,
        mut work: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        Graph::begin(&self.heap.stream).map_err(failed(key.name))?;
        let done = self.inside(&mut work);
        let graph = Graph::end(&self.heap.stream);
        // Work that failed says why; that its graph is spoilt as well says nothing.
        done?;
        match graph {
            Ok(graph) => Ok(self.graphs.recorded(key, graph).replay().map_err(failed(key.name))?),
            // Mostly for want of memory, which must not stop what can be done without.
            Err(_) => {
                self.graphs.refused(key);
                self.inside(&mut work)
            }
        }
    }

    /// Does what may be part of a graph.
    fn inside<E>(&mut self, work: &mut impl FnMut(&mut Self) -> Result<(), E>) -> Result<(), E> {
        self.in_graph = true;
        let done = work(self);
        self.in_graph = false;
        done
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        // Modules must not go while their kernels run.
        let _ = self.heap.stream.synchronize();
    }
}

impl Device for Gpu {
    unsafe fn launch(&mut self, launch: &Launch, arguments: &Arguments) -> Result<(), Error> {
        let stream = self.bind().map_err(failed(launch.kernel))?;
        let function = self.function(launch.kernel, launch.shared_bytes)?;
        let (values, _) = arguments.parts();
        // The driver reads each, as many bytes as the kernel's parameter has, before it returns.
        let mut pointers = [null_mut::<c_void>(); ARGUMENTS_MAX];
        for (pointer, value) in pointers.iter_mut().zip(values) {
            *pointer = (&raw const *value).cast_mut().cast();
        }
        let [x, y, z] = launch.grid;
        let (grid, block, shared) = ((x, y, z), (launch.threads, 1, 1), launch.shared_bytes);
        let pointers = &mut pointers[..values.len()];
        // SAFETY: the function and the stream are of this device; arguments and arrays are right by contract.
        unsafe { result::launch_kernel(function, grid, block, shared, stream, pointers) }
            .map_err(failed(launch.kernel))
    }
}

impl Accelerator for Gpu {
    fn room(&mut self) -> Result<usize, Error> {
        check_outside(self.in_graph, "a look at the memory")?;
        self.give_back()?;
        let (free, _) = self.heap.stream.context().mem_get_info().map_err(failed("look at the memory"))?;
        Ok(free)
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        check_outside(self.in_graph, "wait")?;
        self.heap.stream.synchronize().map_err(failed("wait"))?;
        self.give_back()
    }

    fn graph<E: From<Error>>(
        &mut self,
        key: GraphKey,
        mut work: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        if self.in_graph {
            return work(self);
        }
        self.give_back()?;
        if self.graphs.is_full() {
            // None of them may be under way when it goes.
            self.heap.stream.synchronize().map_err(failed(key.name))?;
            self.graphs.forget();
        }
        match self.graphs.turn(&key) {
            Turn::Do => {
                self.inside(&mut work)?;
                self.graphs.done(key);
                Ok(())
            }
            Turn::Record => self.record(key, work),
            Turn::Replay(graph) => Ok(graph.replay().map_err(failed(key.name))?),
        }
    }

    fn allocate_bytes(&mut self, bytes: usize) -> Result<Block, Error> {
        check_outside(self.in_graph, "allocation")?;
        self.give_back()?;
        match self.heap.device(bytes) {
            Err(DriverError(CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                Err(Error::Room { needed: bytes, free: self.room()? })
            }
            other => other.map_err(failed("allocate")),
        }
    }

    fn allocate_pinned_bytes(&mut self, bytes: usize) -> Result<Box<dyn HostBlock>, Error> {
        check_outside(self.in_graph, "pinned allocation")?;
        self.give_back()?;
        Ok(Box::new(self.heap.host(bytes).map_err(failed("allocate pinned memory"))?))
    }

    unsafe fn fill_bytes(&mut self, to: u64, byte: u8, bytes: usize) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: by contract.
        let asked =
            self.bind().and_then(|stream| unsafe { result::memset_d8_async(to, byte, bytes, stream) });
        asked.map_err(failed("fill"))
    }

    unsafe fn copy_bytes(&mut self, from: u64, to: u64, bytes: usize) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: by contract.
        let asked =
            self.bind().and_then(|stream| unsafe { result::memcpy_dtod_async(to, from, bytes, stream) });
        asked.map_err(failed("copy"))
    }

    unsafe fn upload_bytes(&mut self, from: &[u8], to: u64) -> Result<(), Error> {
        check_outside(self.in_graph, "upload")?;
        if from.is_empty() {
            return Ok(());
        }
        // SAFETY: by contract; the bytes are borrowed until the copy is done.
        let asked = self.bind().and_then(|stream| unsafe { result::memcpy_htod_async(to, from, stream) });
        let done = self.heap.stream.synchronize();
        asked.and(done).map_err(failed("upload"))
    }

    unsafe fn download_bytes(&mut self, from: u64, to: &mut [u8]) -> Result<(), Error> {
        check_outside(self.in_graph, "download")?;
        if to.is_empty() {
            return Ok(());
        }
        // SAFETY: by contract; the bytes are borrowed until the copy is done.
        let asked = self.bind().and_then(|stream| unsafe { result::memcpy_dtoh_async(to, from, stream) });
        let done = self.heap.stream.synchronize();
        asked.and(done).map_err(failed("download"))
    }

    unsafe fn upload_bytes_later(
        &mut self,
        from: &mut dyn HostBlock,
        to: u64,
        bytes: usize,
    ) -> Result<(), Error> {
        check_outside(self.in_graph, "upload")?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: by contract; whoever looks at the block next waits.
        let asked = self.bind().and_then(|stream| unsafe {
            result::memcpy_htod_async(to, std::slice::from_raw_parts(from.place(), bytes), stream)
        });
        asked.map_err(failed("upload"))?;
        from.asked()
    }

    unsafe fn download_bytes_later(
        &mut self,
        from: u64,
        to: &mut dyn HostBlock,
        bytes: usize,
    ) -> Result<(), Error> {
        check_outside(self.in_graph, "download")?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: by contract; whoever looks at the block next waits.
        let asked = self.bind().and_then(|stream| unsafe {
            result::memcpy_dtoh_async(std::slice::from_raw_parts_mut(to.place(), bytes), from, stream)
        });
        asked.map_err(failed("download"))?;
        to.asked()
    }
}

/// A kernel, and how much shared memory it was allowed.
struct Function {
    handle: CUfunction,
    shared_bytes: u32,
}

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Function {}

/// The kernels of one op, loaded.
struct Module {
    handle: CUmodule,
    context: Arc<CudaContext>,
}

// SAFETY: a handle of the driver, which any thread may use.
unsafe impl Send for Module {}

impl Module {
    fn load(context: &Arc<CudaContext>, image: &[u8]) -> Result<Module, DriverError> {
        context.bind_to_thread()?;
        // Behind an allocation's alignment; a program's own bytes begin anywhere.
        let image = image.to_vec();
        // SAFETY: it is an ELF file that the compiler made, whole. The driver keeps a copy.
        let handle = unsafe { result::module::load_data(image.as_ptr().cast()) }?;
        Ok(Module { handle, context: context.clone() })
    }

    fn function(&self, kernel: &str) -> Result<Function, DriverError> {
        let name = CString::new(kernel).map_err(|_| DriverError(CUresult::CUDA_ERROR_NOT_FOUND))?;
        // SAFETY: the module is loaded.
        let handle = unsafe { result::module::get_function(self.handle, name) }?;
        Ok(Function { handle, shared_bytes: 0 })
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        // SAFETY: it was loaded, and nothing of it runs any more.
        let _ = self.context.bind_to_thread().and_then(|()| unsafe { result::module::unload(self.handle) });
    }
}

/// The release of CUDA that the driver is for. Every driver answers this.
fn driver_version() -> Result<Version, OpenError> {
    let mut number: c_int = 0;
    // SAFETY: the driver is there, and writes one number.
    let asked = unsafe { sys::cuDriverGetVersion(&mut number) }.result();
    asked.map_err(OpenError::driver("ask for the driver's version"))?;
    let number = number.max(0) as u32;
    Ok(Version { major: number / 1_000, minor: number % 1_000 / 10 })
}

fn capability(ordinal: usize) -> Result<(String, Version), DriverError> {
    let device = result::device::get(ordinal as c_int)?;
    // SAFETY: it was just got.
    let number = |attribute| unsafe { result::device::get_attribute(device, attribute) };
    let major = number(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = number(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    let version = Version { major: major.max(0) as u32, minor: minor.max(0) as u32 };
    Ok((result::device::get_name(device)?, version))
}

/// As `nvidia-smi -L` writes it.
fn uuid(uuid: CUuuid) -> String {
    let mut text = "GPU".to_owned();
    for (i, byte) in uuid.bytes.iter().enumerate() {
        if [0, 4, 6, 8, 10].contains(&i) {
            text.push('-');
        }
        text += &format!("{:02x}", *byte as u8);
    }
    text
}

#[cfg(test)]
mod tests;
