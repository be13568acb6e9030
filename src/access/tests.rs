use hyper::header::{AUTHORIZATION, HeaderValue};

use super::*;

const ZERO: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

fn principal(name: &str, proof: Proof) -> Principal {
    Principal { name: name.to_owned(), proof, grants: Vec::new() }
}

fn access() -> Access {
    let secret = Secret::from_bytes(&[0; 32]).unwrap().hash();
    let node = Proof::Certificate("dns:node-a".to_owned());
    Access::new(vec![principal("worker", Proof::Secret(secret)), principal("node", node)]).unwrap()
}

fn who(access: &Access, authorization: &str, names: &[&str]) -> Result<String, Kind> {
    let mut headers = HeaderMap::new();
    for value in authorization.split('|').filter(|value| !value.is_empty()) {
        headers.append(AUTHORIZATION, HeaderValue::from_str(value).unwrap());
    }
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    access.identify(&headers, &names).map(|who| who.to_string()).map_err(|problem| problem.kind)
}

#[test]
fn who_it_is() {
    let access = access();
    let worker = Ok("principal \"worker\"".to_owned());
    let node = Ok("principal \"node\"".to_owned());
    for (authorization, names, expected) in [
        (format!("Bearer fgs.{ZERO}"), &[][..], worker.clone()),
        (format!("bearer  fgs.{ZERO}"), &[], worker.clone()),
        (format!("Bearer fgt.7..{ZERO}"), &[], worker.clone()),
        (format!("Bearer fgt.7.bm9kZS1h.{ZERO}"), &[], worker.clone()),
        // Whoever shows a secret is who has it, whatever the connection says.
        (format!("Bearer fgs.{ZERO}"), &["dns:node-a"], worker),
        (format!("Bearer fgs.{}B{}", &ZERO[..1], &ZERO[2..]), &["dns:node-a"], Err(Kind::Unauthenticated)),
        (format!("Bearer fgs.{}", &ZERO[1..]), &["dns:node-a"], Err(Kind::Unauthenticated)),
        ("Bearer fgs.hunter2".to_owned(), &["dns:node-a"], Err(Kind::Unauthenticated)),
        ("Bearer fgt.7..aHVudGVyMg".to_owned(), &["dns:node-a"], Err(Kind::Unauthenticated)),
        (String::new(), &["cn:node-a", "dns:node-a"], node.clone()),
        ("Bearer fgt.7".to_owned(), &["dns:node-a"], node.clone()),
        ("Bearer of-the-upstream".to_owned(), &["dns:node-a"], node),
        (String::new(), &["cn:node-a", "dns:node-b"], Err(Kind::Unauthenticated)),
        (String::new(), &[], Err(Kind::Unauthenticated)),
        ("Bearer fgt.7".to_owned(), &[], Err(Kind::Unauthenticated)),
        ("Bearer of-the-upstream".to_owned(), &[], Err(Kind::Unauthenticated)),
        ("Bearer fgt.07".to_owned(), &[], Err(Kind::TokenMalformed)),
        (format!("Bearer fgs.{ZERO}|Bearer fgs.{ZERO}"), &[], Err(Kind::TokenMalformed)),
        (ZERO.to_owned(), &[], Err(Kind::Unauthenticated)),
    ] {
        assert_eq!(who(&access, &authorization, names), expected, "{authorization} {names:?}");
    }
}

/// A browser keeps a password, and adds it by itself to whatever another site's page asks for.
#[test]
fn passwords_are_nobody() {
    use base64::Engine as _;
    let password = base64::engine::general_purpose::STANDARD.encode(format!("anybody:fgs.{ZERO}"));
    assert_eq!(who(&access(), &format!("Basic {password}"), &[]), Err(Kind::Unauthenticated));
}

#[test]
fn anonymous_is_whoever_shows_nothing() {
    let hash = Secret::from_bytes(&[0; 32]).unwrap().hash();
    let both = vec![principal("anyone", Proof::Anonymous), principal("worker", Proof::Secret(hash))];
    let access = Access::new(both).unwrap();
    let anyone = Ok("principal \"anyone\"".to_owned());
    for authorization in ["", "Bearer fgt.7", "Basic eDp5"] {
        assert_eq!(who(&access, authorization, &[]), anyone, "{authorization}");
    }
    assert_eq!(who(&access, &format!("Bearer fgs.B{}", &ZERO[1..]), &[]), Err(Kind::Unauthenticated));
}

#[test]
fn principals_are_told_from_each_other() {
    let dns = |name: &str| principal(name, Proof::Certificate("dns:node-a".to_owned()));
    assert!(Access::new(vec![dns("a"), dns("b")]).unwrap_err().1.contains("\"b\""));
    let both = vec![principal("a", Proof::Anonymous), dns("a")];
    assert_eq!(Access::new(both).unwrap_err().0, 1);
}

#[test]
fn grants_are_all_that_is_allowed() {
    let grant = |resource: &str, fence: &str, rights: &[Right]| Grant {
        resource: Pattern::parse(resource).unwrap(),
        fence: Pattern::parse(fence).unwrap(),
        rights: rights.iter().copied().collect(),
    };
    let mut worker = principal("worker", Proof::Anonymous);
    worker.grants = vec![grant("stock", "stock/*", &[Right::Write]), grant("shop", "*", &[Right::Read])];
    let who = Access::new(vec![worker]).unwrap().identify(&HeaderMap::new(), &[]).unwrap();
    assert!(who.may(Right::Write, "stock", "stock/7") && who.may(Right::Claim, "stock", "stock/7"));
    assert!(!who.may(Right::Write, "stock", "orders") && !who.may(Right::Write, "shop", "stock/7"));
    assert!(!who.may(Right::Read, "stock", "stock/7") && !who.may(Right::Operate, "stock", "stock/7"));
    assert!(who.may_everywhere(Right::Read, "shop") && !who.may_everywhere(Right::Write, "stock"));
    assert!(!who.may_all(Right::Read) && !who.may_all(Right::Observe));
    assert!(who.knows("shop") && !who.knows("audit"));
}
