//! Above which token writers get in after a restore.
//!
//! A backup doesn't know the tokens that were issued after it. Say it was made when the mark was 50, and a leader with 57 still runs: a
//! restored coordinator that went on at 51 would elect a leader whom that one deposes. So every mark is raised above all that can have
//! been issued, and so is what the coordinator issues next:
//!
//! - **Tokens of the gate's own coordinator** are numbered by it, one a term. Marks rise by [`MARGIN`] over the highest that is known, in the
//!   backup and in what is replaced, and the next term gets the token after that.
//! - **Tokens of another coordinator** go on where they were: it wasn't restored, and a margin would shut out its new leaders for good. Above
//!   which number they are new, only whoever runs it can say ([`Above`]).
//! - **Where the gate asks the coordinator** before it believes a token, no mark is left at all. A mark's own token is let in without a question:
//!   that of the backup may be a deposed leader's by now, and one that nobody was given could be presented by whoever has read it in a
//!   refusal. Without a mark each fence's first token is asked about, and who doesn't lead now is refused.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::config::{Config, CoordinatorConfig, ResourceConfig};
use crate::fence::{FenceName, Token};

use super::BackupError;

/// How many tokens the gate's own coordinator is taken to have issued at most since a backup was made. Each costs it a commit to disk: at
/// 10,000 elections a second, these last for more than three years. There is room for nine million restores.
pub const MARGIN: u64 = 1_000_000_000_000;

/// Above what tokens are new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Above this one: none higher had been issued when the gate was restored.
    Token(Token),
    /// The gate's own coordinator issues them.
    Embedded,
}

/// What an operator says of tokens that the gate can't know: for one resource, or for all that need it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Above {
    /// For those that need it and aren't named.
    pub others: Option<Level>,
    /// For these resources.
    pub of: BTreeMap<String, Level>,
}

impl Above {
    /// Reads `N`, `embedded`, `RESOURCE=N`, `RESOURCE=embedded`.
    ///
    /// # Errors
    /// A sentence that says what is wrong.
    pub fn parse(texts: &[String]) -> Result<Above, String> {
        let mut above = Above::default();
        for text in texts {
            let (resource, level) = match text.rsplit_once('=') {
                Some((resource, level)) => (Some(resource), level),
                None => (None, text.as_str()),
            };
            let level = match level {
                "embedded" => Level::Embedded,
                number => Level::Token(Token::parse(number.as_bytes()).map_err(|_| {
                    format!(
                        "--above {text:?}: {number:?} is no token; write N, embedded, RESOURCE=N or RESOURCE=embedded"
                    )
                })?),
            };
            let before = match resource {
                Some(resource) => above.of.insert(resource.to_owned(), level),
                None => above.others.replace(level),
            };
            if before.is_some() {
                return Err(format!("--above {text:?}: this was said already"));
            }
        }
        Ok(above)
    }
}

/// What is known of one resource's tokens, in the backup and in what it replaces.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// Whether the backup has its marks. What it hasn't stays as it is here.
    pub is_restored: bool,
    /// The highest mark, and its fence.
    pub highest: Option<(Token, FenceName)>,
    /// What shows that its tokens don't come from the gate's own coordinator, for people.
    pub foreign: Option<String>,
    /// Whether the gate's own coordinator has held an election for one of its fences, or was said to.
    pub is_elected: bool,
    /// The mark of its fences that have none of their own, from an earlier restore.
    pub floor: Option<Token>,
}

/// What the gate's own coordinator is known to have issued, in the backup and in what it replaces.
#[derive(Debug, Clone, Default)]
pub struct Issued {
    /// The last token of each election.
    pub last: HashMap<FenceName, Token>,
    /// What earlier restores have raised it to.
    pub floors: BTreeSet<Token>,
}

impl Issued {
    /// The highest.
    pub fn highest(&self) -> Option<Token> {
        self.last.values().copied().max().max(self.floors.last().copied())
    }
}

impl Known {
    /// Takes note of a fence and its mark.
    pub fn note(&mut self, fence: &FenceName, mark: Option<Token>, issued: &Issued) {
        let last = issued.last.get(fence).copied();
        self.is_elected |= last.is_some();
        let Some(mark) = mark else { return };
        if self.highest.as_ref().is_none_or(|(highest, _)| *highest < mark) {
            self.highest = Some((mark, fence.clone()));
        }
        if issued.floors.contains(&mark) {
            self.is_elected = true;
        } else if last < Some(mark) && self.foreign.is_none() {
            self.foreign = Some(format!("token {mark} of fence {fence} was not issued by the gate's own coordinator"));
        }
    }

