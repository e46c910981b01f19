//! Heat maps: a value for each cell of a grid, in a scale of colours that reads the same in print and for the colour-blind.
//! Must not know what the values mean.

use super::axis::{Axis, number};
use super::{FRAME, WIDTH, labels, open, text};

/// Stations of the scale, dark to light: luminance rises evenly from end to end.
const SCALE: [[f64; 3]; 6] = [
    [13.0, 14.0, 58.0],
    [66.0, 32.0, 122.0],
    [146.0, 44.0, 116.0],
    [219.0, 85.0, 80.0],
    [250.0, 163.0, 66.0],
    [252.0, 240.0, 176.0],
];

/// A grid of values. Cells that are not finite stay empty.
#[derive(Clone, Debug)]
pub struct HeatMap {
    title: String,
    axes: [String; 2],
    value: String,
    x: [f64; 2],
    y: [f64; 2],
    range: Option<[f64; 2]>,
    cols: usize,
    values: Vec<f64>,
}

impl HeatMap {
    /// `values` row by row, the first row at the top, `cols` a row. Panics where they do not fill whole rows.
    pub fn new(title: &str, cols: usize, values: &[f64]) -> Self {
        assert!(cols > 0 && !values.is_empty() && values.len().is_multiple_of(cols), "{} values in rows of {cols}", values.len());
        let rows = values.len() / cols;
        HeatMap {
            title: title.into(),
            axes: Default::default(),
            value: String::new(),
            x: [0.0, cols as f64 - 1.0],
            y: [0.0, rows as f64 - 1.0],
            range: None,
            cols,
            values: values.to_vec(),
        }
    }
    /// Names the axes and the value.
    #[must_use]
    pub fn axes(mut self, x: &str, y: &str, value: &str) -> Self {
        self.axes = [x.into(), y.into()];
        self.value = value.into();
        self
    }
    /// What the centres of the first and the last column, and of the first and the last row, stand for.
    #[must_use]
    pub fn extent(mut self, x: [f64; 2], y: [f64; 2]) -> Self {
        (self.x, self.y) = (x, y);
        self
    }
    /// The values of both ends of the scale; else lowest and highest.
    #[must_use]
    pub fn range(mut self, low: f64, high: f64) -> Self {
        self.range = Some([low, high]);
        self
    }

    /// The drawing, an `svg` element; cells are square.
    pub fn svg(&self) -> String {
        let rows = self.values.len() / self.cols;
        let [left, top, ..] = FRAME;
        let cell = (460.0 / self.cols as f64).min(460.0 / rows as f64);
        let (wide, tall) = (cell * self.cols as f64, cell * rows as f64);
        let height = top + tall + 52.0;
        let colour = Axis { range: self.range, ..Axis::default() }.fit(self.values.iter().copied(), [0.0, 1.0]);
        let mut out = open(&self.title, height) + "<g shape-rendering=\"crispEdges\">";
        for (i, &value) in self.values.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            let (x, y) = (left + cell * (i % self.cols) as f64, top + cell * (i / self.cols) as f64);
            let [low, high] = colour.range.expect("fitted above");
            let fill = shade(colour.place(value.clamp(low, high)).unwrap_or(0.0));
            out += &format!("<rect x=\"{x:.2}\" y=\"{y:.2}\" width=\"{cell:.2}\" height=\"{cell:.2}\" fill=\"{fill}\"/>");
        }
        out += "</g>\n";
        let half = cell / 2.0;
        let x = Axis { range: ordered(self.x), ..Axis::default() }
            .fit(std::iter::empty(), span(self.x, left + half, left + wide - half));
        let y = Axis { range: ordered(self.y), ..Axis::default() }
            .fit(std::iter::empty(), span(self.y, top + half, top + tall - half));
        for (value, at) in x.ticks() {
            out += &text(at, top + tall + 16.0, "middle", "soft", &number(value));
        }
        for (value, at) in y.ticks() {
            out += &text(left - 6.0, at + 4.0, "end", "soft", &number(value));
        }
        out += &labels(&self.axes[0], &self.axes[1], height);
        out + &self.key(&colour, tall) + "</svg>\n"
    }

    /// The scale of colours with its ticks, at the right.
    fn key(&self, colour: &Axis, tall: f64) -> String {
        const STEPS: usize = 64;
        let (x, top) = (WIDTH - 120.0, FRAME[1]);
        let step = tall / STEPS as f64;
        let bar = |i: usize| {
            let fill = shade(1.0 - (i as f64 + 0.5) / STEPS as f64);
            let y = top + step * i as f64;
            format!("<rect x=\"{x}\" y=\"{y:.2}\" width=\"16\" height=\"{:.2}\" fill=\"{fill}\"/>", step + 0.4)
        };
        let tick = |(value, at): (f64, f64)| text(x + 22.0, top + tall * (1.0 - at) + 4.0, "start", "soft", &number(value));
        let bars: String = (0..STEPS).map(bar).collect();
        let ticks: String = colour.ticks().into_iter().map(tick).collect();
        bars + &ticks + &text(x, top - 8.0, "start", "soft", &self.value) + "\n"
    }
}

/// A range that is not empty, low end first.
fn ordered([a, b]: [f64; 2]) -> Option<[f64; 2]> {
    Some(if a == b { [a - 0.5, a + 0.5] } else { [a.min(b), a.max(b)] })
}

fn span([a, b]: [f64; 2], first: f64, last: f64) -> [f64; 2] {
    if a <= b { [first, last] } else { [last, first] }
}

/// The colour at a share of the scale.
fn shade(share: f64) -> String {
    let at = share.clamp(0.0, 1.0) * (SCALE.len() - 1) as f64;
    let (i, rest) = ((at as usize).min(SCALE.len() - 2), at - (at as usize).min(SCALE.len() - 2) as f64);
    let [r, g, b] = [0, 1, 2].map(|c| (SCALE[i][c] + rest * (SCALE[i + 1][c] - SCALE[i][c])).round() as u8);
    format!("#{r:02x}{g:02x}{b:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_have_the_colour_of_their_value() {
        let svg = HeatMap::new("t", 3, &[0.0, 1.0, f64::NAN, 2.0, 0.0, 2.0]).axes("u", "v", "error").svg();
        let cells = svg.split("</g>").next().expect("a part").matches("<rect").count();
        assert_eq!(cells, 5, "the NaN stays empty: {svg}");
        assert!(svg.contains("fill=\"#0d0e3a\"") && svg.contains("fill=\"#fcf0b0\""), "both ends of the scale: {svg}");
        assert!(svg.contains(">error</text>"));
    }

    #[test]
    fn one_cell_and_equal_values_draw() {
        for (cols, values) in [(1, vec![3.0]), (2, vec![0.0; 4])] {
            let svg = HeatMap::new("t", cols, &values).svg();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn the_scale_gets_lighter_from_end_to_end() {
        let light = |share: f64| {
            let hex = shade(share);
            let part = |at| f64::from(u8::from_str_radix(&hex[at..at + 2], 16).expect("hex"));
            0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
        };
        assert!((0..100).all(|i| light(f64::from(i) / 100.0) <= light(f64::from(i + 1) / 100.0)));
    }
}
