//! C&W, EAD, DDN and FMN: each image's next state and the steps, from the papers' formulas.
//! Must not know networks.

use petard::graph::nearest::Objective;
use petard::graph::nearest::column::*;
use petard::graph::{Follow, Nearest, Search};
use petard::rng::{Purpose, Stream};
use petard::tensor::chw_to_hwc;
use petard::threat::{Distance, Norm};

use super::Arg;
use super::rows::project_l1;

pub fn apply(op: Nearest, args: &[Arg]) -> Vec<f64> {
    let n = args[0].batch;
    let row = |i: usize, n: usize| -> &[f64] {
        let len = args[i].shape.elems();
        &args[i].data[n * len..(n + 1) * len]
    };
    let one = |n: usize| match op {
        Nearest::Search(s) => {
            let [state, x, x0, margin, z] = [0, 1, 2, 3, 4].map(|i| row(i, n));
            let (objective, distance) = objective(s.objective, x, x0);
            after_round(&s, &judged(state, margin[0], f64::from(s.kappa), z, distance), margin[0], z, objective)
        }
        Nearest::TanhStart { shrink } if row(0, n)[0] != 0.0 => at_start(shrink, row(2, n)),
        Nearest::TanhStart { .. } => row(1, n).to_vec(),
        Nearest::TanhImage => row(0, n)[..row(0, n).len() / 3].iter().map(|w| 0.5 * (w.tanh() + 1.0)).collect(),
        Nearest::TanhStep { shrink, kappa } => {
            let [adam, x, x0, g, margin, state] = [0, 1, 2, 3, 4, 5].map(|i| row(i, n));
            match (state[RESTART] != 0.0, state[ALIVE] != 0.0) {
                (true, _) => at_start(shrink, x0),
                (_, false) => adam.to_vec(),
                _ => adam_step(adam, x, &stands_for(shrink, x0), g, pull(state, margin[0], kappa), state),
            }
        }
        Nearest::Shrink { beta, kappa } => {
            let [y, x0, g, margin, state] = [0, 1, 2, 3, 4].map(|i| row(i, n));
            let pull = pull(state, margin[0], kappa);
            let to = |i: usize| y[i] - state[RATE] * (2.0 * (y[i] - x0[i]) - pull * g[i]);
            (0..y.len()).map(|i| if state[ALIVE] == 0.0 { x0[i] } else { soft(to(i), x0[i], f64::from(beta)) }).collect()
        }
        Nearest::Momentum => {
            let [next, x, x0, state] = [0, 1, 2, 3].map(|i| row(i, n));
            let k = state[STEP] - 1.0;
            let home = state[RESTART] != 0.0 || state[ALIVE] == 0.0;
            (0..x.len()).map(|i| if home { x0[i] } else { next[i] + k / (k + 3.0) * (next[i] - x[i]) }).collect()
        }
        Nearest::Follow(f) => {
            let [state, x, x0, g, margin, z] = [0, 1, 2, 3, 4, 5].map(|i| row(i, n));
            follow(&f, state, x, x0, g, margin[0], z)
        }
        Nearest::FollowStep(f) => {
            let [x, x0, g, state] = [0, 1, 2, 3].map(|i| row(i, n));
            let (h, w, c) = args[0].shape.hwc();
            let seed = (args[5].data[0] as i64 as u32 as u64) | (args[5].data[1] as i64 as u32 as u64) << 32;
            let stream = Stream {
                seed,
                index: args[4].data[n] as i64 as u32,
                step: state[TURNS] as u32,
                purpose: Purpose::Direction,
                restart: 0,
            };
            let mut drawn = vec![0.0; g.len()];
            let mut chw = vec![0.0f32; g.len()];
            stream.fill_normal(&mut chw);
            chw_to_hwc(&chw, (h, w, c), &mut drawn);
            follow_step(&f, x, x0, g, &drawn.iter().map(|&v| f64::from(v)).collect::<Vec<f64>>(), state)
        }
    };
    (0..n).flat_map(one).collect()
}

fn reached(state: &[f64], margin: f64, kappa: f64, z: &[f64]) -> bool {
    let spread = z.iter().fold(f64::MIN, |a, &b| a.max(b)) - z.iter().fold(f64::MAX, |a, &b| a.min(b));
    margin > kappa + state[SLACK] * spread
}

