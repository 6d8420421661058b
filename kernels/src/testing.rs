//! What the rooms' tests share: the emulator as a device, arrays with guarded ends, seeded numbers, comparisons.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use libloading::Library;

use crate::device::{Arguments, Device, Error, Launch};
use crate::source::{OPTIONS, UNITS};
use crate::view::{View, ViewMut};

/// Orders in which the threads of a block run: ascending, descending, shuffled. A result that differs between them hangs
/// on luck.
const ORDERS: [u32; 3] = [0, 1, 20_261_123];

/// Runs a test of an op on the emulator in each order; says so and skips where there is no compiler.
pub fn each_order(op: &str, mut test: impl FnMut(&mut Emulator)) {
    let unit = UNITS.iter().find(|unit| unit.name == op).expect("the op is listed in source.rs");
    for order in ORDERS {
        match Emulator::new(op, unit.text, order) {
            Some(mut emulator) => test(&mut emulator),
            None => return,
        }
    }
}

/// Kernels compiled for this processor.
pub struct Emulator {
    library: Arc<Library>,
    order: u32,
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
    /// Compiles a text, once in a process; none where there is no compiler.
    pub fn new(name: &str, text: &str, order: u32) -> Option<Emulator> {
        static COMPILED: Mutex<Option<HashMap<String, Arc<Library>>>> = Mutex::new(None);
        let compiler = compiler()?;
        let mut compiled = COMPILED.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let library = compiled
            .get_or_insert_default()
            .entry(text.to_owned())
            .or_insert_with(|| Arc::new(compile(compiler, name, text)));
        Some(Emulator { library: library.clone(), order })
    }

    /// The same without a [`Device`]'s checks of types.
    pub fn run(&self, launch: &Launch, arguments: &Arguments) -> Result<(), String> {
        let kernel = CString::new(launch.kernel).expect("a kernel's name has no zero");
        let (values, sizes) = arguments.parts();
        let pointers: Vec<*const c_void> = values.iter().map(|value| (&raw const *value).cast()).collect();
        let mut message = [0 as c_char; 512];
        // SAFETY: the function is the emulator's, with this signature; arrays and their lengths go together, and the
        // message ends within its room.
        unsafe {
            let run = self.library.get::<EmulatorLaunch>(b"emulator_launch").expect("the emulator is in it");
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
}

impl Device for Emulator {
    unsafe fn launch(&mut self, launch: &Launch, arguments: &Arguments) -> Result<(), Error> {
        self.run(launch, arguments).map_err(|reason| Error::Device { kernel: launch.kernel, reason })
    }
}

/// The C++ compiler: what `CXX` names, or the system's.
fn compiler() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let named = std::env::var("CXX").ok();
        let known = ["g++", "clang++"].map(str::to_owned);
        let works =
            |name: &String| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
        named.into_iter().chain(known).find(works)
    });
    if found.is_none() {
        eprintln!("skipped: no C++ compiler (install g++, or name one in CXX)");
    }
    found.as_deref()
}

fn compile(compiler: &str, name: &str, text: &str) -> Library {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = tempfile::tempdir().expect("make a temporary folder");
    let (source, library) =
        (folder.path().join(format!("{name}.cpp")), folder.path().join(format!("{name}.so")));
    std::fs::write(&source, text).expect("write the source");
    let mut command = Command::new(compiler);
    // The sanitizer is in front of this program, not of the compiler.
    command.env_remove("LD_PRELOAD");
    command.args(OPTIONS.iter().filter(|option| option.starts_with("--std")));
    // Hidden, so that what one library has loaded is not another's.
    command.args([
        "-O1",
        "-fPIC",
        "-shared",
        "-fvisibility=hidden",
        "-Wall",
        "-Wno-unknown-pragmas",
        "-Werror",
    ]);
    command
        .arg("-DKERNELS_EMULATED")
        .arg("-I")
        .arg(kernels.join("emulator"))
        .arg("-I")
        .arg(kernels.join("cuda"));
    if std::env::var_os("VOICEFORGE_TEST_SANITIZE").is_some() {
        command.args(["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"]);
    }
    let output = command.arg(&source).arg("-o").arg(&library).output().expect("run the compiler");
    assert!(output.status.success(), "compile {name}:\n{}", String::from_utf8_lossy(&output.stderr));
    // SAFETY: it was just made of the emulator and kernels; its initialisers only list the kernels. It stays loaded when
    // its file goes.
    unsafe { Library::new(&library).unwrap_or_else(|e| panic!("load the compiled {name}: {e}")) }
}

