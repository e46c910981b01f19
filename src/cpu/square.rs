//! Square's ops: where it starts, what becomes of a proposal, the next proposal. Images are independent.
//! Must not know networks, losses or schedules.
//! Andriushchenko et al. 2020, <https://arxiv.org/abs/1912.00049>.

use rayon::prelude::*;

use super::arena::Views;
use super::pgd::Place;
use super::rows::row_len;
use crate::graph::{Graph, Op};
use crate::plan::Step;
use crate::rng::{Purpose, Stream};
use crate::threat::{Norm, project_l1, sum};

/// Entries of the state of an image.
const STATE: usize = 4;
/// Words of a query's stream: row and column of the window, of the second one; whether the pattern is turned; then a sign a
/// channel.
const TURNED: u32 = 4;
const SIGNS: u32 = 8;

/// Any of the ops.
pub(super) fn run(graph: &Graph, step: &Step, op: &Op, views: &Views, out: &mut [f32]) {
    let x = &step.inputs;
    let f = |i: usize| views.f32(x[i]);
    let place =
        |i: usize| Place { index: views.i32(x[i]), restart: views.i32(x[i + 1]), length: f(i + 2), seed: views.i32(x[i + 3]) };
    let hwc = || graph.shape(x[0]).hwc().into();
    match op {
        Op::SquareStart { norm } => {
            let tile = x.get(5).map(|&v| views.f32(v)).map(|all| &all[all.len() - all.len() / graph.shape(x[5]).dims[0]..]);
            start(*norm, hwc(), f(0), place(1), tile, out);
        }
        Op::SquareControl => control(f(0), f(1), f(2), out),
        Op::SquareStep { norm } => {
            if !views.same_place(step.output, x[0]) {
                out.copy_from_slice(f(0));
            }
            let book = Book { schedule: views.i32(x[8]), patterns: x.get(9).map_or(&[], |&v| views.f32(v)) };
            propose(*norm, hwc(), [f(1), f(2), f(3)], &place(4), &book, out);
        }
        other => unreachable!("{other:?} is none of Square's"),
    }
}

/// Windows by proposal, and their patterns.
struct Book<'a> {
    schedule: &'a [i32],
    patterns: &'a [f32],
}

fn stream(place: &Place, n: usize, query: u32) -> Stream {
    let seed = u64::from(place.seed[0] as u32) | u64::from(place.seed[1] as u32) << 32;
    let restart = u16::try_from(place.restart[n]).expect("restarts are checked to fit 16 bits");
    Stream { seed, index: place.index[n] as u32, step: query, purpose: Purpose::Square, restart }
}

/// 1 or -1 by the word of an element.
fn sign(stream: &Stream, element: usize) -> f32 {
    if stream.bits(element as u32) >> 31 == 0 { 1.0 } else { -1.0 }
}

/// The starts around `x0`. `tile`: the pattern of a tile, whose side is the fifth of the shorter side; L2 and L1 only.
fn start(norm: Norm, [h, w, c]: [usize; 3], x0: &[f32], place: Place, tile: Option<&[f32]>, out: &mut [f32]) {
    let len = h * w * c;
    out.par_chunks_mut(len).zip(x0.par_chunks(len)).enumerate().for_each(|(n, (out, x0))| {
        let (stream, eps) = (stream(&place, n, 0), place.length[n]);
        let Some(tile) = tile else {
            for (e, (out, x0)) in out.iter_mut().zip(x0).enumerate() {
                *out = (x0 + eps * sign(&stream, e % c * w + e / c % w)).clamp(0.0, 1.0);
            }
            return;
        };
        let mut delta = tiles(norm, [h, w, c], f64::from(eps), &stream, tile);
        if norm == Norm::L1 {
            project_l1(eps.into(), x0, &mut delta);
        }
        add(x0, delta.into_iter(), out);
    });
}

