//! Ops that only move elements: every bit must arrive, and at the right place.

use petard::graph::{Graph, Op, Value};
use petard::tensor::{DType, Shape};

use super::{Bound, Case};

/// Height, width, channels.
const ROWS: &[[usize; 3]] = &[[1, 1, 1], [2, 3, 4], [5, 4, 17], [7, 7, 16], [6, 5, 33]];

/// First row and column, how many more there are than in the image, and what stands beside it.
const WINDOWS: &[([isize; 2], [isize; 2], f32)] = &[
    ([0, 0], [0, 0], 0.0),
    ([-1, -2], [2, 3], 0.0),
    ([-2, 0], [3, 1], f32::NEG_INFINITY),
    ([1, 1], [0, 0], 0.0),
    ([0, -1], [0, 0], 0.25),
    ([-9, 9], [1, 1], 0.0),
];
/// The same, smaller than the image.
const CROPS: &[([isize; 2], [isize; 2], f32)] = &[([1, 2], [-2, -2], 0.0), ([2, 0], [-2, -1], 0.0)];

pub fn cases() -> Vec<Case> {
    let kinds = [concat, concat_one, slice, pad, subsample, subsample_grad, flatten, unflatten];
    let mut cases: Vec<Case> = ROWS.iter().flat_map(|&row| kinds.iter().map(move |kind| kind(row))).collect();
    cases.extend([row(0), row(1)]);
    cases.extend(ROWS[2..].iter().flat_map(|&row| CROPS.iter().map(move |&by| window(row, by))));
    cases.extend(ROWS.iter().flat_map(|&row| WINDOWS.iter().map(move |&by| window(row, by))));
    cases
}

fn case(what: &str, row: [usize; 3], graph: Graph, output: Value) -> Case {
    let [h, w, c] = row;
    let case = Case::new(format!("layout::{what}.{h}x{w}.c{c}"), format!("{row:?}"), graph, output, Bound::Exact);
    Case { scale: super::result, ..case }
}

fn image(g: &mut Graph, name: &str, dims: [usize; 3]) -> Value {
    g.input(name, Shape::per_image(&dims), DType::F32)
}

fn concat([h, w, c]: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let parts = [("a", c), ("b", 1), ("c", c + 3)].map(|(name, c)| image(&mut g, name, [h, w, c]));
    let y = g.concat(&[parts[0], parts[1], parts[2], parts[0]]);
    case("concat", [h, w, c], g, y)
}

fn concat_one(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let y = g.concat(&[x]);
    case("concat_one", row, g, y)
}

fn slice([h, w, c]: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", [h, w, c + 2]);
    let y = g.push(Op::SliceChannels { start: 1, len: c }, &[x]);
    case("slice", [h, w, c], g, y)
}

fn pad([h, w, c]: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let dy = image(&mut g, "g", [h, w, c]);
    let dx = g.push(Op::PadChannels { start: 2, total: c + 3 }, &[dy]);
    case("pad", [h, w, c], g, dx)
}

fn subsample(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let y = g.push(Op::SubsamplePad { stride: 2, before: 3, after: 1 }, &[x]);
    case("subsample_pad", row, g, y)
}

fn subsample_grad([h, w, c]: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let dy = image(&mut g, "g", [h.div_ceil(2), w.div_ceil(2), c + 4]);
    let dx = g.push(Op::SubsamplePadGrad { stride: 2, before: 3, after: 1, hw: [h, w] }, &[dy]);
    case("subsample_pad_grad", [h, w, c], g, dx)
}

fn window([h, w, c]: [usize; 3], (from, more, fill): ([isize; 2], [isize; 2], f32)) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", [h, w, c]);
    let hw = [h.checked_add_signed(more[0]), w.checked_add_signed(more[1])].map(|side| side.expect("a window has pixels"));
    let y = g.window(x, from, hw, fill);
    case(&format!("window.{}x{}.of{}x{}", from[0], from[1], hw[0], hw[1]), [h, w, c], g, y)
}

fn flatten(row: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = image(&mut g, "x", row);
    let y = g.flatten(x);
    case("flatten", row, g, y)
}

fn unflatten([h, w, c]: [usize; 3]) -> Case {
    let mut g = Graph::new();
    let x = g.input("x", Shape::per_image(&[h * w * c]), DType::F32);
    let y = g.push(Op::Unflatten { hwc: [h, w, c] }, &[x]);
    case("unflatten", [h, w, c], g, y)
}

fn row(index: usize) -> Case {
    let mut g = Graph::new();
    let x = g.input("x", Shape::fixed(&[2, 19]), DType::F32);
    let y = g.push(Op::Row { index }, &[x]);
    let case = Case::new(format!("layout::row.{index}"), format!("{index}"), g, y, Bound::Exact);
    Case { scale: super::result, ..case }
}
