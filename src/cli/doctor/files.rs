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
    let why = match place.path.try_exists() {
        Ok(true) => None,
        Ok(false) => Some("it isn't there yet: a gate that is started like this makes it".to_owned()),
        Err(error) => Some(format!("it can't be looked at ({error}): run this as root, or as the gate's own user")),
    };
    if let Some(why) = why {
        report.unknown("there", &place.name, format!("{why}. What follows is about {}", there.display()));
    }
    file_system(place, &there, report);
    rights(&place.name, &place.path, place.is_database, report);
    if !place.is_database {
        candidates(place, report);
    }
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
pub fn mount(path: &Path, mountinfo: &str) -> Option<(String, String)> {
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
/// Only what is their own may be removed by those who may write to a folder.
const STICKY: u32 = 0o1000;

/// Checks who besides its owner can write to a file, or put another one in its place. A folder counts for what is in it.
pub fn rights(name: &str, path: &Path, is_file: bool, report: &mut Report) {
    const CHECK: &str = "rights";
    let meta = |path: &Path| std::fs::metadata(path).ok();
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut open = Vec::new();
    let file = meta(&path).filter(|_| is_file);
    if let Some(file) = &file
        && let Some(whom) = writers(file)
    {
        open.push(format!("{whom} can write to it"));
    }
    // By its own name, and by that of what a link leads to: whoever may replace a folder above it replaces it, too.
    let real = path.canonicalize().unwrap_or_else(|_| path.clone());
    let above = |path: &Path| path.ancestors().skip(usize::from(is_file)).map(Path::to_owned).collect::<Vec<_>>();
    let mut folders = above(&path);
    folders.extend(above(&real));
    folders.sort_by_key(|folder| std::cmp::Reverse(folder.components().count()));
    folders.dedup();
    let owner = file.or_else(|| folders.iter().find_map(|folder| meta(folder))).map(|meta| meta.uid());
    for folder in &folders {
        let Some(meta) = meta(folder) else { continue };
        let whom = writers(&meta).filter(|_| meta.mode() & STICKY == 0).map(str::to_owned);
        let is_anothers = owner.is_some_and(|owner| ![owner, 0, NOBODY].contains(&meta.uid()));
        let whom = whom.or_else(|| is_anothers.then(|| format!("user {}, whose it is,", meta.uid())));
        open.extend(whom.map(|whom| format!("{whom} can replace what is in {}", folder.display())));
    }
    match open.is_empty() {
        true => report.good(CHECK, name, "nobody but its owner can write to it"),
        false => report.problem(
            CHECK,
            name,
            format!("{}: a route around the gate", open.join(", and ")),
            "give it to a user of the gate's own, and take the others' rights away (chmod go-w)",
        ),
    }
}

/// Checks who can read by what candidates are known.
fn candidates(place: &Place, report: &mut Report) {
    let mode = |path: &Path| std::fs::metadata(path).map_or(0, |meta| meta.mode());
    let secrets = ["gate.db", "gate.db-wal"].map(|name| place.path.join(name));
    // Nobody gets at a file through a folder that they can't pass.
    if mode(&place.path) & 0o011 != 0 && secrets.iter().any(|file| mode(file) & 0o044 != 0) {
        report.problem(
            "rights",
            &place.name,
            "others can read gate.db, which has the secrets by which candidates are known: they can resign for a leader",
            "chmod 600 gate.db*, or take the folder's rights away (chmod 700)",
        );
    }
}

/// Whom files belong to that are outside of a container's own users (`/proc/sys/kernel/overflowuid`).
const NOBODY: u32 = 65_534;

/// Who may write besides the owner, as people name them. A group that nobody but the owner is in is none.
fn writers(meta: &Metadata) -> Option<&'static str> {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    match meta.mode() & WRITE {
        0 => None,
        mode if mode & 0o002 != 0 => Some("everybody"),
        _ if is_private(meta.uid(), meta.gid(), &read("/etc/passwd"), &read("/etc/group")) => None,
        _ => Some("its group"),
    }
}

/// Whether a group is one user's alone, as many systems make one for each user: nobody else has it as their first group, and it has no other
/// members (passwd(5), group(5)). Where these files don't know both, it isn't known to be.
fn is_private(user: u32, group: u32, passwd: &str, groups: &str) -> bool {
    let number = |text: Option<&&str>| text.and_then(|text| text.parse::<u32>().ok());
    let users: Vec<Vec<&str>> = passwd.lines().map(|line| line.split(':').collect()).collect();
    let Some(own) = users.iter().find(|fields| number(fields.get(2)) == Some(user)) else { return false };
    let mut first = users.iter().filter(|fields| number(fields.get(3)) == Some(group));
    let is_first = first.next().is_some_and(|fields| number(fields.get(2)) == Some(user)) && first.next().is_none();
    let mut lines = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let members = lines.find(|fields| number(fields.get(2)) == Some(group)).and_then(|fields| fields.get(3).copied());
    let Some(members) = members else { return false };
    is_first && members.split(',').all(|member| member.is_empty() || Some(&member) == own.first())
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
    fn what_a_mount_takes_away_is_told() {
        let levels = |options: &str| {
            let mut report = Report::default();
            let place = Place { name: "place".into(), path: "/x".into(), is_database: true };
            mounted(&place, options, &mut report);
            report.findings.iter().map(|finding| finding.level).collect::<Vec<_>>()
        };
        assert_eq!(levels("rw,relatime,rw,errors=remount-ro"), []);
        for options in ["ro,relatime,rw", "rw,ro", "rw,rw,nobarrier", "rw,rw,barrier=0"] {
            assert_eq!(levels(options), [Level::Problem], "{options}");
        }
    }

    #[test]
    fn a_group_of_one_user_is_known() {
        let passwd = "root:x:0:0::/root:/bin/sh\nann:x:1000:1000::/:\nbert:x:1001:1001::/:\neve:x:1002:1001::/:\n";
        let groups = "ann:x:1000:\nbert:x:1001:\nops:x:50:ann,bert\n";
        let is = |user, group| is_private(user, group, passwd, groups);
        assert!(is(1000, 1000));
        assert!(!is(1001, 1001), "it is another one's first group, too");
        assert!(!is(1000, 50), "it has members");
        assert!(!is(1000, 7) && !is(7, 1000), "not known");
        assert!(!is_private(1000, 1000, passwd, "ann:x:1000:bert\n"));
        assert!(is_private(1000, 1000, passwd, "ann:x:1000:ann\n"));
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
