//! Whether a resource believes a token as presented, or asks who issues it.

use std::fmt;
use std::path::Path;
#[cfg(feature = "etcd")]
use std::path::PathBuf;

use crate::coordinator::Followed;
#[cfg(feature = "etcd")]
use crate::coordinator::etcd;
use crate::trust::{Elections, Fences};

use super::{HttpConfig, KindConfig, SqliteConfig};

/// Who is asked before a token above the mark is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustConfig {
    /// The coordinator.
    pub coordinator: CoordinatorConfig,
    /// Which of its elections is which fence's.
    pub elections: Elections,
}

/// A coordinator that can be asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoordinatorConfig {
    /// The gate's own.
    Embedded,
    /// etcd.
    #[cfg(feature = "etcd")]
    Etcd(Box<etcd::Options>),
}

impl CoordinatorConfig {
    /// Reads `embedded` or an address such as `etcd://127.0.0.1:2379`. Files that it names are relative to `folder`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str, folder: &Path) -> Result<CoordinatorConfig, String> {
        match text.split_once("://") {
            None if text == "embedded" => Ok(CoordinatorConfig::Embedded),
            Some(("etcd" | "etcds", _)) => etcd(text, folder),
            // What is written there may have a password in it.
            Some((scheme, _)) => {
                Err(format!("coordinator \"{scheme}://…\" is not known; write \"embedded\" or \"etcd://HOST:PORT\""))
            }
            None => Err(format!("coordinator {text:?} is not known; write \"embedded\" or \"etcd://HOST:PORT\"")),
        }
    }

    /// Whether following these elections would be following all that others keep in the coordinator, too.
    fn would_follow_everything(&self, elections: &Elections) -> bool {
        let has_no_prefix = match self {
            CoordinatorConfig::Embedded => false,
            #[cfg(feature = "etcd")]
            CoordinatorConfig::Etcd(options) => options.prefix.is_empty(),
        };
        let mut followed = Followed::default();
        elections.follow(&mut followed);
        has_no_prefix && followed.prefixes.iter().any(String::is_empty)
    }
}

#[cfg(feature = "etcd")]
fn etcd(text: &str, folder: &Path) -> Result<CoordinatorConfig, String> {
    let mut options = etcd::Options::parse(text).map_err(|error| format!("coordinator: {error}"))?;
    let absolute = |file: &mut PathBuf| *file = folder.join(&*file);
    if let Some(tls) = &mut options.tls {
        tls.ca.as_mut().map(absolute);
        if let Some((certificate, key)) = &mut tls.client {
            absolute(certificate);
            absolute(key);
        }
    }
    if let Some(etcd::User { password: etcd::Password::File(file), .. }) = &mut options.user {
        absolute(file);
    }
    Ok(CoordinatorConfig::Etcd(Box::new(options)))
}

#[cfg(not(feature = "etcd"))]
fn etcd(_text: &str, _folder: &Path) -> Result<CoordinatorConfig, String> {
    Err("coordinator: this program was built without etcd (its cargo feature is \"etcd\")".to_owned())
}

impl fmt::Display for CoordinatorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoordinatorConfig::Embedded => f.write_str("embedded"),
            #[cfg(feature = "etcd")]
            CoordinatorConfig::Etcd(options) => options.fmt(f),
        }
    }
}

/// What a configuration says of it, each as it was written.
#[derive(Debug, Clone, Copy)]
pub struct Said<'a> {
    /// `trust`: `client`, which is the default, or `coordinator`.
    pub trust: Option<&'a str>,
    /// `coordinator`.
    pub coordinator: Option<&'a str>,
    /// `election`.
    pub election: Option<&'a str>,
    /// What files are relative to.
    pub folder: &'a Path,
}

/// The setting that is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setting {
    /// `trust`.
    Trust,
    /// `coordinator`.
    Coordinator,
    /// `election`.
    Election,
}

impl Setting {
    /// The setting's name.
    pub fn as_str(self) -> &'static str {
        match self {
            Setting::Trust => "trust",
            Setting::Coordinator => "coordinator",
            Setting::Election => "election",
        }
    }
}

impl Said<'_> {
    /// Understands it, for a resource of this kind. `None`: tokens are believed as presented.
    ///
    /// # Errors
    /// Which setting is wrong, and a sentence that says how.
    pub fn understand(&self, kind: &KindConfig) -> Result<Option<TrustConfig>, (Setting, String)> {
        match self.trust.unwrap_or("client") {
            "coordinator" => {}
            "client" => {
                let given = [(Setting::Coordinator, self.coordinator), (Setting::Election, self.election)];
                return match given.into_iter().find(|(_, given)| given.is_some()) {
                    None => Ok(None),
                    Some((setting, _)) => {
                        let why = "is for trust = \"coordinator\", where a token is believed only if the coordinator confirms it";
                        Err((setting, format!("{} {why}", setting.as_str())))
                    }
                };
            }
            other => {
                let why = format!("trust {other:?} is not known; write \"client\" or \"coordinator\"");
                return Err((Setting::Trust, why));
            }
        }
        let coordinator = match self.coordinator {
            None => CoordinatorConfig::Embedded,
            Some(text) => CoordinatorConfig::parse(text, self.folder).map_err(|why| (Setting::Coordinator, why))?,
        };
        let fences = match kind {
            KindConfig::Sqlite(sqlite) => known(sqlite),
            KindConfig::Http(http) => made(http),
        };
        let elections = match self.election {
            None => Elections::of_same_name(fences),
            Some(text) => Elections::parse(text, fences)
                .map_err(|why| (Setting::Election, format!("election {text:?}: {why}")))?,
        };
        if coordinator.would_follow_everything(&elections) {
            let why = "election: nothing that is known before stands in front of it, so that the gate would have to follow every key in \
                       etcd; write a prefix, as in election = \"app/{fence}\" or coordinator = \"etcd://HOST:PORT/PREFIX\"";
            return Err((Setting::Coordinator, why.to_owned()));
        }
        Ok(Some(TrustConfig { coordinator, elections }))
    }
}

fn known(sqlite: &SqliteConfig) -> Fences {
    let mut names: Vec<_> = sqlite.fences().cloned().collect();
    names.sort();
    names.dedup();
    Fences::Known(names)
}

fn made(http: &HttpConfig) -> Fences {
    Fences::Made(http.fence.clone())
}
