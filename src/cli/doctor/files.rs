//! File systems, rights, room, and whether the disk syncs.

use std::fs::{File, Metadata};
use std::io::Write as _;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::Place;
use super::finding::{Level, Report};

/// Room below which a gate stops before long.
const ROOM_LEAST: u64 = 64 << 20;
/// Room below which somebody should look.
const ROOM_LOW: u64 = 512 << 20;
/// No disk writes a page and says so in less. The fastest with memory that a battery keeps take 10 to 30 us with the system's own part.
const SYNC_LEAST: Duration = Duration::from_micros(20);
/// How often it is tried.
const SYNCS: usize = 15;

/// Checks one place.
pub fn check(place: &Place, report: &mut Report) {
    let there = nearest(&place.path);
    file_system(place, &there, report);
    rights(place, report);
    room(place, &there, report);
    syncs(place, &there, report);
}

/// The folder that it is in, or the nearest above it that there is.
fn nearest(path: &Path) -> PathBuf {
    let path =
        if path.is_absolute() { path.to_owned() } else { std::env::current_dir().unwrap_or_default().join(path) };
    let found = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    found.canonicalize().unwrap_or_else(|_| found.to_owned())
}

/// What a file system is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Worth {
    Good,
    /// Over a network, or shared with another machine: SQLite's locks and shared memory don't work over it.
    Shared,
    /// A program in user space decides.
    User,
    /// Of a container: gone with it.
    Layer,
    /// In memory: gone when the machine goes down.
    Memory,
    /// Without what a database needs.
    Poor,
    Unknown,
}

fn worth(kind: &str) -> Worth {
    const SHARED: [&str; 24] = [
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "9p",
        "afs",
        "ceph",
        "lustre",
        "gpfs",
        "ocfs2",
        "gfs2",
        "vboxsf",
        "virtiofs",
        "vmhgfs",
        "prl_fs",
        "beegfs",
        "orangefs",
        "ncpfs",
        "fuse.sshfs",
        "fuse.s3fs",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.vmhgfs-fuse",
    ];
    const GOOD: [&str; 9] = ["ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs"];
    match kind {
        _ if SHARED.contains(&kind) => Worth::Shared,
        _ if GOOD.contains(&kind) => Worth::Good,
        "overlay" | "aufs" => Worth::Layer,
        "tmpfs" | "ramfs" | "devtmpfs" => Worth::Memory,
        "vfat" | "msdos" | "exfat" | "ntfs" | "ntfs3" | "hfsplus" | "iso9660" => Worth::Poor,
        _ if kind.starts_with("fuse") => Worth::User,
        _ => Worth::Unknown,
    }
}

/// The kind and the options of the file system that a path is on, by `/proc/self/mountinfo` (proc(5)).
fn mount(path: &Path, mountinfo: &str) -> Option<(String, String)> {
    let mounts = mountinfo.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(4);
        let (point, options) = (unescaped(left.next()?), left.next()?);
        let mut right = right.split(' ');
        let (kind, more) = (right.next()?, right.nth(1).unwrap_or_default());
        path.starts_with(&point).then(|| (point.as_os_str().len(), kind.to_owned(), format!("{options},{more}")))
    });
    // The longest, and of those at one place the last, which hides the others.
    mounts.max_by_key(|(len, _, _)| *len).map(|(_, kind, options)| (kind, options))
}

