//! Convolutions against plain loops in f64, on every instruction set, bit for bit across batches and threads.

use super::{ConvPanels, Tile, Way, Workspace, grad_weight};
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

/// Every instruction set with every way to compute the convolution.
fn ways(conv: &Conv) -> Vec<(Isa, Way)> {
    let fast = [Way::Winograd(Tile::F2), Way::Winograd(Tile::F4)].into_iter().filter(|_| Way::winograd_fits(conv));
    let ways: Vec<Way> = fast.chain([Way::Direct]).collect();
    Isa::available().into_iter().flat_map(|isa| ways.iter().map(move |&way| (isa, way)).collect::<Vec<_>>()).collect()
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
                ConvPanels::forward(isa, &case.0, Way::Direct, &w, with).run(
                    &Workspace::new(1),
                    case.1,
                    case.2,
                    &x,
                    &mut got,
                    &mut [],
                );
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
                ConvPanels::grad_input(isa, &case.0, Way::Direct, &w, with).run(
                    &Workspace::new(1),
                    case.1,
                    case.2,
                    &g,
                    &mut got,
                    &mut [],
                );
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
            let how = (Isa::detect(), Way::Direct, &Workspace::new(threads));
            pool(threads).install(|| grad_weight(how, &case.0, case.1, case.2, &x, &g, &mut got));
            got
        };
        want.compare(&run(1), &format!("{case:?}"));
        assert_eq!(run(1), run(3), "threads change {case:?}");
    }
}

#[test]
fn bits_do_not_depend_on_batch_or_threads() {
    for case in cases().into_iter().chain(winograd_cases()) {
        let (conv, n, hw) = case;
        let Data { x, w, g, .. } = data(&case);
        for (isa, way) in ways(&conv) {
            let layers = [
                (ConvPanels::forward(isa, &conv, way, &w, None), &x, g.len()),
                (ConvPanels::grad_input(isa, &conv, way, &w, None), &g, x.len()),
            ];
            for (layer, src, len) in layers {
                let run = |threads, n, src: &[f32], len| {
                    let mut dst = vec![f32::NAN; len];
                    pool(threads).install(|| layer.run(&Workspace::new(threads), n, hw, src, &mut dst, &mut []));
                    dst
                };
                let together = run(1, n, src, len);
                assert_eq!(together, run(3, n, src, len), "{isa:?} {way:?} {case:?}: threads");
                for i in 0..n {
                    let alone = run(2, 1, &src[i * src.len() / n..][..src.len() / n], len / n);
                    assert_eq!(alone, together[i * len / n..][..len / n], "{isa:?} {way:?} {case:?}: image {i} alone");
                }
            }
        }
    }
}

#[test]
fn epilogues_run_in_order_on_every_result() {
    for case in cases().into_iter().chain(winograd_cases()) {
        let (conv, n, hw) = case;
        let Data { x, w, g, .. } = data(&case);
        for (isa, way) in ways(&conv) {
            let layers = [
                (ConvPanels::forward(isa, &conv, way, &w, None), &x, g.len(), conv.k),
                (ConvPanels::grad_input(isa, &conv, way, &w, None), &g, x.len(), conv.c),
            ];
            for (layer, src, len, channels) in layers {
                let mut raw = vec![f32::NAN; len];
                layer.run(&Workspace::new(1), n, hw, src, &mut raw, &mut []);
                crate::cpu::testing::try_epilogues(channels, &raw, &format!("{isa:?} {way:?} {case:?}"), |dst, epilogue| {
                    layer.run(&Workspace::new(1), n, hw, src, dst, epilogue);
                });
            }
        }
    }
}

fn pool(threads: usize) -> rayon::ThreadPool {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("threads can be started")
}

/// The matrices of a tile in one dimension: `At`, `G`, `Bt`, zeros of the last left out.
type Matrices = (Vec<Vec<f64>>, Vec<[f64; 3]>, Vec<Vec<f64>>);

