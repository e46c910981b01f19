//! FAB and DeepFool on a batch of images: which class boundary is nearest, the exact way to it within the box, the step.
//! Must not know networks or schedules; images are independent.
//! Croce and Hein 2020, <https://arxiv.org/abs/1907.02044>; Moosavi-Dezfooli et al. 2016, <https://arxiv.org/abs/1511.04599>.

use rayon::prelude::*;

use super::pgd::Place;
use super::rows::row_len;
use crate::rng::{self, Purpose, Stream};
use crate::tensor::{chw_to_hwc, hwc_to_chw};
use crate::threat::{self, Norm, sum};

/// The class at `place` behind the highest logit of each row, the label left out; of equals the lowest class first, a NaN
/// before all.
pub(crate) fn rival(place: usize, classes: usize, z: &[f32], label: &[i32], out: &mut [i32]) {
    for ((z, &label), out) in z.chunks_exact(classes).zip(label).zip(out) {
        let mut others: Vec<usize> = (0..classes).filter(|&k| k as i32 != label).collect();
        others.sort_by_key(|&k| (!rising(z[k]), k));
        *out = others[place] as i32;
    }
}

/// Sorts as the floats do, +0 and -0 being equal and a NaN above all.
fn rising(v: f32) -> u32 {
    let bits = if v == 0.0 { 0 } else { v.to_bits() };
    match v.is_nan() {
        true => u32::MAX,
        false if bits >> 31 == 1 => !bits,
        false => bits | 1 << 31,
    }
}

/// `|f| / (|w| + 1e-12)` in the dual norm for each image; infinite where `w` is zero.
pub(crate) fn distance(norm: Norm, f: &[f32], w: &[f32], out: &mut [f32]) {
    let images = w.par_chunks(row_len(out.len(), w.len())).zip(f);
    images.zip(out).for_each(|((w, &f), out)| {
        let steepness = match norm {
            Norm::Linf => sum(w.len(), |i| f64::from(w[i].abs())),
            Norm::L2 => sum(w.len(), |i| f64::from(w[i]).powi(2)).sqrt(),
            Norm::L1 => w.iter().map(|w| f64::from(w.abs())).fold(0.0, |a, b| if b > a || b.is_nan() { b } else { a }),
        };
        *out = if steepness == 0.0 { f32::INFINITY } else { (f64::from(f).abs() / (steepness + 1e-12)) as f32 };
    });
}

/// Images at a distance from `x0` in a random direction, images of `hwc`.
pub(crate) fn start(norm: Norm, hwc: [usize; 3], x0: &[f32], place: Place, out: &mut [f32]) {
    let seed = u64::from(place.seed[0] as u32) | u64::from(place.seed[1] as u32) << 32;
    let len = hwc.iter().product();
    x0.par_chunks(len).zip(out.par_chunks_mut(len)).enumerate().for_each(|(n, (x0, out))| {
        let restart = u16::try_from(place.restart[n]).expect("restarts are checked to fit 16 bits");
        let (step, purpose) = (place.seed[2] as u32, Purpose::FabStart);
        let stream = Stream { seed, index: place.index[n] as u32, step, purpose, restart };
        let (mut chw, mut drawn) = (vec![0.0; len], vec![0.0; len]);
        hwc_to_chw(x0, hwc.into(), &mut chw);
        rng::start_at(norm, place.length[n], &stream, &chw, &mut drawn);
        chw_to_hwc(&drawn, hwc.into(), out);
    });
}

/// The shortest way of one point to the hyperplane within [0,1], one step for each element: `over` is how far the point lies
/// above it, in units of the hyperplane's function. Where the box is in the way of all elements, they all go to its wall.
///
/// L-inf: `min(level, room)`; L2: `min(level |w|, room)`: what the steps gain is concave and piecewise linear in `level`, and
/// Newton's iteration from 0 climbs to the root without passing it, gap times slope falling fourfold at least each time.
/// L1: the whole room where `|w|` is above `level`, an equal share of it at `level`, nothing below: `level` is found bit by
/// bit.
struct Way<'a> {
    norm: Norm,
    w: &'a [f32],
    from: &'a [f32],
    down: bool,
    level: f64,
    share: f64,
}

