//! Which election issues a fence's tokens: its name is made from the fence's name alone, and the other way round.
//!
//! A claim names a fence and nothing else, so that the path of a request can't be part of it. And within one resource no two fences
//! share an election: fences of one resource are there to keep lines of leaders apart, and whoever leads that one election could
//! depose the leader of either. Several *resources* may name one election: then one leader writes to all of them, with one token.

use std::fmt;

use crate::coordinator::Followed;
use crate::fence::FenceName;
use crate::fence::name::is_fence_byte;
use crate::resource::http::Template;

/// The placeholder for the fence's whole name.
const FENCE: &str = "{fence}";

/// The fences of a resource, as its configuration has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fences {
    /// These, and no others.
    Known(Vec<FenceName>),
    /// Those that paths yield.
    Made(Template),
}

/// From a fence to its election and back.
///
/// **Invariant.** Both ways are functions, and one is the other's inverse: a fence has one election, an election at most one fence
/// of this resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Elections {
    text: String,
    fences: Fences,
    way: Way,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    /// The fence's name between two texts.
    Around(String, String),
    /// Made of the same segments as the fence's name.
    Segments(Template),
    /// Of the one fence.
    Fixed(FenceName),
}

impl Elections {
    /// Each fence's election has the fence's own name.
    pub fn of_same_name(fences: Fences) -> Elections {
        Elections { text: FENCE.to_owned(), fences, way: Way::Around(String::new(), String::new()) }
    }