fn matrices(tile: Tile) -> Matrices {
    let (third, twelfth, ends) = (1.0 / 6.0, 1.0 / 12.0, [0.0, 0.0, 1.0]);
    match tile {
        Tile::F2 => (
            vec![vec![1.0, 1.0, 1.0, 0.0], vec![0.0, 1.0, -1.0, 1.0]],
            vec![[1.0, 0.0, 0.0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], ends],
            vec![vec![1.0, -1.0], vec![1.0, 1.0], vec![-1.0, 1.0], vec![-1.0, 1.0]],
        ),
        Tile::F4 => (
            vec![
                vec![1.0, 1.0, 1.0, 1.0, 1.0, 0.0],
                vec![0.0, 1.0, -1.0, 2.0, -2.0, 0.0],
                vec![0.0, 1.0, 1.0, 4.0, 4.0, 0.0],
                vec![0.0, 1.0, -1.0, 8.0, -8.0, 1.0],
            ],
            vec![
                [0.25, 0.0, 0.0],
                [third, third, third],
                [third, third, third],
                [twelfth / 2.0, twelfth, third],
                [twelfth / 2.0, twelfth, third],
                ends,
            ],
            vec![
                vec![4.0, -5.0, 1.0],
                vec![-4.0, -4.0, 1.0, 1.0],
                vec![4.0, -4.0, -1.0, 1.0],
                vec![-2.0, -1.0, 2.0, 1.0],
                vec![2.0, -1.0, -2.0, 1.0],
                vec![4.0, -5.0, 1.0],
            ],
        ),
    }
}

/// What Winograd's transforms cost in accuracy in one dimension: `[largest, mean]` over the results of a tile of the
/// squared factor `sum_x At[i][x]^2 |G_x|^2 |Bt_x|^2 / 3`.
///
/// Take weights and sources that are independent with variances v and w. In one dimension a product x then has variance
/// `v |G_x|^2 * w |Bt_x|^2`, and result i is `sum_x At[i][x]` of them; a direct sum of 3 terms has `3 v w`. If every
/// product carries errors of e times its own size, result i carries e times its own size times the root of the factor
/// above, and in two dimensions the factors of row and column multiply.
fn winograd_loss(tile: Tile) -> [f64; 2] {
    let (at, g, bt) = matrices(tile);
    largest_and_mean(at.iter().map(|at| (0..at.len()).map(|x| at[x] * at[x] * square(&g[x]) * square(&bt[x])).sum::<f64>() / 3.0))
}

/// The same for weight gradients, where G and At change places: `sum_x G[x][r]^2 |A_x|^2 |Bt_x|^2`, against as many terms as
/// a tile has results.
fn gradient_loss(tile: Tile) -> [f64; 2] {
    let (at, g, bt) = matrices(tile);
    let spread = |x: usize| at.iter().map(|row| row[x] * row[x]).sum::<f64>() / at.len() as f64;
    largest_and_mean((0..3).map(|r| (0..g.len()).map(|x| g[x][r] * g[x][r] * spread(x) * square(&bt[x])).sum()))
}

fn square(row: &[f64]) -> f64 {
    row.iter().map(|v| v * v).sum()
}

fn largest_and_mean(all: impl ExactSizeIterator<Item = f64> + Clone) -> [f64; 2] {
    let count = all.len() as f64;
    [all.clone().fold(0.0, f64::max), all.sum::<f64>() / count]
}

/// Compares with f64 what `[largest, mean]` losses allow. A product is rounded once for each of its terms and at most 16
/// times in the transforms around it, each time by up to `u` of its size, as a random walk: no element may be off by more
/// than 8 standard deviations, all together by more than 1. Gives back the relative error of all together.
fn close(got: &[f32], want: &[f64], [largest, mean]: [f64; 2], terms: usize, size: f64) -> Result<f64, String> {
    let unit = f64::from(f32::EPSILON) / 2.0 * ((terms + 16) as f64).sqrt();
    let (mut square, mut norm) = (0.0, 0.0);
    for (i, (&got, &want)) in got.iter().zip(want).enumerate() {
        let error = (f64::from(got) - want).abs();
        let fine = error <= 8.0 * unit * largest * size; // false for NaN
        if !fine {
            return Err(format!("element {i} is {got}, want {want}"));
        }
        (square, norm) = (square + error * error, norm + want * want);
    }
    if square.sqrt() > unit * mean * size * (got.len() as f64).sqrt() {
        return Err(format!("the norm of the error is {} of {}", square.sqrt(), norm.sqrt()));
    }
    Ok((square / norm).sqrt())
}

/// Size of a sum of 9 products for each of `c` channels.
fn nine(c: usize, term: f64) -> f64 {
    term * (9.0 * c as f64).sqrt()
}

