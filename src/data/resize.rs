//! Shrinks an image to a shorter side and cuts the centre out, as the usual evaluation of ImageNet models does.
//! Knows no file. The filter is the antialiased bilinear one in fixed point, rows before columns: equal bit for bit to
//! Pillow 11, on which reported accuracies rest (13 does the columns of some tall images first: one level apart).

/// Bits after the point of a weight.
const PRECISION: u32 = 22;

/// One half, so that cutting a sum off rounds it.
const HALF: i32 = 1 << (PRECISION - 1);

/// The rule of fitting an image to a model.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fit {
    /// Pixels of the shorter side after resizing, at least as many as `height` and `width`.
    pub short: usize,
    /// Of the crop.
    pub height: usize,
    /// Of the crop.
    pub width: usize,
}

impl Fit {
    /// `src` is `[h, w, c]`; returns `[height, width, c]`. An image of just that size is returned as it is.
    pub fn apply(&self, src: &[u8], (h, w, c): (usize, usize, usize)) -> Vec<u8> {
        assert_eq!(src.len(), h * w * c, "an image of {h}x{w}x{c}");
        assert!((1..=3).contains(&c), "{c} channels");
        assert!(self.short >= self.height.max(self.width), "{self:?} would crop more than there is");
        if (h, w) == (self.height, self.width) {
            return src.to_vec();
        }
        // The longer side is rounded down.
        let (new_h, new_w) = if h <= w { (self.short, self.short * w / h) } else { (self.short * h / w, self.short) };
        let rows = taps(h, new_h, self.height);
        let columns = taps(w, new_w, self.width);
        // Only the rows that the second pass reads are resized.
        let first = rows.iter().map(|t| t.first).min().unwrap_or(0);
        let last = rows.iter().map(|t| t.first + t.weights.len()).max().unwrap_or(0);
        let narrow = across(&src[first * w * c..last * w * c], w, c, &columns);
        down(&narrow, self.width * c, first, &rows)
    }
}

/// The pixels that one output pixel is made of.
struct Taps {
    first: usize,
    weights: Vec<i32>,
}

/// The taps of the middle `crop` of `to` pixels made from `from`.
fn taps(from: usize, to: usize, crop: usize) -> Vec<Taps> {
    let scale = from as f64 / to as f64;
    let spread = scale.max(1.0);
    // Half of an odd margin goes to the even side, as Python rounds.
    let margin = ((to - crop) as f64 / 2.0).round_ties_even() as usize;
    (margin..margin + crop)
        .map(|x| {
            let centre = (x as f64 + 0.5) * scale;
            let first = (centre - spread + 0.5).max(0.0) as usize;
            let last = ((centre + spread + 0.5) as usize).min(from);
            let weights: Vec<f64> = (first..last).map(|i| (1.0 - ((i as f64 - centre + 0.5) / spread).abs()).max(0.0)).collect();
            let sum: f64 = weights.iter().sum();
            let fixed = |w: &f64| (w / sum * f64::from(1 << PRECISION) + 0.5) as i32;
            Taps { first, weights: weights.iter().map(fixed).collect() }
        })
        .collect()
}

/// Resizes every row of `w` pixels to `columns.len()`.
fn across(src: &[u8], w: usize, c: usize, columns: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(src.len() / w * columns.len());
    for row in src.chunks_exact(w * c) {
        for column in columns {
            let pixels = row[column.first * c..].chunks_exact(c);
            let mut sums = [HALF; 3];
            for (weight, pixel) in column.weights.iter().zip(pixels) {
                for (sum, &v) in sums.iter_mut().zip(pixel) {
                    *sum += weight * i32::from(v);
                }
            }
            out.extend(sums[..c].iter().map(|&sum| rounded(sum)));
        }
    }
    out
}

/// Resizes every column of `src`, whose row 0 is row `first` of the image and holds `width` values.
fn down(src: &[u8], width: usize, first: usize, rows: &[Taps]) -> Vec<u8> {
    let mut out = Vec::with_capacity(rows.len() * width);
    let mut sums = vec![0; width];
    for row in rows {
        sums.fill(HALF);
        for (weight, values) in row.weights.iter().zip(src[(row.first - first) * width..].chunks_exact(width)) {
            for (sum, &v) in sums.iter_mut().zip(values) {
                *sum += weight * i32::from(v);
            }
        }
        out.extend(sums.iter().map(|&sum| rounded(sum)));
    }
    out
}

fn rounded(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flat_image_stays_flat_and_an_exact_one_is_untouched() {
        let fit = Fit { short: 9, height: 8, width: 8 };
        for (h, w) in [(40, 31), (8, 9), (5, 100), (8, 8)] {
            assert_eq!(fit.apply(&vec![77; h * w * 3], (h, w, 3)), vec![77; 192], "{h}x{w}");
        }
        let exact: Vec<u8> = (0..64).collect();
        assert_eq!(fit.apply(&exact, (8, 8, 1)), exact);
    }

    #[test]
    fn values_are_those_of_pillow() {
        // Image.resize((14, 7), BILINEAR) in Pillow 11 of v(y, x) = (y * 37 + x * 91) % 256 in 11 rows of 23, cropped to 5 x 5.
        let src: Vec<u8> = (0..11 * 23).map(|p| ((p / 23) * 37 + (p % 23) * 91) as u8).collect();
        let got = Fit { short: 7, height: 5, width: 5 }.apply(&src, (11, 23, 1));
        assert_eq!(got, PILLOW);
    }

    const PILLOW: [u8; 25] = [
        153, 121, 147, 119, 129, 133, 134, 142, 141, 93, 101, 153, 117, 169, 134, 104, 113, 138, 117, 171, 121, 83, 134, 113, 141,
    ];
}
