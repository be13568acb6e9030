use super::super::scenario::{Damage, Measure, lacks_nothing};
use super::super::story::Lane;
use super::*;

fn damage(count: u64) -> Damage {
    let counted_by = "SELECT '<&>'".to_owned();
    Damage { measures: vec![Measure { what: "seats sold twice", count, is_damage: true, counted_by }] }
}

fn hostile() -> Shown {
    const SCENARIO: Scenario = Scenario {
        name: "pause",
        title: "a <b>title</b>",
        explains: "\"explained\" & more",
        sides: ["without", "with"],
        lacks: lacks_nothing,
        run: |_| Box::pin(async { Ok(Damage::default()) }),
    };
    let name = "<script>alert('x')</script>\u{1b}[31m".to_owned();
    let token = "7".parse().unwrap();
    let happened = |at_us, kind| Event { at_us, lane: name.clone(), kind, text: "]]> <img src=https://x>".into() };
    let events = vec![
        happened(0, Kind::Started),
        happened(10, Kind::Elected { token }),
        happened(20, Kind::Lease { until_us: 1_000_000 }),
        happened(30, Kind::Paused),
        happened(2_000_000, Kind::Resumed),
        happened(2_000_001, Kind::Accepted { token: Some(token), behind: "8".parse().ok() }),
        happened(2_000_002, Kind::Refused { token: Some(token), highest: "8".parse().ok(), status: 412 }),
    ];
    let lanes = vec![Lane { name: "gate".into(), role: "<i>".into() }, Lane { name: name.clone(), role: "\"'".into() }];
    let story = Story { lanes, events, length_us: 2_500_000 };
    Shown { scenario: &SCENARIO, runs: vec![(story.clone(), damage(3)), (story, damage(0))] }
}

#[test]
fn whatever_is_told_is_text_and_nothing_else() {
    let page = page(&[hostile()]);
    for part in ["<script", "<img", "<b>title", "<i>", "\u{1b}", "alert('"] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(page.contains("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;·[31m"));
}

#[test]
fn nothing_is_loaded_from_anywhere() {
    let page = page(&[hostile()]);
    for part in ["src=\"", "href=", "url(", "@import", "<link", "<iframe", "<script", "<use", "<image"] {
        assert!(!page.contains(part), "{part}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn what_happened_is_drawn() {
    let page = page(&[hostile()]);
    for sign in ["lease", "pause", "stale", "refused"] {
        let drawn = format!("<g class=\"{sign}\"><title>");
        assert_eq!(page.matches(&drawn).count(), 2, "{sign}: one in each run");
    }
    assert!(page.contains("<td class=\"damage\">3</td><td class=\"none\">0</td>"));
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert_eq!(page.matches("<g").count(), page.matches("</g>").count());
}
