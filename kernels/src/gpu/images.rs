//! Where a device's machine code comes from: this program, the folder of a former start, or the compiler.

use std::borrow::Cow;
use std::fmt;

use super::Setup;
use super::cache::{self, Key};
use super::error::{OpenError, Version};
use crate::nvrtc::{self, Compiler};
use crate::source::{HEADERS, OPTIONS, Unit};

/// Machine code of one op, made before this program was built.
pub struct Cubin {
    /// What for: `sm_90a`
    pub architecture: &'static str,
    /// The op.
    pub unit: &'static str,
    /// An ELF file.
    pub bytes: &'static [u8],
}

/// What this program was built with.
pub const EMBEDDED: &[Cubin] = include!(concat!(env!("OUT_DIR"), "/cubins.rs"));

/// Machine code of one op, for one device.
pub struct Image {
    /// The op.
    pub unit: &'static str,
    /// An ELF file.
    pub bytes: Cow<'static, [u8]>,
    /// Where it comes from.
    pub origin: Origin,
}

/// Where machine code comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// This program; for this architecture.
    Embedded(&'static str),
    /// The folder of a former start.
    Kept,
    /// The compiler. The words say why it could not be kept, where it should have been.
    Compiled(Option<String>),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Embedded(architecture) => write!(f, "built in for {architecture}"),
            Origin::Kept => write!(f, "compiled at a former start"),
            Origin::Compiled(None) => write!(f, "compiled now"),
            Origin::Compiled(Some(reason)) => write!(f, "compiled now, and not kept: {reason}"),
        }
    }
}

/// Finds or makes the machine code of every unit.
pub fn images(
    units: &[Unit],
    embedded: &[Cubin],
    capability: Version,
    driver: Version,
    setup: &Setup,
) -> Result<Vec<Image>, OpenError> {
    let mut compiling = None;
    let mut images = Vec::new();
    for unit in units {
        let of_unit: Vec<&Cubin> = embedded.iter().filter(|cubin| cubin.unit == unit.name).collect();
        if let Some(chosen) = choose(capability, of_unit.iter().map(|cubin| cubin.architecture)) {
            images.push(Image {
                unit: unit.name,
                bytes: Cow::Borrowed(of_unit[chosen].bytes),
                origin: Origin::Embedded(of_unit[chosen].architecture),
            });
            continue;
        }
        let compiling = match &mut compiling {
            Some(compiling) => compiling,
            None => compiling.insert(Compiling::begin(capability, driver, setup)?),
        };
        images.push(compiling.image(unit)?);
    }
    Ok(images)
}

/// A compiler, and what it compiles for.
struct Compiling<'a> {
    compiler: Compiler,
    version: Version,
    driver: Version,
    architecture: String,
    setup: &'a Setup,
}

impl Compiling<'_> {
    fn begin(capability: Version, driver: Version, setup: &Setup) -> Result<Compiling<'_>, OpenError> {
        let architecture = name_of(capability);
        let missing = |e: nvrtc::Error| OpenError::NoCompiler {
            architecture: architecture.clone(),
            reason: e.to_string(),
        };
        let compiler = Compiler::find(setup.compiler.as_deref()).map_err(missing)?;
        let (major, minor) = compiler.version().map_err(missing)?;
        let version = Version { major, minor };
        let known = compiler.architectures().map_err(missing)?;
        let architecture = target(capability, &known).ok_or_else(|| OpenError::CompilerTooOld {
            architecture: name_of(capability),
            compiler: version,
        })?;
        Ok(Compiling { compiler, version, driver, architecture, setup })
    }

    fn image(&self, unit: &Unit) -> Result<Image, OpenError> {
        let mut options: Vec<String> = OPTIONS.iter().map(|option| (*option).to_owned()).collect();
        options.push(format!("--gpu-architecture={}", self.architecture));
        let name = Key {
            unit: unit.name,
            text: unit.text,
            headers: HEADERS,
            options: &options,
            compiler: &self.version.to_string(),
            driver: &self.driver.to_string(),
            architecture: &self.architecture,
        }
        .file_name();
        let cache = self.setup.cache.as_deref();
        if let Some(kept) = cache.and_then(|folder| cache::get(folder, &name)) {
            return Ok(Image { unit: unit.name, bytes: Cow::Owned(kept), origin: Origin::Kept });
        }
        let compiled = self
            .compiler
            .compile(&format!("{}.cu", unit.name), unit.text, HEADERS, &options)
            .map_err(|reason| OpenError::Compile {
                unit: unit.name,
                architecture: self.architecture.clone(),
                reason,
            })?;
        // A full disk costs the next start some seconds, and this one nothing.
        let kept = cache.map_or(Ok(()), |folder| cache::put(folder, &name, &compiled.cubin));
        let why_not = kept.err().map(|e| format!("keep {name}: {e}"));
        Ok(Image { unit: unit.name, bytes: Cow::Owned(compiled.cubin), origin: Origin::Compiled(why_not) })
    }
}