    /// Takes note of what an earlier restore has raised its fences to.
    pub fn note_floor(&mut self, floor: Token, issued: &Issued) {
        self.floor = self.floor.max(Some(floor));
        if issued.floors.contains(&floor) {
            self.is_elected = true;
        } else {
            let why = || format!("an earlier restore was told that its tokens are new from {floor} on");
            self.foreign.get_or_insert_with(why);
        }
    }
}

/// What becomes of the marks of a resource that is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// They are this at least, those of fences that have none yet included.
    AtLeast(Token),
    /// None is left: the coordinator is asked about each fence's first token.
    Asked,
}

/// What becomes of the marks of each resource, and of the coordinator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Levels {
    /// Of those that are restored, in the order of the configuration.
    pub resources: Vec<(String, Fate)>,
    /// What the gate's own coordinator issues tokens above.
    pub elections: Token,
}

impl Levels {
    /// What becomes of this resource's marks. `None`: they aren't restored.
    pub fn of(&self, resource: &str) -> Option<Fate> {
        self.resources.iter().find(|(name, _)| name == resource).map(|(_, fate)| *fate)
    }
}

/// Decides. `known` is of each resource, in the order of the configuration; `issued` of the gate's own coordinator.
///
/// **Invariant.** Each level is above every mark of its resource, and what is not known to be new is stale, or asked about.
///
/// # Errors
/// What an operator has to say first, or has said wrongly.
pub fn decide(config: &Config, known: &[Known], issued: &Issued, above: &Above) -> Result<Levels, BackupError> {
    let restored = || config.resources.iter().zip(known).filter(|(_, known)| known.is_restored);
    if let Some(name) = above.of.keys().find(|name| restored().all(|(resource, _)| resource.name != **name)) {
        return Err(BackupError(format!(
            "--above {name}=…: the backup has no resource of this name that is configured"
        )));
    }
    let chosen: Vec<Option<Level>> =
        restored().map(|(resource, known)| choose(resource, known, above)).collect::<Result<_, _>>()?;
    // Marks that its tokens have raised count, too: the file with the elections may be missing, or older.
    let is_embedded = |resource: &ResourceConfig, level: Option<Level>| match level {
        Some(level) => level == Level::Embedded,
        None => resource.trust.as_ref().is_some_and(|trust| trust.coordinator == CoordinatorConfig::Embedded),
    };
    let embedded = restored().zip(&chosen).filter(|((resource, _), level)| is_embedded(resource, **level));
    let marks = embedded.filter_map(|((_, known), _)| known.highest.as_ref().map(|(mark, _)| *mark).max(known.floor));
    let highest = marks.max().max(issued.highest()).map_or(0, Token::get);
    let elections = highest.checked_add(MARGIN).and_then(|number| Token::new(number).ok()).ok_or_else(|| {
        BackupError(format!(
            "token {highest} was issued or claimed, and there are not enough above it; reset that mark first"
        ))
    })?;
    let mut levels = Vec::new();
    for ((resource, known), level) in restored().zip(chosen) {
        let level = match level {
            None => {
                levels.push((resource.name.clone(), Fate::Asked));
                continue;
            }
            Some(Level::Embedded) => elections,
            // The lowest that is new: a mark's own token is let in.
            Some(Level::Token(token)) => {
                token.next().ok_or_else(|| BackupError(format!("no token is above {token}")))?
            }
        };
        if let Some((mark, fence)) = known.highest.as_ref().filter(|(mark, _)| level <= *mark) {
            return Err(BackupError(format!(
                "--above is too low for resource {}: fence {fence} has admitted token {mark} already",
                resource.name
            )));
        }
        levels.push((resource.name.clone(), Fate::AtLeast(known.floor.map_or(level, |floor| floor.max(level)))));
    }
    Ok(Levels { resources: levels, elections })
}

