//! What a gate is told: by flags, environment variables, a file, and defaults, in this order.

use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::access::Access;
use crate::access::credential::Signer;
use crate::fence::FenceName;
use crate::fence::drain::OnUnknown;
use crate::resource::http::{self, Protocol, Rules, Template, Upstream};
use crate::resource::sqlite::{self, TableFence};
use crate::tls::server as tls;

pub mod file;
pub mod limits;
pub mod trust;

pub use file::{ConfigError, Place};
pub use trust::{CoordinatorConfig, TrustConfig};

/// Everything that `fencegate serve` needs to know.
#[derive(Debug, Clone)]
pub struct Config {
    /// Address of the data listener.
    pub listen: SocketAddr,
    /// Address of the admin listener.
    pub admin: SocketAddr,
    /// TLS on the data listener.
    pub tls: Option<tls::Options>,
    /// TLS on the admin listener.
    pub admin_tls: Option<tls::Options>,
    /// Who may do what; `None`: everybody everything.
    pub access: Option<Arc<Access>>,
    /// Signs the credentials of those whom the embedded coordinator elects.
    pub signer: Option<Arc<Signer>>,
    /// The file with its key.
    pub signing_key: Option<PathBuf>,
    /// Whether listeners may be open to other machines without TLS and principals.
    pub allow_insecure: bool,
    /// Names under which the admin listener may be asked, besides its addresses and `localhost`.
    pub admin_hosts: Vec<String>,
    /// Where the gate keeps what belongs to no resource, and the embedded default's database.
    pub data_dir: PathBuf,
    /// The resources, at least one.
    pub resources: Vec<ResourceConfig>,
    /// The limits.
    pub limits: Limits,
}

/// One resource.
#[derive(Debug, Clone)]
pub struct ResourceConfig {
    /// Its name.
    pub name: String,
    /// Its mount point on the data listener: `/`, or `/shop` without a slash at its end.
    pub path: String,
    /// Whether stale writes are refused.
    pub enforce: bool,
    /// Who is asked before a token above the mark is believed; `None`: nobody.
    pub trust: Option<TrustConfig>,
    /// What it is.
    pub kind: KindConfig,
}

/// What a resource is.
#[derive(Debug, Clone)]
pub enum KindConfig {
    /// A SQLite database.
    Sqlite(SqliteConfig),
    /// An HTTP service.
    Http(Box<HttpConfig>),
}

/// A SQLite database.
#[derive(Debug, Clone)]
pub struct SqliteConfig {
    /// The file.
    pub file: PathBuf,
    /// The fence of every table that `tables` doesn't name.
    pub fence: FenceName,
    /// Tables with a fence of their own.
    pub tables: Vec<TableFence>,
}

/// An HTTP service.
#[derive(Debug, Clone)]
pub struct HttpConfig {
    /// Where it is, and how it is spoken to.
    pub upstream: Upstream,
    /// The fence of a path.
    pub fence: Template,
    /// Which requests are writes, where it isn't the method that says so.
    pub rules: Rules,
    /// How long older writes in flight may take to finish after an advance.
    pub drain: Duration,
    /// How long a write of unknown outcome keeps newer tokens waiting.
    pub settle: Duration,
    /// What a write of unknown outcome does to newer tokens.
    pub on_unknown: OnUnknown,
    /// Times and numbers.
    pub limits: http::Limits,
}

/// How long older writes may take to finish, where nothing else is said.
pub const DRAIN_DEFAULT: Duration = Duration::from_secs(5);
/// How long a fence is quarantined, where nothing else is said.
pub const SETTLE_DEFAULT: Duration = Duration::from_secs(30);

impl ResourceConfig {
    /// `sqlite` or `http`.
    pub fn kind_name(&self) -> &'static str {
        match self.kind {
            KindConfig::Sqlite(_) => "sqlite",
            KindConfig::Http(_) => "http",
        }
    }
}

