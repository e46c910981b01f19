//! Convolutions against plain loops in f64, on every instruction set, bit for bit across batches and threads.

use super::{ConvPanels, grad_weight};
use crate::cpu::Isa;
use crate::cpu::testing::{Checked, random};
use crate::graph::Conv;

/// Convolution, images, input height and width.
type Case = (Conv, usize, [usize; 2]);

fn conv(c: usize, k: usize, kernel: [usize; 2], stride: [usize; 2], pad: [usize; 2], dilation: usize, groups: usize) -> Conv {
    Conv { c, k, kernel, stride, pad, dilation: [dilation; 2], groups }
}

fn cases() -> Vec<Case> {
    vec![
        (conv(3, 64, [3, 3], [1, 1], [1, 1], 1, 1), 2, [9, 7]),
        (conv(64, 64, [3, 3], [1, 1], [1, 1], 1, 1), 2, [6, 5]),
        (conv(65, 33, [3, 3], [1, 1], [1, 1], 1, 1), 2, [5, 7]),
        (conv(150, 100, [1, 1], [1, 1], [0, 0], 1, 1), 3, [3, 3]),
        (conv(300, 10, [3, 2], [1, 1], [1, 0], 1, 1), 1, [4, 5]),
        (conv(400, 64, [1, 2], [1, 1], [0, 1], 1, 1), 1, [2, 7]),
        (conv(16, 16, [3, 3], [1, 1], [1, 1], 1, 1), 5, [8, 8]),
        (conv(17, 33, [3, 3], [2, 2], [1, 1], 1, 1), 3, [7, 9]),
        (conv(16, 48, [1, 1], [2, 2], [0, 0], 1, 1), 3, [7, 8]),
        (conv(5, 10, [3, 3], [3, 3], [0, 0], 1, 1), 2, [11, 10]),
        (conv(5, 3, [2, 2], [3, 3], [0, 0], 1, 1), 2, [9, 11]),
        (conv(3, 20, [7, 7], [2, 2], [3, 3], 1, 1), 2, [15, 14]),
        (conv(5, 7, [3, 3], [1, 1], [2, 2], 2, 1), 2, [7, 6]),
        (conv(5, 7, [3, 3], [2, 2], [2, 2], 2, 1), 2, [9, 8]),
        (conv(4, 9, [1, 5], [1, 2], [0, 2], 1, 1), 2, [3, 11]),
        (conv(4, 9, [5, 1], [2, 1], [3, 0], 1, 1), 2, [8, 3]),
        (conv(1, 1, [3, 3], [1, 1], [1, 1], 1, 1), 1, [5, 5]),
        (conv(1, 80, [2, 2], [1, 1], [0, 0], 1, 1), 1, [1024, 2]),
        (conv(10, 1, [1, 1], [1, 1], [2, 2], 1, 1), 2, [3, 2]),
        (conv(6, 10, [3, 3], [1, 1], [1, 1], 1, 2), 2, [5, 6]),
        (conv(64, 128, [3, 3], [2, 2], [1, 1], 1, 4), 2, [6, 7]),
        (conv(12, 24, [3, 3], [1, 1], [1, 1], 1, 12), 2, [4, 5]),
        (conv(16, 16, [3, 3], [1, 1], [1, 1], 1, 16), 3, [7, 5]),
        (conv(35, 35, [3, 3], [2, 2], [1, 1], 1, 35), 2, [8, 7]),
        (conv(5, 5, [5, 3], [1, 1], [2, 1], 1, 5), 2, [6, 7]),
        (conv(18, 18, [3, 3], [1, 1], [2, 2], 2, 18), 2, [6, 6]),
        (conv(3, 5, [3, 3], [1, 1], [1, 1], 1, 1), 0, [4, 4]),
    ]
}

/// Calls `visit(x, w, y)` with the positions of every product of the convolution.
fn products((conv, n, hw): &Case, mut visit: impl FnMut(usize, usize, usize)) {
    let (p, q) = conv.out_hw(hw[0], hw[1]);
    let (c, k) = (conv.c / conv.groups, conv.k / conv.groups);
    for image in 0..*n {
        for (y, x) in (0..p).flat_map(|y| (0..q).map(move |x| (y, x))) {
            for (r, s) in (0..conv.kernel[0]).flat_map(|r| (0..conv.kernel[1]).map(move |s| (r, s))) {
                let from_y = (y * conv.stride[0] + r * conv.dilation[0]) as isize - conv.pad[0] as isize;
                let from_x = (x * conv.stride[1] + s * conv.dilation[1]) as isize - conv.pad[1] as isize;
                if from_y < 0 || from_y >= hw[0] as isize || from_x < 0 || from_x >= hw[1] as isize {
                    continue;
                }
                let source = ((image * hw[0] + from_y as usize) * hw[1] + from_x as usize) * conv.c;
                let result = ((image * p + y) * q + x) * conv.k;
                for out in 0..conv.k {
                    for channel in 0..c {
                        let weight = ((out * c + channel) * conv.kernel[0] + r) * conv.kernel[1] + s;
                        visit(source + out / k * c + channel, weight, result + out);
                    }
                }
            }
        }
    }
}