/// The state with this turn counted and the nearest kept; untouched but for its flags where the image is through.
fn judged(state: &[f64], margin: f64, kappa: f64, z: &[f64], distance: f64) -> Vec<f64> {
    let mut s = state.to_vec();
    s[BETTER] = 0.0;
    if s[ALIVE] != 0.0 {
        s[TURNS] += 1.0;
        s[MARGIN] = s[MARGIN].max(margin);
        if reached(&s, margin, kappa, z) && distance < s[BEST] {
            (s[BETTER], s[BEST]) = (1.0, distance);
        }
    }
    s
}

fn objective(objective: Objective, x: &[f64], x0: &[f64]) -> (f64, f64) {
    let d: Vec<f64> = x.iter().zip(x0).map(|(a, b)| a - b).collect();
    let (l2, l1) = (d.iter().map(|d| d * d).sum::<f64>(), d.iter().map(|d| d.abs()).sum::<f64>());
    match objective {
        Objective::Squared { shrink } => (x.iter().zip(stands_for(shrink, x0)).map(|(a, b)| (a - b) * (a - b)).sum(), l2.sqrt()),
        Objective::L1 { beta } => (l2 + f64::from(beta) * l1, l1),
        Objective::ElasticNet { beta } => (l2 + f64::from(beta) * l1, l2 + f64::from(beta) * l1),
    }
}

fn after_round(s: &Search, judged: &[f64], margin: f64, z: &[f64], objective: f64) -> Vec<f64> {
    let mut t = judged.to_vec();
    t[RESTART] = 0.0;
    if t[ALIVE] == 0.0 {
        return t;
    }
    if reached(&t, margin, f64::from(s.kappa), z) {
        t[REACHED] = 1.0;
    }
    let loss = objective + t[CONSTANT] * f64::max(-margin, -f64::from(s.kappa));
    let mut ends = t[STEP] as usize + 1 == s.steps;
    if s.abort && (t[STEP] as usize).is_multiple_of((s.steps / 10).max(1)) {
        ends |= loss > 0.9999 * t[BEFORE];
        t[BEFORE] = loss;
    }
    t[STEP] += 1.0;
    if ends {
        let c = t[CONSTANT];
        if t[REACHED] != 0.0 {
            t[HIGH] = t[HIGH].min(c)
        } else {
            t[LOW] = t[LOW].max(c)
        }
        t[ROUND] += 1.0;
        let last = s.rounds >= 10 && t[ROUND] as usize == s.rounds - 1;
        t[CONSTANT] = match t[HIGH] {
            high if high.is_infinite() => 10.0 * c,
            high if last => high,
            high => (t[LOW] + high) / 2.0,
        };
        (t[STEP], t[REACHED], t[BEFORE], t[RESTART]) = (0.0, 0.0, f64::INFINITY, 1.0);
        t[ALIVE] = f64::from(t[ROUND] < s.rounds as f64);
    }
    let k = t[STEP];
    if matches!(s.objective, Objective::Squared { .. }) {
        t[RATE] = f64::from(s.rate) / (1.0 - 0.9f64.powf(k.max(1.0)));
        t[SCALE] = 1.0 / (1.0 - 0.999f64.powf(k.max(1.0)));
    } else {
        t[RATE] = f64::from(s.rate) * (1.0 - k / s.steps as f64).sqrt();
    }
    t
}

fn at_start(shrink: f32, x0: &[f64]) -> Vec<f64> {
    let w = x0.iter().map(|x| (f64::from(shrink) * (2.0 * x - 1.0)).atanh());
    w.chain(vec![0.0; 2 * x0.len()]).collect()
}

fn stands_for(shrink: f32, x0: &[f64]) -> Vec<f64> {
    x0.iter().map(|x| 0.5 * (f64::from(shrink) * (2.0 * x - 1.0) + 1.0)).collect()
}

fn pull(state: &[f64], margin: f64, kappa: f32) -> f64 {
    if margin <= f64::from(kappa) { state[CONSTANT] } else { 0.0 }
}

fn adam_step(adam: &[f64], x: &[f64], base: &[f64], g: &[f64], pull: f64, state: &[f64]) -> Vec<f64> {
    let d = x.len();
    let slope = |i: usize| (2.0 * (x[i] - base[i]) - pull * g[i]) * (1.0 - (2.0 * x[i] - 1.0).powi(2)) / 2.0;
    let m: Vec<f64> = (0..d).map(|i| 0.9 * adam[d + i] + 0.1 * slope(i)).collect();
    let v: Vec<f64> = (0..d).map(|i| 0.999 * adam[2 * d + i] + 0.001 * slope(i).powi(2)).collect();
    let w = (0..d).map(|i| adam[i] - state[RATE] * m[i] / ((v[i] * state[SCALE]).sqrt() + 1e-8));
    w.collect::<Vec<f64>>().into_iter().chain(m.clone()).chain(v.clone()).collect()
}

