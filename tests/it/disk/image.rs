//! What a disk may hold after a loss of power: everything that was synced, and of what was written since, anything.
//!
//! A sector of 512 bytes is written whole or not, each by itself, in no order; it may be as any of the writes since the last sync has
//! left it. A name is there for certain only once its folder is synced. What a sync that failed was to write may be lost for good, though
//! whoever reads the file still sees it, until it is written again.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use crate::dice::Dice;

const SECTOR: u64 = 512;
const HEADER: usize = 32;

/// One call, as the shim writes it down.
#[derive(Debug, Clone)]
pub struct Record {
    op: u8,
    number: u64,
    at: u64,
    bytes: Vec<u8>,
    /// Where it ends in the log.
    pub end: u64,
}

impl Record {
    fn path(&self) -> PathBuf {
        String::from_utf8(self.bytes.clone()).expect("UTF-8").into()
    }

    fn paths(&self) -> (PathBuf, PathBuf) {
        let both = std::str::from_utf8(&self.bytes).expect("UTF-8");
        let (from, to) = both.split_once('\n').expect("two names");
        (from.into(), to.into())
    }

    /// Whether the disk may hold something else after it than before.
    pub fn is_turning_point(&self) -> bool {
        matches!(self.op, b's' | b'e' | b'f' | b'u' | b't' | b'r' | b'l')
    }
}

/// All that a log says.
pub fn read(log: &Path) -> Vec<Record> {
    let log = std::fs::read(log).expect("the log is there");
    let (mut records, mut at) = (Vec::new(), 0);
    while let Some(header) = log.get(at..at + HEADER) {
        let word = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        let len = usize::try_from(word(24)).expect("a length");
        let start = at + HEADER;
        let Some(bytes) = log.get(start..start + len) else { break };
        at = start + len;
        records.push(Record { op: header[0], number: word(8), at: word(16), bytes: bytes.to_vec(), end: at as u64 });
    }
    records
}

#[derive(Debug, Clone)]
enum Change {
    Write(u64, Vec<u8>),
    Cut(u64),
}

#[derive(Debug, Clone, Default)]
struct File {
    durable: Vec<u8>,
    /// What was done since, each with its place among all records.
    pending: Vec<(usize, Change)>,
    syncing: Option<usize>,
}

#[derive(Debug, Clone)]
enum Naming {
    Made(PathBuf, u64),
    Folder(PathBuf),
    Gone(PathBuf),
    /// What had the first name, and all that is below it, has the second.
    Renamed(PathBuf, PathBuf),
}

impl Naming {
    fn path(&self) -> &Path {
        match self {
            Naming::Made(path, _) | Naming::Folder(path) | Naming::Gone(path) | Naming::Renamed(_, path) => path,
        }
    }
}

/// How much of what wasn't synced is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    /// Nothing.
    None,
    /// All.
    All,
    /// All up to some moment, and a part of the write at that moment.
    Prefix,
    /// Of each sector something.
    Any,
}

impl Luck {
    pub const ALL: [Luck; 4] = [Luck::None, Luck::All, Luck::Prefix, Luck::Any];
}

/// A disk under way.
#[derive(Debug, Clone, Default)]
pub struct Disk {
    files: HashMap<u64, File>,
    /// Which file has a number of the file system's now: it gives that of a file that is gone to another one, whose bytes the first never had.
    current: HashMap<u64, u64>,
    names: BTreeMap<PathBuf, Option<u64>>,
    namings: Vec<(usize, Naming)>,
    folders_syncing: HashMap<PathBuf, usize>,
    /// Whether a sync does what it says: for negative controls.
    lies: bool,
}

fn write(bytes: &mut Vec<u8>, at: u64, piece: &[u8]) {
    let at = usize::try_from(at).expect("a small file");
    bytes.resize(bytes.len().max(at + piece.len()), 0);
    bytes[at..at + piece.len()].copy_from_slice(piece);
}