/// Blanks and the like are written as three octal digits.
fn unescaped(text: &str) -> PathBuf {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, more)) = rest.split_first() {
        let octal = more.get(..3).filter(|_| *byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => (bytes.push(byte), rest = &more[3..]).1,
            None => (bytes.push(*byte), rest = more).1,
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

fn file_system(place: &Place, there: &Path, report: &mut Report) {
    const CHECK: &str = "file-system";
    let mountinfo = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    let Some((kind, options)) = mount(there, &String::from_utf8_lossy(&mountinfo)) else {
        return report.unknown(CHECK, &place.name, "what file system it is on can't be seen");
    };
    mounted(place, &options, report);
    let (level, why, advice) = match worth(&kind) {
        Worth::Good => return report.good(CHECK, &place.name, format!("it is on {kind}")),
        Worth::Unknown => {
            return report.unknown(CHECK, &place.name, format!("it is on {kind}, of which this program knows nothing"));
        }
        Worth::Shared => (
            Level::Problem,
            ", where SQLite's locks and shared memory don't work: two processes can both believe that they alone write",
            "move it to a disk of this machine",
        ),
        Worth::User => (
            Level::Warning,
            ": whether it locks and syncs is decided by a program in user space",
            "move it to a file system of the kernel's own, such as ext4 or xfs",
        ),
        Worth::Layer => (
            Level::Warning,
            ", the layer of a container: what is written there, marks too, is lost with the container",
            "put it on a volume",
        ),
        Worth::Memory => (
            Level::Problem,
            ", in memory: marks are gone when the machine goes down, and a deposed leader's token is new again",
            "move it to a disk",
        ),
        Worth::Poor => (
            Level::Warning,
            ", which keeps no rights or doesn't order its writes as a database needs it",
            "move it to a file system such as ext4 or xfs",
        ),
    };
    report.add(level, CHECK, &place.name, format!("it is on {kind}{why}"), Some(advice.to_owned()));
}

/// What the options of a mount take away.
fn mounted(place: &Place, options: &str, report: &mut Report) {
    const CHECK: &str = "file-system";
    let has = |wanted: &[&str]| options.split(',').any(|option| wanted.contains(&option));
    if has(&["ro"]) {
        report.problem(
            CHECK,
            &place.name,
            "it can't be written to: its file system is mounted read-only",
            "mount it for writing",
        );
    }
    if has(&["nobarrier", "barrier=0"]) {
        report.problem(
            CHECK,
            &place.name,
            "its file system is mounted without write barriers: after a loss of power, what was synced may not be there",
            "mount it without nobarrier",
        );
    }
}

/// Everybody, and the group, may write.
const WRITE: u32 = 0o022;

fn rights(place: &Place, report: &mut Report) {
    const CHECK: &str = "rights";
    let meta = |path: &Path| std::fs::metadata(path).ok();
    let folder = if place.is_database { place.path.parent().map(Path::to_owned) } else { Some(place.path.clone()) };
    let folder = folder.map(|folder| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder });
    let mut open = Vec::new();
    if place.is_database
        && let Some(file) = meta(&place.path).filter(|file| file.mode() & WRITE != 0)
    {
        open.push(format!("{} can write to it", whom(&file)));
    }
    // Whoever may write to the folder can put another file in its place; where it is sticky, only what is their own.
    if let Some(folder) =
        folder.as_deref().and_then(meta).filter(|folder| folder.mode() & WRITE != 0 && folder.mode() & 0o1000 == 0)
    {
        open.push(format!("{} can replace files in its folder", whom(&folder)));
    }
    match open.is_empty() {
        true => report.good(CHECK, &place.name, "nobody but its owner can write to it"),
        false => report.problem(
            CHECK,
            &place.name,
            format!("{}: a route around the gate", open.join(", and ")),
            "give it to a user of the gate's own, and take the others' rights away (chmod go-w)",
        ),
    }
    if !place.is_database {
        let secrets = ["gate.db", "gate.db-wal"].map(|name| place.path.join(name));
        if secrets.iter().any(|file| meta(file).is_some_and(|file| file.mode() & 0o044 != 0)) {
            report.problem(
                CHECK,
                &place.name,
                "others can read gate.db, which has the secrets by which candidates are known: they can resign for a leader",
                "chmod 600 gate.db*, or take the folder's rights away (chmod 700)",
            );
        }
    }
}

fn whom(meta: &Metadata) -> &'static str {
    if meta.mode() & 0o002 != 0 { "everybody" } else { "its group" }
}

