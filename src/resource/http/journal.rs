//! The crash journal: which fences may have a write that is applied later, known after a crash, without a system call a write.
//!
//! One byte a fence in a file that is mapped into memory: 1 while the fence is dirty. It is set before the write that makes it
//! so is forwarded. A process that is killed leaves it in the kernel's memory, which outlives the process; a machine that goes
//! down may lose it. So the bytes are believed after a clean stop, or if the machine has not been started anew since; otherwise
//! every fence counts as dirty.
//!
//! The space is written before it is mapped, so that a full disk is an error when a fence is made, not the end of the process when
//! its byte is set. Nobody may cut the file short while the gate runs.
#![allow(unsafe_code, reason = "a mapped file is memory that the compiler knows nothing of")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use memmap2::{MmapOptions, MmapRaw};

use crate::fail::{self, Point};

use super::index::FENCES_MAX;

const MAGIC: [u8; 8] = *b"fgjourn\n";
const VERSION: u8 = 1;
/// Bytes before the first chunk.
const HEADER: usize = 4096;
/// Bytes, and so fences, that are made and mapped at a time.
const CHUNK: usize = 1 << 16;
/// Bytes of a line of the processor's cache.
const LINE: usize = 64;

/// Places in the header: magic, version, whether it was closed cleanly, the store's number, the boot's.
const AT_VERSION: usize = 8;
const AT_CLEAN: usize = 9;
const AT_STORE: usize = 16;
const AT_BOOT: usize = 32;
const HEADER_USED: usize = AT_BOOT + 36;

/// The number of a store, which the journal beside it must name.
pub type StoreId = [u8; 16];

/// The journal, open.
#[derive(Debug)]
pub struct Journal {
    file: File,
    store: StoreId,
    chunks: Box<[OnceLock<MmapRaw>]>,
    growing: Mutex<()>,
}

/// What the journal says of the time before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// The gate was stopped cleanly.
    Clean,
    /// It was not; but the bytes are what it left.
    Crashed,
    /// Nothing, for this reason: every fence may have been dirty.
    Unknown(&'static str),
}

/// The kernel's number for this boot of the machine. `None`: it has none, so that no journal can be of the same one.
fn boot() -> Option<[u8; 36]> {
    let text = std::fs::read("/proc/sys/kernel/random/boot_id").ok()?;
    text.get(..36)?.try_into().ok()
}

/// Where the byte of a fence is. Neighbours don't share a line of the processor's cache: threads that write on different fences
/// would take it from one another.
fn place(id: u32) -> (usize, usize) {
    let (chunk, at) = (id as usize / CHUNK, id as usize % CHUNK);
    let lines = CHUNK / LINE;
    (chunk, at % lines * LINE + at / lines)
}

impl Journal {
    /// Opens the journal of this store, with room for this many fences. Until [`Journal::start`] it says of the time before what
    /// it said.
    ///
    /// # Errors
    /// A file that can't be read, written or mapped.
    pub fn open(path: &Path, store: StoreId, fences: u32) -> io::Result<(Journal, Before)> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let before = judge(&file, store)?;
        if matches!(before, Before::Unknown(_)) {
            file.set_len(0)?;
        }
        let len = usize::try_from(file.metadata()?.len()).unwrap_or(usize::MAX);
        let chunks = std::iter::repeat_with(OnceLock::new).take((FENCES_MAX as usize).div_ceil(CHUNK)).collect();
        let journal = Journal { file, store, chunks, growing: Mutex::new(()) };
        for chunk in 0..(fences as usize).div_ceil(CHUNK) {
            // What is missing may have said anything.
            let fill = (at(chunk + 1) > len as u64).then_some(1);
            journal.make_chunk(chunk, fill)?;
        }
        Ok((journal, before))
    }

    /// From here on it speaks of the time from now. To be called when the bytes of all fences are set as they should be, and
    /// before anything is forwarded.
    ///
    /// # Errors
    /// A file that can't be written or synced.
    pub fn start(&self) -> io::Result<()> {
        self.write_header(false)?;
        // On disk before the first write is forwarded: after a loss of power, a header from before would say that all is well.
        self.file.sync_all()
    }

    /// Makes sure that the fence of this number has its byte.
    ///
    /// # Errors
    /// No space, above all: then there is no byte, rather than one that can't be written later.
    pub fn make_room(&self, id: u32) -> io::Result<()> {
        let chunk = place(id).0;
        if self.chunks[chunk].get().is_some() {
            return Ok(());
        }
        self.make_chunk(chunk, Some(0))
    }

    /// Maps a chunk, writing it before where it gets new bytes.
    fn make_chunk(&self, chunk: usize, fill: Option<u8>) -> io::Result<()> {
        let _turn = self.growing.lock().unwrap_or_else(PoisonError::into_inner);
        if self.chunks[chunk].get().is_some() {
            return Ok(());
        }
        if let Some(byte) = fill {
            // Space that is only reserved, or past the file's end, would end the process at the first write to it.
            self.file.write_all_at(&[byte; CHUNK], at(chunk))?;
        }
        let map = MmapOptions::new().offset(at(chunk)).len(CHUNK).map_raw(&self.file)?;
        let _ = self.chunks[chunk].set(map);
        Ok(())
    }

    fn byte(&self, id: u32) -> Option<&AtomicU8> {
        let (chunk, at) = place(id);
        let map = self.chunks[chunk].get()?;
        assert!(at < map.len(), "a place is inside its chunk");
        // SAFETY: the address is inside a mapping that lives as long as `self` and was written to its end before it was mapped,
        // an `AtomicU8` needs no alignment, and in this process everybody looks at the mapping through such atomics only; the
        // lock of the store keeps other processes away.
        Some(unsafe { AtomicU8::from_ptr(map.as_mut_ptr().add(at)) })
    }

    /// Whether the fence is dirty, or was when the gate last ran. One that the journal has no byte for may have been.
    pub fn is_dirty(&self, id: u32) -> bool {
        self.byte(id).is_none_or(|byte| byte.load(Ordering::Relaxed) != 0)
    }

    /// Says whether the fence is dirty. The fence's lock is held: what is forwarded, is forwarded after it is let go, and so after
    /// this.
    pub fn set(&self, id: u32, is_dirty: bool) {
        if let Some(byte) = self.byte(id)
            && byte.load(Ordering::Relaxed) != u8::from(is_dirty)
        {
            byte.store(u8::from(is_dirty), Ordering::Relaxed);
        }
    }

    /// Closes it cleanly: what it says now is believed, whatever happens to the machine. Nothing may be set afterwards.
    ///
    /// # Errors
    /// A file that can't be written or synced; then the next start is one after a crash.
    pub fn close(&self) -> io::Result<()> {
        self.file.sync_all()?;
        fail::at(Point::HttpJournalSynced);
        self.write_header(true)?;
        self.file.sync_all()?;
        fail::at(Point::HttpJournalClosed);
        Ok(())
    }

    fn write_header(&self, is_clean: bool) -> io::Result<()> {
        let mut header = [0; HEADER];
        header[..AT_VERSION].copy_from_slice(&MAGIC);
        header[AT_VERSION] = VERSION;
        header[AT_CLEAN] = u8::from(is_clean);
        header[AT_STORE..AT_BOOT].copy_from_slice(&self.store);
        if let Some(boot) = boot() {
            header[AT_BOOT..HEADER_USED].copy_from_slice(&boot);
        }
        self.file.write_all_at(&header, 0)
    }
}

