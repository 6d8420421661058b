//! NVIDIA's run-time compiler, through its C interface. It needs neither a GPU nor a driver.

use std::ffi::{CStr, CString, c_char, c_int};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

use libloading::os::unix::{Library, RTLD_GLOBAL, RTLD_NOW, Symbol};

/// The library. Once loaded it stays: to unload a compiler gains nothing that would be worth what its destructors may do.
pub struct Compiler {
    nvrtc: ManuallyDrop<Library>,
}

/// What became of a text.
pub struct Compiled {
    /// Machine code.
    pub cubin: Vec<u8>,
    /// What the compiler said: registers and spills of each kernel.
    pub log: String,
}

/// Why there is no machine code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The library is not there, or not whole.
    #[error("load {library}: {reason}")]
    Library {
        /// Its path or name.
        library: String,
        /// What the loader said.
        reason: String,
    },
    /// It refused.
    #[error("{doing}: NVRTC says {reason}\n{log}")]
    Refused {
        /// What it was asked for.
        doing: &'static str,
        /// What it said.
        reason: String,
        /// What it said of the text.
        log: String,
    },
}

#[repr(C)]
struct Opaque([u8; 0]);
type Handle = *mut Opaque;
type Create = unsafe extern "C" fn(
    *mut Handle,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Handle, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Handle, *mut usize) -> c_int;
type Get = unsafe extern "C" fn(Handle, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Handle) -> c_int;
type Explain = unsafe extern "C" fn(c_int) -> *const c_char;
type Version = unsafe extern "C" fn(*mut c_int, *mut c_int) -> c_int;
type Count = unsafe extern "C" fn(*mut c_int) -> c_int;
type List = unsafe extern "C" fn(*mut c_int) -> c_int;

/// Names under which the system's loader may know it, best first.
const NAMES: &[&str] = &["libnvrtc.so.13", "libnvrtc.so"];

impl Compiler {
    /// Loads the library from a folder, such as `nvidia/cu13/lib` of the wheel, or from where the system's loader finds it.
    pub fn find(folder: Option<&Path>) -> Result<Compiler, Error> {
        let Some(folder) = folder else {
            let mut tried = NAMES.iter().map(|name| Compiler::load(Path::new(name), None));
            let first = tried.next().expect("there are names");
            return first.or_else(|e| tried.find_map(Result::ok).ok_or(e));
        };
        let failed = |reason: String| Error::Library {
            library: format!("libnvrtc.so of {}", folder.display()),
            reason,
        };
        let entries = folder.read_dir().map_err(|e| failed(e.to_string()))?;
        let mut files: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        // `libnvrtc.so.13` before `libnvrtc.so.13.0.88`, which is the same; the wheel has a second one for old systems.
        files.sort();
        let named = |start: &str| {
            let name = |file: &&PathBuf| file.file_name().map(|name| name.to_string_lossy().into_owned());
            files.iter().find(|file| name(file).is_some_and(|n| n.starts_with(start) && !n.contains(".alt.")))
        };
        let library = named("libnvrtc.so").ok_or_else(|| failed("there is none".to_owned()))?;
        Compiler::load(library, named("libnvrtc-builtins.so").map(PathBuf::as_path))
    }

