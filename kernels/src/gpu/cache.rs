//! Machine code that was compiled here, kept in a folder from one start to the next.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use sha2::{Digest, Sha256};

/// What stands in front of the checksum in each file; it grows when their form changes.
const MARK: &[u8] = b"voiceforge cubin 1\n";

/// All that decides a unit's machine code.
pub struct Key<'a> {
    /// The unit's name.
    pub unit: &'a str,
    /// Its text.
    pub text: &'a str,
    /// What it includes, by name.
    pub headers: &'a [(&'a str, &'a str)],
    /// Options of the compiler.
    pub options: &'a [String],
    /// The compiler's version.
    pub compiler: &'a str,
    /// The driver's.
    pub driver: &'a str,
    /// `sm_90a`
    pub architecture: &'a str,
}

impl Key<'_> {
    /// The name of its file: readable in front, then the SHA-256 of everything.
    pub fn file_name(&self) -> String {
        let mut digest = Sha256::new();
        let mut add = |part: &str| {
            // With its length, so that no two lists of parts run together into one text.
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        };
        [self.unit, self.text, self.compiler, self.driver, self.architecture].into_iter().for_each(&mut add);
        for (name, text) in self.headers {
            add(name);
            add(text);
        }
        self.options.iter().for_each(|option| add(option));
        format!("{}.{}.{}.cubin", self.unit, self.architecture, hex(&digest.finalize()))
    }
}

/// What is kept under a name. A file that is not whole is none.
pub fn get(folder: &Path, name: &str) -> Option<Vec<u8>> {
    let file = fs::read(folder.join(name)).ok()?;
    let (checksum, cubin) = file.strip_prefix(MARK)?.split_at_checked(32)?;
    (Sha256::digest(cubin)[..] == *checksum).then(|| cubin.to_vec())
}

/// Keeps something, so that whoever reads finds all of it or nothing.
pub fn put(folder: &Path, name: &str, cubin: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(MARK)?;
    file.write_all(&Sha256::digest(cubin))?;
    file.write_all(cubin)?;
    file.persist(folder.join(name))?;
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name_of(change: impl FnOnce(&mut Key<'static>)) -> String {
        let mut key = Key {
            unit: "norm",
            text: "text",
            headers: &[("a.cuh", "x")],
            options: &[],
            compiler: "13.0",
            driver: "13.1",
            architecture: "sm_80",
        };
        change(&mut key);
        key.file_name()
    }

    #[test]
    fn whatever_decides_the_code_is_in_the_name() {
        let names = [
            name_of(|_| ()),
            name_of(|key| key.unit = "norm2"),
            name_of(|key| key.text = "text "),
            name_of(|key| key.headers = &[("a.cuh", "y")]),
            name_of(|key| key.headers = &[("a.cu", "hx")]),
            name_of(|key| key.headers = &[("a.cuh", "x"), ("b.cuh", "")]),
            name_of(|key| key.options = Box::leak(Box::new(["--fmad=false".to_owned()]))),
            name_of(|key| key.compiler = "13.1"),
            name_of(|key| key.driver = "13.0"),
            name_of(|key| key.architecture = "sm_86"),
        ];
        for (i, name) in names.iter().enumerate() {
            assert!(!names[..i].contains(name), "{name}");
        }
        assert_eq!(names[0], name_of(|_| ()));
        assert!(names[0].starts_with("norm.sm_80.") && names[0].len() == "norm.sm_80..cubin".len() + 64);
    }

    #[test]
    fn what_is_kept_comes_back_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        // The folder is made with the first file.
        let folder = folder.path().join("of/kernels");
        assert_eq!(get(&folder, "a"), None);
        put(&folder, "a", b"machine code").unwrap();
        put(&folder, "empty", b"").unwrap();
        assert_eq!(get(&folder, "a").unwrap(), b"machine code");
        assert_eq!(get(&folder, "empty").unwrap(), b"");
        let whole = fs::read(folder.join("a")).unwrap();
        for length in 0..whole.len() {
            fs::write(folder.join("a"), &whole[..length]).unwrap();
            assert_eq!(get(&folder, "a"), None, "{length} bytes of {}", whole.len());
        }
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 1;
            fs::write(folder.join("a"), damaged).unwrap();
            assert_eq!(get(&folder, "a"), None, "byte {place}");
        }
        put(&folder, "a", b"machine code").unwrap();
        assert_eq!(get(&folder, "a").unwrap(), b"machine code");
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2, "nothing half-made is left");
    }
}
