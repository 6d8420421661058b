//! Embeds the machine code that `cargo xtask kernels pack` left in `cubins/`, where it is of these sources. Nothing of CUDA's is
//! needed, and without that folder nothing is embedded.

use std::fmt::Write;
use std::path::Path;

#[allow(dead_code)]
#[path = "src/source.rs"]
mod source;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=cubins");
    if std::env::var_os("CARGO_FEATURE_GPU").is_none() {
        return;
    }
    let folder =
        Path::new(&std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo names the folder")).join("cubins");
    let list = match std::fs::read_to_string(folder.join("sources.txt")) {
        Ok(sources) if sources == source::whole() => list(&folder),
        Ok(_) => {
            println!(
                "cargo::warning=kernels/cubins is of other sources and is left out; make it anew: cargo xtask kernels pack"
            );
            String::new()
        }
        Err(_) => String::new(),
    };
    let out = std::env::var_os("OUT_DIR").expect("cargo names a folder for what is built");
    std::fs::write(Path::new(&out).join("cubins.rs"), format!("&[\n{list}]\n")).expect("write the list");
}

/// What there is, a line each, in Rust: architectures are folders, units files.
fn list(folder: &Path) -> String {
    let mut list = String::new();
    let mut architectures: Vec<_> = folder.read_dir().expect("list the architectures").flatten().collect();
    architectures.sort_by_key(std::fs::DirEntry::file_name);
    for architecture in architectures.iter().filter(|entry| entry.path().is_dir()) {
        let name = architecture.file_name().to_string_lossy().into_owned();
        for unit in source::UNITS {
            let file = architecture.path().join(format!("{}.cubin", unit.name));
            if file.exists() {
                writeln!(
                    list,
                    "Cubin {{ architecture: {name:?}, unit: {:?}, bytes: include_bytes!({file:?}) }},",
                    unit.name
                )
                .expect("a text takes all");
            }
        }
    }
    list
}
