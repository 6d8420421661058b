//! Packed weights kept in a file beside the model, so that a start maps them instead of packing them again.
//!
//! ```text
//! magic 8 bytes; CRC-32 of all that follows u64; key 32 bytes; bytes of the image u64; zeros to 4096; the image
//! ```
//! The key is a hash of what the image depends on: format and precision, the model's sizes, and the names, sizes and times
//! of change of the weights' files. A file with another key, another length or a wrong checksum is packed again, never
//! used. Numbers are little-endian; the image holds the machine's own numbers, which only little-endian machines keep.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use memmap2::Mmap;
use sha2::{Digest, Sha256};

use super::image::Image;
use super::network::Places;
use crate::model::LoadError;
use crate::model::weights::Weights;

/// Changes with the form of the panels or the order of the places.
const MAGIC: &[u8; 8] = b"vfpack03";

/// Where the image begins: a page.
const HEADER: usize = 4_096;

/// The packed weights of a model, from the file beside it where that holds them, else from the weights; then the file is
/// written, and a folder that cannot be written is no error.
pub fn load(places: &Places, weights: &Weights) -> Result<Image, LoadError> {
    let Some((file, key)) = named(places, weights) else { return places.pack(weights) };
    match read(&file, &key, places.image_bytes()) {
        Ok(image) => return Ok(image),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::info!(file = %file.display(), %error, "packed weights are made again"),
    }
    let image = places.pack(weights)?;
    if let Err(error) = write(&file, &key, image.bytes()) {
        tracing::debug!(file = %file.display(), %error, "cannot keep packed weights");
    }
    Ok(image)
}

/// The file of packed weights and its key; none where it would be of no use.
fn named(places: &Places, weights: &Weights) -> Option<(PathBuf, [u8; 32])> {
    if cfg!(target_endian = "big") {
        return None;
    }
    let mut about = format!("{:?} {:?}", places.precision, places.dims);
    for file in weights.files() {
        let stored = fs::metadata(file).ok()?;
        let changed = stored.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let name = file.file_name()?.to_string_lossy();
        about += &format!(" {name:?} {}@{}", stored.len(), changed.as_nanos());
    }
    let key = Sha256::new().chain_update(MAGIC).chain_update(about).finalize().into();
    let name = format!("packed-{}.bin", places.precision.name());
    Some((weights.files().first()?.parent()?.join(name), key))
}

fn read(file: &Path, key: &[u8; 32], len: usize) -> io::Result<Image> {
    let bad = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason);
    let opened = File::open(file)?;
    // SAFETY: the map is only read. A file is replaced by another, not changed in place; one that is cut while it is
    // mapped would stop the process, as the weights themselves would.
    let map = unsafe { Mmap::map(&opened) }?;
    if map.len() != HEADER + len || &map[..8] != MAGIC {
        return Err(bad("it is cut short or of another version"));
    }
    if map[16..48] != *key {
        return Err(bad("it belongs to other weights"));
    }
    if map[8..16] != checksum(&[&map[16..]]) {
        return Err(bad("it is damaged"));
    }
    Ok(Image::mapped(map, HEADER))
}

/// Writes a file beside and puts it in place as a whole, so that nobody sees a part of it.
fn write(file: &Path, key: &[u8; 32], image: &[u8]) -> io::Result<()> {
    let mut header = vec![0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[16..48].copy_from_slice(key);
    header[48..56].copy_from_slice(&(image.len() as u64).to_le_bytes());
    let sum = checksum(&[&header[16..], image]);
    header[8..16].copy_from_slice(&sum);
    let beside = file.with_extension(format!("{}.part", std::process::id()));
    let written = (|| {
        let mut opened = File::create(&beside)?;
        opened.write_all(&header)?;
        opened.write_all(image)?;
        opened.sync_all()?;
        fs::rename(&beside, file)
    })();
    if written.is_err() {
        // Nothing more can be done about a part that stays.
        let _ = fs::remove_file(&beside);
    }
    written
}

/// Finds damage, not malice: who may write the file may write the weights too.
fn checksum(parts: &[&[u8]]) -> [u8; 8] {
    let mut hasher = crc32fast::Hasher::new();
    parts.iter().for_each(|part| hasher.update(part));
    u64::from(hasher.finalize()).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::Precision;
    use crate::engine::tests::write_ctranslate2;
    use crate::model::dims;

    #[test]
    fn what_is_read_is_what_was_packed() {
        let folder = tempfile::tempdir().unwrap();
        write_ctranslate2(folder.path(), 51_864);
        for precision in Precision::ALL {
            let weights = Weights::open(folder.path()).unwrap();
            let places = Places::new(dims(&weights).unwrap(), precision);
            let (file, key) = named(&places, &weights).unwrap();
            assert!(read(&file, &key, places.image_bytes()).is_err());
            let packed = places.pack(&weights).unwrap();
            assert_eq!(load(&places, &weights).unwrap().bytes(), packed.bytes());
            assert_eq!(read(&file, &key, places.image_bytes()).unwrap().bytes(), packed.bytes());
            assert_eq!(load(&places, &weights).unwrap().bytes(), packed.bytes());
        }
        // Nothing but the files themselves is left behind.
        let left = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(left, 5, "model, vocabulary and three packed files");
    }

    #[test]
    fn a_damaged_or_foreign_file_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        write_ctranslate2(folder.path(), 51_864);
        let weights = Weights::open(folder.path()).unwrap();
        let places = Places::new(dims(&weights).unwrap(), Precision::Int8);
        let expected = places.pack(&weights).unwrap();
        load(&places, &weights).unwrap();
        let (file, key) = named(&places, &weights).unwrap();
        let whole = fs::read(&file).unwrap();
        let cut = [0, 100, whole.len() - 1].map(|length| whole[..length].to_vec());
        let flipped = [0, 20, whole.len() / 2].map(|at| {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            bytes
        });
        for (i, damaged) in cut.iter().chain(&flipped).enumerate() {
            fs::write(&file, damaged).unwrap();
            assert!(read(&file, &key, places.image_bytes()).is_err(), "damage {i} is found");
            assert_eq!(load(&places, &weights).unwrap().bytes(), expected.bytes());
            assert_eq!(fs::read(&file).unwrap(), whole, "and repaired");
        }
        // Weights that were changed since.
        let other = folder.path().join("model.bin");
        File::options().append(true).open(&other).unwrap().set_modified(UNIX_EPOCH).unwrap();
        let (_, changed) = named(&places, &weights).unwrap();
        assert_ne!(changed, key);
        assert!(read(&file, &changed, places.image_bytes()).is_err());
    }
}