/// Every height and width from 1 to 19 with every padding that fits, channels around the vectors.
fn winograd_cases() -> Vec<Case> {
    let channels = [(1, 1), (5, 7), (16, 16), (17, 33), (8, 65), (40, 24), (64, 48)];
    let pads = [[1, 1], [0, 0], [2, 2], [0, 2], [2, 1]];
    let sized = |i: usize| {
        let (hw, pad) = ([i % 19 + 1, (i * 7 + 3) % 19 + 1], pads[i % pads.len()]);
        let (c, k) = channels[i % channels.len()];
        let fits = (0..2).all(|d| hw[d] + 2 * pad[d] >= 3);
        fits.then(|| (conv(c, k, [3, 3], [1, 1], pad, 1, 1), [2, 1, 8, 13][i % 4], hw))
    };
    let large =
        [(conv(128, 128, [3, 3], [1, 1], [1, 1], 1, 1), 13, [7, 7]), (conv(96, 160, [3, 3], [1, 1], [1, 1], 1, 1), 8, [4, 6])];
    (0..57).filter_map(sized).chain(large).collect()
}

fn root_mean_square(v: &[f32]) -> f64 {
    (v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / v.len().max(1) as f64).sqrt()
}

#[test]
fn winograd_agrees_with_f64() {
    let mut worst = [0.0f64; 2];
    for (i, case) in winograd_cases().iter().enumerate() {
        let Data { x, w, g, scale } = data(case);
        let (conv, n, hw) = case;
        let with = (i % 2 == 0).then_some(&scale[..]);
        let (mut y, mut dx) = (vec![0.0; g.len()], vec![0.0; x.len()]);
        products(case, |i, j, o| {
            let w = f64::from(w[j]) * with.map_or(1.0, |s| f64::from(s[o % conv.k]));
            y[o] += f64::from(x[i]) * w;
            dx[i] += f64::from(g[o]) * w;
        });
        // One scale may stand out among a few channels.
        let weight = root_mean_square(&w) * with.map_or(1.0, |s| f64::from(s.iter().fold(0.0f32, |a, s| a.max(s.abs()))));
        for isa in Isa::available() {
            for (t, tile) in [Tile::F2, Tile::F4].into_iter().enumerate() {
                let way = Way::Winograd(tile);
                let run = |layer: ConvPanels, src: &[f32], len| {
                    let mut dst = vec![f32::NAN; len];
                    layer.run(&Workspace::new(1), *n, *hw, src, &mut dst, &mut []);
                    dst
                };
                let got = run(ConvPanels::forward(isa, conv, way, &w, with), &x, y.len());
                let forward = close(&got, &y, winograd_loss(tile), conv.c, nine(conv.c, weight * root_mean_square(&x)));
                let got = run(ConvPanels::grad_input(isa, conv, way, &w, with), &g, dx.len());
                let backward = close(&got, &dx, winograd_loss(tile), conv.k, nine(conv.k, weight * root_mean_square(&g)));
                for error in [forward, backward] {
                    worst[t] = worst[t].max(error.unwrap_or_else(|e| panic!("{isa:?} {way:?} {case:?}: {e}")));
                }
            }
        }
    }
    // What networks lose per layer; a direct sum of these sizes errs by 1e-7 or two.
    assert!(worst[0] < 7e-7 && worst[1] < 5e-6, "relative errors of F(2x2) and F(4x4): {worst:?}");
}