impl File {
    fn make(&self, luck: Luck, dice: &mut Dice) -> Vec<u8> {
        let count = self.pending.len() as u64;
        // How many of the changes each sector has seen.
        let until = match luck {
            Luck::None => 0,
            Luck::All => count,
            Luck::Prefix | Luck::Any => dice.roll(count + 1),
        };
        let mut seen: HashMap<u64, u64> = HashMap::new();
        let mut sees = |sector: u64, number: u64, dice: &mut Dice| match luck {
            Luck::None | Luck::All => number < until,
            Luck::Prefix if number == until => dice.roll(2) == 0,
            Luck::Prefix => number < until,
            Luck::Any => number < *seen.entry(sector).or_insert_with(|| dice.roll(count + 1)),
        };
        let (mut bytes, mut len) = (self.durable.clone(), self.durable.len() as u64);
        for ((_, change), number) in self.pending.iter().zip(0..) {
            match change {
                Change::Write(at, piece) => {
                    let mut done = 0;
                    while done < piece.len() {
                        let from = at + done as u64;
                        let room = usize::try_from(SECTOR - from % SECTOR).expect("small");
                        let part = &piece[done..piece.len().min(done + room)];
                        if sees(from / SECTOR, number, dice) {
                            write(&mut bytes, from, part);
                        }
                        done += part.len();
                    }
                    if number < until {
                        len = len.max(at + piece.len() as u64);
                    }
                }
                Change::Cut(to) if number < until => {
                    bytes.truncate(usize::try_from(*to).expect("a small file"));
                    len = *to;
                }
                Change::Cut(_) => {}
            }
        }
        if luck != Luck::All {
            bytes.resize(usize::try_from(len).expect("a small file"), 0);
        }
        bytes
    }

    fn settle(&mut self, before: usize, is_kept: bool) {
        let (settled, rest) = self.pending.drain(..).partition(|(place, _)| *place < before);
        self.pending = rest;
        for (_, change) in settled {
            match change {
                Change::Write(at, piece) if is_kept => write(&mut self.durable, at, &piece),
                Change::Cut(to) => self.durable.truncate(usize::try_from(to).expect("a small file")),
                Change::Write(..) => {}
            }
        }
    }
}

impl Disk {
    /// An empty one. `lies`: no sync does what it says.
    pub fn new(lies: bool) -> Disk {
        Disk { lies, ..Disk::default() }
    }

    /// One more call.
    pub fn take(&mut self, place: usize, record: &Record) {
        let Record { op, at, bytes, .. } = record;
        let fresh = self.current.len() as u64 + place as u64;
        let number = match op {
            b'c' => {
                self.current.insert(record.number, fresh);
                fresh
            }
            _ => *self.current.entry(record.number).or_insert(fresh),
        };
        match op {
            b'c' => {
                self.files.insert(number, File::default());
                self.namings.push((place, Naming::Made(record.path(), number)));
            }
            b'm' => self.namings.push((place, Naming::Folder(record.path()))),
            b'u' => self.namings.push((place, Naming::Gone(record.path()))),
            b'l' => self.namings.push((place, Naming::Made(record.paths().1, number))),
            b'r' => {
                let (from, to) = record.paths();
                self.namings.push((place, Naming::Renamed(from, to)));
            }
            b'w' => {
                let file = self.files.entry(number).or_default();
                file.pending.push((place, Change::Write(*at, bytes.clone())));
            }
            b't' => self.files.entry(number).or_default().pending.push((place, Change::Cut(*at))),
            b's' => {
                self.files.entry(number).or_default().syncing = Some(place);
                self.folders_syncing.insert(record.path(), place);
            }
            b'e' | b'f' => self.synced(number, &record.path(), *op == b'e'),
            other => panic!("no call is called {}", char::from(*other)),
        }
    }

    fn synced(&mut self, number: u64, path: &Path, is_kept: bool) {
        if self.lies {
            return;
        }
        if let Some(file) = self.files.get_mut(&number)
            && let Some(before) = file.syncing.take()
        {
            file.settle(before, is_kept);
        }
        let Some(before) = self.folders_syncing.remove(path).filter(|_| is_kept) else { return };
        let (settled, rest) =
            self.namings.drain(..).partition(|(place, naming)| *place < before && naming.path().parent() == Some(path));
        self.namings = rest;
        settled.into_iter().for_each(|(_, naming)| rename(&mut self.names, naming));
    }

