//! Whether a resource believes a token as presented, or asks who issues it.

use std::fmt;

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
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum CoordinatorConfig {
    /// The gate's own.
    Embedded,
}

impl CoordinatorConfig {
    /// Reads `embedded`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(text: &str) -> Result<CoordinatorConfig, String> {
        match text {
            "embedded" => Ok(CoordinatorConfig::Embedded),
            other => Err(format!("coordinator {other:?} is not known; write \"embedded\"")),
        }
    }
}

impl fmt::Display for CoordinatorConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CoordinatorConfig::Embedded => f.write_str("embedded"),
        }
    }
}

/// What a configuration says of it, each as it was written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said<'a> {
    /// `trust`: `client`, which is the default, or `coordinator`.
    pub trust: Option<&'a str>,
    /// `coordinator`.
    pub coordinator: Option<&'a str>,
    /// `election`.
    pub election: Option<&'a str>,
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
            Some(text) => CoordinatorConfig::parse(text).map_err(|why| (Setting::Coordinator, why))?,
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