/// What an operator or the configuration says, or what was issued shows. `None`: the gate asks.
fn choose(resource: &ResourceConfig, known: &Known, above: &Above) -> Result<Option<Level>, BackupError> {
    if let Some(level) = above.of.get(&resource.name) {
        return Ok(Some(*level));
    }
    let needs = match (&resource.trust, &known.foreign) {
        (Some(_), _) => return Ok(None),
        (None, Some(why)) => why.clone(),
        (None, None) if known.is_elected => return Ok(Some(Level::Embedded)),
        (None, None) => "it has no marks yet, and the gate's own coordinator has held no election for it".to_owned(),
    };
    above.others.map(Some).ok_or_else(|| {
        let name = &resource.name;
        BackupError(format!(
            "resource {name}: {needs}, so only you can say which tokens are new. Say --above {name}=N with a number that no token was above \
             when the gate was stopped (for etcd, its present revision: `etcdctl get x -w json`), or --above {name}=embedded if its \
             leaders are elected by this gate"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Overrides;

    fn token(number: u64) -> Token {
        Token::new(number).unwrap()
    }

    /// One mark, and the last token of the election of its name.
    fn known(mark: u64, last: Option<u64>, floors: &[u64]) -> (Known, Issued) {
        let fence: FenceName = "app".parse().unwrap();
        let last = last.map(|last| (fence.clone(), token(last))).into_iter().collect();
        let issued = Issued { last, floors: floors.iter().map(|floor| token(*floor)).collect() };
        let mut known = Known { is_restored: true, ..Known::default() };
        known.note(&fence, Some(token(mark)), &issued);
        (known, issued)
    }

    fn decided((known, issued): (Known, Issued), trust: Option<&str>, above: &[&str]) -> Result<Levels, String> {
        let trust = trust.map(str::to_owned);
        let overrides = Overrides { sqlite: Some("app.db".into()), trust, ..Overrides::default() };
        let config = Config::without_file(&overrides).unwrap();
        let above = Above::parse(&above.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())?;
        decide(&config, &[known], &issued, &above).map_err(|error| error.0)
    }

    fn levels(known: (Known, Issued), above: &[&str]) -> Result<(Option<u64>, u64), String> {
        let levels = decided(known, None, above)?;
        let level = match levels.of("app").unwrap() {
            Fate::AtLeast(token) => Some(token.get()),
            Fate::Asked => None,
        };
        Ok((level, levels.elections.get()))
    }

    #[test]
    fn tokens_of_its_own_coordinator_jump_and_others_are_asked_for() {
        assert_eq!(levels(known(50, Some(50), &[]), &[]), Ok((Some(50 + MARGIN), 50 + MARGIN)));
        assert_eq!(levels(known(50, Some(57), &[]), &[]), Ok((Some(57 + MARGIN), 57 + MARGIN)));
        let foreign = || known(50, Some(7), &[]);
        assert!(levels(foreign(), &[]).unwrap_err().contains("token 50 of fence app was not issued"));
        assert_eq!(levels(foreign(), &["60"]), Ok((Some(61), 7 + MARGIN)));
        assert_eq!(levels(foreign(), &["app=60", "9"]), Ok((Some(61), 7 + MARGIN)));
        assert_eq!(levels(foreign(), &["embedded"]), Ok((Some(50 + MARGIN), 50 + MARGIN)));
        assert!(levels(foreign(), &["49"]).unwrap_err().contains("too low"));
        assert!(levels((nothing(true), Issued::default()), &[]).unwrap_err().contains("it has no marks yet"));
    }

    fn nothing(is_restored: bool) -> Known {
        Known { is_restored, ..Known::default() }
    }

    #[test]
    fn nobody_is_asked_about_what_stays_as_it_is() {
        let levels = decided((nothing(false), Issued::default()), None, &[]).unwrap();
        assert_eq!((levels.of("app"), levels.elections.get()), (None, MARGIN));
        let wrong = decided((nothing(false), Issued::default()), None, &["app=7"]).unwrap_err();
        assert!(wrong.contains("the backup has no resource of this name"), "{wrong}");
    }

    #[test]
    fn where_the_coordinator_is_asked_no_mark_is_left_and_all_count() {
        let levels = decided(known(57, Some(50), &[]), Some("coordinator"), &[]).unwrap();
        assert_eq!((levels.of("app"), levels.elections.get()), (Some(Fate::Asked), 57 + MARGIN));
        // Whoever knows better may say so.
        let levels = decided(known(57, Some(50), &[]), Some("coordinator"), &["app=60"]).unwrap();
        assert_eq!(levels.of("app"), Some(Fate::AtLeast(token(61))));
    }

    #[test]
    fn a_second_restore_goes_on_from_the_first() {
        assert_eq!(levels(known(MARGIN, Some(57), &[MARGIN]), &[]), Ok((Some(2 * MARGIN), 2 * MARGIN)));
        // Tokens from elsewhere stay such, whatever its own coordinator was raised to.
        assert!(levels(known(50, None, &[MARGIN]), &[]).unwrap_err().contains("was not issued"));
        let (mut elsewhere, issued) = known(61, None, &[MARGIN]);
        elsewhere.note_floor(token(61), &issued);
        assert_eq!(levels((elsewhere, issued), &["70"]), Ok((Some(71), 2 * MARGIN)));
    }

    #[test]
    fn what_is_said_wrongly_is_refused() {
        for (above, says) in [
            (&["x"][..], "is no token"),
            (&["app=0"], "is no token"),
            (&["7", "8"], "was said already"),
            (&["other=7"], "no resource of this name"),
            (&["app=9223372036854775807"], "no token is above"),
        ] {
            let error = levels(known(5, None, &[]), above).unwrap_err();
            assert!(error.contains(says), "{above:?}: {error}");
        }
        let full = known(Token::MAX.get(), Some(Token::MAX.get()), &[]);
        assert!(levels(full, &[]).unwrap_err().contains("not enough above it"));
    }
}