/// The limits, of listeners and of resources.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Most connections open at once on the data listener.
    pub connections: usize,
    /// The same, on the admin listener.
    pub admin_connections: usize,
    /// How long a connection may take to send the next request's headers: so long an unused one is kept.
    pub header_time: Duration,
    /// How long a client of the data listener may take nothing of what it is sent.
    pub send_time: Duration,
    /// How many refusals each thread tells at once in a second, while others are served.
    pub refusals: usize,
    /// How long requests in work may take to finish when the gate stops.
    pub drain: Duration,
    /// The limits of each SQLite resource.
    pub sqlite: sqlite::Limits,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            connections: 10_000,
            admin_connections: 256,
            header_time: Duration::from_secs(75),
            send_time: Duration::from_secs(60),
            refusals: 250,
            drain: Duration::from_secs(10),
            sqlite: sqlite::Limits::default(),
        }
    }
}

/// Address of the data listener, where nothing else is said.
pub const LISTEN_DEFAULT: &str = "127.0.0.1:7070";
/// Address of the admin listener, where nothing else is said.
pub const ADMIN_DEFAULT: &str = "127.0.0.1:7071";
/// The data directory, where nothing else is said.
pub const DATA_DIR_DEFAULT: &str = "fencegate-data";

/// What flags and environment variables say. Each beats the file.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--listen`.
    pub listen: Option<String>,
    /// `--admin`.
    pub admin: Option<String>,
    /// `--admin-hosts`.
    pub admin_hosts: Option<String>,
    /// `--data-dir`.
    pub data_dir: Option<PathBuf>,
    /// `--sqlite`.
    pub sqlite: Option<PathBuf>,
    /// `--upstream`.
    pub upstream: Option<String>,
    /// `--fence`.
    pub fence: Option<String>,
    /// `--no-enforce`.
    pub no_enforce: bool,
    /// `--trust`.
    pub trust: Option<String>,
    /// `--coordinator`.
    pub coordinator: Option<String>,
    /// `--election`.
    pub election: Option<String>,
    /// `--tls-cert` and `--tls-key`: TLS on both listeners.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// `--allow-insecure`.
    pub allow_insecure: bool,
    /// `--limit`, each `NAME=VALUE`.
    pub limits: Vec<String>,
}

/// Reads an address: `127.0.0.1:7070`, `[::1]:7070`, `localhost:7070`.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    let wrong =
        |why: String| format!("{text:?} is no address to listen on ({why}); write HOST:PORT, such as {LISTEN_DEFAULT}");
    let mut found = text.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    found.next().ok_or_else(|| wrong("nothing found".into()))
}

/// Reads names of hosts, with a comma between each two.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn hosts(text: &str) -> Result<Vec<String>, String> {
    text.split(',').map(str::trim).filter(|name| !name.is_empty()).map(host).collect()
}

/// Reads the name of a host.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn host(name: &str) -> Result<String, String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if name.is_empty() || !name.chars().all(is_name) {
        return Err(format!("{name:?} is no name of a host; write one without a port, such as gate.internal"));
    }
    Ok(name.to_ascii_lowercase())
}