struct Data {
    x: Vec<f32>,
    w: Vec<f32>,
    g: Vec<f32>,
    scale: Vec<f32>,
}

fn data((conv, n, hw): &Case) -> Data {
    let (p, q) = conv.out_hw(hw[0], hw[1]);
    Data {
        x: random(1, n * hw[0] * hw[1] * conv.c),
        w: random(2, conv.k * conv.c / conv.groups * conv.kernel[0] * conv.kernel[1]),
        g: random(3, n * p * q * conv.k),
        scale: random(4, conv.k),
    }
}

#[test]
fn forward_agrees_with_f64() {
    for case in cases() {
        let Data { x, w, g, scale } = data(&case);
        for with in [None, Some(&scale[..])] {
            let mut want = Checked::zeros(g.len());
            products(&case, |i, j, o| {
                let scale = with.map_or(1.0, |s| s[o % case.0.k]);
                want.add(o, f64::from(x[i]) * f64::from(w[j]) * f64::from(scale));
            });
            for isa in Isa::available() {
                let mut got = vec![f32::NAN; g.len()];
                ConvPanels::forward(isa, &case.0, &w, with).run(case.1, case.2, &x, &mut got, &mut []);
                want.compare(&got, &format!("{isa:?} {case:?}"));
            }
        }
    }
}

#[test]
fn grad_input_agrees_with_f64() {
    for case in cases() {
        let Data { x, w, g, scale } = data(&case);
        for with in [None, Some(&scale[..])] {
            let mut want = Checked::zeros(x.len());
            products(&case, |i, j, o| {
                let scale = with.map_or(1.0, |s| s[o % case.0.k]);
                want.add(i, f64::from(g[o]) * f64::from(w[j]) * f64::from(scale));
            });
            for isa in Isa::available() {
                let mut got = vec![f32::NAN; x.len()];
                ConvPanels::grad_input(isa, &case.0, &w, with).run(case.1, case.2, &g, &mut got, &mut []);
                want.compare(&got, &format!("{isa:?} {case:?}"));
            }
        }
    }
}

#[test]
fn grad_weight_agrees_with_f64_on_any_number_of_threads() {
    for case in cases() {
        let Data { x, w, g, .. } = data(&case);
        let mut want = Checked::zeros(w.len());
        products(&case, |i, j, o| want.add(j, f64::from(x[i]) * f64::from(g[o])));
        let run = |threads| {
            let mut got = vec![f32::NAN; w.len()];
            pool(threads).install(|| grad_weight(&case.0, case.1, case.2, &x, &g, &mut got));
            got
        };
        want.compare(&run(1), &format!("{case:?}"));
        assert_eq!(run(1), run(3), "threads change {case:?}");
    }
}

#[test]
fn bits_do_not_depend_on_batch_or_threads() {
    for case in cases() {
        let (conv, n, hw) = case;
        let Data { x, w, g, .. } = data(&case);
        for isa in Isa::available() {
            let layers = [
                (ConvPanels::forward(isa, &conv, &w, None), &x, g.len()),
                (ConvPanels::grad_input(isa, &conv, &w, None), &g, x.len()),
            ];
            for (layer, src, len) in layers {
                let run = |threads, n, src: &[f32], len| {
                    let mut dst = vec![f32::NAN; len];
                    pool(threads).install(|| layer.run(n, hw, src, &mut dst, &mut []));
                    dst
                };
                let together = run(1, n, src, len);
                assert_eq!(together, run(3, n, src, len), "{isa:?} {case:?}: threads");
                for i in 0..n {
                    let alone = run(2, 1, &src[i * src.len() / n..][..src.len() / n], len / n);
                    assert_eq!(alone, together[i * len / n..][..len / n], "{isa:?} {case:?}: image {i} alone");
                }
            }
        }
    }
}

#[test]
fn epilogues_run_in_order_on_every_result() {
    for case in cases() {
        let (conv, n, hw) = case;
        let Data { x, w, g, .. } = data(&case);
        for isa in Isa::available() {
            let layers = [
                (ConvPanels::forward(isa, &conv, &w, None), &x, g.len(), conv.k),
                (ConvPanels::grad_input(isa, &conv, &w, None), &g, x.len(), conv.c),
            ];
            for (layer, src, len, channels) in layers {
                let mut raw = vec![f32::NAN; len];
                layer.run(n, hw, src, &mut raw, &mut []);
                crate::cpu::testing::try_epilogues(channels, &raw, &format!("{isa:?} {case:?}"), |dst, epilogue| {
                    layer.run(n, hw, src, dst, epilogue);
                });
            }
        }
    }
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started")
}
