//! One page that needs nothing else: no script, nothing from elsewhere, its charts inside.

use crate::cli::html::escape;

use super::super::Run;
use super::super::load::Pace;
use super::super::machine::{Machine, Noise};
use super::super::rounds::{Outcome, Round};
use super::super::stats::Spread;
use super::super::subject::Kind;
use super::super::verdict::{Conclusion, Cost};
use super::json::{quantiles, tokens_told};
use super::numbers::{bytes, micros, percent, short, whole, within};
use super::svg::{self, Bar, CostRow, Curve};
use super::text::{ratio, settings};

/// The colours are M. Okabe's and K. Ito's, which can be told apart by all kinds of sight.
const STYLE: &str = "
:root { color-scheme: light dark; --text: #1b1f24; --soft: #59636e; --page: #fff; --box: #f4f6f8; --line: #d5dae0;
  --warn: #8a5a00; --c0: #6b7280; --c1: #b8860b; --c2: #0072b2; --c3: #009e73; --c4: #d55e00; --c5: #a5569a; --c6: #2f9bd6; }
@media (prefers-color-scheme: dark) { :root { --text: #e6e9ed; --soft: #9aa4b0; --page: #14171b; --box: #1d2127; --line: #343a43;
  --warn: #f0b43c; --c0: #9ca3af; --c1: #e6b422; --c2: #4aa8e0; --c3: #2cc295; --c4: #f08a3c; --c5: #d58cc8; --c6: #8fd0f5; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--text); background: var(--page); max-width: 64rem; margin: 0 auto;
  padding: 1.5rem 1rem 4rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.15rem; margin: 2.2rem 0 .6rem; }
p.sub, figcaption, footer { color: var(--soft); margin: .3rem 0; font-size: .92rem; }
.verdict { background: var(--box); border-left: 5px solid var(--c3); padding: .8rem 1rem; margin: 1.2rem 0; font-size: 1.1rem; }
.verdict.no { border-color: var(--warn); } .verdict b { color: var(--warn); }
.verdict ul { margin: .4rem 0 0; padding-left: 1.2rem; font-size: .95rem; }
.wide { overflow-x: auto; } figure { margin: 0; }
table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th { white-space: normal; vertical-align: bottom; font-weight: 600; }
th:first-child, td:first-child { text-align: left; } td.what { white-space: normal; text-align: left; color: var(--soft); }
table.facts { margin-top: 1rem; } table.facts td { text-align: left; white-space: normal; } td, svg text { font-variant-numeric: tabular-nums; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 12px; fill: var(--text); }
.grid { stroke: var(--line); } .zero { stroke: var(--text); } .whisker { stroke: var(--text); stroke-width: 1.5; }
.median { stroke: var(--c3); stroke-width: 3; } .interval { fill: var(--c3); opacity: .25; }
.dot { fill: var(--page); stroke: var(--text); } .curve { fill: none; stroke-width: 2; } .bar { opacity: .75; }
.legend { list-style: none; padding: 0; margin: .4rem 0; display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; font-size: .9rem; }
.swatch { display: inline-block; width: 1rem; height: .6rem; margin-right: .4rem; }
code { background: var(--box); padding: .1rem .3rem; overflow-wrap: anywhere; }
";

/// The page.
pub fn render(run: &Run<'_>) -> String {
    let names = || run.outcomes.iter().map(|outcome| outcome.lane.kind.name());
    let colours: String = (0..7)
        .map(|n| format!(".curve.c{n} {{ stroke: var(--c{n}); }} .bar.c{n} {{ fill: var(--c{n}); }} .swatch.c{n} {{ background: var(--c{n}); }}\n"))
        .collect();
    let curves: Vec<Curve> = run.outcomes.iter().map(curve).collect();
    let bars: Vec<Bar> = run.outcomes.iter().filter_map(bar).collect();
    let rows: Vec<CostRow> = run.verdict.costs.iter().map(cost_row).collect();
    let cost_chart = if rows.is_empty() {
        String::new()
    } else {
        format!(
            "<h2>What the check costs</h2><figure>{}<figcaption>Each dot is one round with the check over the same round without; \
             the bar is where the median lies ({:.0}% confidence).</figcaption></figure>",
            svg::costs(&rows),
            run.verdict.costs[0].percent.confidence * 100.0
        )
    };
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>fencegate bench</title><style>{STYLE}{colours}</style></head><body>\n\
         <h1>What fencing costs</h1><p class=\"sub\">{subject}: {settings}. {started}</p>\n{verdict}\n{table}\n{cost_chart}\n\
         <h2>Throughput</h2><figure>{rates}<figcaption>Operations a second: the median, and a dot for each round. {serial}\
         </figcaption></figure>\n\
         <h2>Latency</h2><figure>{latencies}{legend}<figcaption>{count}</figcaption></figure>\n{facts}\n\
         <footer>fencegate {version}</footer></body></html>\n",
        subject = escape(&capital(&run.subject)),
        settings = escape(&settings(run)),
        started = escape(&run.started_at),
        verdict = verdict(run),
        table = table(run),
        rates = svg::rates(&bars),
        serial = "Takeovers, and whatever has a newer token each time, are done one after the other on one connection.",
        latencies = svg::latencies(&curves),
        legend = svg::legend(names()),
        count = match run.plan.pace {
            Pace::Closed => "From when a request is sent; a connection sends the next one when it has the answer.",
            Pace::Open(_) =>
                "From when a request is due, whenever it could be sent: a stall is seen by all that it delays.",
        },
        facts = facts(run),
        version = env!("CARGO_PKG_VERSION"),
    )
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

fn verdict(run: &Run<'_>) -> String {
    let verdict = &run.verdict;
    let list = |items: &[String]| {
        let items: String = items.iter().map(|item| format!("<li>{}</li>", escape(&capital(item)))).collect();
        if items.is_empty() { items } else { format!("<ul>{items}</ul>") }
    };
    let (class, word) = match verdict.conclusion {
        Conclusion::Inconclusive => ("verdict no", "<b>Inconclusive.</b> "),
        _ => ("verdict", ""),
    };
    let tokens: Vec<String> = run.tokens.iter().map(tokens_told).collect();
    let told = [list(&verdict.reasons), list(&verdict.notes), list(&tokens)].concat();
    format!("<div class=\"{class}\">{word}{}{told}</div>", escape(&verdict.sentence))
}

fn table(run: &Run<'_>) -> String {
    let ratio_of = if matches!(run.plan.pace, Pace::Closed) { "rate" } else { "latency" };
    let rows: String = run.outcomes.iter().map(|outcome| row(outcome, run)).collect();
    format!(
        "<div class=\"wide\"><table><thead><tr><th></th><th>a second</th><th>rounds within</th><th>median latency</th><th>99%</th>\
         <th>99.9%</th><th>gate's CPU each</th><th>{ratio_of} / direct</th><th>{ratio_of} / off</th></tr></thead>\
         <tbody>{rows}</tbody></table></div>\n<table class=\"facts\">{}</table>",
        run.outcomes.iter().map(|outcome| fact(outcome.lane.kind.name(), &outcome.lane.what)).collect::<String>()
    )
}

fn row(outcome: &Outcome, run: &Run<'_>) -> String {
    let none = || "–".to_owned();
    let spread = |figure: fn(&Round) -> f64| Spread::of(&outcome.each(figure));
    let rate = spread(|round| round.per_second);
    let cpu = outcome.gate_cpu_us().and_then(|cpu| Spread::of(&cpu));
    let over = |kind| ratio(outcome, &run.outcomes, kind, run.plan.pace).map_or_else(none, |s| short(s.median));
    let cells = [
        rate.map_or_else(none, |rate| whole(rate.median)),
        rate.map_or_else(none, |rate| within(rate.relative())),
        spread(|round| round.p50_us).map_or_else(none, |s| micros(s.median)),
        spread(|round| round.p99_us).map_or_else(none, |s| micros(s.median)),
        micros(outcome.latency_us(0.999)),
        cpu.map_or_else(none, |cpu| micros(cpu.median)),
        over(Kind::Direct),
        over(Kind::Off),
    ];
    let cells: String = cells.iter().map(|cell| format!("<td>{}</td>", escape(cell))).collect();
    format!("<tr><td>{}</td>{cells}</tr>", escape(outcome.lane.kind.name()))
}

fn curve(outcome: &Outcome) -> Curve {
    let quantiles = quantiles(outcome.total.latency.len());
    // The slowest of all stands where half of it is above: beyond it nothing is known.
    let last = 1.0 - 0.5 / outcome.total.latency.len().max(1) as f64;
    let points = quantiles.into_iter().map(|quantile| (quantile.min(last), outcome.latency_us(quantile))).collect();
    Curve { name: outcome.lane.kind.name().into(), points }
}

fn bar(outcome: &Outcome) -> Option<Bar> {
    let rounds = outcome.each(|round| round.per_second);
    Some(Bar { name: outcome.lane.kind.name().into(), median: Spread::of(&rounds)?.median, rounds })
}

fn cost_row(cost: &Cost) -> CostRow {
    let interval = (cost.percent.low, cost.percent.median, cost.percent.high);
    CostRow { name: capital(cost.of), rounds: cost.rounds.clone(), interval }
}

fn facts(run: &Run<'_>) -> String {
    let Machine { cpus, cpu_model, memory_bytes, os, kernel, arch } = &run.machine;
    let unknown = || "unknown".to_owned();
    let part = |part: Option<f64>| part.map_or_else(unknown, |part| percent(part * 100.0));
    let Noise { load_average, busy_before, busy_after, others, stolen } = run.noise;
    let disk = run.disk.as_ref().map(|disk| {
        let sync = disk.sync_us.map_or_else(unknown, |sync| micros(sync.median));
        fact("Databases on", &format!("{}; a page written and synced: {sync} (median)", disk.kind))
    });
    let rows = [
        fact_code("Command", &run.command),
        fact("Processors", &format!("{cpus}, {arch}, {}", cpu_model.clone().unwrap_or_else(unknown))),
        fact("Memory", &memory_bytes.map_or_else(unknown, bytes)),
        fact("System", &format!("{}, Linux {kernel}", os.clone().unwrap_or_else(unknown))),
        disk.unwrap_or_default(),
        fact("Processors busy before and after", &format!("{} and {}", part(busy_before), part(busy_after))),
        fact("Others' work during the run", &part(others)),
        fact("Stolen by other machines", &part(stolen)),
        fact("Load average before", &load_average.map_or_else(unknown, short)),
        fact("Load generator", &format!("up to {} of a processor for each thread", percent(run.busiest() * 100.0))),
        fact("Took", &format!("{:.1} s", run.took.as_secs_f64())),
    ];
    format!("<h2>How and where</h2><table class=\"facts\">{}</table>", rows.concat())
}

fn fact(name: &str, value: &str) -> String {
    format!("<tr><td>{}</td><td class=\"what\">{}</td></tr>", escape(name), escape(value))
}

fn fact_code(name: &str, value: &str) -> String {
    format!("<tr><td>{}</td><td><code>{}</code></td></tr>", escape(name), escape(value))
}