    /// Loads the library, and the one with its built-ins where the loader would not find that by itself.
    pub fn load(library: &Path, builtins: Option<&Path>) -> Result<Compiler, Error> {
        let open = |path: &Path| {
            // SAFETY: both are NVIDIA's libraries, of one release; loading them runs their own initialisers only.
            let opened = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_GLOBAL) };
            opened.map_err(|e| Error::Library { library: path.display().to_string(), reason: e.to_string() })
        };
        // Under the name that it has now, NVRTC finds it.
        std::mem::forget(builtins.map(open).transpose()?);
        Ok(Compiler { nvrtc: ManuallyDrop::new(open(library)?) })
    }

    /// Its version: (13, 0).
    pub fn version(&self) -> Result<(u32, u32), Error> {
        let (mut major, mut minor) = (0, 0);
        // SAFETY: nvrtc.h's signature.
        let said = unsafe { self.function::<Version>(c"nvrtcVersion")?(&mut major, &mut minor) };
        self.check(said, "ask for the version", String::new)?;
        Ok((major as u32, minor as u32))
    }

    /// The architectures that it compiles for, by number: 80 is sm_80.
    pub fn architectures(&self) -> Result<Vec<u32>, Error> {
        let mut count = 0;
        // SAFETY: nvrtc.h's signatures, and the list has as many places as the library says.
        unsafe {
            let said = self.function::<Count>(c"nvrtcGetNumSupportedArchs")?(&mut count);
            self.check(said, "count the architectures", String::new)?;
            let mut list = vec![0; count.max(0) as usize];
            let said = self.function::<List>(c"nvrtcGetSupportedArchs")?(list.as_mut_ptr());
            self.check(said, "list the architectures", String::new)?;
            Ok(list.into_iter().map(|number| number as u32).collect())
        }
    }

    /// Compiles a text with the headers (name, text) that it includes.
    pub fn compile(
        &self,
        name: &str,
        text: &str,
        headers: &[(&str, &str)],
        options: &[String],
    ) -> Result<Compiled, Error> {
        let string = |text: &str| {
            CString::new(text).map_err(|_| Error::Refused {
                doing: "begin",
                reason: "nothing: a text has a zero byte in it".to_owned(),
                log: String::new(),
            })
        };
        let strings = |all: Vec<&str>| all.into_iter().map(string).collect::<Result<Vec<_>, _>>();
        let (name, text) = (string(name)?, string(text)?);
        let header_names = strings(headers.iter().map(|(name, _)| *name).collect())?;
        let header_texts = strings(headers.iter().map(|(_, text)| *text).collect())?;
        let options = strings(options.iter().map(String::as_str).collect())?;
        let pointers = |all: &[CString]| all.iter().map(|one| one.as_ptr()).collect::<Vec<_>>();
        let mut program = Program { handle: null_mut(), of: self };
        // SAFETY: the functions have the signatures of nvrtc.h; every string ends in zero and outlives the calls, arrays are
        // as long as the numbers beside them, and what is written into has the size that the library names.
        unsafe {
            let create = self.function::<Create>(c"nvrtcCreateProgram")?;
            let (texts, names) = (pointers(&header_texts), pointers(&header_names));
            let count = headers.len() as c_int;
            let made = create(
                &mut program.handle,
                text.as_ptr(),
                name.as_ptr(),
                count,
                texts.as_ptr(),
                names.as_ptr(),
            );
            self.check(made, "begin", String::new)?;
            let options = pointers(&options);
            let compile = self.function::<Compile>(c"nvrtcCompileProgram")?;
            let done = compile(program.handle, options.len() as c_int, options.as_ptr());
            let log = self.bytes(program.handle, c"nvrtcGetProgramLogSize", c"nvrtcGetProgramLog")?;
            let log = String::from_utf8_lossy(log.strip_suffix(b"\0").unwrap_or(&log)).into_owned();
            self.check(done, "compile", || log.clone())?;
            let cubin = self.bytes(program.handle, c"nvrtcGetCUBINSize", c"nvrtcGetCUBIN")?;
            Ok(Compiled { cubin, log })
        }
    }

    /// # Safety
    /// The functions are those of a program's size and bytes of one thing.
    unsafe fn bytes(&self, program: Handle, size: &CStr, get: &CStr) -> Result<Vec<u8>, Error> {
        let mut length = 0;
        // SAFETY: signatures as in nvrtc.h, and as many bytes as the library says that it writes.
        unsafe {
            let said = self.function::<Size>(size)?(program, &mut length);
            self.check(said, "ask for a size", String::new)?;
            let mut bytes = vec![0u8; length];
            let said = self.function::<Get>(get)?(program, bytes.as_mut_ptr().cast());
            self.check(said, "ask for bytes", String::new)?;
            Ok(bytes)
        }
    }

    /// # Safety
    /// The function has this signature.
    unsafe fn function<F>(&self, name: &CStr) -> Result<Symbol<F>, Error> {
        // SAFETY: by contract.
        unsafe { self.nvrtc.get(name) }.map_err(|e| Error::Library {
            library: format!("{} of NVRTC", name.to_string_lossy()),
            reason: e.to_string(),
        })
    }

    fn check(&self, result: c_int, doing: &'static str, log: impl FnOnce() -> String) -> Result<(), Error> {
        if result == 0 {
            return Ok(());
        }
        // SAFETY: nvrtc.h's signature; the text is the library's and stays.
        let reason = unsafe {
            let text = self.function::<Explain>(c"nvrtcGetErrorString")?(result);
            if text.is_null() { "no reason".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        Err(Error::Refused { doing, reason: reason.into_owned(), log: log() })
    }
}

/// A text that is being compiled.
struct Program<'a> {
    handle: Handle,
    of: &'a Compiler,
}

impl Drop for Program<'_> {
    fn drop(&mut self) {
        // SAFETY: nvrtc.h's signature; the program was created, and null is none.
        unsafe {
            if !self.handle.is_null()
                && let Ok(destroy) = self.of.function::<Destroy>(c"nvrtcDestroyProgram")
            {
                destroy(&mut self.handle);
            }
        }
    }
}
