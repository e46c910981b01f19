//! FAB and DeepFool by the book: levels by halving, the L1 way by sorting.
//! Must not know networks.

use petard::graph::Plane;
use petard::threat::Norm;

use super::Arg;

pub fn apply(plane: Plane, args: &[Arg]) -> Vec<f64> {
    let image = |i: usize, n: usize| args[i].images().nth(n).expect("a row for each image");
    let rows = 0..args[0].batch;
    match plane {
        Plane::Rival { place } => rows.map(|n| rival(place, image(0, n), args[1].data[n])).collect(),
        Plane::Distance { norm } => {
            let far = |n: usize| match dual(norm, image(1, n)) {
                0.0 => f64::INFINITY,
                steep => args[0].data[n].abs() / (steep + 1e-12),
            };
            rows.map(far).collect()
        }
        Plane::Start { .. } => panic!("random numbers have to be given"),
        Plane::FabStep { norm, eta, alpha_max } => {
            let step = |n: usize| fab(norm, eta, alpha_max, image(0, n), image(1, n), image(2, n), args[3].data[n]);
            rows.flat_map(step).collect()
        }
        Plane::DeepFoolStep { norm, overshoot, push } => {
            let step = |n: usize| {
                let (x, w, f) = (image(0, n), image(1, n), args[2].data[n]);
                if args[3].data[n] != 0.0 || w.iter().all(|&w| w == 0.0) {
                    return x.to_vec();
                }
                let far = (1.0 + f64::from(overshoot)) * (f.abs() + f64::from(push));
                let size = far / if norm == Norm::L2 { dual(norm, w).powi(2) } else { dual(norm, w) };
                let way = |w: f64| if norm == Norm::L2 || w == 0.0 { w } else { w.signum() };
                x.iter().zip(w).map(|(x, &w)| (x + size * way(w)).clamp(0.0, 1.0)).collect()
            };
            rows.flat_map(step).collect()
        }
        Plane::Nearer { norm } => {
            let near = |n: usize| {
                let (x, x0, best) = (image(1, n), image(2, n), args[3].data[n]);
                let d: Vec<f64> = x.iter().zip(x0).map(|(a, b)| a - b).collect();
                let far = size(norm, &d);
                if args[0].data[n] != 0.0 && far < best { far } else { best }
            };
            rows.map(near).collect()
        }
        Plane::Back { beta } => {
            let back = |n: usize| -> Vec<f64> {
                let stays = args[2].data[n] == 0.0;
                let one = |(&x, &x0): (&f64, &f64)| if stays { x } else { x0 + f64::from(beta) * (x - x0) };
                image(0, n).iter().zip(image(1, n)).map(one).collect()
            };
            rows.flat_map(back).collect()
        }
    }
}

/// By taking the winner out `place` times.
fn rival(place: usize, z: &[f64], label: f64) -> f64 {
    let mut left: Vec<usize> = (0..z.len()).filter(|&k| k as f64 != label).collect();
    for _ in 0..place {
        let won = winner(z, &left);
        left.retain(|&k| k != won);
    }
    winner(z, &left) as f64
}

fn winner(z: &[f64], among: &[usize]) -> usize {
    let nan = among.iter().copied().find(|&k| z[k].is_nan());
    nan.unwrap_or_else(|| among.iter().copied().reduce(|a, b| if z[b] > z[a] { b } else { a }).expect("a class is left"))
}

pub fn size(norm: Norm, d: &[f64]) -> f64 {
    match norm {
        Norm::Linf => d.iter().fold(0.0, |m: f64, d| m.max(d.abs())),
        Norm::L2 => d.iter().map(|d| d * d).sum::<f64>().sqrt(),
        Norm::L1 => d.iter().map(|d| d.abs()).sum(),
    }
}

fn dual(norm: Norm, w: &[f64]) -> f64 {
    size([Norm::L1, Norm::L2, Norm::Linf][norm as usize], w)
}

fn fab(norm: Norm, eta: f32, alpha_max: f32, x: &[f64], x0: &[f64], w: &[f64], f: f64) -> Vec<f64> {
    if !(f.is_finite() && w.iter().all(|w| w.is_finite())) {
        return vec![f64::NAN; x.len()];
    }
    // The hyperplane is where <w, v> = b.
    let b = x.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() - f;
    let (d1, d2) = (way(norm, x, w, b), way(norm, x0, w, b));
    let (a1, a2) = (size(norm, &d1).max(1e-8), size(norm, &d2).max(1e-8));
    let alpha = (a1 / (a1 + a2)).min(f64::from(alpha_max));
    let eta = f64::from(eta);
    (0..x.len()).map(|i| ((1.0 - alpha) * (x[i] + eta * d1[i]) + alpha * (x0[i] + eta * d2[i])).clamp(0.0, 1.0)).collect()
}

/// The shortest step from `from` to the hyperplane within [0,1]; the way to the nearest corner where it cannot be reached.
fn way(norm: Norm, from: &[f64], w: &[f64], b: f64) -> Vec<f64> {
    let over = from.iter().zip(w).map(|(x, w)| x * w).sum::<f64>() - b;
    let signs: Vec<f64> = w.iter().map(|&w| if w == 0.0 { 0.0 } else { -w.signum() * over.signum() }).collect();
    let room: Vec<f64> = from.iter().zip(&signs).map(|(x, &s)| if s > 0.0 { 1.0 - x } else { *x }).collect();
    let gain = |amounts: &[f64]| amounts.iter().zip(w).map(|(a, w)| a * w.abs()).sum::<f64>();
    let corner: Vec<f64> = room.iter().zip(w).map(|(&r, &w)| if w == 0.0 { 0.0 } else { r }).collect();
    let amounts = if gain(&corner) <= over.abs() {
        corner
    } else if norm == Norm::L1 {
        steepest_first(w, &room, over.abs())
    } else {
        let at = |level: f64| -> Vec<f64> {
            let one = |(&c, w): (&f64, &f64)| c.min(level * if norm == Norm::L2 { w.abs() } else { 1.0 });
            corner.iter().zip(w).map(one).collect()
        };
        let (mut low, mut high) = (0.0, 1.0);
        while gain(&at(high)) < over.abs() {
            high *= 2.0;
        }
        for _ in 0..400 {
            let middle = (low + high) / 2.0;
            if gain(&at(middle)) < over.abs() { low = middle } else { high = middle }
        }
        at(high)
    };
    amounts.iter().zip(&signs).map(|(a, s)| a * s).collect()
}

/// Whole rooms by falling `|w|`; those that tie where the goal is met go the same part of their room.
fn steepest_first(w: &[f64], room: &[f64], goal: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..w.len()).filter(|&i| w[i] != 0.0).collect();
    order.sort_by(|&a, &b| w[b].abs().total_cmp(&w[a].abs()));
    let mut amounts = vec![0.0; w.len()];
    let mut left = goal;
    for tied in order.chunk_by(|&a, &b| w[a].abs() == w[b].abs()) {
        let all: f64 = tied.iter().map(|&i| w[i].abs() * room[i]).sum();
        let share = if all > left { left / all } else { 1.0 };
        tied.iter().for_each(|&i| amounts[i] = share * room[i]);
        left = (left - all).max(0.0);
    }
    amounts
}
