//! The configuration file (TOML). Every mistake is told with its file, line and column, and what to do.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Deserialize;
use serde_spanned::Spanned;

use crate::access::Access;
use crate::fence::FenceName;
use crate::files::folder_of;
use crate::resource::sqlite::fences::{FENCES_MAX, TableFences};
use crate::resource::sqlite::{RESERVED, TableFence};

use super::{
    ADMIN_DEFAULT, Config, DATA_DIR_DEFAULT, KindConfig, LISTEN_DEFAULT, Limits, NAME_CHARS_MAX, ResourceConfig,
    SqliteConfig, TrustConfig, address, host, is_name_char, trust,
};

mod access;
mod http;

/// What is wrong in a configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}{message}")]
pub struct ConfigError {
    /// Where.
    pub place: Place,
    /// What, and what to do.
    pub message: String,
}

/// Where a mistake is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In a file, at a line and column, both from 1.
    File(PathBuf, usize, usize),
    /// In a file as a whole.
    Whole(PathBuf),
    /// In a flag or environment variable.
    Flag,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::File(file, line, column) => write!(f, "{}:{line}:{column}: ", file.display()),
            Place::Whole(file) => write!(f, "{}: ", file.display()),
            Place::Flag => Ok(()),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileToml {
    listen: Option<Spanned<String>>,
    admin: Option<Spanned<String>>,
    #[serde(default)]
    admin_hosts: Vec<Spanned<String>>,
    data_dir: Option<PathBuf>,
    allow_insecure: Option<bool>,
    tls: Option<Spanned<access::TlsToml>>,
    admin_tls: Option<Spanned<access::TlsToml>>,
    #[serde(default)]
    principal: Vec<Spanned<access::PrincipalToml>>,
    credentials: Option<access::CredentialsToml>,
    #[serde(default)]
    credential_key: Vec<Spanned<access::CredentialKeyToml>>,
    #[serde(default)]
    limits: BTreeMap<String, Spanned<toml::Value>>,
    #[serde(default)]
    resource: Vec<Spanned<ResourceToml>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceToml {
    name: Spanned<String>,
    kind: Spanned<String>,
    path: Option<Spanned<String>>,
    fence: Option<Spanned<String>>,
    enforce: Option<bool>,
    require_credential: Option<Spanned<bool>>,
    trust: Option<Spanned<String>>,
    coordinator: Option<Spanned<String>>,
    election: Option<Spanned<String>>,
    // Of a SQLite resource.
    file: Option<Spanned<PathBuf>>,
    tables: Option<Spanned<BTreeMap<String, Spanned<String>>>>,
    // Of an HTTP resource.
    upstream: Option<Spanned<String>>,
    protocol: Option<Spanned<String>>,
    ca: Option<Spanned<PathBuf>>,
    case: Option<Spanned<String>>,
    reads: Option<Spanned<Vec<String>>>,
    writes: Option<Spanned<Vec<String>>>,
    drain: Option<Spanned<toml::Value>>,
    settle: Option<Spanned<toml::Value>>,
    on_unknown: Option<Spanned<String>>,
    connect_time: Option<Spanned<toml::Value>>,
    name_time: Option<Spanned<toml::Value>>,
    answer_time: Option<Spanned<toml::Value>>,
}

/// One setting where it stands, if it does.
type Setting = (&'static str, Option<Range<usize>>);

impl ResourceToml {
    fn of_sqlite(&self) -> [Setting; 2] {
        [("file", self.file.as_ref().map(Spanned::span)), ("tables", self.tables.as_ref().map(Spanned::span))]
    }

    fn of_http(&self) -> [Setting; 12] {
        [
            ("upstream", self.upstream.as_ref().map(Spanned::span)),
            ("protocol", self.protocol.as_ref().map(Spanned::span)),
            ("ca", self.ca.as_ref().map(Spanned::span)),
            ("case", self.case.as_ref().map(Spanned::span)),
            ("reads", self.reads.as_ref().map(Spanned::span)),
            ("writes", self.writes.as_ref().map(Spanned::span)),
            ("drain", self.drain.as_ref().map(Spanned::span)),
            ("settle", self.settle.as_ref().map(Spanned::span)),
            ("on_unknown", self.on_unknown.as_ref().map(Spanned::span)),
            ("connect_time", self.connect_time.as_ref().map(Spanned::span)),
            ("name_time", self.name_time.as_ref().map(Spanned::span)),
            ("answer_time", self.answer_time.as_ref().map(Spanned::span)),
        ]
    }

    /// Whom to believe, for a resource of this kind.
    fn trust(&self, source: &Source<'_>, folder: &Path, kind: &KindConfig) -> Result<Option<TrustConfig>, ConfigError> {
        fn text(given: &Option<Spanned<String>>) -> Option<&str> {
            given.as_ref().map(|given| given.get_ref().as_str())
        }
        let (trust, coordinator, election) = (text(&self.trust), text(&self.coordinator), text(&self.election));
        let said = trust::Said { trust, coordinator, election, folder };
        said.understand(kind).map_err(|(setting, why)| {
            let given = match setting {
                trust::Setting::Trust => &self.trust,
                trust::Setting::Coordinator => &self.coordinator,
                trust::Setting::Election => &self.election,
            };
            source.at(given.as_ref().map_or(self.name.span(), Spanned::span), about(self, &why))
        })
    }
}

struct Source<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Source<'_> {
    fn at(&self, span: Range<usize>, message: impl Into<String>) -> ConfigError {
        let before = self.text.get(..span.start.min(self.text.len())).unwrap_or(self.text);
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        ConfigError { place: Place::File(self.path.to_owned(), line, column), message: message.into() }
    }

    fn parse<T, E: fmt::Display>(
        &self,
        text: &Spanned<String>,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, ConfigError> {
        parse(text.get_ref()).map_err(|error| self.at(text.span(), error.to_string()))
    }
}

/// Reads a configuration file.
///
/// # Errors
/// [`ConfigError`].
pub fn read(path: &Path) -> Result<Config, ConfigError> {
    let bytes = std::fs::read(path).map_err(|error| {
        let message = format!("can't be read: {error}");
        ConfigError { place: Place::Whole(path.to_owned()), message }
    })?;
    match std::str::from_utf8(&bytes) {
        Ok(text) => parse(path, text),
        Err(error) => {
            let before = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
            let source = Source { path, text: &before };
            Err(source.at(before.len()..before.len(), "this is not UTF-8; save the file as UTF-8"))
        }
    }
}

/// Understands the text of a configuration file.
///
/// # Errors
/// [`ConfigError`].
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    // The mark that some editors put before a file is not part of its first line.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let source = Source { path, text };
    let file: FileToml = toml::from_str(text)
        .map_err(|error| source.at(error.span().unwrap_or(0..0), error.message().trim().replace('\n', "; ")))?;
    let folder = folder_of(path);
    let mut limits = Limits::default();
    for (name, value) in &file.limits {
        limits.set(name, value.get_ref()).map_err(|why| source.at(value.span(), format!("limit {name}: {why}")))?;
    }
    if file.resource.is_empty() {
        let message = "there is no [[resource]]; write one with name, kind = \"sqlite\" and file".to_owned();
        return Err(ConfigError { place: Place::Whole(path.to_owned()), message });
    }
    let listener = |given: &Option<Spanned<String>>, default: &str| match given {
        Some(given) => source.parse(given, address),
        None => address(default).map_err(|why| source.at(0..0, why)),
    };
    let single = file.resource.len() == 1;
    let mut resources: Vec<ResourceConfig> = Vec::with_capacity(file.resource.len());
    for item in &file.resource {
        let resource = resource(&source, folder, item.get_ref(), item.span(), single)?;
        if let Some(clash) = resources.iter().find_map(|earlier| clash(earlier, &resource)) {
            return Err(source.at(item.get_ref().name.span(), format!("resource {:?}: {clash}", resource.name)));
        }
        resources.push(resource);
    }
    let access::Understood { access, signer } = access::access(&source, folder, &file)?;
    let (tls, admin_tls) =
        (access::tls(&source, folder, file.tls.as_ref())?, access::tls(&source, folder, file.admin_tls.as_ref())?);
    let asks_clients = [&tls, &admin_tls].into_iter().flatten().any(|tls| tls.clients.is_some());
    if access.as_ref().is_some_and(Access::has_certificates) && !asks_clients {
        let message =
            "a principal has a certificate, but no listener asks for one: write client_ca in [tls]".to_owned();
        return Err(ConfigError { place: Place::Whole(path.to_owned()), message });
    }
    Ok(Config {
        listen: listener(&file.listen, LISTEN_DEFAULT)?,
        admin: listener(&file.admin, ADMIN_DEFAULT)?,
        tls,
        admin_tls,
        access: access.map(Arc::new),
        signer,
        signing_key: file
            .credentials
            .and_then(|credentials| credentials.signing_key)
            .map(|key| folder.join(key.into_inner())),
        allow_insecure: file.allow_insecure.unwrap_or(false),
        admin_hosts: file.admin_hosts.iter().map(|name| source.parse(name, host)).collect::<Result<_, _>>()?,
        data_dir: folder.join(file.data_dir.unwrap_or_else(|| DATA_DIR_DEFAULT.into())),
        resources,
        limits,
    })
}

fn resource(
    source: &Source<'_>,
    folder: &Path,
    item: &ResourceToml,
    span: Range<usize>,
    single: bool,
) -> Result<ResourceConfig, ConfigError> {
    let name = item.name.get_ref();
    if name.is_empty() || name.len() > NAME_CHARS_MAX || !name.chars().all(is_name_char) {
        let message = format!("a resource's name has 1 to {NAME_CHARS_MAX} of A-Z a-z 0-9 . _ and -; {name:?} hasn't");
        return Err(source.at(item.name.span(), message));
    }
    let about = |what: &str| about(item, what);
    let is_http = match item.kind.get_ref().as_str() {
        "sqlite" => false,
        "http" => true,
        other => {
            let what = format!("kind {other:?} is not known; write \"sqlite\" or \"http\"");
            return Err(source.at(item.kind.span(), about(&what)));
        }
    };
    let (others, kind) = if is_http { (&item.of_sqlite()[..], "http") } else { (&item.of_http()[..], "sqlite") };
    if let Some((setting, Some(span))) = others.iter().find(|(_, span)| span.is_some()) {
        let what = format!("{setting} is not for kind {kind:?}; leave it out");
        return Err(source.at(span.clone(), about(&what)));
    }
    let path = match &item.path {
        Some(path) => source.parse(path, |text| mount_point(text).map_err(|why| about(&why)))?,
        None if single => "/".to_owned(),
        None => format!("/{name}"),
    };
    let kind = if is_http {
        KindConfig::Http(Box::new(http::resource(source, folder, item, span)?))
    } else {
        KindConfig::Sqlite(sqlite(source, folder, item, span)?)
    };
    let trust = item.trust(source, folder, &kind)?;
    Ok(ResourceConfig { name: name.clone(), path, enforce: item.enforce.unwrap_or(true), trust, kind })
}

/// What a mistake in a resource says in front.
fn about(item: &ResourceToml, what: &str) -> String {
    format!("resource {:?}: {what}", item.name.get_ref())
}

fn sqlite(
    source: &Source<'_>,
    folder: &Path,
    item: &ResourceToml,
    span: Range<usize>,
) -> Result<SqliteConfig, ConfigError> {
    let about = |what: &str| about(item, what);
    let Some(file) = &item.file else {
        return Err(source.at(span, about("file is missing: the database file, such as file = \"shop.db\"")));
    };
    super::database_file(file.get_ref()).map_err(|why| source.at(file.span(), about(&why)))?;
    let fence = |text: &str| text.parse::<FenceName>().map_err(|error| about(&format!("fence {text:?}: {error}")));
    let own = source.parse(item.fence.as_ref().unwrap_or(&item.name), fence)?;
    let mut tables = Vec::new();
    for (pattern, fence_name) in item.tables.iter().flat_map(|tables| tables.get_ref()) {
        let is_taken = pattern.get(..RESERVED.len()).is_some_and(|start| start.eq_ignore_ascii_case(RESERVED));
        if pattern.is_empty() || is_taken {
            let what = format!("tables: {pattern:?} can't have a fence: it is empty or the gate's own");
            return Err(source.at(fence_name.span(), about(&what)));
        }
        tables.push(TableFence { pattern: pattern.clone(), fence: source.parse(fence_name, fence)? });
    }
    if TableFences::new(own.clone(), &tables).is_none() {
        let what = format!(
            "tables: one database has at most {FENCES_MAX} fences, its own included; give some tables one fence"
        );
        return Err(source.at(item.tables.as_ref().map_or(span, Spanned::span), about(&what)));
    }
    Ok(SqliteConfig { file: folder.join(file.get_ref()), fence: own, tables })
}

fn mount_point(text: &str) -> Result<String, String> {
    let path = text.strip_suffix('/').unwrap_or(text);
    if path.is_empty() {
        return Ok("/".into());
    }
    let segment = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && part.chars().all(|c| is_name_char(c) || c == '~')
    };
    let well = path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(segment));
    if !well {
        return Err(format!(
            "path {text:?} is no mount point; write one such as \"/shop\", of A-Z a-z 0-9 . _ ~ - and /"
        ));
    }
    if path == "/-" || path.starts_with("/-/") {
        return Err(format!("path {text:?}: what starts with /-/ is the gate's own"));
    }
    Ok(path.to_owned())
}

