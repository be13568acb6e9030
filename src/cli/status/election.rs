//! `fencegate status --election`: who leads by the coordinator, and what the gate has admitted.

use std::io::Write;
use std::time::Duration;

use serde_json::{Value, json};

use super::super::failure::Failure;
use super::super::http::{Endpoint, segment};
use crate::coordinator::any::AnyCoordinator;
use crate::coordinator::{Coordinator, CoordinatorError, Leader, View};
use crate::endpoint::Identity;
use crate::fence::{FenceName, Token};

/// What to show, and where it is.
pub struct Wanted<'a> {
    /// The election.
    pub election: &'a FenceName,
    /// The coordinator's address.
    pub coordinator: &'a str,
    /// The gate's.
    pub gate: &'a str,
    /// The fence at the gate.
    pub fence: &'a FenceName,
    /// Who one is to both.
    pub identity: &'a Identity,
}

/// The fence as its gate has it.
struct Mark {
    token: Option<Token>,
    holder: Option<String>,
}

/// How the leader's token stands to the mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Nobody leads.
    Vacant,
    /// They are the same.
    Agreed,
    /// The leader hasn't claimed the fence.
    Unclaimed,
    /// The mark is above the leader's token.
    Stale,
    /// The mark is the leader's token, in another name.
    Conflict,
}

/// Shows it.
///
/// # Errors
/// [`Failure::Unreachable`] for the coordinator at once, for the gate after the election was shown.
pub fn show(wanted: &Wanted<'_>, as_json: bool, out: &mut dyn Write) -> Result<(), Failure> {
    let view = view(wanted)?;
    let mark = mark(wanted);
    let standing = mark.as_ref().ok().map(|mark| standing(view.leader.as_ref(), mark));
    if as_json {
        writeln!(out, "{}", object(wanted, &view, mark.as_ref().ok(), standing))?;
    } else {
        sentences(wanted, &view, mark.as_ref().ok(), standing, out)?;
    }
    mark.map(drop)
}