/// Soft thresholding around `x0`, then the box.
fn soft(u: f64, x0: f64, beta: f64) -> f64 {
    if u - x0 > beta {
        f64::min(u - beta, 1.0)
    } else if u - x0 < -beta {
        f64::max(u + beta, 0.0)
    } else {
        x0
    }
}

fn length(distance: Distance, d: &[f64]) -> f64 {
    match distance {
        Distance::L0 => d.iter().filter(|v| **v != 0.0).count() as f64,
        Distance::Norm(Norm::Linf) => d.iter().fold(0.0, |a, b| a.max(b.abs())),
        Distance::Norm(Norm::L2) => d.iter().map(|v| v * v).sum::<f64>().sqrt(),
        Distance::Norm(Norm::L1) => d.iter().map(|v| v.abs()).sum(),
    }
}

fn follow(f: &Follow, state: &[f64], x: &[f64], x0: &[f64], g: &[f64], margin: f64, z: &[f64]) -> Vec<f64> {
    let far = length(f.distance, &x.iter().zip(x0).map(|(a, b)| a - b).collect::<Vec<f64>>());
    let mut s = judged(state, margin, 0.0, z, far);
    if s[ALIVE] == 0.0 {
        return s;
    }
    let won = reached(&s, margin, 0.0, z);
    let share = 0.5 * (1.0 + (std::f64::consts::PI * state[TURNS] / f.steps as f64).cos());
    let first = f64::from(f.gamma);
    let gamma = if f.decoupled { first } else { 0.001 + (first - 0.001) * share };
    let (less, more) = (s[RADIUS] * (1.0 - gamma), s[RADIUS] * (1.0 + gamma));
    let dual = match f.distance {
        Distance::Norm(Norm::Linf) => Distance::Norm(Norm::L1),
        Distance::Norm(Norm::L2) => Distance::Norm(Norm::L2),
        Distance::L0 | Distance::Norm(Norm::L1) => Distance::Norm(Norm::Linf),
    };
    let radius = match (f.decoupled, f.distance, won) {
        (true, _, _) => {
            if won {
                less
            } else {
                more
            }
        }
        (_, Distance::L0, true) => (s[RADIUS] - 1.0).min(less.floor()).min(s[BEST]).max(0.0),
        (_, Distance::L0, false) => (s[RADIUS] + 1.0).max(more.floor()),
        (_, _, true) => less.min(s[BEST]),
        (_, _, false) if s[BEST].is_finite() => more,
        _ => far + margin.abs() / length(dual, g).max(1e-12),
    };
    let corner: Vec<f64> = x0.iter().map(|v| v.max(1.0 - v)).collect();
    s[RADIUS] = radius.min(length(f.distance, &corner));
    s[ALPHA] = f64::from(f.rate) * (0.01 + 0.99 * share);
    s[ALIVE] = f64::from(state[TURNS] + 1.0 < f.steps as f64);
    s
}

fn follow_step(f: &Follow, x: &[f64], x0: &[f64], g: &[f64], drawn: &[f64], state: &[f64]) -> Vec<f64> {
    if state[ALIVE] == 0.0 {
        return x.to_vec();
    }
    let along = if g.iter().all(|&v| v == 0.0) { drawn } else { g };
    let l2 = Distance::Norm(Norm::L2);
    let (steep, radius) = (length(l2, along), state[RADIUS]);
    let mut d: Vec<f64> = (0..x.len()).map(|i| x[i] - x0[i] + state[ALPHA] / steep * along[i]).collect();
    let long = length(l2, &d);
    match f.distance {
        Distance::Norm(Norm::L2) if f.decoupled || long > radius => d.iter_mut().for_each(|v| *v *= radius / long),
        Distance::Norm(Norm::L2) => {}
        Distance::Norm(Norm::Linf) => d.iter_mut().for_each(|v| *v = v.clamp(-radius, radius)),
        Distance::Norm(Norm::L1) => d = project_l1(x0, &d, radius),
        Distance::L0 => {
            let mut order: Vec<usize> = (0..d.len()).collect();
            order.sort_by(|&a, &b| (d[b].abs() as f32).total_cmp(&(d[a].abs() as f32))); // stable: the first of equals stays
            order[d.len().min(radius as usize)..].iter().for_each(|&i| d[i] = 0.0);
        }
    }
    (0..x.len()).map(|i| (x0[i] + d[i]).clamp(0.0, 1.0)).collect()
}