/// Newton's iteration ends at this part of the whole way, ..
const CLOSE: f64 = 1.0 / (1u64 << 48) as f64;
/// .. or after so many turns, of which ordinary images take fewer than ten.
const TURNS: usize = 64;

impl<'a> Way<'a> {
    fn new(norm: Norm, w: &'a [f32], from: &'a [f32], over: f64) -> Self {
        let mut way = Way { norm, w, from, down: over >= 0.0, level: 0.0, share: 0.0 };
        if norm == Norm::L1 {
            way.select(over.abs())
        } else {
            way.climb(over.abs())
        }
        way
    }

    fn up(&self, i: usize) -> bool {
        (self.w[i] > 0.0) != self.down
    }

    /// How far element `i` may go.
    fn room(&self, i: usize) -> f64 {
        let from = f64::from(self.from[i]);
        (if self.up(i) { 1.0 - from } else { from }).max(0.0)
    }

    fn steepness(&self, i: usize) -> f64 {
        f64::from(self.w[i].abs())
    }

    /// How far element `i` goes.
    fn amount(&self, i: usize) -> f64 {
        let (w, room) = (self.steepness(i), self.room(i));
        match self.norm {
            _ if w == 0.0 => 0.0,
            Norm::Linf => self.level.min(room),
            Norm::L2 => (self.level * w).min(room),
            Norm::L1 if w > self.level => room,
            Norm::L1 if w == self.level => self.share * room,
            Norm::L1 => 0.0,
        }
    }

    fn step(&self, i: usize) -> f64 {
        if self.up(i) { self.amount(i) } else { -self.amount(i) }
    }

    fn length(&self) -> f64 {
        let n = self.w.len();
        match self.norm {
            Norm::Linf => (0..n).map(|i| self.amount(i)).fold(0.0, f64::max),
            Norm::L2 => sum(n, |i| self.amount(i).powi(2)).sqrt(),
            Norm::L1 => sum(n, |i| self.amount(i)),
        }
    }

    fn climb(&mut self, goal: f64) {
        let n = self.w.len();
        for _ in 0..TURNS {
            let gap = goal - sum(n, |i| self.steepness(i) * self.amount(i));
            let rate = |i: usize| if self.norm == Norm::Linf { 1.0 } else { self.steepness(i) };
            let free = |i: usize| self.level * rate(i) < self.room(i);
            let slope = sum(n, |i| if free(i) { self.steepness(i) * rate(i) } else { 0.0 });
            // A NaN ends it too.
            let goes_on = gap > goal * CLOSE && slope > 0.0;
            if !goes_on {
                break;
            }
            self.level += gap / slope;
        }
    }

    fn select(&mut self, goal: f64) {
        let n = self.w.len();
        let key = |i: usize| self.w[i].abs().to_bits();
        let gain = |takes: &dyn Fn(u32) -> bool| sum(n, |i| if takes(key(i)) { self.steepness(i) * self.room(i) } else { 0.0 });
        if goal <= 0.0 || goal.is_nan() {
            self.level = f64::INFINITY;
            return;
        }
        if gain(&|k| k > 0) <= goal {
            return;
        }
        // The largest key with which all from there on gain enough; it is that of an element.
        let least = (0..31).rev().fold(0u32, |least, bit| {
            let next = least | 1 << bit;
            if gain(&|k| k >= next) >= goal { next } else { least }
        });
        let share = (goal - gain(&|k| k > least)) / gain(&|k| k == least);
        (self.level, self.share) = (f64::from(f32::from_bits(least)), share.clamp(0.0, 1.0));
    }
}

