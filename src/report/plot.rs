//! Plots as small hand-written SVG: lines, points, bars and heat maps, with axes, ticks, labels and a legend.
//! Must not know what is plotted. Colours are classes of [`STYLE`], which a page carries once, for light and dark.

mod axis;
mod heat;

pub use heat::HeatMap;

use axis::{Axis, number};

use super::page::escape;

/// The style of every plot; it goes into the page that shows them.
pub const STYLE: &str = "
svg.plot { font: 12px system-ui, sans-serif; fill: var(--ink, #1d2129); }
.plot .title { font-size: 14px; font-weight: 600; } .plot .soft { fill: var(--soft, #5b6472); }
.plot .frame { stroke: var(--soft, #5b6472); fill: none; } .plot .grid { stroke: var(--line, #d5dae1); stroke-width: .6; }
.plot .mark { stroke: var(--soft, #5b6472); stroke-dasharray: 4 3; }
.plot .l { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
.plot .s0 { --c: #2868c7; } .plot .s1 { --c: #d1622b; } .plot .s2 { --c: #2f8f5b; } .plot .s3 { --c: #8a56b5; }
.plot .s4 { --c: #b8860b; } .plot .s5 { --c: #c43d6b; } .plot .s6 { --c: #3a95a8; } .plot .s7 { --c: #777f8a; }
.plot .l { stroke: var(--c); } .plot .p, .plot .b { fill: var(--c); } .plot .p { fill-opacity: .75; }
@media (prefers-color-scheme: dark) {
.plot .s0 { --c: #6ea8ff; } .plot .s1 { --c: #ff9a66; } .plot .s2 { --c: #66cf98; } .plot .s3 { --c: #c49bf0; }
.plot .s4 { --c: #e6bd4d; } .plot .s5 { --c: #ff86ad; } .plot .s6 { --c: #73d2e6; } .plot .s7 { --c: #a8b0bb; } }
";

/// Colours before they begin again.
const COLOURS: usize = 8;
const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 400.0;

/// Where the frame of a plot stands: left, top, right, bottom.
pub(super) const FRAME: [f64; 4] = [70.0, 34.0, WIDTH - 16.0, HEIGHT - 52.0];

/// How a series is drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Line,
    Points,
    Bars,
}

#[derive(Clone, Debug)]
struct Series {
    kind: Kind,
    name: String,
    points: Vec<(f64, f64)>,
}

/// A plot with one pair of axes. Points that are not finite, or not above 0 on a logarithmic axis, are left out; a line has
/// a gap there.
#[derive(Clone, Debug)]
pub struct Plot {
    title: String,
    x: Axis,
    y: Axis,
    categories: Vec<String>,
    series: Vec<Series>,
    marks: Vec<(f64, String)>,
}

impl Plot {
    /// A plot of nothing yet.
    pub fn new(title: &str) -> Self {
        Plot {
            title: title.into(),
            x: Axis::default(),
            y: Axis::default(),
            categories: Vec::new(),
            series: Vec::new(),
            marks: Vec::new(),
        }
    }
    /// Names the axes, with units.
    #[must_use]
    pub fn axes(mut self, x: &str, y: &str) -> Self {
        (self.x.label, self.y.label) = (x.into(), y.into());
        self
    }
    /// Makes axes logarithmic.
    #[must_use]
    pub fn log(mut self, x: bool, y: bool) -> Self {
        (self.x.log, self.y.log) = (x, y);
        self
    }
    /// Fixes the range of the x axis, which else is that of the data.
    #[must_use]
    pub fn x_range(mut self, low: f64, high: f64) -> Self {
        self.x.range = Some([low, high]);
        self
    }
    /// Fixes the range of the y axis.
    #[must_use]
    pub fn y_range(mut self, low: f64, high: f64) -> Self {
        self.y.range = Some([low, high]);
        self
    }
    /// Adds a line through `(x, y)` in their order.
    #[must_use]
    pub fn line(self, name: &str, points: &[(f64, f64)]) -> Self {
        self.add(Kind::Line, name, points.to_vec())
    }
    /// Adds points.
    #[must_use]
    pub fn scatter(self, name: &str, points: &[(f64, f64)]) -> Self {
        self.add(Kind::Points, name, points.to_vec())
    }
    /// Adds a bar for each category; several series stand side by side.
    #[must_use]
    pub fn bars(self, name: &str, values: &[f64]) -> Self {
        self.add(Kind::Bars, name, values.iter().enumerate().map(|(i, &v)| (i as f64, v)).collect())
    }
    /// Names what bars stand for, from left to right.
    #[must_use]
    pub fn categories<S: AsRef<str>>(mut self, names: &[S]) -> Self {
        self.categories = names.iter().map(|n| n.as_ref().to_string()).collect();
        self
    }
    /// Draws a dashed vertical line with a word beside it.
    #[must_use]
    pub fn mark(mut self, x: f64, text: &str) -> Self {
        self.marks.push((x, text.into()));
        self
    }

    fn add(mut self, kind: Kind, name: &str, points: Vec<(f64, f64)>) -> Self {
        self.series.push(Series { kind, name: name.into(), points });
        self
    }

    /// The drawing, an `svg` element.
    pub fn svg(&self) -> String {
        let (x, y) = self.scales();
        let mut out = open(&self.title, HEIGHT);
        out += &self.grid(&x, &y);
        let bars = self.series.iter().filter(|s| s.kind == Kind::Bars).count();
        let mut bar = 0;
        for (i, series) in self.series.iter().enumerate() {
            let colour = format!("s{}", i % COLOURS);
            out += &match series.kind {
                Kind::Line => line(series, &colour, &x, &y),
                Kind::Points => points(series, &colour, &x, &y),
                Kind::Bars => {
                    bar += 1;
                    columns(series, &colour, &x, &y, [bar - 1, bars])
                }
            };
        }
        out += &self.legend();
        out + "</svg>\n"
    }

    /// Both axes with their ranges settled.
    fn scales(&self) -> (Axis, Axis) {
        let all = || self.series.iter().flat_map(|s| &s.points);
        let [left, top, right, bottom] = FRAME;
        let bars = self.series.iter().any(|s| s.kind == Kind::Bars);
        let mut x = self.x.clone();
        if bars {
            let count = all().map(|p| p.0).fold(0.0, f64::max).max(self.categories.len() as f64 - 1.0);
            x.range = Some([-0.6, count + 0.6]);
        }
        let zero = (bars && !self.y.log).then_some(0.0);
        let x = x.fit(all().map(|p| p.0).chain(self.marks.iter().map(|m| m.0)), [left, right]);
        let y = self.y.clone().fit(all().map(|p| p.1).chain(zero), [bottom, top]);
        (x, y)
    }

    fn grid(&self, x: &Axis, y: &Axis) -> String {
        let [left, top, right, bottom] = FRAME;
        let mut out = String::new();
        if self.categories.is_empty() {
            for (value, at) in x.ticks() {
                out += &format!("<path class=\"grid\" d=\"M{at:.1} {top}V{bottom}\"/>");
                out += &text(at, bottom + 16.0, "middle", "soft", &number(value));
            }
        } else {
            for (i, name) in self.categories.iter().enumerate() {
                let at = x.place(i as f64).unwrap_or(left);
                out += &text(at, bottom + 16.0, "middle", "soft", name);
            }
        }
        for (value, at) in y.ticks() {
            out += &format!("<path class=\"grid\" d=\"M{left} {at:.1}H{right}\"/>");
            out += &text(left - 6.0, at + 4.0, "end", "soft", &number(value));
        }
        for (value, name) in &self.marks {
            if let Some(at) = x.place(*value) {
                out += &format!("<path class=\"mark\" d=\"M{at:.1} {top}V{bottom}\"/>");
                out += &text(at + 4.0, bottom - 6.0, "start", "soft", name);
            }
        }
        out +=
            &format!("<rect class=\"frame\" x=\"{left}\" y=\"{top}\" width=\"{}\" height=\"{}\"/>\n", right - left, bottom - top);
        out + &labels(&self.x.label, &self.y.label, HEIGHT)
    }

    fn legend(&self) -> String {
        let named = self.series.iter().enumerate().filter(|(_, s)| !s.name.is_empty());
        let entry = |(row, (i, series)): (usize, (usize, &Series))| {
            let (x, y) = (FRAME[2] - 12.0, FRAME[1] + 16.0 + 16.0 * row as f64);
            let colour = i % COLOURS;
            let key = match series.kind {
                Kind::Line => format!("<path class=\"l s{colour}\" d=\"M{} {}h14\"/>", x - 6.0, y - 4.0),
                _ => format!("<rect class=\"b s{colour}\" x=\"{}\" y=\"{}\" width=\"9\" height=\"9\"/>", x - 3.0, y - 9.0),
            };
            key + &text(x - 12.0, y, "end", "", &series.name)
        };
        named.enumerate().map(entry).collect()
    }
}

/// The opening of a drawing of `height`, with its title.
fn open(title: &str, height: f64) -> String {
    format!(
        "<svg class=\"plot\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" \
         aria-label=\"{}\" xmlns=\"http://www.w3.org/2000/svg\">\n{}\n",
        escape(title),
        text(FRAME[0], 20.0, "start", "title", title)
    )
}

/// The names of both axes.
fn labels(x: &str, y: &str, height: f64) -> String {
    let [left, top, right, _] = FRAME;
    let middle = f64::midpoint(top, height - 52.0);
    let turned = format!(
        "<text class=\"soft\" text-anchor=\"middle\" transform=\"translate(16 {middle:.1}) rotate(-90)\">{}</text>\n",
        escape(y)
    );
    text(f64::midpoint(left, right), height - 14.0, "middle", "soft", x) + &turned
}

fn text(x: f64, y: f64, anchor: &str, class: &str, content: &str) -> String {
    format!("<text class=\"{class}\" text-anchor=\"{anchor}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>", escape(content))
}

fn line(series: &Series, colour: &str, x: &Axis, y: &Axis) -> String {
    let mut path = String::new();
    let mut pen = 'M';
    for &(px, py) in &series.points {
        match x.place(px).zip(y.place(py)) {
            Some((px, py)) => {
                path += &format!("{pen}{px:.1} {py:.1}");
                pen = 'L';
            }
            None => pen = 'M',
        }
    }
    format!("<path class=\"l {colour}\" d=\"{path}\"/>\n")
}

fn points(series: &Series, colour: &str, x: &Axis, y: &Axis) -> String {
    let place = |p: &(f64, f64)| x.place(p.0).zip(y.place(p.1));
    let dot = |(x, y): (f64, f64)| format!("<circle class=\"p {colour}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.6\"/>");
    series.points.iter().filter_map(place).map(dot).collect::<String>() + "\n"
}

/// Bars of series `which` of `of`, side by side in each category.
fn columns(series: &Series, colour: &str, x: &Axis, y: &Axis, [which, of]: [usize; 2]) -> String {
    let share = 0.8 / of as f64;
    let foot = y.place(0.0).unwrap_or(FRAME[3]);
    let bar = |&(category, value): &(f64, f64)| {
        let left = x.place(category - 0.4 + share * which as f64)?;
        let right = x.place(category - 0.4 + share * (which + 1) as f64)?;
        let end = y.place(value)?;
        let (top, height) = (end.min(foot), (end - foot).abs());
        let width = right - left;
        Some(format!("<rect class=\"b {colour}\" x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>"))
    };
    series.points.iter().filter_map(bar).collect::<String>() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_runs_from_corner_to_corner_and_has_gaps() {
        let svg = Plot::new("t").line("a", &[(0.0, 0.0), (1.0, f64::NAN), (2.0, 5.0), (10.0, 10.0)]).svg();
        let [left, top, right, bottom] = FRAME;
        assert!(svg.contains(&format!("d=\"M{left:.1} {bottom:.1}M")), "{svg}");
        assert!(svg.contains(&format!("L{right:.1} {top:.1}\"")), "{svg}");
        assert!(!svg.contains("NaN"));
    }

    #[test]
    fn a_logarithmic_axis_drops_what_has_no_logarithm() {
        let svg = Plot::new("t").log(true, true).scatter("", &[(0.0, 1.0), (1.0, 1.0), (100.0, 1e-3)]).svg();
        assert_eq!(svg.matches("<circle").count(), 2, "{svg}");
        assert!(svg.contains(">100</text>") && svg.contains(">0.001</text>"), "{svg}");
    }

    #[test]
    fn bars_stand_on_zero_side_by_side() {
        let svg = Plot::new("t").categories(&["p", "q"]).bars("a", &[1.0, -2.0]).bars("b", &[3.0, 4.0]).svg();
        assert_eq!(svg.matches("<rect class=\"b s0\"").count(), 3, "two bars and a key: {svg}");
        assert!(svg.contains(">p</text>") && svg.contains(">b</text>"), "{svg}");
    }

    #[test]
    fn empty_and_flat_data_still_draw() {
        for plot in [Plot::new("t"), Plot::new("t").line("", &[(1.0, 3.0)]), Plot::new("t").bars("", &[0.0])] {
            let svg = plot.svg();
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
