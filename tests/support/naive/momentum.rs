//! What attacks with a momentum keep between networks.
//! Must not know networks, nor how numbers are drawn.

use super::Arg;

/// `state [N, 2]`.
pub fn tick(state: &Arg, copies: usize) -> Vec<f64> {
    let next = |s: &[f64]| {
        let last = 1.0 / (1u64 << (copies - 1)) as f64;
        [s[0] + 1.0, if s[1] > last { s[1] / 2.0 } else { 1.0 }]
    };
    state.images().flat_map(next).collect()
}

/// `(x, m, reach, state)`.
pub fn ahead(args: &[Arg]) -> Vec<f64> {
    let rows = args[0].images().zip(args[1].images()).zip(args[3].images()).zip(args[2].data);
    rows.flat_map(|(((x, m), s), reach)| x.iter().zip(m).map(move |(x, m)| (x + reach * m) * s[1])).collect()
}

/// `(sum, g, state)`.
pub fn accumulate(args: &[Arg], share: f32) -> Vec<f64> {
    let rows = args[0].images().zip(args[1].images()).zip(args[2].images());
    rows.flat_map(|((sum, g), s)| sum.iter().zip(g).map(move |(sum, g)| sum + f64::from(share) * s[1] * g)).collect()
}

/// `(m, g, decay)`.
pub fn momentum(args: &[Arg]) -> Vec<f64> {
    let one = |((m, g), decay): ((&[f64], &[f64]), &f64)| -> Vec<f64> {
        let mean = g.iter().map(|v| v.abs()).sum::<f64>() / g.len() as f64;
        let size = if mean < f64::from(1e-12f32) { f64::from(1e-12f32) } else { mean };
        m.iter().zip(g).map(|(m, g)| decay * m + g / size).collect()
    };
    args[0].images().zip(args[1].images()).zip(args[2].data).flat_map(one).collect()
}

/// `(g, taps)`: the two-dimensional convolution with the outer product of the taps.
pub fn blur(g: &Arg, taps: &[f64]) -> Vec<f64> {
    let (h, w, c) = g.shape.hwc();
    let (half, mut out) = ((taps.len() / 2) as isize, Vec::with_capacity(g.data.len()));
    for image in g.images() {
        for i in 0..h * w * c {
            let (row, column, channel) = ((i / c / w) as isize, (i / c % w) as isize, i % c);
            let mut sum = 0.0;
            for (a, tap_a) in taps.iter().enumerate() {
                for (b, tap_b) in taps.iter().enumerate() {
                    let (y, x) = (row + a as isize - half, column + b as isize - half);
                    if (0..h as isize).contains(&y) && (0..w as isize).contains(&x) {
                        sum += tap_a * tap_b * image[(y as usize * w + x as usize) * c + channel];
                    }
                }
            }
            out.push(sum);
        }
    }
    out
}
