//! What a backup says of itself: the file `manifest.json` in its folder.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use ring::digest;
use serde::{Deserialize, Serialize};

use crate::fence::FenceName;

use super::BackupError;

/// The manifest's name in a backup.
pub const FILE_NAME: &str = "manifest.json";
/// The form of backups that this program makes, and the only one that it reads.
pub const FORMAT: u32 = 1;

/// A backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// [`FORMAT`].
    pub format: u32,
    /// The version of fencegate that made it.
    pub fencegate: String,
    /// When it was begun (RFC 3339, UTC). Everything that a gate had answered by then is in it.
    pub began_at: String,
    /// When it was complete.
    pub ended_at: String,
    /// Its files, in the order in which they were copied.
    pub files: Vec<Entry>,
}

/// One file of a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its name in the folder.
    pub name: String,
    /// What it is a copy of.
    #[serde(flatten)]
    pub of: Of,
    /// Its length.
    pub bytes: u64,
    /// Its SHA-256 in hexadecimal digits.
    pub sha256: String,
    /// The permissions of the file that it is a copy of, in octal digits.
    pub mode: String,
    /// How many marks it has; of elections, how many have issued a token.
    pub count: u64,
    /// The highest token in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub highest: Option<String>,
    /// The marks of a database, each in the same moment as the data.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub marks: Vec<MarkEntry>,
}

/// What a file is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "of", rename_all = "lowercase")]
pub enum Of {
    /// A SQLite resource's database, with its marks inside.
    Database {
        /// The resource's name.
        resource: String,
    },
    /// The marks of all HTTP resources.
    Fences,
    /// The elections of the embedded coordinator.
    Elections,
}

impl Of {
    /// The file's name in a backup. Names of resources have no slash.
    pub fn file_name(&self) -> String {
        match self {
            Of::Database { resource } => format!("resource-{resource}.db"),
            Of::Fences => crate::resource::http::store::FILE_NAME.to_owned(),
            Of::Elections => crate::coordinator::embedded::store::FILE_NAME.to_owned(),
        }
    }
}

impl std::fmt::Display for Of {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Of::Database { resource } => write!(f, "resource {resource}"),
            Of::Fences => f.write_str("fences of HTTP services"),
            Of::Elections => f.write_str("elections"),
        }
    }
}

/// One mark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MarkEntry {
    /// The fence.
    pub fence: FenceName,
    /// Its token, as text.
    pub token: String,
    /// Its holder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
}

impl Manifest {
    /// Reads the manifest of a backup.
    ///
    /// # Errors
    /// A folder that is no backup, or one in a form that this program doesn't know.
    pub fn read(folder: &Path) -> Result<Manifest, BackupError> {
        let file = folder.join(FILE_NAME);
        let wrong = |why: String| BackupError::file(&file, why);
        let text =
            std::fs::read(&file).map_err(|error| wrong(format!("{error}; a backup is a folder with this file")))?;
        let form: Form = serde_json::from_slice(&text).map_err(|error| wrong(format!("it is no manifest: {error}")))?;
        if form.format != FORMAT {
            let why = format!(
                "it is of form {}, and this fencegate knows form {FORMAT}; use the one that made it",
                form.format
            );
            return Err(wrong(why));
        }
        let manifest: Manifest =
            serde_json::from_slice(&text).map_err(|error| wrong(format!("it is no manifest: {error}")))?;
        // A name in it is joined to the folder's: one with a path in it would lead elsewhere.
        match manifest.files.iter().find(|entry| entry.name != entry.of.file_name()) {
            Some(entry) => Err(wrong(format!("{:?} is not what the copy of {} is called", entry.name, entry.of))),
            None => Ok(manifest),
        }
    }

    /// Writes it into the folder of a backup, durably.
    ///
    /// # Errors
    /// A file that is there already or can't be written.
    pub fn write(&self, folder: &Path) -> Result<(), BackupError> {
        let path = folder.join(FILE_NAME);
        let failed = |error: std::io::Error| BackupError::file(&path, error);
        let mut text = serde_json::to_string_pretty(self).map_err(|error| BackupError::file(&path, error))?;
        text.push('\n');
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&path).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)
    }

    /// Checks that every file is there, whole and unchanged.
    ///
    /// # Errors
    /// The first one that isn't.
    pub fn verify(&self, folder: &Path) -> Result<(), BackupError> {
        for entry in &self.files {
            let path = folder.join(&entry.name);
            let (bytes, sha256) = digest_of(&path)?;
            if (bytes, sha256.as_str()) != (entry.bytes, entry.sha256.as_str()) {
                let why = format!(
                    "it is not what was backed up: {bytes} bytes with SHA-256 {sha256}, and the manifest says {} with {}",
                    entry.bytes, entry.sha256
                );
                return Err(BackupError::file(&path, why));
            }
        }
        Ok(())
    }
}

/// What every form has.
#[derive(Deserialize)]
struct Form {
    format: u32,
}

/// A file's length and its SHA-256 in hexadecimal digits.
///
/// # Errors
/// A file that can't be read.
pub fn digest_of(path: &Path) -> Result<(u64, String), BackupError> {
    let failed = |error: std::io::Error| BackupError::file(path, error);
    let mut file = File::open(path).map_err(failed)?;
    let (mut context, mut bytes) = (digest::Context::new(&digest::SHA256), 0);
    let mut buffer = vec![0; 1 << 20];
    loop {
        let len = file.read(&mut buffer).map_err(failed)?;
        if len == 0 {
            break;
        }
        context.update(&buffer[..len]);
        bytes += len as u64;
    }
    let digest = context.finish();
    Ok((bytes, digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_manifest_of_this_form_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let read = |text: &str| {
            std::fs::write(dir.path().join(FILE_NAME), text).unwrap();
            Manifest::read(dir.path()).map_err(|error| error.0)
        };
        assert!(
            Manifest::read(&dir.path().join("nowhere")).unwrap_err().0.contains("a backup is a folder with this file")
        );
        assert!(read("{}").unwrap_err().contains("it is no manifest"));
        assert!(read(r#"{"format":2,"files":"of another kind"}"#).unwrap_err().contains("it is of form 2"));
        let with = |name: &str| {
            format!(
                r#"{{"format":1,"fencegate":"0.1.0","began_at":"","ended_at":"","files":[
                {{"name":"{name}","of":"fences","bytes":1,"sha256":"","mode":"600","count":0}}]}}"#
            )
        };
        assert!(read(&with("fences.db")).is_ok());
        assert!(read(&with("../fences.db")).unwrap_err().contains("is not what the copy of"));
    }

    #[test]
    fn digests_are_those_of_sha_256() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("abc");
        std::fs::write(&file, "abc").unwrap();
        // FIPS 180-4's own example.
        let expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest_of(&file).unwrap(), (3, expected.to_owned()));
    }
}