/// The compiler's name of a device's architecture. Of those with instructions of their own that later devices lack (`a`), the
/// kernels are made for Hopper's.
fn name_of(capability: Version) -> String {
    let Version { major, minor } = capability;
    format!("sm_{major}{minor}{}", if (major, minor) == (9, 0) { "a" } else { "" })
}

/// Which of these architectures a device runs best, by its place in the list. Machine code runs on later devices of its major
/// version, save that of an architecture with instructions of its own (`sm_90a`), which runs on that one alone.
fn choose<'a>(capability: Version, there: impl Iterator<Item = &'a str>) -> Option<usize> {
    let own = name_of(capability);
    let fit = |name: &str| {
        let number: u32 = name.strip_prefix("sm_")?.parse().ok()?;
        let (major, minor) = (number / 10, number % 10);
        (major == capability.major && minor <= capability.minor).then_some(minor)
    };
    there
        .enumerate()
        .filter_map(|(i, name)| if name == own { Some((u32::MAX, i)) } else { Some((fit(name)?, i)) })
        .max()
        .map(|(_, i)| i)
}

/// What a compiler that knows these architectures (80 is sm_80) compiles for a device.
fn target(capability: Version, known: &[u32]) -> Option<String> {
    let Version { major, minor } = capability;
    let best = known.iter().filter(|number| **number / 10 == major && **number % 10 <= minor).max()?;
    Some(name_of(Version { major, minor: best % 10 }))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;
    use crate::source::UNITS;

    fn version(major: u32, minor: u32) -> Version {
        Version { major, minor }
    }

    #[test]
    fn a_device_gets_the_code_that_it_runs() {
        let all = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100", "sm_120"];
        let chosen = |major, minor| choose(version(major, minor), all.into_iter()).map(|i| all[i]);
        assert_eq!(chosen(8, 0), Some("sm_80"));
        assert_eq!(chosen(8, 6), Some("sm_86"));
        assert_eq!(chosen(8, 7), Some("sm_86"));
        assert_eq!(chosen(8, 9), Some("sm_89"));
        assert_eq!(chosen(9, 0), Some("sm_90a"));
        assert_eq!(chosen(10, 3), Some("sm_100"));
        assert_eq!(chosen(12, 1), Some("sm_120"));
        assert_eq!(chosen(7, 5), None);
        assert_eq!(chosen(11, 0), None);
        let chosen = |there: &[&'static str]| choose(version(9, 0), there.iter().copied()).map(|i| there[i]);
        assert_eq!(chosen(&["sm_90", "sm_90a", "sm_80"]), Some("sm_90a"));
        assert_eq!(chosen(&["sm_90", "sm_89"]), Some("sm_90"));
        assert_eq!(choose(version(9, 1), ["sm_90a"].into_iter()), None, "it runs on 9.0 alone");
        assert_eq!(choose(version(10, 0), ["sm_100f", "ptx", "sm_", "sm_103"].into_iter()), None);
    }

    #[test]
    fn the_compiler_is_asked_for_what_it_knows() {
        let known = [75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121];
        let target = |major, minor| target(version(major, minor), &known);
        assert_eq!(target(8, 0).as_deref(), Some("sm_80"));
        assert_eq!(target(9, 0).as_deref(), Some("sm_90a"));
        assert_eq!(target(10, 1).as_deref(), Some("sm_100"));
        assert_eq!(target(12, 1).as_deref(), Some("sm_121"));
        assert_eq!(target(13, 0), None);
    }

    #[test]
    fn what_is_embedded_comes_first() {
        let embedded = |architecture| Cubin { architecture, unit: "sample", bytes: b"code" };
        let units: Vec<Unit> = UNITS.iter().filter(|unit| unit.name == "sample").copied().collect();
        let setup = Setup { compiler: Some(PathBuf::from("/nowhere")), ..Setup::default() };
        let found = |embedded: &[Cubin]| images(&units, embedded, version(8, 9), version(13, 0), &setup);
        let images = found(&[embedded("sm_80"), embedded("sm_86"), embedded("sm_90a")]).unwrap();
        assert_eq!(images.len(), 1);
        assert_eq!((images[0].unit, &images[0].bytes[..]), ("sample", &b"code"[..]));
        assert_eq!(images[0].origin, Origin::Embedded("sm_86"));
        let missing = found(&[embedded("sm_90a")]).err().unwrap();
        let OpenError::NoCompiler { architecture, reason } = missing else { panic!("{missing}") };
        assert_eq!(architecture, "sm_89");
        assert!(reason.contains("/nowhere"), "{reason}");
    }

    /// What a build embeds is all of it, for each of its architectures.
    #[test]
    fn what_this_build_embeds_is_whole() {
        let mut architectures: Vec<&str> = EMBEDDED.iter().map(|cubin| cubin.architecture).collect();
        architectures.sort();
        architectures.dedup();
        assert_eq!(EMBEDDED.len(), architectures.len() * UNITS.len());
        assert!(EMBEDDED.iter().all(|cubin| cubin.bytes.starts_with(b"\x7fELF")));
    }

    /// The folder of NVRTC that `cargo xtask kernels` has fetched, if it has.
    fn compiler() -> Option<PathBuf> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let cache = match std::env::var_os("VOICEFORGE_CACHE") {
            Some(named) if !named.is_empty() => root.join(named),
            _ => root.join(".voiceforge"),
        };
        let fetched = fs::read_dir(cache).ok()?.flatten().find_map(|entry| {
            let name = entry.file_name();
            name.to_string_lossy().starts_with("nvrtc-").then(|| entry.path().join("nvidia/cu13/lib"))
        });
        if fetched.is_none() {
            eprintln!("skipped: NVRTC is not here; `cargo xtask kernels` fetches it");
        }
        fetched
    }

    #[test]
    fn what_is_compiled_is_kept_and_what_is_damaged_is_compiled_again() {
        let Some(compiler) = compiler() else { return };
        let folder = tempfile::tempdir().unwrap();
        let cache = folder.path().join("kernels");
        let mut setup = Setup { cache: Some(cache.clone()), compiler: Some(compiler), ..Setup::default() };
        let units: Vec<Unit> = UNITS.iter().filter(|unit| unit.name == "layer_norm").copied().collect();
        let run = |setup: &Setup, capability: Version| {
            let mut images = images(&units, &[], capability, version(13, 0), setup).unwrap();
            images.swap_remove(0)
        };
        let compiled = run(&setup, version(9, 0));
        assert_eq!(compiled.origin, Origin::Compiled(None));
        assert!(compiled.bytes.starts_with(b"\x7fELF"));
        let kept = run(&setup, version(9, 0));
        assert_eq!((kept.origin, &kept.bytes), (Origin::Kept, &compiled.bytes));
        let file = fs::read_dir(&cache).unwrap().next().unwrap().unwrap().path();
        let mut damaged = fs::read(&file).unwrap();
        *damaged.last_mut().unwrap() ^= 1;
        fs::write(&file, damaged).unwrap();
        let again = run(&setup, version(9, 0));
        assert_eq!((again.origin, &again.bytes), (Origin::Compiled(None), &compiled.bytes));
        assert_eq!(run(&setup, version(9, 0)).origin, Origin::Kept);
        // Another device, and a folder that nothing can be kept in.
        assert_eq!(run(&setup, version(8, 0)).origin, Origin::Compiled(None));
        setup.cache = Some(file);
        let Origin::Compiled(Some(why)) = run(&setup, version(9, 0)).origin else { panic!("it is a file") };
        assert!(why.contains("keep layer_norm.sm_90a."), "{why}");
    }

    #[test]
    fn a_text_that_does_not_compile_is_told() {
        let Some(compiler) = compiler() else { return };
        let setup = Setup { compiler: Some(compiler), ..Setup::default() };
        let unit = Unit {
            name: "wrong",
            text: "KERNEL(wrong, 32, 1) { nonsense; }",
            tensor_cores: false,
            wide_loads: false,
        };
        let refused = images(&[unit], &[], version(8, 0), version(13, 0), &setup).err().unwrap();
        let said = refused.to_string();
        assert!(said.starts_with("compile wrong for sm_80") && said.contains("wrong.cu(1)"), "{said}");
        let unknown = images(&[unit], &[], version(99, 0), version(13, 0), &setup).err().unwrap();
        assert!(matches!(unknown, OpenError::CompilerTooOld { .. }), "{unknown}");
    }
}