/// Whole tiles in the middle of an image, each turned or not and with a sign a channel; scaled to `eps`, in L1 upwards only.
fn tiles(norm: Norm, [h, w, c]: [usize; 3], eps: f64, stream: &Stream, tile: &[f32]) -> Vec<f64> {
    let side = (h.min(w) / 5).max(1);
    let (down, across) = (h / side, w / side);
    let count = (down * across * c) as f64;
    let scale = if norm == Norm::L1 { (eps / count).max(1.0) } else { eps / count.sqrt() };
    let mut delta = vec![0.0; h * w * c];
    for t in 0..down * across {
        let corner = [(h - down * side) / 2 + t / across * side, (w - across * side) / 2 + t % across * side];
        let turned = sign(stream, t * (c + 1) + c) < 0.0;
        for e in 0..side * side * c {
            let (i, j, ch) = (e / c / side, e / c % side, e % c);
            let value = tile[if turned { j * side + i } else { i * side + j }];
            let at = ((corner[0] + i) * w + corner[1] + j) * c + ch;
            delta[at] = scale * f64::from(value * sign(stream, t * (c + 1) + ch));
        }
    }
    delta
}

/// Counts the query, and says whether it is the best so far and whether it breaks the image. The first always is the best.
fn control(state: &[f32], loss: &[f32], fooled: &[f32], out: &mut [f32]) {
    for (n, (out, s)) in out.chunks_exact_mut(STATE).zip(state.chunks_exact(STATE)).enumerate() {
        let broken = fooled[n] != 0.0;
        let better = broken || loss[n] > s[1] || s[0] == 0.0;
        let next = [s[0] + 1.0, if better { loss[n] } else { s[1] }, f32::from(u8::from(broken)), f32::from(u8::from(better))];
        out.copy_from_slice(&if s[2] != 0.0 { [s[0], s[1], s[2], 0.0] } else { next });
    }
}

/// The window of one query.
struct Query {
    stream: Stream,
    entry: usize,
    side: usize,
    /// Top left corners: of the window that changes, and of the one that is emptied.
    at: [usize; 2],
    from: [usize; 2],
}

impl Query {
    /// Query `number`, from 1: the start was 0.
    fn new(stream: Stream, schedule: &[i32], [h, w]: [usize; 2]) -> Self {
        let first = |entry: &[i32]| i64::from(entry[0]) < i64::from(stream.step);
        let entry = schedule.chunks_exact(2).rposition(first).expect("the schedule begins with the first proposal");
        let side = schedule[2 * entry + 1] as usize;
        let draw = |element, size: usize| ((u64::from(stream.bits(element)) * (size - side + 1) as u64) >> 32) as usize;
        Query { entry, side, at: [draw(0, h), draw(1, w)], from: [draw(2, h), draw(3, w)], stream }
    }
    fn sign(&self, channel: usize) -> f32 {
        sign(&self.stream, SIGNS as usize + channel)
    }
    /// Where (i, j) lies in a window with this corner.
    fn inside(&self, corner: [usize; 2], i: usize, j: usize) -> Option<(usize, usize)> {
        let (i, j) = (i.wrapping_sub(corner[0]), j.wrapping_sub(corner[1]));
        (i < self.side && j < self.side).then_some((i, j))
    }
}

/// The next proposals into `out`, which holds the last ones. `images`: best, original, state.
fn propose(norm: Norm, [h, w, c]: [usize; 3], images: [&[f32]; 3], place: &Place, book: &Book, out: &mut [f32]) {
    let len = h * w * c;
    let [best, x0, state] = images;
    assert_eq!(row_len(place.index.len(), out.len()), len, "as many rows as indices");
    out.par_chunks_mut(len).enumerate().for_each(|(n, out)| {
        let (best, x0, state) = (&best[n * len..][..len], &x0[n * len..][..len], &state[n * STATE..][..STATE]);
        let made = state[0] as u32;
        if state[2] != 0.0 || made == 0 {
            return;
        }
        let query = |number| Query::new(stream(place, n, number), book.schedule, [h, w]);
        match norm {
            Norm::Linf => {
                if made > 1 {
                    restore(&query(made - 1), w * c, c, best, out);
                }
                repaint(&query(made), w * c, c, place.length[n], best, x0, out);
            }
            Norm::L2 | Norm::L1 => move_mass(norm, [h, w, c], &query(made), book, place.length[n].into(), best, x0, out),
        }
    });
}

/// What the last proposal changed is again as in the best point.
fn restore(last: &Query, row: usize, c: usize, best: &[f32], out: &mut [f32]) {
    for i in last.at[0]..last.at[0] + last.side {
        let part = i * row + last.at[1] * c..i * row + (last.at[1] + last.side) * c;
        out[part.clone()].copy_from_slice(&best[part]);
    }
}