/// Numbers behind and before an array: a kernel that leaves it changes one of them.
const GUARD: usize = 64;

/// An array of the emulated device. Under AddressSanitizer it has no guards, whose touching would not be seen.
pub struct Array<T> {
    memory: Vec<u128>,
    len: usize,
    guard: usize,
    of: std::marker::PhantomData<T>,
}

impl<T: Copy> Array<T> {
    /// A copy of these.
    pub fn new(values: &[T]) -> Array<T> {
        let mut array = Array::poisoned(values.len());
        array.get_mut().copy_from_slice(values);
        array
    }

    /// Elements that are no number in any type.
    pub fn poisoned(len: usize) -> Array<T> {
        let guard = if std::env::var_os("VOICEFORGE_TEST_SANITIZE").is_some() { 0 } else { GUARD };
        let words = (len * size_of::<T>()).div_ceil(16) + 2 * guard;
        Array { memory: vec![u128::MAX; words], len, guard, of: std::marker::PhantomData }
    }

    fn start(&self) -> *const T {
        self.memory[self.guard..].as_ptr().cast()
    }

    /// The elements.
    pub fn get(&self) -> &[T] {
        // SAFETY: the memory holds as many behind the guard, initialised; T is a plain number of at most 16 bytes.
        unsafe { std::slice::from_raw_parts(self.start(), self.len) }
    }

    /// The same, to write.
    pub fn get_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and the array is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.start().cast_mut(), self.len) }
    }

    /// As a kernel reads it.
    pub fn view(&self) -> View<'_, T> {
        // SAFETY: the emulated device's memory is the processor's.
        unsafe { View::new(self.start() as u64, self.len) }
    }

    /// As a kernel writes it.
    pub fn view_mut(&mut self) -> ViewMut<'_, T> {
        // SAFETY: as above, and the array is borrowed alone.
        unsafe { ViewMut::new(self.memory[self.guard..].as_mut_ptr() as u64, self.len) }
    }
}

impl<T> Drop for Array<T> {
    fn drop(&mut self) {
        let (before, after) = (&self.memory[..self.guard], &self.memory[self.memory.len() - self.guard..]);
        let whole = before.iter().chain(after).all(|word| *word == u128::MAX);
        assert!(
            whole || std::thread::panicking(),
            "a kernel wrote outside of an array of {} elements",
            self.len
        );
    }
}

/// A number of any type, as a value.
pub trait Number: Copy {
    /// Half the distance of two neighbours at 1.
    const STEP: f64;
    /// The nearest.
    fn of(value: f32) -> Self;
    /// What it is.
    fn value(self) -> f64;
}

impl Number for f32 {
    const STEP: f64 = 6.0e-8;
    fn of(value: f32) -> f32 {
        value
    }
    fn value(self) -> f64 {
        f64::from(self)
    }
}

impl Number for half::f16 {
    const STEP: f64 = 4.9e-4;
    fn of(value: f32) -> half::f16 {
        half::f16::from_f32(value)
    }
    fn value(self) -> f64 {
        self.to_f64()
    }
}

impl Number for half::bf16 {
    const STEP: f64 = 3.95e-3;
    fn of(value: f32) -> half::bf16 {
        half::bf16::from_f32(value)
    }
    fn value(self) -> f64 {
        self.to_f64()
    }
}

/// Checks each number: within `relative` of the expected one, or within `absolute` beside that.
#[track_caller]
pub fn close<T: Number>(got: &[T], expected: &[f64], relative: f64, absolute: f64) {
    assert_eq!(got.len(), expected.len());
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let got = got.value();
        // Written so that what is no number is not close to anything.
        let is_close = (got - expected).abs() <= relative * expected.abs() + absolute;
        assert!(is_close, "element {i}: {got}, not {expected}");
    }
}

/// Seeded numbers.
pub struct Random(u64);

impl Random {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// A whole number (SplitMix64).
    pub fn whole(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In 0..1.
    pub fn unit(&mut self) -> f32 {
        (self.whole() >> 40) as f32 / (1u64 << 24) as f32
    }

    /// Of mean 0 and variance 1, about: the sum of twelve.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| (0..12).map(|_| self.unit()).sum::<f32>() - 6.0).collect()
    }
}

mod emulator;
