//! Whether coordinators are reached, and whether marks are ahead of them.

use std::net::ToSocketAddrs as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use crate::backup::learn::each_mark;
use crate::cli::failure::Failure;
use crate::config::{Config, CoordinatorConfig, KindConfig, ResourceConfig};
use crate::coordinator::Coordinator as _;
use crate::coordinator::etcd::{Etcd, Options};
use crate::fence::{FenceName, Token};
use crate::resource::http::store::FILE_NAME as FENCES;
use crate::resource::sqlite::db::{Access, connect};
use crate::trust::Elections;

use super::finding::Report;
use super::{clock, upstream};

/// How many fences are named, and asked about one by one.
const FENCES_MAX: usize = 100;

/// Checks every coordinator. `issuer`: the one of resources that don't ask.
///
/// # Errors
/// An issuer that is none.
pub fn check(config: &Config, issuer: Option<&str>, report: &mut Report) -> Result<(), Failure> {
    let issuer = issuer
        .map(|text| Options::parse(text).map_err(|error| Failure::Usage(format!("--issuer: {error}"))))
        .transpose()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    for resource in &config.resources {
        let (options, elections) = match resource.trust.as_ref().map(|trust| (&trust.coordinator, &trust.elections)) {
            Some((CoordinatorConfig::Etcd(options), elections)) => (&**options, Some(elections)),
            Some((CoordinatorConfig::Embedded, _)) => {
                report.good(
                    "coordinator",
                    format!("resource {}", resource.name),
                    "the gate's own coordinator is asked, which knows the marks",
                );
                continue;
            }
            None => match &issuer {
                Some(options) => (options, None),
                None => continue,
            },
        };
        runtime.block_on(ask(config, resource, options, elections, report));
    }
    Ok(())
}

async fn ask(
    config: &Config,
    resource: &ResourceConfig,
    options: &Options,
    elections: Option<&Elections>,
    report: &mut Report,
) {
    const CHECK: &str = "coordinator";
    let subject = format!("coordinator of {} ({options})", resource.name);
    let etcd = match Etcd::open(options) {
        Ok(etcd) => etcd,
        Err(error) => {
            return report.problem(CHECK, subject, error.to_string(), "mend the address, or the file that it names");
        }
    };
    let revision = match etcd.revision().await {
        Ok(revision) => revision,
        Err(error) => {
            let advice = "start it, or mend the address; until then no new leader gets in where the gate asks it";
            return report.problem(CHECK, subject, format!("it isn't reached ({error})"), advice);
        }
    };
    report.good(CHECK, &subject, format!("it is reached, at revision {revision}"));
    wall_clock(&subject, options, report);
    let marks = match marks(config, resource) {
        Ok(marks) => marks,
        Err(why) => {
            return report.unknown(
                "marks",
                format!("marks of {}", resource.name),
                format!("they can't be read ({why})"),
            );
        }
    };
    ahead(&resource.name, &marks, revision, report);
    behind(&resource.name, &marks, &etcd, elections, report).await;
}

/// Every fence of a resource that has a mark.
fn marks(config: &Config, resource: &ResourceConfig) -> Result<Vec<(FenceName, Token)>, String> {
    let mut marks = Vec::new();
    let mut read = |file: &Path, table: &str, owns: &dyn Fn(&FenceName) -> bool| -> Result<(), String> {
        if !file.try_exists().map_err(|error| error.to_string())? {
            return Ok(());
        }
        let conn: Connection = connect(file, Access::Read, Duration::from_secs(1)).map_err(|error| error.message)?;
        let each = |fence: &FenceName, mark: Option<Token>| {
            marks.extend(mark.filter(|_| owns(fence)).map(|mark| (fence.clone(), mark)))
        };
        each_mark(&conn, table, each).map_err(|error| error.to_string())
    };
    match &resource.kind {
        KindConfig::Sqlite(sqlite) => read(&sqlite.file, "fencegate_marks", &|_| true)?,
        KindConfig::Http(http) => read(&config.data_dir.join(FENCES), "mark", &|fence| http.fence.owns(fence))?,
    }
    marks.sort_by_key(|(_, mark)| std::cmp::Reverse(*mark));
    Ok(marks)
}