impl Config {
    /// The configuration of `fencegate serve` without a file: one SQLite database, or one HTTP service.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn without_file(overrides: &Overrides) -> Result<Config, String> {
        let data_dir = overrides.data_dir.clone().unwrap_or_else(|| DATA_DIR_DEFAULT.into());
        let (name, kind) = match &overrides.upstream {
            Some(upstream) => {
                let name = "upstream".to_owned();
                let fence = overrides.fence.as_deref().unwrap_or(&name);
                let http = HttpConfig {
                    upstream: Upstream::parse(upstream, Protocol::Auto, None)?,
                    fence: Template::parse(fence).map_err(|error| format!("fence {fence:?}: {error}"))?,
                    rules: Rules::default(),
                    drain: DRAIN_DEFAULT,
                    settle: SETTLE_DEFAULT,
                    on_unknown: OnUnknown::Wait,
                    limits: http::Limits::default(),
                };
                (name, KindConfig::Http(Box::new(http)))
            }
            None => {
                let (name, file) = match &overrides.sqlite {
                    Some(file) => (name_of(file), file.clone()),
                    None => ("main".to_owned(), data_dir.join("main.db")),
                };
                database_file(&file)?;
                let fence = overrides.fence.as_deref().unwrap_or(&name);
                let fence = fence.parse().map_err(|error| format!("fence {fence:?}: {error}"))?;
                (name, KindConfig::Sqlite(SqliteConfig { file, fence, tables: Vec::new() }))
            }
        };
        let enforce = !overrides.no_enforce;
        let said = trust::Said {
            trust: overrides.trust.as_deref(),
            coordinator: overrides.coordinator.as_deref(),
            election: overrides.election.as_deref(),
            folder: Path::new(""),
        };
        let trust = said.understand(&kind).map_err(|(_, why)| why)?;
        let mut config = Config {
            listen: address(overrides.listen.as_deref().unwrap_or(LISTEN_DEFAULT))?,
            admin: address(overrides.admin.as_deref().unwrap_or(ADMIN_DEFAULT))?,
            tls: None,
            admin_tls: None,
            access: None,
            signer: None,
            signing_key: None,
            allow_insecure: false,
            admin_hosts: hosts(overrides.admin_hosts.as_deref().unwrap_or_default())?,
            data_dir,
            resources: vec![ResourceConfig { name, path: "/".into(), enforce, trust, kind }],
            limits: Limits::default(),
        };
        config.secure(overrides)?;
        config.limit(overrides)?;
        Ok(config)
    }

    /// What flags say of limits.
    fn limit(&mut self, overrides: &Overrides) -> Result<(), String> {
        for text in &overrides.limits {
            self.limits.set_text(text).map_err(|why| format!("limit {text}: {why}"))?;
        }
        Ok(())
    }

    /// What flags say of TLS; and whether the listeners may be as open as they are.
    fn secure(&mut self, overrides: &Overrides) -> Result<(), String> {
        if let Some((cert, key)) = &overrides.tls {
            for tls in [&mut self.tls, &mut self.admin_tls] {
                let clients = tls.take().and_then(|tls| tls.clients);
                *tls = Some(tls::Options { cert: cert.clone(), key: key.clone(), clients });
            }
        }
        self.allow_insecure |= overrides.allow_insecure;
        let listeners =
            [("listen", self.listen, "tls", &self.tls), ("admin", self.admin, "admin_tls", &self.admin_tls)];
        for (name, addr, table, tls) in listeners {
            if addr.ip().to_canonical().is_loopback() || self.allow_insecure {
                continue;
            }
            let missing = match (tls, &self.access) {
                (Some(_), Some(_)) => continue,
                (Some(_), None) => "[[principal]]".to_owned(),
                (None, Some(_)) => format!("[{table}]"),
                (None, None) => format!("[{table}] and [[principal]]"),
            };
            return Err(format!(
                "{name} = \"{addr}\" is open to other machines, and without {missing} whoever reaches it can present any token; \
                 write {missing} in the configuration (docs/security.md), or listen on 127.0.0.1. Where a network of your own \
                 protects it, say allow_insecure = true or --allow-insecure"
            ));
        }
        Ok(())
    }

    /// The configuration of a file, with what flags and variables say on top.
    ///
    /// # Errors
    /// [`ConfigError`], with the place of what is wrong.
    pub fn from_file(path: &Path, overrides: &Overrides) -> Result<Config, ConfigError> {
        let mut config = file::read(path)?;
        let flag = |message: String| ConfigError { place: Place::Flag, message };
        if let Some(listen) = &overrides.listen {
            config.listen = address(listen).map_err(flag)?;
        }
        if let Some(admin) = &overrides.admin {
            config.admin = address(admin).map_err(flag)?;
        }
        if let Some(hosts) = &overrides.admin_hosts {
            config.admin_hosts = self::hosts(hosts).map_err(flag)?;
        }
        if let Some(data_dir) = &overrides.data_dir {
            config.data_dir.clone_from(data_dir);
        }
        if overrides.no_enforce {
            config.resources.iter_mut().for_each(|resource| resource.enforce = false);
        }
        config.limit(overrides).map_err(flag)?;
        config.secure(overrides).map_err(|message| ConfigError { place: Place::Whole(path.to_owned()), message })?;
        Ok(config)
    }
}