fn room(place: &Place, there: &Path, report: &mut Report) {
    const CHECK: &str = "room";
    let Ok(room) = rustix::fs::statvfs(there) else {
        return report.unknown(CHECK, &place.name, "how much room there is can't be seen");
    };
    let free = room.f_bavail.saturating_mul(room.f_frsize);
    let mib = free >> 20;
    let advice =
        "make room, or give it a larger disk: without room, writes are answered 503 and nothing of them is applied";
    if free < ROOM_LEAST {
        report.problem(CHECK, &place.name, format!("there is room for {mib} MiB"), advice);
    } else if free < ROOM_LOW {
        report.warning(CHECK, &place.name, format!("there is room for {mib} MiB"), advice);
    } else if room.f_files > 0 && room.f_favail < 100 {
        report.warning(CHECK, &place.name, format!("there is room for {} more files", room.f_favail), advice);
    } else {
        report.good(CHECK, &place.name, format!("there is room for {mib} MiB"));
    }
}

fn syncs(place: &Place, there: &Path, report: &mut Report) {
    const CHECK: &str = "sync";
    let folder = if there.is_dir() { there } else { there.parent().unwrap_or(there) };
    match sync_time(folder) {
        Err(error) => report.unknown(CHECK, &place.name, format!("how long a sync takes can't be measured ({error})")),
        Ok(time) if time < SYNC_LEAST => report.warning(
            CHECK,
            &place.name,
            format!("a sync returns after {} us, sooner than a disk can have written", time.as_micros()),
            "find out whether something acknowledges writes that aren't on disk (a volatile cache, eatmydata, a virtual disk with cache=unsafe): \
             after a loss of power, answered writes may be gone, and marks with them",
        ),
        Ok(time) => report.good(CHECK, &place.name, format!("a sync takes {} us", time.as_micros())),
    }
}

/// The median of a few writes of one page, each synced.
fn sync_time(folder: &Path) -> std::io::Result<Duration> {
    let path = folder.join(format!(".fencegate-doctor-{}", std::process::id()));
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path)?;
    // The file stays as long as it is open, whatever becomes of this process.
    std::fs::remove_file(&path)?;
    let page = [7; 4096];
    file.write_all(&page)?;
    file.sync_all()?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        file.write_all_at(&page, 0)?;
        let started = Instant::now();
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort();
    Ok(times[SYNCS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTS: &str = "\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 0:25 / /run rw,nosuid - tmpfs tmpfs rw,size=10%
31 22 0:40 / /srv/two\\040words rw,relatime - nfs4 server:/export rw,vers=4.2
32 22 8:2 / /data rw,relatime - xfs /dev/sdb1 rw,nobarrier
33 22 0:41 / /data rw,relatime - fuse.sshfs me@host:/ rw
34 22 0:42 / /ro ro,relatime - ext4 /dev/sdc rw
";

    #[test]
    fn the_file_system_of_a_path_is_found() {
        let kind = |path: &str| mount(Path::new(path), MOUNTS).unwrap();
        assert_eq!(kind("/var/lib/app.db").0, "ext4");
        assert_eq!(kind("/run/app").0, "tmpfs");
        assert_eq!(kind("/running").0, "ext4", "a name that only begins like it");
        assert_eq!(kind("/srv/two words/app.db").0, "nfs4");
        assert_eq!(kind("/data/app.db").0, "fuse.sshfs", "the later one hides the other");
        assert!(kind("/ro/x").1.split(',').any(|option| option == "ro"));
        assert!(mount(Path::new("/x"), "").is_none());
    }

    #[test]
    fn what_file_systems_are_worth() {
        for (kind, expected) in [
            ("ext4", Worth::Good),
            ("nfs4", Worth::Shared),
            ("9p", Worth::Shared),
            ("fuse.sshfs", Worth::Shared),
            ("fuseblk", Worth::User),
            ("overlay", Worth::Layer),
            ("tmpfs", Worth::Memory),
            ("vfat", Worth::Poor),
            ("novel", Worth::Unknown),
        ] {
            assert_eq!(worth(kind), expected, "{kind}");
        }
    }
}