    /// Reads what a configuration says: a text in which `{fence}` stands for the fence's name and, where names of fences are made
    /// from paths, `{n}` for the n-th segment of the path that the fence's name has, too.
    ///
    /// # Errors
    /// What is wrong with it: above all, where the election doesn't follow from the fence alone, or two fences would share one.
    pub fn parse(text: &str, fences: Fences) -> Result<Elections, String> {
        let way = match text.split_once(FENCE) {
            Some((before, after)) => around(text, before, after, &fences)?,
            None => match &fences {
                Fences::Known(names) => known(text, names)?,
                Fences::Made(template) => made(text, template)?,
            },
        };
        Ok(Elections { text: text.to_owned(), fences, way })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The election of a fence. `None`: its name would be too long, so that nobody can ever be elected.
    pub fn election(&self, fence: &FenceName) -> Option<FenceName> {
        match (&self.way, &self.fences) {
            (Way::Around(before, after), _) if before.is_empty() && after.is_empty() => Some(fence.clone()),
            (Way::Around(before, after), _) => format!("{before}{fence}{after}").parse().ok(),
            (Way::Fixed(election), _) => Some(election.clone()),
            (Way::Segments(election), Fences::Made(template)) => election.together(&template.apart(fence)?),
            (Way::Segments(_), Fences::Known(_)) => None,
        }
    }

    /// The fence that an election is for. `None`: no fence here is.
    pub fn fence(&self, election: &FenceName) -> Option<FenceName> {
        let fence = match (&self.way, &self.fences) {
            (Way::Around(before, after), _) => {
                election.strip_prefix(&**before)?.strip_suffix(&**after)?.parse().ok()?
            }
            (Way::Fixed(own), Fences::Known(names)) => names.first().filter(|_| own == election)?.clone(),
            (Way::Fixed(own), Fences::Made(template)) => template.fixed().filter(|_| own == election)?.clone(),
            (Way::Segments(own), Fences::Made(template)) => template.together(&own.apart(election)?)?,
            (Way::Segments(_), Fences::Known(_)) => return None,
        };
        let is_ours = match &self.fences {
            Fences::Known(names) => names.contains(&fence),
            Fences::Made(template) => template.owns(&fence),
        };
        is_ours.then_some(fence)
    }

    /// Adds the elections of these fences to those that are followed.
    pub fn follow(&self, followed: &mut Followed) {
        let known = match &self.fences {
            Fences::Known(names) => names.as_slice(),
            Fences::Made(template) => template.fixed().map(std::slice::from_ref).unwrap_or_default(),
        };
        if !known.is_empty() {
            return followed.names.extend(known.iter().filter_map(|fence| self.election(fence)));
        }
        let prefix = match (&self.way, &self.fences) {
            (Way::Segments(election), _) => election.prefix().to_owned(),
            (Way::Around(before, _), Fences::Made(template)) => format!("{before}{}", template.prefix()),
            (Way::Around(before, _), Fences::Known(_)) => before.clone(),
            (Way::Fixed(election), _) => election.to_string(),
        };
        followed.prefixes.push(prefix);
    }
}

impl fmt::Display for Elections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn around(text: &str, before: &str, after: &str, fences: &Fences) -> Result<Way, String> {
    if !before.bytes().chain(after.bytes()).all(is_fence_byte) {
        return Err(format!(
            "besides {FENCE}, which can stand in it once, an election's name has only A-Z a-z 0-9 . _ : @ / and -"
        ));
    }
    if let Fences::Known(names) = fences {
        for fence in names {
            let name = text.replace(FENCE, fence);
            name.parse::<FenceName>().map_err(|error| format!("fence {fence}: {error}"))?;
        }
    }
    Ok(Way::Around(before.to_owned(), after.to_owned()))
}

fn known(text: &str, names: &[FenceName]) -> Result<Way, String> {
    if text.contains('{') {
        return Err(format!("the fences of a database come from no path; {FENCE} stands for the fence's name"));
    }
    let election = text.parse().map_err(|error| format!("{error}; {FENCE} stands for the fence's name"))?;
    match names {
        [_] => Ok(Way::Fixed(election)),
        _ => {
            let all = names.iter().map(|name| name.as_str()).collect::<Vec<_>>().join(", ");
            Err(format!("the fences {all} would share this election; write {FENCE} into it"))
        }
    }
}

fn made(text: &str, template: &Template) -> Result<Way, String> {
    let election = Template::parse(text)?;
    let (of_fence, of_election) = (template.segments(), election.segments());
    if let Some(other) = of_election.iter().find(|number| !of_fence.contains(number)) {
        return Err(format!(
            "a claim names a fence, and {{{other}}} can't be told from a fence such as {template}; use its segments, or {FENCE}"
        ));
    }
    if let Some(lost) = of_fence.iter().find(|number| !of_election.contains(number)) {
        return Err(format!(
            "fences that differ in {{{lost}}} would share this election; write {{{lost}}} or {FENCE} into it"
        ));
    }
    if let Some(name) = election.fixed() {
        return Ok(Way::Fixed(name.clone()));
    }
    for (what, template) in [("a fence", template), ("an election", &election)] {
        if !template.is_unambiguous() {
            return Err(format!(
                "{what} such as {template} can be taken apart in several ways, so that it isn't certain which election is which \
                 fence's; put a / between its segments, or use {FENCE}"
            ));
        }
    }
    Ok(Way::Segments(election))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> FenceName {
        text.parse().unwrap()
    }

    fn made(template: &str) -> Fences {
        Fences::Made(Template::parse(template).unwrap())
    }

    fn known(names: &[&str]) -> Fences {
        Fences::Known(names.iter().map(|text| name(text)).collect())
    }

    #[test]
    fn there_and_back() {
        for (text, fences, fence, election) in [
            ("{fence}", known(&["shop", "jobs"]), "jobs", "jobs"),
            ("prod/{fence}/x", known(&["shop", "jobs"]), "shop", "prod/shop/x"),
            ("orders", known(&["shop"]), "shop", "orders"),
            ("{fence}", made("{1}:{2}"), "a:b:c", "a:b:c"),
            ("e/{fence}", made("stock/{1}"), "stock/7", "e/stock/7"),
            ("warehouse-{1}", made("stock/{1}"), "stock/7", "warehouse-7"),
            ("{2}/of/{1}", made("x{1}/{2}y"), "xa/by", "b/of/a"),
            ("inventory", made("stock"), "stock", "inventory"),
        ] {
            let elections = Elections::parse(text, fences.clone()).unwrap();
            assert_eq!(elections.election(&name(fence)).as_deref(), Some(election), "{text}");
            assert_eq!(elections.fence(&name(election)).as_deref(), Some(fence), "{text}");
            let mut followed = Followed::default();
            elections.follow(&mut followed);
            assert!(followed.has(election), "{text}: {followed:?}");
            assert_eq!(elections.fence(&name("nobodys")), None, "{text}");
        }
        let far = Elections::parse("prod/{fence}", made("{1}")).unwrap();
        assert_eq!(far.election(&name(&"x".repeat(255))), None, "longer than a name can be");
        let lower = Fences::Made(Template::parse_with("stock/{1}", true).unwrap());
        assert_eq!(Elections::of_same_name(lower).fence(&name("stock/A")), None, "no fence is called so");
    }

    #[test]
    fn what_would_be_ambiguous_is_refused() {
        for (text, fences, why) in [
            ("", known(&["shop"]), "empty"),
            ("a b", known(&["shop"]), "has only"),
            ("{1}", known(&["shop"]), "come from no path"),
            ("{shop}", known(&["shop"]), "come from no path"),
            ("orders", known(&["shop", "jobs"]), "shop, jobs would share"),
            ("{fence}{fence}", known(&["shop"]), "once"),
            ("{fence}-{1}", made("stock/{1}"), "once"),
            ("stock/{2}", made("stock/{1}"), "can't be told from a fence"),
            ("stock", made("stock/{1}"), "would share this election"),
            ("e/{2}", made("{1}/{2}"), "differ in {1} would share"),
            ("{1}:{2}", made("{1}/{2}"), "an election such as {1}:{2} can be taken apart"),
            ("{1}/{2}", made("{1}:{2}"), "a fence such as {1}:{2} can be taken apart"),
            ("{1}", made("stock"), "can't be told from a fence"),
        ] {
            let error = Elections::parse(text, fences).expect_err(text);
            assert!(error.contains(why), "{text}: {error}");
        }
        let long = known(&["x", &"y".repeat(255)]);
        assert!(Elections::parse("e/{fence}", long).unwrap_err().contains("a name has 1 to 255 bytes"));
    }

    proptest! {
        #[test]
        fn no_two_fences_share_an_election(
            fence in "[a/]{0,2}(\\{1\\})?[b/:]{0,2}(\\{2\\})?", election in "[a/]{0,2}(\\{2\\})?[b/:]{0,2}(\\{1\\})?",
            one in "[abx/:]{1,6}", other in "[abx/:]{1,6}",
        ) {
            let Ok(template) = Template::parse(&fence) else { return Ok(()) };
            let Ok(elections) = Elections::parse(&election, Fences::Made(template.clone())) else { return Ok(()) };
            for name in [&one, &other] {
                if template.owns(name) && let Some(election) = elections.election(&name.parse().unwrap()) {
                    let back = elections.fence(&election).map(|fence| fence.to_string());
                    prop_assert_eq!(back.as_ref(), Some(name));
                }
            }
        }
    }
}
