//! Charts as inline SVG. Colours are classes, `c0` to `c6`, that the page's style gives values for light and dark.

use std::fmt::Write;

use crate::cli::html::escape;

use super::numbers::{micros, percent, short, whole};

/// How many colours there are.
const COLOURS: usize = 7;
/// Of every chart, in its own units.
const WIDTH: f64 = 760.0;

/// One latency curve: its name, and points of a quantile and microseconds.
#[derive(Debug, Clone)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// Its points, by rising quantile.
    pub points: Vec<(f64, f64)>,
}

/// A place on the axis of nines: 0 for 0%, 1 for 90%, 2 for 99%, …
fn nines(quantile: f64, last: f64) -> f64 {
    if quantile >= 1.0 { last } else { (-(1.0 - quantile).log10()).min(last) }
}

/// Latencies over quantiles, both axes logarithmic, so that the few slow ones are seen as well as the many fast ones.
pub fn latencies(curves: &[Curve]) -> String {
    const LEFT: f64 = 70.0;
    const TOP: f64 = 12.0;
    const HEIGHT: f64 = 300.0;
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let below_all = |quantile: f64| if quantile < 1.0 { -(1.0 - quantile).log10() } else { 0.0 };
    let last = points().map(|(quantile, _)| below_all(*quantile)).fold(1.0, f64::max) + 0.1;
    let decades = |us: f64| us.max(0.1).log10();
    let low = points().map(|(_, us)| decades(*us)).fold(f64::INFINITY, f64::min).floor().min(6.0);
    let high = points().map(|(_, us)| decades(*us)).fold(f64::NEG_INFINITY, f64::max).ceil().max(low + 1.0);
    let x = |quantile: f64| LEFT + nines(quantile, last) / last * (WIDTH - LEFT - 14.0);
    let y = |us: f64| TOP + (high - decades(us)) / (high - low) * HEIGHT;
    let mut svg = begin("Latency by percentile", TOP + HEIGHT + 46.0);
    let mut decade = low;
    while decade <= high {
        let (us, at) = (10_f64.powf(decade), y(10_f64.powf(decade)));
        line(&mut svg, "grid", (LEFT, at), (WIDTH - 14.0, at));
        text(&mut svg, "end", (LEFT - 8.0, at + 4.0), &micros(us));
        decade += 1.0;
    }
    let ticks = [
        (0.0, "0%"),
        (0.5, "50%"),
        (0.9, "90%"),
        (0.99, "99%"),
        (0.999, "99.9%"),
        (0.9999, "99.99%"),
        (0.99999, "99.999%"),
    ];
    for (quantile, label) in ticks.into_iter().filter(|(quantile, _)| below_all(*quantile) <= last) {
        line(&mut svg, "grid", (x(quantile), TOP), (x(quantile), TOP + HEIGHT));
        text(&mut svg, "middle", (x(quantile), TOP + HEIGHT + 18.0), label);
    }
    text(&mut svg, "end", (WIDTH - 14.0, TOP + HEIGHT + 38.0), "this part of all was answered within …");
    for (index, curve) in curves.iter().enumerate() {
        let path: Vec<String> =
            curve.points.iter().map(|(quantile, us)| format!("{:.1},{:.1}", x(*quantile), y(*us))).collect();
        let (colour, points) = (index % COLOURS, path.join(" "));
        let name = escape(&curve.name);
        let _ = write!(svg, r#"<polyline class="curve c{colour}" points="{points}"><title>{name}</title></polyline>"#);
    }
    svg.push_str("</svg>");
    svg
}

/// One bar: its name, the median, and each round.
#[derive(Debug, Clone)]
pub struct Bar {
    /// Its name.
    pub name: String,
    /// How long it is.
    pub median: f64,
    /// The rounds.
    pub rounds: Vec<f64>,
}

/// Rates as bars, with a dot for each round.
pub fn rates(bars: &[Bar]) -> String {
    const LEFT: f64 = 140.0;
    const ROW: f64 = 34.0;
    let most = bars.iter().flat_map(|bar| &bar.rounds).fold(1.0_f64, |most, rate| most.max(*rate));
    let x = |rate: f64| LEFT + rate / most * (WIDTH - LEFT - 110.0);
    let mut svg = begin("Operations a second", ROW * bars.len() as f64 + 8.0);
    for (index, bar) in bars.iter().enumerate() {
        let (top, colour) = (4.0 + ROW * index as f64, index % COLOURS);
        let (end, width) = (x(bar.median), x(bar.median) - LEFT);
        text(&mut svg, "end", (LEFT - 8.0, top + 18.0), &bar.name);
        let _ = write!(
            svg,
            r#"<rect class="bar c{colour}" x="{LEFT}" y="{top}" width="{width:.1}" height="{}"/>"#,
            ROW - 10.0
        );
        let lowest = bar.rounds.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = bar.rounds.iter().copied().fold(0.0, f64::max);
        let middle = top + (ROW - 10.0) / 2.0;
        line(&mut svg, "whisker", (x(lowest.min(highest)), middle), (x(highest), middle));
        for rate in &bar.rounds {
            let _ = write!(svg, r#"<circle class="dot" cx="{:.1}" cy="{middle:.1}" r="2.5"/>"#, x(*rate));
        }
        text(&mut svg, "start", (x(highest).max(end) + 8.0, top + 18.0), &format!("{}/s", whole(bar.median)));
    }
    svg.push_str("</svg>");
    svg
}

/// What the check costs in each round, and what its median is known to.
#[derive(Debug, Clone)]
pub struct CostRow {
    /// Of what.
    pub name: String,
    /// In percent, each round.
    pub rounds: Vec<f64>,
    /// The median's interval.
    pub interval: (f64, f64, f64),
}

/// Costs around zero.
pub fn costs(rows: &[CostRow]) -> String {
    const LEFT: f64 = 210.0;
    const ROW: f64 = 40.0;
    let reach = rows.iter().flat_map(|row| &row.rounds).fold(1.0_f64, |reach, cost| reach.max(cost.abs())) * 1.1;
    let x = |cost: f64| LEFT + (cost + reach) / (2.0 * reach) * (WIDTH - LEFT - 30.0);
    let bottom = ROW * rows.len() as f64 + 8.0;
    let mut svg = begin("What the check costs, round by round", bottom + 22.0);
    for (cost, class) in [(-reach / 1.1, "grid"), (0.0, "zero"), (reach / 1.1, "grid")] {
        line(&mut svg, class, (x(cost), 4.0), (x(cost), bottom));
        text(&mut svg, "middle", (x(cost), bottom + 16.0), &percent(cost));
    }
    for (index, row) in rows.iter().enumerate() {
        let middle = 4.0 + ROW * (index as f64 + 0.5);
        let (low, median, high) = row.interval;
        text(&mut svg, "end", (LEFT - 10.0, middle + 4.0), &row.name);
        let (left, width) = (x(low), (x(high) - x(low)).max(1.0));
        let _ = write!(
            svg,
            r#"<rect class="interval" x="{left:.1}" y="{:.1}" width="{width:.1}" height="22"/>"#,
            middle - 11.0
        );
        line(&mut svg, "median", (x(median), middle - 14.0), (x(median), middle + 14.0));
        for cost in &row.rounds {
            let _ = write!(svg, r#"<circle class="dot" cx="{:.1}" cy="{middle:.1}" r="3"/>"#, x(*cost));
        }
    }
    svg.push_str("</svg>");
    svg
}

/// The names of curves and bars, in their colours.
pub fn legend<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let items = names
        .enumerate()
        .map(|(index, name)| format!(r#"<li><span class="swatch c{}"></span>{}</li>"#, index % COLOURS, escape(name)));
    format!(r#"<ul class="legend">{}</ul>"#, items.collect::<String>())
}

/// How an axis is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// From zero on.
    Linear,
    /// By powers of ten.
    Decades,
}

/// Curves over something that grows by powers of ten.
#[derive(Debug, Clone)]
pub struct Growth {
    /// What is shown.
    pub title: String,
    /// What grows.
    pub across: String,
    /// What is measured, with its unit.
    pub up: String,
    /// How that is divided.
    pub scale: Scale,
    /// The curves. Points without anything positive across aren't shown.
    pub curves: Vec<Curve>,
}

/// Curves over what grows, with their names: a picture that stands for itself.
pub fn growth(chart: &Growth) -> String {
    const LEFT: f64 = 70.0;
    const TOP: f64 = 44.0;
    const HEIGHT: f64 = 260.0;
    let points =
        || chart.curves.iter().flat_map(|curve| &curve.points).filter(|(across, up)| *across > 0.0 && up.is_finite());
    let span = |value: fn(&(f64, f64)) -> f64| {
        let (low, high) =
            points().map(value).fold((f64::INFINITY, 0.0_f64), |(low, high), v| (low.min(v), high.max(v)));
        (if low.is_finite() { low } else { 1.0 }, high.max(f64::MIN_POSITIVE))
    };
    let decades = |value: f64| value.max(1e-9).log10();
    let (left, right) = span(|point| point.0);
    let (first, last) = (decades(left).floor(), decades(right).ceil().max(decades(left).floor() + 1.0));
    let (low, high) = span(|point| point.1);
    let (bottom, top) = match chart.scale {
        Scale::Linear => (0.0, round_up(high)),
        Scale::Decades => (decades(low).floor(), decades(high).ceil().max(decades(low).floor() + 1.0)),
    };
    let place = |up: f64| if chart.scale == Scale::Linear { up } else { decades(up) };
    let x = |across: f64| LEFT + (decades(across) - first) / (last - first) * (WIDTH - LEFT - 20.0);
    let y = |up: f64| TOP + (top - place(up)) / (top - bottom) * HEIGHT;
    let mut svg = begin(&chart.title, TOP + HEIGHT + 46.0);
    text(&mut svg, "start", (4.0, 16.0), &chart.up);
    let steps = if chart.scale == Scale::Linear { 4 } else { count(top - bottom) };
    for step in 0..=steps {
        let at = bottom + (top - bottom) * step as f64 / steps as f64;
        let value = if chart.scale == Scale::Linear { at } else { 10_f64.powf(at) };
        line(&mut svg, "grid", (LEFT, y(value)), (WIDTH - 20.0, y(value)));
        text(&mut svg, "end", (LEFT - 8.0, y(value) + 4.0), &short(value));
    }
    for step in 0..=count(last - first) {
        let value = 10_f64.powf(first + step as f64);
        line(&mut svg, "grid", (x(value), TOP), (x(value), TOP + HEIGHT));
        text(&mut svg, "middle", (x(value), TOP + HEIGHT + 18.0), &short(value));
    }
    text(&mut svg, "end", (WIDTH - 20.0, TOP + HEIGHT + 38.0), &chart.across);
    for (index, curve) in chart.curves.iter().enumerate() {
        let colour = index % COLOURS;
        let shown: Vec<(f64, f64)> =
            curve.points.iter().copied().filter(|(across, up)| *across > 0.0 && up.is_finite()).collect();
        let path: Vec<String> = shown.iter().map(|(across, up)| format!("{:.1},{:.1}", x(*across), y(*up))).collect();
        let _ = write!(svg, r#"<polyline class="curve c{colour}" points="{}"/>"#, path.join(" "));
        for (across, up) in shown {
            let _ = write!(svg, r#"<circle class="bar c{colour}" cx="{:.1}" cy="{:.1}" r="3"/>"#, x(across), y(up));
        }
        let from = LEFT + 170.0 * index as f64;
        line(&mut svg, &format!("curve c{colour}"), (from, 30.0), (from + 18.0, 30.0));
        text(&mut svg, "start", (from + 24.0, 34.0), &curve.name);
    }
    svg.push_str("</svg>\n");
    svg
}

/// A whole number of steps.
fn count(steps: f64) -> usize {
    (0..64).find(|count| *count as f64 + 0.5 > steps).unwrap_or(64).max(1)
}

/// The next of 1, 2, 4 or 5 times a power of ten, as all of its quarters are short numbers then.
fn round_up(value: f64) -> f64 {
    let decade = 10_f64.powf(value.log10().floor());
    [1.0, 2.0, 4.0, 5.0, 8.0].into_iter().map(|step| step * decade).find(|step| *step >= value).unwrap_or(10.0 * decade)
}

/// What the page's style says of a chart, for one that is a file by itself.
const ALONE: &str = "text { font: 12px system-ui, sans-serif; fill: #59636e; } .grid { stroke: #d5dae0; } .curve { fill: none; stroke-width: 2; }
.curve.c0 { stroke: #0072b2; } .curve.c1 { stroke: #d55e00; } .curve.c2 { stroke: #009e73; } .curve.c3 { stroke: #a5569a; }
.bar.c0 { fill: #0072b2; } .bar.c1 { fill: #d55e00; } .bar.c2 { fill: #009e73; } .bar.c3 { fill: #a5569a; }
.curve.c4 { stroke: #b8860b; } .bar.c4 { fill: #b8860b; } .curve.c5 { stroke: #2f9bd6; } .bar.c5 { fill: #2f9bd6; }
.curve.c6 { stroke: #6b7280; } .bar.c6 { fill: #6b7280; }
@media (prefers-color-scheme: dark) { text { fill: #9aa4b0; } .grid { stroke: #343a43; } }";

/// A chart as a file of its own.
pub fn alone(chart: &str) -> String {
    let style = r#"<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" "#;
    let (head, rest) = chart.split_once('>').unwrap_or((chart, ""));
    format!("{}><style>{ALONE}</style>{rest}", head.replacen("<svg ", style, 1))
}

fn begin(title: &str, height: f64) -> String {
    format!(r#"<svg viewBox="0 0 {WIDTH} {height:.0}" role="img" aria-label="{0}"><title>{0}</title>"#, escape(title))
}

fn line(svg: &mut String, class: &str, from: (f64, f64), to: (f64, f64)) {
    let _ = write!(
        svg,
        r#"<line class="{class}" x1="{:.1}" y1="{:.1}" x2="{:.1}" y2="{:.1}"/>"#,
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, anchor: &str, at: (f64, f64), text: &str) {
    let _ = write!(svg, r#"<text x="{:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#, at.0, at.1, escape(text));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_of_where_it_stands() {
        let bad = "<script>\"'&\u{1b}";
        assert_eq!(escape(bad), "&lt;script&gt;&quot;&#39;&amp;·");
        let curve = Curve { name: bad.into(), points: vec![(0.0, 10.0), (0.5, 20.0), (1.0, 90.0)] };
        let bar = Bar { name: bad.into(), median: 2.0, rounds: vec![1.0, 2.0, 3.0] };
        let row = CostRow { name: bad.into(), rounds: vec![-1.0, 3.0], interval: (-1.0, 1.0, 3.0) };
        let grown = Growth {
            title: bad.into(),
            across: bad.into(),
            up: bad.into(),
            scale: Scale::Linear,
            curves: vec![Curve {
                name: bad.into(),
                points: vec![(0.0, 1.0), (10.0, f64::NAN), (100.0, 7.0), (1e6, 30.0)],
            }],
        };
        let decades = Growth { scale: Scale::Decades, ..grown.clone() };
        let alone = alone(&growth(&grown));
        assert!(alone.starts_with("<svg xmlns=") && alone.matches("<style>").count() == 1, "{alone}");
        for chart in
            [latencies(&[curve]), rates(&[bar]), costs(&[row]), growth(&decades), alone, legend([bad].into_iter())]
        {
            assert!(!chart.contains("<script") && chart.contains("&lt;script&gt;"), "{chart}");
            assert!(!chart.contains("NaN") && !chart.contains("inf"), "{chart}");
        }
    }

    #[test]
    fn charts_of_nothing_are_charts() {
        let nothing = Growth {
            title: String::new(),
            across: String::new(),
            up: String::new(),
            scale: Scale::Decades,
            curves: Vec::new(),
        };
        let linear = Growth { scale: Scale::Linear, ..nothing.clone() };
        for chart in [latencies(&[]), rates(&[]), costs(&[]), growth(&nothing), growth(&linear)] {
            assert!(chart.starts_with("<svg") && !chart.contains("NaN") && !chart.contains("inf"), "{chart}");
        }
    }

    #[test]
    fn an_axis_ends_at_a_round_number() {
        assert_eq!([0.7, 1.0, 3.1, 17.0, 42.0, 61.0, 90.0].map(round_up), [0.8, 1.0, 4.0, 20.0, 50.0, 80.0, 100.0]);
        assert_eq!([0.2, 1.0, 6.99].map(count), [1, 1, 7]);
    }

    #[test]
    fn each_nine_is_as_far_from_the_one_before() {
        assert!((nines(0.999, 9.0) - 3.0).abs() < 1e-9 && (nines(0.9, 9.0) - 1.0).abs() < 1e-9);
        assert_eq!((nines(0.0, 9.0), nines(1.0, 4.5)), (0.0, 4.5));
    }
}
