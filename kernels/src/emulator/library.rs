//! Kernel files compiled for this processor, each text once in a process.

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use libloading::Library;

use crate::source::OPTIONS;

/// The C++ compiler: what `CXX` names, or the system's. Says so where there is none.
pub fn compiler() -> Option<&'static str> {
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

/// A text, compiled; only where there is a compiler. Threads that need others are not held up.
pub fn of(name: &str, text: &str) -> Arc<Library> {
    type Slot = Arc<OnceLock<Arc<Library>>>;
    static COMPILED: Mutex<Option<HashMap<String, Slot>>> = Mutex::new(None);
    let slot = {
        let mut compiled = COMPILED.lock().unwrap_or_else(PoisonError::into_inner);
        compiled.get_or_insert_default().entry(text.to_owned()).or_default().clone()
    };
    slot.get_or_init(|| Arc::new(compile(compiler().expect("there is a compiler"), name, text))).clone()
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
