//! Fences for operators: pages of all, some by name, and what needs attention first. Whatever is asked, the work is bounded: there may
//! be millions.

use std::sync::Arc;

use hyper::StatusCode;
use serde_json::{Value, json};

use crate::access::Who;
use crate::fence::FenceName;
use crate::problem::{Kind, Problem};
use crate::resource::threads::now_ms;
use crate::resource::{FenceInfo, Found, Look, Resource};

use super::console::recent::Knocked;
use super::data::quarantined_until;
use super::respond::{self, Answer, timestamp};
use super::{Gate, guard};

/// Most fences that are named as in need of attention.
const ATTENTION_MAX: usize = 50;

/// One fence as JSON.
pub fn info_json(resource: &dyn Resource, info: &FenceInfo) -> Value {
    json!({
        "fence": info.fence,
        "resource": resource.name(),
        "guarantee": resource.guarantee().as_str(),
        "highest": info.highest,
        "holder": info.holder,
        "advanced_at": info.advanced_at_ms.map(timestamp),
        "in_flight": info.in_flight,
        "quarantined_until": quarantined_until(info.quarantine),
        "refused": info.refused,
        "writes": info.writes,
    })
}

/// A page of the fences that are looked for, in the order of their names. One who may not see all sees those that it may. `next` is where
/// the next page begins; a page can be short, or empty, and have one.
///
/// # Errors
/// A resource that can't be read.
pub async fn page(gate: &Gate, look: &Look, who: Option<&Who>) -> Result<Answer, Problem> {
    let mut all: Vec<(FenceName, Option<Value>)> = Vec::new();
    // What one resource has not been looked through for yet, another one's page must not go beyond.
    let mut end: Option<String> = None;
    for mount in &gate.mounts {
        let (resource, look) = (Arc::clone(&mount.resource), look.clone());
        // It reads a file, and may look through many names.
        let found = tokio::task::spawn_blocking(move || resource.fences(&look)).await;
        let Found { fences, next } = found.map_err(|error| Problem::new(Kind::Internal, error.to_string()))?;
        all.extend(fences.into_iter().map(|info| {
            let is_seen = guard::sees(who, mount.resource.name(), &info.fence);
            (info.fence.clone(), is_seen.then(|| info_json(&*mount.resource, &info)))
        }));
        end = match (end, next) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
    }
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    // A fence that several resources can have is one and the same.
    all.dedup_by(|(one, _), (other, _)| one == other);
    if let Some(end) = &end {
        all.retain(|(fence, _)| fence.as_str() <= end.as_str());
    }
    let next = if all.len() > look.limit { Some(all[look.limit - 1].0.to_string()) } else { end };
    let page: Vec<Value> = all.into_iter().take(look.limit).filter_map(|(_, info)| info).collect();
    Ok(respond::json(StatusCode::OK, &json!({ "fences": page, "next": next, "at": timestamp(now_ms()) })))
}

/// The fences of these names, without those that no resource can have, and those that one may not see.
pub fn named(gate: &Gate, names: &[String], who: Option<&Who>) -> Answer {
    let fences: Vec<Value> = names.iter().filter_map(|name| describe(gate, name, who)).collect();
    respond::json(StatusCode::OK, &json!({ "fences": fences, "next": null, "at": timestamp(now_ms()) }))
}

fn describe(gate: &Gate, name: &str, who: Option<&Who>) -> Option<Value> {
    let mut resources = gate.mounts.iter().map(|mount| &mount.resource);
    let (resource, info) = resources.find_map(|resource| Some((resource, resource.fence(name)?)))?;
    guard::sees(who, resource.name(), name).then(|| info_json(&**resource, &info))
}

/// What an operator wants to know first: how many fences there are, which of them are stuck, and where somebody knocks. For those only
/// who may see all fences.
pub fn overview(gate: &Gate) -> Answer {
    let now = now_ms();
    let (mut fences, mut quarantined, mut attention) = (0, 0, Vec::new());
    let (refused, mut knocked) = gate.recent.knocked(now, ATTENTION_MAX);
    let knocking = knocked.iter().filter(|knocked| knocked.in_minute > 0).count();
    for mount in &gate.mounts {
        let tally = mount.resource.tally();
        fences += tally.fences;
        quarantined += tally.quarantined;
        for info in mount.resource.quarantined(ATTENTION_MAX.saturating_sub(attention.len())) {
            let place = knocked.iter().position(|knocked| knocked.fence == info.fence);
            attention.push((info_json(&*mount.resource, &info), place.map(|place| knocked.remove(place))));
        }
    }
    for knocked in knocked {
        let Some(info) = describe(gate, &knocked.fence, None).filter(|_| attention.len() < ATTENTION_MAX) else {
            continue;
        };
        attention.push((info, Some(knocked)));
    }
    let attention: Vec<Value> = attention
        .into_iter()
        .map(|(mut info, knocked)| {
            info["knocked"] = knocked.map_or(Value::Null, |knocked| knocked_json(&knocked));
            info
        })
        .collect();
    let trouble =
        |mount: &super::Mount| Some(json!({ "resource": mount.resource.name(), "why": mount.resource.trouble()? }));
    respond::json(
        StatusCode::OK,
        &json!({
            "at": timestamp(now),
            "ready": gate.ready.load(std::sync::atomic::Ordering::SeqCst),
            "troubles": gate.mounts.iter().filter_map(trouble).collect::<Vec<Value>>(),
            "fences": fences,
            "quarantined": quarantined,
            "refused_last_minute": refused,
            "fences_refusing": knocking,
            "attention": attention,
        }),
    )
}

fn knocked_json(knocked: &Knocked) -> Value {
    json!({
        "verdict": knocked.verdict,
        "token": knocked.token,
        "holder": knocked.holder,
        "at": timestamp(knocked.at_ms),
        "last_minute": knocked.in_minute,
        "conflict_at": knocked.conflict_at_ms.map(timestamp),
    })
}
