//! Blocking reads and seeks over an object, for decoders that want a file.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// How much is fetched at once, in bytes: little after a seek, which often only looks at a header, then more.
const BLOCK_BYTES_FIRST: u64 = 256 << 10;
const BLOCK_BYTES_MAX: u64 = 4 << 20;

/// The bytes of one object. A file is read as a file; a remote object in growing blocks, of which the next is fetched
/// while one is being read.
///
/// Reads block: use it in `spawn_blocking` or on a thread of its own. A remote one panics inside async code, because
/// it waits for the runtime it was opened on.
pub struct RangeReader {
    inner: Inner,
    size: u64,
}

enum Inner {
    File(std::fs::File),
    Remote(Remote),
}

impl RangeReader {
    pub(super) async fn open_file(path: PathBuf) -> io::Result<RangeReader> {
        let open = move || {
            let file = std::fs::File::open(path)?;
            let meta = file.metadata()?;
            // A folder of keys can be opened, but is no object.
            if meta.is_dir() { Err(io::Error::from(io::ErrorKind::NotFound)) } else { Ok((file, meta.len())) }
        };
        let (file, size) = tokio::task::spawn_blocking(open).await.map_err(io::Error::other)??;
        Ok(RangeReader { inner: Inner::File(file), size })
    }

    /// Must be called on the runtime that fetches the blocks.
    pub(super) fn open_remote(store: Arc<dyn ObjectStore>, path: Path, size: u64) -> RangeReader {
        let remote = Remote {
            store,
            path,
            runtime: Handle::current(),
            size,
            at: 0,
            block: Block { start: 0, bytes: Bytes::new() },
            next: None,
            block_bytes: BLOCK_BYTES_FIRST,
        };
        RangeReader { inner: Inner::Remote(remote), size }
    }

    /// How many bytes the object has.
    #[expect(clippy::len_without_is_empty, reason = "a file has a length; whether it is empty nobody asks")]
    pub fn len(&self) -> u64 {
        self.size
    }
}

impl Read for RangeReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match &mut self.inner {
            Inner::File(file) => file.read(into),
            Inner::Remote(remote) => remote.read(into),
        }
    }
}

impl Seek for RangeReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.inner {
            Inner::File(file) => file.seek(to),
            Inner::Remote(remote) => remote.seek(to),
        }
    }
}

impl fmt::Debug for RangeReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if matches!(self.inner, Inner::File(_)) { "file" } else { "remote" };
        write!(f, "RangeReader({kind}, {} bytes)", self.size)
    }
}

/// An object that is fetched block by block.
struct Remote {
    store: Arc<dyn ObjectStore>,
    path: Path,
    runtime: Handle,
    size: u64,
    /// Where the next read begins.
    at: u64,
    /// The block last fetched.
    block: Block,
    /// The block after it, on its way.
    next: Option<Fetch>,
    /// How much the next fetch asks for.
    block_bytes: u64,
}

struct Block {
    start: u64,
    bytes: Bytes,
}

impl Block {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn holds(&self, at: u64) -> bool {
        (self.start..self.end()).contains(&at)
    }
}

/// A fetch under way, given up when dropped.
struct Fetch {
    start: u64,
    end: u64,
    task: JoinHandle<object_store::Result<Bytes>>,
}

impl Drop for Fetch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Remote {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if into.is_empty() || self.at >= self.size {
            return Ok(0);
        }
        if !self.block.holds(self.at) {
            self.load()?;
        }
        let from = usize::try_from(self.at - self.block.start).expect("the position lies in the block");
        let rest = &self.block.bytes[from..];
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count as u64;
        Ok(count)
    }

    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let (base, offset) = match to {
            SeekFrom::Start(at) => (at, 0),
            SeekFrom::End(offset) => (self.size, offset),
            SeekFrom::Current(offset) => (self.at, offset),
        };
        let before = || io::Error::new(io::ErrorKind::InvalidInput, "seek to before the beginning");
        self.at = base.checked_add_signed(offset).ok_or_else(before)?;
        Ok(self.at)
    }

    /// Makes `block` the one that holds the position, and sends for the one after it.
    fn load(&mut self) -> io::Result<()> {
        let fetch = match self.next.take() {
            Some(next) if (next.start..next.end).contains(&self.at) => next,
            _ => {
                self.block_bytes = BLOCK_BYTES_FIRST;
                self.fetch(self.at)
            }
        };
        self.block = self.wait(fetch)?;
        self.block_bytes = (self.block_bytes * 2).min(BLOCK_BYTES_MAX);
        if self.block.end() < self.size {
            self.next = Some(self.fetch(self.block.end()));
        }
        Ok(())
    }

    fn fetch(&self, start: u64) -> Fetch {
        let end = (start + self.block_bytes).min(self.size);
        let (store, path) = (Arc::clone(&self.store), self.path.clone());
        let task = self.runtime.spawn(async move { store.get_range(&path, start..end).await });
        Fetch { start, end, task }
    }

    fn wait(&self, mut fetch: Fetch) -> io::Result<Block> {
        let bytes = self.runtime.block_on(&mut fetch.task).map_err(io::Error::other)??;
        let (start, wanted) = (fetch.start, fetch.end - fetch.start);
        if bytes.len() as u64 != wanted {
            let problem = format!("the store gave {} of {wanted} bytes at {start}", bytes.len());
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, problem));
        }
        Ok(Block { start, bytes })
    }
}