/// Where a chunk starts in the file.
fn at(chunk: usize) -> u64 {
    (HEADER + chunk * CHUNK) as u64
}

/// What the file says of the time before.
fn judge(file: &File, store: StoreId) -> io::Result<Before> {
    if file.metadata()?.len() == 0 {
        return Ok(Before::Unknown("there is none"));
    }
    let mut header = [0; HEADER_USED];
    match file.read_exact_at(&mut header, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Before::Unknown("it is cut off")),
        Err(error) => return Err(error),
    }
    let is_of_this_boot = boot().is_some_and(|boot| header[AT_BOOT..] == boot);
    Ok(if header[..AT_VERSION] != MAGIC || header[AT_VERSION] != VERSION {
        Before::Unknown("it is none that this program understands")
    } else if header[AT_STORE..AT_BOOT] != store {
        Before::Unknown("it belongs to another store")
    } else if header[AT_CLEAN] == 1 {
        Before::Clean
    } else if is_of_this_boot {
        Before::Crashed
    } else {
        Before::Unknown("the machine has been started anew since")
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_fence_has_a_byte_of_its_own_and_neighbours_share_no_line() {
        let places: HashSet<_> = (0..200_000).map(place).collect();
        assert_eq!(places.len(), 200_000);
        assert!((0..200_000).all(|id| place(id).1 < CHUNK));
        assert!((0..1000).all(|id| place(id).1 / LINE != place(id + 1).1 / LINE));
    }

    #[test]
    fn bytes_are_believed_after_a_crash_and_after_a_clean_stop() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        let open = |fences| Journal::open(&path, [7; 16], fences).unwrap();
        let (journal, before) = open(0);
        assert_eq!(before, Before::Unknown("there is none"));
        assert!(journal.is_dirty(3), "nothing is known of it");
        journal.start().unwrap();
        journal.make_room(3).unwrap();
        assert!(!journal.is_dirty(3));
        journal.set(3, true);
        journal.set(4, true);
        journal.set(4, false);
        let (journal, before) = open(5);
        assert_eq!((before, journal.is_dirty(3), journal.is_dirty(4)), (Before::Crashed, true, false));
        let (longer, _) = open(u32::try_from(CHUNK).unwrap() + 1);
        assert!(longer.is_dirty(u32::try_from(CHUNK).unwrap()), "the file ended before it");
        journal.close().unwrap();
        let (journal, before) = open(5);
        assert_eq!((before, journal.is_dirty(3), journal.is_dirty(4)), (Before::Clean, true, false));
        journal.start().unwrap();
        assert_eq!(open(5).1, Before::Crashed);
        let (other, before) = Journal::open(&path, [8; 16], 5).unwrap();
        assert_eq!(before, Before::Unknown("it belongs to another store"));
        assert!(other.is_dirty(4));
    }

    #[test]
    fn another_boot_and_garbage_are_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("j");
        Journal::open(&path, [7; 16], 5).unwrap().0.start().unwrap();
        let whole = std::fs::read(&path).unwrap();
        let mut another = whole.clone();
        another[AT_BOOT] ^= 1;
        let mut newer = whole.clone();
        newer[AT_VERSION] = 2;
        for wrong in [&another, &newer, &whole[..40], &vec![0xff; 70_000], &b"x".to_vec()[..]].map(<[u8]>::to_vec) {
            std::fs::write(&path, wrong).unwrap();
            let (journal, before) = Journal::open(&path, [7; 16], 5).unwrap();
            assert!(matches!(before, Before::Unknown(_)), "{before:?}");
            assert!(journal.is_dirty(1));
        }
        std::fs::write(&path, &whole[..HEADER + 9]).unwrap();
        let (journal, before) = Journal::open(&path, [7; 16], 5).unwrap();
        assert_eq!((before, journal.is_dirty(0)), (Before::Crashed, true), "cut off inside a chunk");
    }
}