/// Marks above the next token that etcd can give: it was restored, or made anew. A mark that equals that one is in nobody's way:
/// `fencegate restore` leaves such behind.
fn ahead(name: &str, marks: &[(FenceName, Token)], revision: Token, report: &mut Report) {
    const CHECK: &str = "marks";
    let subject = format!("marks of {name}");
    let ahead: Vec<_> = marks.iter().take_while(|(_, mark)| revision.next().is_some_and(|next| *mark > next)).collect();
    let Some((fence, mark)) = ahead.first() else {
        return report.good(CHECK, subject, format!("none of {} is ahead of the coordinator", marks.len()));
    };
    let more = if ahead.len() > 1 { format!(" (and {} more fences)", ahead.len() - 1) } else { String::new() };
    report.problem(
        CHECK,
        subject,
        format!(
            "the mark of fence {fence} is {mark}{more}, and the coordinator is only at {revision}, as after it was restored from a backup: every new \
             leader is refused"
        ),
        format!(
            "first end all leaders of before the restore; then raise the coordinator's revision above {mark}, or lower the mark to just below the \
             token that leads: fencegate fences reset {fence} --to N --reason TEXT (docs/etcd.md, \"Restored from a backup\")"
        ),
    );
}

/// Leaders whose own token is below the mark, though it may be below the revision.
async fn behind(
    name: &str,
    marks: &[(FenceName, Token)],
    etcd: &Etcd,
    elections: Option<&Elections>,
    report: &mut Report,
) {
    const CHECK: &str = "leaders";
    let subject = format!("leaders of {name}");
    let mut shut_out = Vec::new();
    for (fence, mark) in marks.iter().take(FENCES_MAX) {
        let election = match elections {
            Some(elections) => elections.election(fence),
            None => Some(fence.clone()),
        };
        let Some(election) = election else { continue };
        match etcd.leader(&election).await {
            Ok(Some(leader)) if leader.token < *mark => {
                shut_out
                    .push(format!("token {} leads {election}, and the mark of fence {fence} is {mark}", leader.token));
            }
            Ok(_) => {}
            Err(error) => return report.unknown(CHECK, subject, format!("who leads can't be read ({error})")),
        }
    }
    match shut_out.first() {
        None => report.good(CHECK, subject, "nobody who leads is shut out"),
        Some(first) => report.problem(
            CHECK,
            subject,
            format!("{first}: whoever leads is refused ({} such)", shut_out.len()),
            "somebody has claimed a token that the coordinator didn't give, or it was restored: see the history (fencegate fences history FENCE), and reset the \
             mark to just below the token that leads",
        ),
    }
}

/// Compares clocks with the first member, which says its time where it is asked without TLS.
fn wall_clock(subject: &str, options: &Options, report: &mut Report) {
    let Some(member) = options.members.first().filter(|_| options.tls.is_none()) else { return };
    let Ok(addresses) = member.to_socket_addrs() else { return };
    let sent = SystemTime::now();
    let request = format!("GET /version HTTP/1.1\r\nhost: {member}\r\nconnection: close\r\n\r\n");
    let Ok(answer) = upstream::ask(&addresses.collect::<Vec<_>>(), &request) else { return };
    if let Some(date) = upstream::date(&answer) {
        clock::compare(subject, date, sent, report);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::finding::Level;

    #[test]
    fn a_mark_is_ahead_where_the_next_token_is_below_it() {
        let token = |number| Token::new(number).unwrap();
        let level = |mark| {
            let mut report = Report::default();
            ahead("app", &[("app".parse().unwrap(), token(mark))], token(50), &mut report);
            report.findings[0].level
        };
        assert_eq!(level(50), Level::Good);
        // As `fencegate restore --above 50` leaves it.
        assert_eq!(level(51), Level::Good);
        assert_eq!(level(52), Level::Problem);
    }
}
