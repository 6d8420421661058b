//! The bytes of a recording, shared between whoever reads them: the container readers, then perhaps ffmpeg.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use symphonia::core::io::MediaSource;

/// Bytes that can be read and sought, blocking: a file, a buffer, range reads of an object store.
///
/// An error from `read` or `seek` (other than `Interrupted` and `UnexpectedEof`) comes back as
/// [`DecodeError::Source`](crate::DecodeError::Source): a source that fails is no damaged recording.
pub trait Source: Read + Seek + Send + 'static {}

impl<T: Read + Seek + Send + 'static> Source for T {}

/// A reader of the shared source with a position of its own.
#[derive(Clone)]
pub(crate) struct Handle {
    shared: Arc<Mutex<Shared>>,
    pos: u64,
    len: u64,
    /// Bytes that are read in place of what is in the file, at their positions.
    patches: Vec<(u64, Vec<u8>)>,
}

struct Shared {
    source: Box<dyn Source>,
    /// Where `source` stands.
    pos: u64,
    /// The first error of `source`, kept because container readers turn errors into an end of file.
    failure: Option<io::Error>,
    read_bytes: u64,
    reads: u64,
    read_bytes_max: u64,
}

impl Handle {
    /// Takes the source and learns its length.
    pub fn new(mut source: Box<dyn Source>) -> io::Result<Handle> {
        let len = source.seek(SeekFrom::End(0))?;
        // A reader that goes round in circles on a damaged file ends here. Honest readers of badly interleaved
        // files read a block for each packet, a few times the file at most.
        let read_bytes_max = len.saturating_mul(64).saturating_add(256 << 20);
        let shared = Shared { source, pos: len, failure: None, read_bytes: 0, reads: 0, read_bytes_max };
        Ok(Handle { shared: Arc::new(Mutex::new(shared)), pos: 0, len, patches: Vec::new() })
    }

    /// Length of the source in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// A second reader that begins at the start and has the whole allowance of reads again.
    pub fn rewound(&self) -> Handle {
        let mut shared = self.lock();
        shared.read_bytes = 0;
        shared.reads = 0;
        drop(shared);
        Handle { pos: 0, ..self.clone() }
    }

    /// From now on this handle and its clones read `bytes` at `pos`.
    pub fn patch(&mut self, pos: u64, bytes: impl Into<Vec<u8>>) {
        self.patches.push((pos, bytes.into()));
    }

    /// From now on the file ends at `len` for this handle and its clones.
    pub fn cut(&mut self, len: u64) {
        self.len = self.len.min(len);
    }

    /// The error of the source, once.
    pub fn take_failure(&self) -> Option<io::Error> {
        self.lock().failure.take()
    }

    /// Up to `len` bytes from `pos`; fewer only at the end of the file.
    pub fn peek(&self, pos: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut at = Handle { pos, ..self.clone() };
        let mut bytes = Vec::new();
        at.by_ref().take(len as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // A panic of a container reader inside `read` leaves nothing half done here.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read for Handle {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let room = self.len.saturating_sub(self.pos).min(buf.len() as u64) as usize;
        let buf = &mut buf[..room];
        let mut shared = self.lock();
        shared.reads += 1;
        if shared.read_bytes > shared.read_bytes_max || shared.reads > shared.read_bytes_max / 64 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the file sends its reader round in circles",
            ));
        }
        let read = shared.read_at(self.pos, buf);
        if let Ok(len) = read {
            shared.read_bytes += len as u64;
        }
        drop(shared);
        let len = read?;
        for (at, bytes) in &self.patches {
            for (at, byte) in (*at..).zip(bytes) {
                if (self.pos..self.pos + len as u64).contains(&at) {
                    buf[(at - self.pos) as usize] = *byte;
                }
            }
        }
        self.pos += len as u64;
        Ok(len)
    }
}

impl Seek for Handle {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(pos) => Some(pos),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.pos.checked_add_signed(by),
        };
        // Seeks are lazy and never leave the file, so the source sees only positions it has.
        self.pos = target.ok_or(io::ErrorKind::InvalidInput)?.min(self.len);
        Ok(self.pos)
    }
}

impl MediaSource for Handle {
    fn is_seekable(&self) -> bool {
        true
    }

    fn byte_len(&self) -> Option<u64> {
        Some(self.len)
    }
}

impl Shared {
    fn read_at(&mut self, pos: u64, buf: &mut [u8]) -> io::Result<usize> {
        let result = self.try_read_at(pos, buf);
        if let Err(error) = &result {
            // The position is unknown after an error.
            self.pos = u64::MAX;
            if error.kind() != io::ErrorKind::Interrupted && self.failure.is_none() {
                self.failure = Some(io::Error::new(error.kind(), error.to_string()));
            }
        }
        result
    }

    fn try_read_at(&mut self, pos: u64, buf: &mut [u8]) -> io::Result<usize> {
        if self.pos != pos {
            self.source.seek(SeekFrom::Start(pos))?;
            self.pos = pos;
        }
        let len = self.source.read(buf)?;
        self.pos += len as u64;
        Ok(len)
    }
}