/// Why two resources can't both be.
fn clash(one: &ResourceConfig, other: &ResourceConfig) -> Option<String> {
    if one.name == other.name {
        return Some("another resource has this name; each needs its own".into());
    }
    if one.path == other.path {
        return Some(format!("resource {:?} is mounted at {}, too; give each its own path", one.name, one.path));
    }
    let shared = match (&one.kind, &other.kind) {
        (KindConfig::Sqlite(first), KindConfig::Sqlite(second)) => {
            let real = |file: &Path| file.canonicalize().unwrap_or_else(|_| file.to_owned());
            if real(&first.file) == real(&second.file) {
                return Some(format!("resource {:?} has the same file; one database is one resource", one.name));
            }
            second.fences().find(|fence| first.fences().any(|taken| taken == *fence)).map(FenceName::to_string)
        }
        (KindConfig::Http(http), KindConfig::Sqlite(sqlite)) | (KindConfig::Sqlite(sqlite), KindConfig::Http(http)) => {
            sqlite.fences().find(|fence| http.fence.owns(fence)).map(FenceName::to_string)
        }
        (KindConfig::Http(first), KindConfig::Http(second)) => {
            first.fence.overlaps(&second.fence).then(|| second.fence.to_string())
        }
    };
    let shared = shared?;
    Some(format!("fence {shared} belongs to resource {:?}, too; a fence belongs to one resource", one.name))
}

impl SqliteConfig {
    /// Its own fence and those of its tables.
    pub fn fences(&self) -> impl Iterator<Item = &FenceName> {
        std::iter::once(&self.fence).chain(self.tables.iter().map(|table| &table.fence))
    }
}

#[cfg(test)]
mod tests;
