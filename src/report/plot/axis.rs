//! An axis: its range, its round ticks, and where a value lies on it.
//! Must not know what is drawn.

/// One axis of a plot.
#[derive(Clone, Debug, Default)]
pub(super) struct Axis {
    pub label: String,
    pub log: bool,
    /// Lowest and highest value shown; that of the data where `None`.
    pub range: Option<[f64; 2]>,
    /// Where the two lie in the drawing.
    pub span: [f64; 2],
}

impl Axis {
    /// The axis over `values`, drawn from `span[0]` to `span[1]`.
    pub fn fit(mut self, values: impl Iterator<Item = f64>, span: [f64; 2]) -> Self {
        self.span = span;
        if self.range.is_none() {
            let usable = values.filter(|v| v.is_finite() && (!self.log || *v > 0.0));
            let [low, high] = usable.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], v| [v.min(low), v.max(high)]);
            self.range = Some(match () {
                () if low > high => [if self.log { 0.1 } else { 0.0 }, 1.0],
                () if low < high => [low, high],
                () if self.log => [low / 2.0, low * 2.0],
                () => [low - 0.5 * low.abs().max(1.0), low + 0.5 * low.abs().max(1.0)],
            });
        }
        self
    }

    fn ends(&self) -> [f64; 2] {
        self.range.expect("an axis is fitted before it is drawn")
    }

    /// Where `value` lies in the drawing; `None` outside of the range.
    pub fn place(&self, value: f64) -> Option<f64> {
        let [low, high] = self.ends();
        let bent = |v: f64| if self.log { v.ln() } else { v };
        let share = (bent(value) - bent(low)) / (bent(high) - bent(low));
        let inside = (-1e-9..=1.0 + 1e-9).contains(&share);
        inside.then(|| self.span[0] + share * (self.span[1] - self.span[0]))
    }

    /// Round values within the range, and where they lie.
    pub fn ticks(&self) -> Vec<(f64, f64)> {
        let [low, high] = self.ends();
        let values = if self.log { log_ticks(low, high) } else { even_ticks(low, high) };
        values.into_iter().filter_map(|v| self.place(v).map(|at| (v, at))).collect()
    }
}

/// Four to eleven multiples of 1, 2 or 5 times a power of ten.
fn even_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 8.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough).unwrap_or(10.0 * power);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// Powers of ten; over less than two decades their twice and five times as well; over many, every n-th.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let decades = (high / low).log10();
    let factors: &[f64] = if decades < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let every = ((decades / 9.0).ceil() as usize).max(1);
    let powers = (low.log10().floor() as i32..=high.log10().ceil() as i32).step_by(every);
    powers.flat_map(|p| factors.iter().map(move |f| f * 10f64.powi(p))).collect()
}

/// A tick's value, short: at most four digits, powers of ten outside of 1e-4 .. 1e5.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e5).contains(&size) {
        return format!("{value:.1e}").replace(".0e", "e");
    }
    let text = format!("{value:.4}");
    let text = text.trim_end_matches('0').trim_end_matches('.');
    if text == "-0" { "0".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let values = |low, high, log| {
            let axis = Axis { log, range: Some([low, high]), ..Axis::default() }.fit(std::iter::empty(), [0.0, 100.0]);
            axis.ticks().into_iter().map(|t| t.0).collect::<Vec<_>>()
        };
        assert_eq!(values(0.0, 10.0, false), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(values(-0.3, 0.3, false).len(), 7);
        assert_eq!(values(1.0, 20.0, true), [1.0, 2.0, 5.0, 10.0, 20.0]);
        assert_eq!(values(0.5, 2000.0, true), [1.0, 10.0, 100.0, 1000.0]);
        for (low, high) in [(0.0, 1.0), (3.0, 3.7), (-17.0, 230.0), (1e-9, 4e-9), (0.0, 1e12)] {
            assert!((4..=11).contains(&values(low, high, false).len()), "{low} {high}: {:?}", values(low, high, false));
        }
    }

    #[test]
    fn a_value_lies_where_its_share_says() {
        let axis = Axis { log: true, range: Some([1.0, 100.0]), ..Axis::default() }.fit(std::iter::empty(), [0.0, 50.0]);
        assert_eq!(axis.place(10.0), Some(25.0));
        assert_eq!((axis.place(0.0), axis.place(101.0)), (None, None));
    }

    #[test]
    fn numbers_are_short() {
        let text = [0.0, -0.0, 0.25, 1e-5, 123.0, 1e6, 2.5e-7].map(number);
        assert_eq!(text, ["0", "0", "0.25", "1e-5", "123", "1e6", "2.5e-7"]);
    }
}