#[test]
fn winograd_weight_gradients_agree_with_f64_on_any_number_of_threads() {
    let channels = |c, k| conv(c, k, [3, 3], [1, 1], [1, 1], 1, 1);
    // More channels than a block and more tiles than a part, in turn.
    let large = [(channels(130, 20), 3, [5, 6]), (channels(9, 131), 3, [6, 5]), (channels(5, 8), 9, [41, 47])];
    let mut worst = [0.0f64; 2];
    for case in winograd_cases().into_iter().chain(large).chain([(channels(3, 5), 0, [4, 4])]) {
        let Data { x, w, g, .. } = data(&case);
        let (conv, n, hw) = &case;
        let mut want = vec![0.0; w.len()];
        products(&case, |i, j, o| want[j] += f64::from(x[i]) * f64::from(g[o]));
        for (isa, (t, tile)) in
            Isa::available().into_iter().flat_map(|isa| [Tile::F2, Tile::F4].into_iter().enumerate().map(move |tile| (isa, tile)))
        {
            let run = |threads| {
                let mut got = vec![f32::NAN; w.len()];
                let how = (isa, Way::Winograd(tile), &Workspace::new(threads));
                pool(threads).install(|| grad_weight(how, conv, *n, *hw, &x, &g, &mut got));
                got
            };
            let got = run(1);
            assert_eq!(got, run(3), "{isa:?} {tile:?}: threads change {case:?}");
            let (p, q) = conv.out_hw(hw[0], hw[1]);
            let tiles = n * p.div_ceil(tile.side()) * q.div_ceil(tile.side());
            let pixels = (tiles * tile.side() * tile.side()) as f64;
            let size = root_mean_square(&x) * root_mean_square(&g) * pixels.sqrt();
            let error = close(&got, &want, gradient_loss(tile), tiles, size);
            let error = error.unwrap_or_else(|e| panic!("{isa:?} {tile:?} {case:?}: {e}"));
            worst[t] = if error > worst[t] { error } else { worst[t] };
        }
    }
    assert!(worst[0] < 1e-6 && worst[1] < 5e-6, "relative errors of F(2x2) and F(4x4): {worst:?}");
}

/// The comparer must see each way in which tiles could go wrong.
#[test]
fn winograd_faults_are_seen() {
    let case: Case = (conv(64, 48, [3, 3], [1, 1], [1, 1], 1, 1), 3, [7, 6]);
    let Data { x, w, .. } = data(&case);
    let (conv, n, hw) = &case;
    let mut want = vec![0.0; n * 7 * 6 * conv.k];
    products(&case, |i, j, o| want[o] += f64::from(x[i]) * f64::from(w[j]));
    let term = root_mean_square(&w) * root_mean_square(&x);
    for tile in [Tile::F2, Tile::F4] {
        let run = |w: &[f32], x: &[f32]| {
            let mut got = vec![f32::NAN; want.len()];
            let layer = ConvPanels::forward(Isa::detect(), conv, Way::Winograd(tile), w, None);
            layer.run(&Workspace::new(1), *n, *hw, x, &mut got, &mut []);
            got
        };
        let seen = |got: &[f32]| close(got, &want, winograd_loss(tile), conv.c, nine(conv.c, term)).is_err();
        let right = run(&w, &x);
        assert!(!seen(&right), "{tile:?} is right");
        let mut swapped = w.clone();
        swapped.swap(9 * 777 + 1, 9 * 777 + 3);
        assert!(seen(&run(&swapped, &x)), "{tile:?}: one kernel turned over");
        let mut moved = x.clone();
        moved[41 * 64 + 63] += 0.5;
        assert!(seen(&run(&w, &moved)), "{tile:?}: the last channel of a corner");
        let mut places = right.clone();
        places.swap(41 * 48, 40 * 48);
        assert!(seen(&places), "{tile:?}: two results of a border tile exchanged");
        let mut rounded = right.clone();
        rounded.iter_mut().for_each(|v| *v *= 1.0 + 1e-4);
        assert!(seen(&rounded), "{tile:?}: a digit lost");
    }
}

#[test]
fn the_way_depends_on_the_layer_and_the_class_of_the_batch() {
    let plain = conv(64, 64, [3, 3], [1, 1], [1, 1], 1, 1);
    let (direct, f2, f4) = (Way::Direct, Way::Winograd(Tile::F2), Way::Winograd(Tile::F4));
    for (size, few, many) in [(1, direct, direct), (2, direct, f2), (4, direct, f4), (6, direct, f2), (8, f2, f4), (16, f4, f4)] {
        assert_eq!(Way::choose(&plain, [size; 2], 7, false), few, "{size}, batch 7");
        for batch in [8, 9, 1000] {
            assert_eq!(Way::choose(&plain, [size; 2], batch, false), many, "{size}, batch {batch}");
            assert_eq!(Way::choose(&plain, [size; 2], batch, true), direct, "exact");
        }
    }
    for other in
        [Conv { stride: [2, 2], ..plain }, Conv { pad: [3, 1], ..plain }, Conv { c: 3, ..plain }, Conv { groups: 2, ..plain }]
    {
        assert_eq!(Way::choose(&other, [32, 32], 64, false), direct, "{other:?}");
    }
}
