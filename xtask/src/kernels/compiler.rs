//! NVRTC through its C interface.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::Path;
use std::ptr::null_mut;

use anyhow::{Context, Result, ensure};
use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

/// The library, loaded.
pub struct Compiler {
    nvrtc: Library,
    /// Loaded first, under the name by which NVRTC then finds it.
    _builtins: Library,
}

/// What became of a text.
pub struct Compiled {
    /// Machine code.
    pub cubin: Vec<u8>,
    /// What the compiler said: registers and spills of each kernel.
    pub log: String,
}

#[repr(C)]
struct Opaque([u8; 0]);
type Program = *mut Opaque;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;
type Explain = unsafe extern "C" fn(c_int) -> *const c_char;

impl Compiler {
    /// Loads the library.
    pub fn load(library: &Path, builtins: &Path) -> Result<Compiler> {
        // SAFETY: both are NVIDIA's libraries, of one release; loading them runs their own initialisers only.
        let open = |path: &Path| unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
        let builtins = open(builtins).context("load the library of NVRTC's built-ins")?;
        let nvrtc = open(library).context("load NVRTC")?;
        Ok(Compiler { nvrtc, _builtins: builtins })
    }

    /// Compiles a text with the headers (name, text) that it includes.
    pub fn compile(
        &self,
        name: &str,
        text: &str,
        headers: &[(&str, &str)],
        options: &[String],
    ) -> Result<Compiled> {
        let (name, text) = (CString::new(name)?, CString::new(text)?);
        let strings = |all: Vec<&str>| all.into_iter().map(CString::new).collect::<Result<Vec<_>, _>>();
        let header_names = strings(headers.iter().map(|(name, _)| *name).collect())?;
        let header_texts = strings(headers.iter().map(|(_, text)| *text).collect())?;
        let options = strings(options.iter().map(String::as_str).collect())?;
        let pointers = |all: &[CString]| all.iter().map(|one| one.as_ptr()).collect::<Vec<_>>();
        let mut program: Program = null_mut();
        // SAFETY: the functions have the signatures of nvrtc.h; every string ends in zero and outlives the calls, arrays are
        // as long as the numbers beside them, and what is written into has the size that the library names.
        unsafe {
            let create = self.function::<Create>(c"nvrtcCreateProgram")?;
            let (texts, names) = (pointers(&header_texts), pointers(&header_names));
            let count = headers.len() as c_int;
            let made =
                create(&mut program, text.as_ptr(), name.as_ptr(), count, texts.as_ptr(), names.as_ptr());
            self.check(made, "begin")?;
            let options = pointers(&options);
            let compile = self.function::<Compile>(c"nvrtcCompileProgram")?;
            let done = compile(program, options.len() as c_int, options.as_ptr());
            let log = self.bytes(program, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?;
            let log = String::from_utf8_lossy(log.strip_suffix(b"\0").unwrap_or(&log)).into_owned();
            self.check(done, "compile").with_context(|| log.clone())?;
            let cubin = self.bytes(program, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")?;
            let destroy = self.function::<Destroy>(c"nvrtcDestroyProgram")?;
            self.check(destroy(&mut program), "end")?;
            Ok(Compiled { cubin, log })
        }
    }

    /// # Safety
    /// The functions are those of a program's size and bytes of one thing.
    unsafe fn bytes(&self, program: Program, size: &CStr, get: &CStr) -> Result<Vec<u8>> {
        let mut length = 0;
        // SAFETY: signatures as in nvrtc.h, and as many bytes as the library says that it writes.
        unsafe {
            self.check(self.function::<Size>(size)?(program, &mut length), "ask for a size")?;
            let mut bytes = vec![0u8; length];
            self.check(self.function::<Get>(get)?(program, bytes.as_mut_ptr().cast()), "ask for bytes")?;
            Ok(bytes)
        }
    }

    /// # Safety
    /// The function has this signature.
    unsafe fn function<F>(&self, name: &CStr) -> Result<Symbol<F>> {
        // SAFETY: by contract.
        unsafe { self.nvrtc.get(name.to_bytes_with_nul()) }
            .with_context(|| format!("find {} in NVRTC", name.to_string_lossy()))
    }

    fn check(&self, result: c_int, what: &str) -> Result<()> {
        // SAFETY: nvrtc.h's signature; the text is the library's and stays.
        let reason = unsafe {
            let text = self.function::<Explain>(c"nvrtcGetErrorString")?(result);
            if text.is_null() { "no reason".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        ensure!(result == 0, "{what}: NVRTC says {reason}");
        Ok(())
    }
}