fn view(wanted: &Wanted<'_>) -> Result<View, Failure> {
    let usage = |error| Failure::Usage(format!("--coordinator {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Opened inside, since connections belong to the runtime that they are opened in.
    let view = runtime.block_on(async {
        let coordinator = AnyCoordinator::open_as(wanted.coordinator, wanted.identity).map_err(usage)?;
        Ok::<_, Failure>(coordinator.view(wanted.election).await)
    });
    view?.map_err(|error| match error {
        CoordinatorError::Denied(_) => Failure::Refused(error.to_string()),
        error => Failure::Unreachable(error.to_string()),
    })
}

fn mark(wanted: &Wanted<'_>) -> Result<Mark, Failure> {
    let fence =
        Endpoint::open(wanted.gate, "--gate", wanted.identity)?.get(&format!("/-/fences/{}", segment(wanted.fence)))?;
    Ok(Mark {
        token: fence["highest"].as_str().and_then(|text| text.parse().ok()),
        holder: fence["holder"].as_str().map(str::to_owned),
    })
}

fn standing(leader: Option<&Leader>, mark: &Mark) -> Standing {
    let Some(leader) = leader else { return Standing::Vacant };
    match mark.token.map(|token| token.cmp(&leader.token)) {
        None | Some(std::cmp::Ordering::Less) => Standing::Unclaimed,
        Some(std::cmp::Ordering::Greater) => Standing::Stale,
        Some(std::cmp::Ordering::Equal) => match (&leader.holder, &mark.holder) {
            (Some(leader), Some(holder)) if leader.as_str() != holder => Standing::Conflict,
            _ => Standing::Agreed,
        },
    }
}

fn object(wanted: &Wanted<'_>, view: &View, mark: Option<&Mark>, standing: Option<Standing>) -> Value {
    let ttl_left_ms = view.ttl_left.map(|left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
    let leader = view
        .leader
        .as_ref()
        .map(|leader| json!({ "token": leader.token, "holder": leader.holder, "ttl_left_ms": ttl_left_ms }));
    let standing = standing.map(|standing| match standing {
        Standing::Vacant => "vacant",
        Standing::Agreed => "agreed",
        Standing::Unclaimed => "unclaimed",
        Standing::Stale => "stale",
        Standing::Conflict => "conflict",
    });
    let mark = mark.map(|mark| json!({ "fence": wanted.fence, "highest": mark.token, "holder": mark.holder }));
    json!({
        "election": wanted.election, "leader": leader, "waiting": view.waiting, "waiting_count": view.waiting_count,
        "mark": mark, "standing": standing,
    })
}

fn sentences(
    wanted: &Wanted<'_>,
    view: &View,
    mark: Option<&Mark>,
    standing: Option<Standing>,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    let Wanted { election, coordinator, gate, fence, .. } = wanted;
    let name = |holder: Option<&str>| holder.unwrap_or("(without a name)").to_owned();
    writeln!(out, "election {election} at {coordinator}")?;
    match &view.leader {
        None => writeln!(out, "  leader   nobody")?,
        Some(leader) => {
            // To a tenth of a second, which is finer than anything that it is good for.
            let left = |left: Duration| Duration::from_millis(u64::try_from(left.as_millis()).unwrap_or(0) / 100 * 100);
            let left =
                view.ttl_left.map(|time| format!(", {} left of its lease", humantime::format_duration(left(time))));
            let holder = name(leader.holder.as_deref());
            writeln!(out, "  leader   {holder}, token {}{}", leader.token, left.unwrap_or_default())?;
        }
    }
    let waiting: Vec<String> = view.waiting.iter().map(|holder| name(holder.as_deref())).collect();
    let more = view.waiting_count.saturating_sub(waiting.len());
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    writeln!(out, "  waiting  {}", if waiting.is_empty() { "nobody".into() } else { waiting.join(", ") + &more })?;
    let Some(mark) = mark else { return Ok(()) };
    let highest = mark.token.map_or("none yet".to_owned(), |token| match &mark.holder {
        Some(holder) => format!("{token}, of {holder}"),
        None => token.to_string(),
    });
    writeln!(out, "  mark     {highest} (fence {fence} at {gate})")?;
    let word = match standing {
        None | Some(Standing::Vacant | Standing::Agreed) => return Ok(()),
        Some(Standing::Unclaimed) => {
            "the leader has not claimed the fence yet: until it does, a predecessor with the mark's token can still write"
        }
        Some(Standing::Stale) => {
            "the gate has admitted a higher token than the leader's, and refuses it: somebody else gives out tokens for this fence, one was \
             claimed by mistake, or the coordinator went back in time. `fencegate fences history` shows who did it; `fencegate fences \
             reset` is the way out"
        }
        Some(Standing::Conflict) => "the gate knows this token by another holder's name: two present one token",
    };
    Ok(writeln!(out, "  DISAGREE {word}")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_they_stand() {
        let leader = |holder: Option<&str>| Leader {
            token: Token::new(7).unwrap(),
            holder: holder.map(|holder| holder.parse().unwrap()),
        };
        let mark = |token: Option<u64>, holder: Option<&str>| Mark {
            token: token.map(|token| Token::new(token).unwrap()),
            holder: holder.map(str::to_owned),
        };
        let led = leader(Some("a"));
        for (mark, expected) in [
            (mark(None, None), Standing::Unclaimed),
            (mark(Some(6), Some("b")), Standing::Unclaimed),
            (mark(Some(7), Some("a")), Standing::Agreed),
            (mark(Some(7), None), Standing::Agreed),
            (mark(Some(7), Some("b")), Standing::Conflict),
            (mark(Some(8), Some("a")), Standing::Stale),
        ] {
            assert_eq!(standing(Some(&led), &mark), expected);
        }
        assert_eq!(standing(Some(&leader(None)), &mark(Some(7), Some("b"))), Standing::Agreed);
        assert_eq!(standing(None, &mark(Some(7), None)), Standing::Vacant);
    }
}
