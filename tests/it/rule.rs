//! The core against a plain model: random requests, each with one or several claims.

use std::collections::BTreeMap;

use fencegate::fence::{Claim, FenceName, Holder, Ledger, Mark, Token, Verdict};
use proptest::prelude::*;

/// What the contract's table says, written down as plainly as possible.
#[derive(Default)]
struct Model {
    marks: BTreeMap<String, (u64, Option<String>)>,
}

#[derive(Debug, Clone)]
struct Request(Vec<(String, u64, Option<String>)>);

impl Model {
    fn verdict(&self, fence: &str, token: u64, holder: Option<&str>) -> Verdict {
        let Some((mark, bound)) = self.marks.get(fence) else { return Verdict::Advanced };
        if token < *mark {
            Verdict::Stale
        } else if token > *mark {
            Verdict::Advanced
        } else if bound.is_some() && holder.is_some() && bound.as_deref() != holder {
            Verdict::Conflict
        } else {
            Verdict::Admitted
        }
    }

    /// The verdict that refuses, with its fence; or nothing, and the marks change.
    fn apply(&mut self, request: &Request) -> Option<(String, Verdict)> {
        for (fence, token, holder) in &request.0 {
            let verdict = self.verdict(fence, *token, holder.as_deref());
            if !verdict.admits() {
                return Some((fence.clone(), verdict));
            }
        }
        for (fence, token, holder) in &request.0 {
            let mark = self.marks.entry(fence.clone()).or_insert((0, None));
            if *token > mark.0 {
                *mark = (*token, holder.clone());
            } else if mark.1.is_none() {
                mark.1.clone_from(holder);
            }
        }
        None
    }
}

fn claims(request: &Request) -> Vec<Claim> {
    let claim = |(fence, token, holder): &(String, u64, Option<String>)| Claim {
        fence: fence.parse().expect("a fence name"),
        token: Token::new(*token).expect("a token"),
        holder: holder.as_deref().map(|holder| holder.parse().expect("a holder")),
    };
    request.0.iter().map(claim).collect()
}

fn requests() -> impl Strategy<Value = Vec<Request>> {
    let holder = proptest::option::of(prop_oneof![Just("a".to_owned()), Just("b".to_owned())]);
    let token = prop_oneof![4 => 1..8_u64, 1 => Just(i64::MAX as u64)];
    let claims = proptest::collection::btree_map("[x-z]", (token, holder), 1..4);
    let request = claims.prop_map(|claims| Request(claims.into_iter().map(|(f, (t, h))| (f, t, h)).collect()));
    proptest::collection::vec(request, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_core_decides_as_the_contract_says(requests in requests()) {
        let (mut model, mut ledger) = (Model::default(), Ledger::default());
        let mut tops: BTreeMap<String, u64> = BTreeMap::new();
        for request in &requests {
            let (expected, got) = (model.apply(request), ledger.admit(&claims(request)));
            match (&expected, &got) {
                (None, Ok(_)) => {}
                (Some((fence, verdict)), Err(refusal)) => {
                    prop_assert_eq!(fence.as_str(), refusal.fence.as_str());
                    prop_assert_eq!(*verdict, refusal.verdict);
                }
                _ => prop_assert!(false, "expected {:?}, got {:?}", expected, got),
            }
            for (fence, mark) in &model.marks {
                let held = ledger.get(fence).expect("the ledger has what the model has");
                prop_assert_eq!(held.token.get(), mark.0);
                prop_assert_eq!(held.holder.as_ref().map(Holder::to_string), mark.1.clone());
                let top = tops.entry(fence.clone()).or_default();
                prop_assert!(held.token.get() >= *top, "a mark went down");
                *top = held.token.get();
            }
        }
    }

    #[test]
    fn what_could_not_be_committed_is_taken_back_exactly(requests in requests(), kept in 0..60_usize) {
        let mut ledger = Ledger::default();
        let mut before = Vec::new();
        let mut undo = Vec::new();
        for (index, request) in requests.iter().enumerate() {
            let admitted = ledger.admit(&claims(request));
            if index < kept {
                before = marks(&ledger);
            } else {
                undo.extend(admitted);
            }
        }
        undo.iter().rev().for_each(|admission| ledger.undo(admission));
        if kept > 0 {
            prop_assert_eq!(marks(&ledger), before);
        } else {
            prop_assert!(marks(&ledger).is_empty());
        }
    }
}

fn marks(ledger: &Ledger) -> Vec<(FenceName, Mark)> {
    let mut marks: Vec<_> = ledger.iter().map(|(fence, mark)| (fence.clone(), mark.clone())).collect();
    marks.sort_by(|(one, _), (other, _)| one.cmp(other));
    marks
}