/// Refuses what SQLite would take for something other than a file's name.
///
/// # Errors
/// A sentence that says what is wrong.
pub fn database_file(file: &Path) -> Result<(), String> {
    let text = file.to_string_lossy();
    if text.is_empty() || text.starts_with("file:") || text.starts_with(":memory:") {
        return Err(format!("{text:?} is no file: the gate needs a database that outlives it; write a path"));
    }
    Ok(())
}

/// A resource's name from its file's: `app` for `data/app.db`.
fn name_of(file: &Path) -> String {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let name: String = stem.chars().map(|c| if is_name_char(c) { c } else { '-' }).take(NAME_CHARS_MAX).collect();
    if name.is_empty() { "main".into() } else { name }
}

/// Longest name of a resource.
pub const NAME_CHARS_MAX: usize = 64;

/// Whether a resource's name can have this character.
pub fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_embedded_default_needs_nothing() {
        let config = Config::without_file(&Overrides::default()).unwrap();
        let KindConfig::Sqlite(sqlite) = &config.resources[0].kind else { panic!("a database") };
        assert_eq!(sqlite.file, PathBuf::from("fencegate-data/main.db"));
        assert_eq!(sqlite.fence.as_str(), "main");
        assert_eq!(config.listen.to_string(), LISTEN_DEFAULT);
    }

    #[test]
    fn a_database_gives_the_resource_its_name() {
        let sqlite = |file: &str, fence: Option<&str>| {
            let overrides =
                Overrides { sqlite: Some(file.into()), fence: fence.map(str::to_owned), ..Overrides::default() };
            Config::without_file(&overrides).map(|mut config| config.resources.remove(0)).map(|resource| {
                let KindConfig::Sqlite(sqlite) = resource.kind else { panic!("a database") };
                (resource.name, sqlite.fence.to_string())
            })
        };
        let both = |name: &str, fence: &str| (name.to_owned(), fence.to_owned());
        assert_eq!(sqlite("data/app.db", None).unwrap(), both("app", "app"));
        assert_eq!(sqlite("my app.db", None).unwrap(), both("my-app", "my-app"));
        assert_eq!(sqlite("app.db", Some("orders")).unwrap(), both("app", "orders"));
        assert!(sqlite("app.db", Some("two words")).unwrap_err().contains("two words"));
        for no_file in [":memory:", "file:app.db?mode=memory", ""] {
            assert!(sqlite(no_file, None).unwrap_err().contains("is no file"));
        }
    }

    #[test]
    fn names_of_hosts() {
        assert_eq!(hosts("Gate.internal, gate ,").unwrap(), ["gate.internal", "gate"]);
        assert!(hosts("").unwrap().is_empty());
        for bad in ["gate:7071", "http://gate", "a b", "*"] {
            assert!(hosts(bad).unwrap_err().contains("no name of a host"), "{bad:?}");
        }
    }

    #[test]
    fn addresses() {
        assert!(address("127.0.0.1:0").is_ok());
        assert!(address("[::1]:7070").is_ok());
        for bad in ["", "7070", "127.0.0.1", "127.0.0.1:99999", "a b:1"] {
            assert!(address(bad).is_err(), "{bad:?}");
        }
    }
}