/// The window one radius beyond the best point, `2 eps` from where it may be, back to ball and box.
fn repaint(q: &Query, row: usize, c: usize, eps: f32, best: &[f32], x0: &[f32], out: &mut [f32]) {
    let colours: Vec<f32> = (0..c).map(|ch| 2.0 * eps * q.sign(ch)).collect();
    for i in q.at[0]..q.at[0] + q.side {
        for e in i * row + q.at[1] * c..i * row + (q.at[1] + q.side) * c {
            out[e] = (best[e] + colours[e % c]).max(x0[e] - eps).min(x0[e] + eps).clamp(0.0, 1.0);
        }
    }
}

/// One window gets its pattern on top of what it holds, the other is emptied, and the mass of both goes into the first,
/// channel by channel, with what is left of `eps`.
#[allow(clippy::too_many_arguments)] // three images, their shape, and how one becomes the next
fn move_mass(norm: Norm, [h, w, c]: [usize; 3], q: &Query, book: &Book, eps: f64, best: &[f32], x0: &[f32], out: &mut [f32]) {
    let (l1, side) = (norm == Norm::L1, q.side);
    let size = |d: f64| if l1 { d.abs() } else { d * d };
    let root = |v: f64| if l1 { v } else { v.sqrt() };
    let pattern = &book.patterns[book.patterns.len() / (book.schedule.len() / 2 + 1) * q.entry..];
    let turned = q.stream.bits(TURNED) >> 31 != 0;
    let delta = |e: usize| f64::from(best[e]) - f64::from(x0[e]);
    let windows = |e: usize| [q.at, q.from].map(|corner| q.inside(corner, e / c / w, e / c % w).is_some());
    let outside = sum(h * w * c, |e| if windows(e) == [false, false] { size(delta(e)) } else { 0.0 });
    let pixel = |t: usize, ch: usize| ((q.at[0] + t / side) * w + q.at[1] + t % side) * c + ch;
    let freed = |e: usize| if windows(e) == [false, false] { 0.0 } else { size(delta(e)) };
    let joint: Vec<f64> = (0..c).map(|ch| sum(h * w, |p| freed(p * c + ch))).collect();
    let content: Vec<f64> = (0..c).map(|ch| root(sum(side * side, |t| size(delta(pixel(t, ch)))))).collect();
    // What the window is to hold, before it is scaled.
    let fresh = |i: usize, j: usize, ch: usize, d: f64| {
        let value = pattern[if turned { j * side + i } else { i * side + j }];
        f64::from(value * q.sign(ch)) + d / (1e-12 + content[ch])
    };
    let slack = ((if l1 { eps } else { eps * eps }) - outside - joint.iter().sum::<f64>()).max(0.0);
    let (mut total, mut scale) = (outside, Vec::with_capacity(c));
    for (ch, &joint) in joint.iter().enumerate() {
        let length = root(sum(side * side, |t| size(fresh(t / side, t % side, ch, delta(pixel(t, ch))))));
        // L1 gives every channel what all would share, as AutoAttack does: the projection takes it back where it does least.
        let mass = if l1 { slack + c as f64 * joint } else { (slack / c as f64 + joint).sqrt() };
        scale.push(mass / (1e-12 + length));
        total += size(scale[ch] * length);
    }
    let factor = if l1 { 1.0 } else { eps / (1e-12 + total.sqrt()) };
    let changed = |e: usize| {
        let (i, j, ch) = (e / c / w, e / c % w, e % c);
        match (q.inside(q.at, i, j), q.inside(q.from, i, j)) {
            (Some((i, j)), _) => fresh(i, j, ch, delta(e)) * scale[ch] * factor,
            (None, Some(_)) => 0.0,
            (None, None) => delta(e) * factor,
        }
    };
    if l1 {
        let mut moved: Vec<f64> = (0..h * w * c).map(changed).collect();
        project_l1(eps, x0, &mut moved);
        add(x0, moved.into_iter(), out);
    } else {
        add(x0, (0..h * w * c).map(changed), out);
    }
}

fn add(x0: &[f32], delta: impl Iterator<Item = f64>, out: &mut [f32]) {
    for ((out, &x0), delta) in out.iter_mut().zip(x0).zip(delta) {
        *out = (f64::from(x0) + delta).clamp(0.0, 1.0) as f32;
    }
}
