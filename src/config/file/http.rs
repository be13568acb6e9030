//! What the file says of an HTTP resource.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use serde_spanned::Spanned;

use crate::config::limits::duration;
use crate::config::{DRAIN_DEFAULT, HttpConfig, SETTLE_DEFAULT};
use crate::fence::drain::OnUnknown;
use crate::resource::http::{Limits, Protocol, Rules, Template, Upstream};

use super::{ConfigError, ResourceToml, Source, about};

/// Understands one `[[resource]]` of kind `http`.
///
/// # Errors
/// [`ConfigError`].
pub fn resource(
    source: &Source<'_>,
    folder: &Path,
    item: &ResourceToml,
    span: Range<usize>,
) -> Result<HttpConfig, ConfigError> {
    let wrong = |span: Range<usize>, what: &str| source.at(span, about(item, what));
    let Some(upstream) = &item.upstream else {
        let what = "upstream is missing: the service's address, such as upstream = \"http://127.0.0.1:9000\"";
        return Err(wrong(span, what));
    };
    let protocol = match &item.protocol {
        None => Protocol::Auto,
        Some(given) => match given.get_ref().as_str() {
            "auto" => Protocol::Auto,
            "http1" => Protocol::Http1,
            "http2" => Protocol::Http2,
            other => {
                let what = format!("protocol {other:?} is not known; write \"auto\", \"http1\" or \"http2\"");
                return Err(wrong(given.span(), &what));
            }
        },
    };
    let ca = item.ca.as_ref().map(|ca| folder.join(ca.get_ref()));
    let upstream = source.parse(upstream, |text| {
        Upstream::parse(text, protocol, ca.as_deref()).map_err(|why| about(item, &format!("upstream {text:?}: {why}")))
    })?;
    let lower = match &item.case {
        None => false,
        Some(given) => match given.get_ref().as_str() {
            "exact" => false,
            "lower" => true,
            other => {
                let what = format!("case {other:?} is not known; write \"exact\" or \"lower\"");
                return Err(wrong(given.span(), &what));
            }
        },
    };
    let fence = source.parse(item.fence.as_ref().unwrap_or(&item.name), |text| {
        Template::parse_with(text, lower).map_err(|why| about(item, &format!("fence {text:?}: {why}")))
    })?;
    let (drain, settle) = (time(source, item, &item.drain)?, time(source, item, &item.settle)?);
    let mut limits = Limits::default();
    limits.connect_time = time(source, item, &item.connect_time)?.unwrap_or(limits.connect_time);
    limits.name_time = time(source, item, &item.name_time)?.unwrap_or(limits.name_time);
    limits.answer_time = time(source, item, &item.answer_time)?.unwrap_or(limits.answer_time);
    Ok(HttpConfig {
        upstream,
        fence,
        rules: rules(source, item)?,
        drain: drain.unwrap_or(DRAIN_DEFAULT),
        settle: settle.unwrap_or(SETTLE_DEFAULT),
        on_unknown: on_unknown(source, item)?,
        limits,
    })
}

fn time(
    source: &Source<'_>,
    item: &ResourceToml,
    given: &Option<Spanned<toml::Value>>,
) -> Result<Option<Duration>, ConfigError> {
    let Some(given) = given else { return Ok(None) };
    duration(given.get_ref()).map(Some).map_err(|why| source.at(given.span(), about(item, &why)))
}

fn on_unknown(source: &Source<'_>, item: &ResourceToml) -> Result<OnUnknown, ConfigError> {
    let Some(given) = &item.on_unknown else { return Ok(OnUnknown::Wait) };
    source.parse(given, |text| match text {
        "wait" => Ok(OnUnknown::Wait),
        "hold" => Ok(OnUnknown::Hold),
        "proceed" => Ok(OnUnknown::Proceed),
        other => {
            let what = format!("on_unknown {other:?} is not known; write \"wait\", \"hold\" or \"proceed\"");
            Err(about(item, &what))
        }
    })
}

fn rules(source: &Source<'_>, item: &ResourceToml) -> Result<Rules, ConfigError> {
    let list =
        |given: &Option<Spanned<Vec<String>>>| given.as_ref().map(|given| given.get_ref().clone()).unwrap_or_default();
    let (reads, writes) = (list(&item.reads), list(&item.writes));
    // Each list by itself first, so that a mistake is told where it stands.
    for (given, reads, writes) in [(&item.reads, &reads[..], &[][..]), (&item.writes, &[][..], &writes[..])] {
        if let (Some(given), Err(why)) = (given, Rules::parse(reads, writes)) {
            return Err(source.at(given.span(), about(item, &why)));
        }
    }
    Rules::parse(&reads, &writes).map_err(|why| source.at(item.name.span(), about(item, &why)))
}