    /// Puts there what a disk may hold whose power goes away now. What is below `from` is put below `to`.
    pub fn image(&self, luck: Luck, dice: &mut Dice, from: &Path, to: &Path) {
        let mut names = self.names.clone();
        let count = self.namings.len() as u64;
        let until = match luck {
            Luck::None => 0,
            Luck::All => count,
            Luck::Prefix | Luck::Any => dice.roll(count + 1),
        };
        self.namings
            .iter()
            .take(usize::try_from(until).expect("few"))
            .for_each(|(_, naming)| rename(&mut names, naming.clone()));
        for (path, number) in names {
            let path = to.join(path.strip_prefix(from).expect("below it"));
            match number {
                None => std::fs::create_dir_all(path).expect("made"),
                // The index of a log is made anew by whoever opens the database first.
                Some(_) if path.to_string_lossy().ends_with("-shm") => {}
                Some(number) => {
                    // A file whose folder isn't there is lost with it.
                    if path.parent().is_some_and(Path::is_dir) {
                        std::fs::write(path, self.files[&number].make(luck, dice)).expect("written");
                    }
                }
            }
        }
    }
}

fn rename(names: &mut BTreeMap<PathBuf, Option<u64>>, naming: Naming) {
    match naming {
        Naming::Made(path, number) => drop(names.insert(path, Some(number))),
        Naming::Folder(path) => drop(names.insert(path, None)),
        Naming::Gone(path) => drop(names.remove(&path)),
        Naming::Renamed(from, to) => {
            let below: Vec<PathBuf> = names.keys().filter(|path| path.starts_with(&from)).cloned().collect();
            for path in below {
                let rest = path.strip_prefix(&from).expect("it is below");
                let new = if rest.as_os_str().is_empty() { to.clone() } else { to.join(rest) };
                let number = names.remove(&path).expect("it is there");
                names.insert(new, number);
            }
        }
    }
}

#[test]
fn what_is_synced_stays_and_the_rest_may_be_anything() {
    let call = |op: u8, at: u64, bytes: &[u8]| Record { op, number: 7, at, bytes: bytes.to_vec(), end: 0 };
    let dir = tempfile::tempdir().unwrap();
    let root = PathBuf::from("/disk");
    let calls = [
        call(b'c', 0, b"/disk/a"),
        call(b'w', 0, &[1; 2048]),
        call(b's', 0, b"/disk/a"),
        call(b'w', 512, &[2; 512]),
        call(b'e', 0, b"/disk/a"),
        Record { number: 1, ..call(b's', 0, b"/disk") },
        Record { number: 1, ..call(b'e', 0, b"/disk") },
        call(b'w', 1024, &[3; 1024]),
    ];
    let mut disk = Disk::default();
    calls.iter().enumerate().for_each(|(place, call)| disk.take(place, call));
    let mut dice = Dice::new(5);
    let mut seen = std::collections::HashSet::new();
    for _ in 0..200 {
        disk.image(Luck::Any, &mut dice, &root, dir.path());
        let bytes = std::fs::read(dir.path().join("a")).unwrap();
        assert_eq!((bytes.len(), &bytes[..512]), (2048, &[1; 512][..]));
        seen.insert([512, 1024, 1536].map(|at| bytes[at]));
    }
    // The second sector was written after the sync had begun; each of the others is old or new by itself.
    assert_eq!(seen.len(), 8, "{seen:?}");
    disk.image(Luck::None, &mut dice, &root, dir.path());
    assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), [1; 2048]);
    let mut lost = disk.clone();
    let failing =
        [call(b's', 0, b"/disk/a"), call(b'f', 0, b"/disk/a"), call(b's', 0, b"/disk/a"), call(b'e', 0, b"/disk/a")];
    failing.iter().enumerate().for_each(|(place, call)| lost.take(place + 8, call));
    lost.image(Luck::All, &mut dice, &root, dir.path());
    assert_eq!(
        std::fs::read(dir.path().join("a")).unwrap(),
        [1; 2048],
        "a sync that failed isn't made good by the next"
    );
}