/// One step of FAB for each image, `f` being `[N]`. A gradient or difference that is not finite makes the image NaN.
pub(crate) fn fab(norm: Norm, [eta, alpha_max]: [f32; 2], x: &mut [f32], x0: &[f32], w: &[f32], f: &[f32]) {
    let (eta, most) = (f64::from(eta), f64::from(alpha_max));
    let len = row_len(f.len(), x.len());
    x.par_chunks_mut(len).zip(x0.par_chunks(len).zip(w.par_chunks(len))).zip(f).for_each(|((x, (x0, w)), &f)| {
        let over = f64::from(f);
        let lag = sum(len, |i| f64::from(w[i]) * (f64::from(x0[i]) - f64::from(x[i])));
        if !(over + lag + sum(len, |i| f64::from(w[i].abs()))).is_finite() {
            return x.fill(f32::NAN);
        }
        let here = x.to_vec();
        let (near, far) = (Way::new(norm, w, &here, over), Way::new(norm, w, x0, over + lag));
        let (a, b) = (near.length().max(1e-8), far.length().max(1e-8));
        let alpha = (a / (a + b)).max(0.0).min(most);
        for (i, x) in x.iter_mut().enumerate() {
            let (from_x, from_x0) = (f64::from(*x) + eta * near.step(i), f64::from(x0[i]) + eta * far.step(i));
            *x = ((1.0 - alpha) * from_x + alpha * from_x0).clamp(0.0, 1.0) as f32;
        }
    });
}

/// One step of DeepFool for each image that goes on; `f` and `stop` are `[N]`. L2 and L-inf.
pub(crate) fn deepfool(norm: Norm, [overshoot, push]: [f32; 2], x: &mut [f32], w: &[f32], f: &[f32], stop: &[f32]) {
    let len = row_len(f.len(), x.len());
    let images = w.par_chunks(len).zip(f.par_iter().zip(stop));
    x.par_chunks_mut(len).zip(images).filter(|(_, (_, (_, stop)))| **stop == 0.0).for_each(|(x, (w, (&f, _)))| {
        let power = |i: usize| if norm == Norm::L2 { f64::from(w[i]).powi(2) } else { f64::from(w[i].abs()) };
        let steepness = sum(len, power);
        if steepness == 0.0 {
            return;
        }
        let size = (1.0 + f64::from(overshoot)) * (f64::from(f).abs() + f64::from(push)) / steepness;
        for (x, &w) in x.iter_mut().zip(w) {
            let way = if norm == Norm::L2 { f64::from(w) } else { f64::from(i8::from(w > 0.0) - i8::from(w < 0.0)) };
            *x = (f64::from(*x) + size * way).clamp(0.0, 1.0) as f32;
        }
    });
}

/// The distance of `x` from `x0` where the flag is set and it is below `best`, else `best`.
pub(crate) fn nearer(norm: Norm, flag: &[f32], x: &[f32], x0: &[f32], best: &[f32], out: &mut [f32]) {
    let len = row_len(flag.len(), x.len());
    let images = x.par_chunks(len).zip(x0.par_chunks(len)).zip(flag.par_iter().zip(best));
    images.zip(out).for_each(|(((x, x0), (&flag, &best)), out)| {
        let far = if flag != 0.0 { threat::distance(norm, x0, x) as f32 } else { f32::INFINITY };
        *out = if far < best { far } else { best };
    });
}

/// `x <- x0 + beta (x - x0)` where the flag is set.
pub(crate) fn back(beta: f32, x: &mut [f32], x0: &[f32], flag: &[f32]) {
    let len = row_len(flag.len(), x.len());
    x.par_chunks_mut(len).zip(x0.par_chunks(len)).zip(flag).filter(|(_, flag)| **flag != 0.0).for_each(|((x, x0), _)| {
        for (x, &x0) in x.iter_mut().zip(x0) {
            *x = (f64::from(x0) + f64::from(beta) * (f64::from(*x) - f64::from(x0))) as f32;
        }
    });
}
