//! Packed weights kept in a file beside the model, so that a start maps them instead of packing them again.
//!
//! ```text
//! magic 8 bytes; checksum of all from byte 32 on u64; 16 zeros; key 32 bytes; bytes of the image u64; zeros to 4096;
//! the image
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
const MAGIC: &[u8; 8] = b"vfpack02";

/// Where the key begins, and what the checksum is of: a whole number of its blocks before the image.
const KEY: usize = 32;

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
    if map[KEY..][..32] != *key {
        return Err(bad("it belongs to other weights"));
    }
    if map[8..16] != checksum(&map[KEY..]).to_le_bytes() {
        return Err(bad("it is damaged"));
    }
    Ok(Image::mapped(map, HEADER))
}

/// Writes a file beside and puts it in place as a whole, so that nobody sees a part of it.
fn write(file: &Path, key: &[u8; 32], image: &[u8]) -> io::Result<()> {
    let mut header = vec![0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[KEY..][..32].copy_from_slice(key);
    header[KEY + 32..][..8].copy_from_slice(&(image.len() as u64).to_le_bytes());
    let mut sum = Checksum::default();
    sum.add(&header[KEY..]);
    sum.add(image);
    header[8..16].copy_from_slice(&sum.finish().to_le_bytes());
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

fn checksum(bytes: &[u8]) -> u64 {
    let mut sum = Checksum::default();
    sum.add(bytes);
    sum.finish()
}

/// A checksum at the speed of memory: four chains of multiply and rotate over words. It finds damage, not malice: who may
/// write the file may write the weights too.
struct Checksum([u64; 4]);

impl Default for Checksum {
    fn default() -> Checksum {
        Checksum([1, 2, 3, 4])
    }
}

impl Checksum {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

    /// Adds bytes: a multiple of 32 of them, but for the last.
    fn add(&mut self, bytes: &[u8]) {
        let (blocks, rest) = bytes.as_chunks::<32>();
        for block in blocks {
            for (lane, word) in self.0.iter_mut().zip(block.as_chunks::<8>().0) {
                *lane = (*lane ^ u64::from_le_bytes(*word)).wrapping_mul(Checksum::FACTOR).rotate_left(29);
            }
        }
        for word in rest.as_chunks::<8>().0 {
            self.0[0] =
                (self.0[0] ^ u64::from_le_bytes(*word)).wrapping_mul(Checksum::FACTOR).rotate_left(29);
        }
    }

    fn finish(&self) -> u64 {
        self.0.iter().fold(0, |sum: u64, lane| (sum ^ lane).wrapping_mul(Checksum::FACTOR).rotate_left(31))
    }
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
        for precision in [Precision::Int8, Precision::F32] {
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
        assert_eq!(left, 4, "model, vocabulary and two packed files");
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
        assert!(read(&file, &key, places.image_bytes()).is_ok());
        type Damage<'a> = &'a dyn Fn(&mut Vec<u8>);
        let damages: [Damage; 6] = [
            &|bytes| bytes.truncate(0),
            &|bytes| bytes.truncate(100),
            &|bytes| bytes.truncate(bytes.len() - 1),
            &|bytes| bytes[0] ^= 1,
            &|bytes| bytes[40] ^= 1,
            &|bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            },
        ];
        for (i, damage) in damages.iter().enumerate() {
            let mut bytes = whole.clone();
            damage(&mut bytes);
            fs::write(&file, &bytes).unwrap();
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
