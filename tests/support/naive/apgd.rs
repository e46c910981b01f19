//! APGD's turn of an image and its moves, as Croce and Hein 2020 (and 2021 for L1) write them.
//! Must not know networks. The names are those of the columns of a state.

use petard::graph::ApgdRule;
use petard::threat::Norm;

use super::Arg;
use super::rows::project_l1;

/// A row of the state with names.
#[derive(Default)]
struct Row {
    turn: f64,
    phase: f64,
    radius: f64,
    step: f64,
    momentum: f64,
    eta: f64,
    best: f64,
    last: f64,
    first: f64,
    since: f64,
    period: f64,
    rises: f64,
    at_check: f64,
    halved: f64,
    top: f64,
    changed: f64,
    better: f64,
    store: f64,
    back: f64,
    broken: f64,
}

impl Row {
    fn read(v: &[f64]) -> Row {
        let [
            turn,
            phase,
            radius,
            step,
            momentum,
            eta,
            best,
            last,
            first,
            since,
            period,
            rises,
            at_check,
            halved,
            top,
            changed,
            better,
            store,
            back,
            broken,
        ] = v.try_into().expect("a row of twenty");
        Row {
            turn,
            phase,
            radius,
            step,
            momentum,
            eta,
            best,
            last,
            first,
            since,
            period,
            rises,
            at_check,
            halved,
            top,
            changed,
            better,
            store,
            back,
            broken,
        }
    }
    fn write(&self) -> Vec<f64> {
        let r = self;
        let (a, b) =
            ([r.turn, r.phase, r.radius, r.step, r.momentum, r.eta, r.best], [r.last, r.first, r.since, r.period, r.rises]);
        let c = [r.at_check, r.halved, r.top, r.changed, r.better, r.store, r.back, r.broken];
        a.into_iter().chain(b).chain(c).collect()
    }
}

/// `(state, loss, fooled, eps)`, in L1 also `(x, best, x0)`.
pub fn state(args: &[Arg], rule: &ApgdRule) -> Vec<f64> {
    let one = |(n, row): (usize, &[f64])| {
        let (loss, fooled, eps) = (args[1].data[n], args[2].data[n] != 0.0, args[3].data[n]);
        let mut r = Row::read(row);
        let start = r.turn == 0.0;
        r.better = f64::from(start || loss > r.best);
        // How many values of the best image, this one if it is better, differ from the original.
        let (differ, elems) = if rule.norm == Norm::L1 {
            let image = |arg: &Arg| arg.images().nth(n).expect("an image").to_vec();
            let best = image(&args[if r.better == 1.0 { 4 } else { 5 }]);
            let count = best.iter().zip(image(&args[6])).filter(|(a, b)| **a != *b).count();
            (count as f64, best.len() as f64)
        } else {
            (0.0, 1.0)
        };
        turn(rule, &mut r, loss, fooled, eps, (differ, elems));
        r.write()
    };
    args[0].images().enumerate().flat_map(one).collect()
}

fn turn(rule: &ApgdRule, r: &mut Row, loss: f64, fooled: bool, eps: f64, (differ, elems): (f64, f64)) {
    let l1 = rule.norm == Norm::L1;
    let n = rule.steps;
    let third = (3 * n).div_ceil(10);
    let phases = if rule.larger { vec![third, third, n - 2 * third] } else { vec![n] };
    let steps = phases[r.phase as usize];
    let percent = |p: usize| (p * steps / 100).max(1) as f64;
    let (start, final_phase) = (r.turn == 0.0, r.phase as usize == phases.len() - 1);
    r.store = f64::from(start || fooled);
    r.broken = f64::from(final_phase && (fooled || r.broken == 1.0));
    (r.back, r.momentum) = (0.0, 0.25);
    if start {
        if r.phase == 0.0 {
            r.first = loss;
        }
        (r.best, r.last, r.at_check, r.since, r.rises, r.halved, r.momentum) = (loss, loss, loss, 0.0, 0.0, 1.0, 0.0);
        r.period = percent(if l1 { 4 } else { 22 });
        r.eta = if l1 { r.radius } else { 2.0 * r.radius };
        (r.top, r.changed) = if rule.larger { (differ / elems / 1.5, differ) } else { (0.2, elems) };
    } else {
        r.rises += f64::from(loss > r.last);
        r.best = r.best.max(loss);
        (r.last, r.since) = (loss, r.since + 1.0);
        if r.since == r.period {
            if l1 {
                let sparser = differ / r.changed < 0.95;
                r.eta = if sparser { r.radius } else { (r.eta / 1.5).clamp(r.radius / 10.0, r.radius) };
                (r.top, r.changed, r.back) = (differ / elems / 1.5, differ, f64::from(sparser));
            } else {
                let halve = r.rises <= f64::from(rule.rho) * r.period || (r.halved == 0.0 && r.best <= r.at_check);
                (r.halved, r.back, r.at_check) = (f64::from(halve), f64::from(halve), r.best);
                r.eta /= if halve { 2.0 } else { 1.0 };
                r.period = (r.period - percent(3)).max(percent(6));
            }
            (r.since, r.rises) = (0.0, 0.0);
        }
    }
    (r.step, r.turn) = (r.eta, r.turn + 1.0);
    if r.turn == steps as f64 + 1.0 && !final_phase {
        (r.turn, r.phase, r.step, r.back) = (0.0, r.phase + 1.0, 0.0, 1.0);
        r.radius = (phases.len() as f64 - r.phase) * eps;
    }
}

/// `(x, x0, g, state)`, in L-inf and L2 also `(old)`.
pub fn step(args: &[Arg], norm: Norm) -> Vec<f64> {
    let image = |k: usize, n: usize| args[k].images().nth(n).expect("an image");
    let one = |n: usize| {
        let (x, x0, g) = (image(0, n), image(1, n), image(2, n));
        let r = Row::read(image(3, n));
        let into = |v: Vec<f64>| into(norm, x0, v, r.radius);
        let way = direction(norm, g, r.top);
        let z = into((0..x.len()).map(|i| x[i] + r.step * way[i]).collect());
        if norm == Norm::L1 || r.momentum == 0.0 {
            return z;
        }
        let old = image(4, n);
        into((0..x.len()).map(|i| x[i] + (z[i] - x[i]) * (1.0 - r.momentum) + (x[i] - old[i]) * r.momentum).collect())
    };
    (0..args[0].images().count()).flat_map(one).collect()
}

fn direction(norm: Norm, g: &[f64], top: f64) -> Vec<f64> {
    let sign = |v: &f64| if *v == 0.0 { 0.0 } else { v.signum() };
    match norm {
        Norm::Linf => g.iter().map(sign).collect(),
        Norm::L2 => {
            let length = g.iter().map(|v| v * v).sum::<f64>().sqrt();
            g.iter().map(|v| v / (length + 1e-12)).collect()
        }
        Norm::L1 => {
            let mut sizes: Vec<f64> = g.iter().map(|v| v.abs()).collect();
            sizes.sort_by(f64::total_cmp);
            // Which place that is, is a matter of f32.
            let place = (1.0 - top as f32) * g.len() as f32;
            let edge = sizes[place.clamp(0.0, g.len() as f32 - 1.0) as usize];
            let signs: Vec<f64> = g.iter().map(|v| if v.abs() >= edge { sign(v) } else { 0.0 }).collect();
            let count = signs.iter().filter(|s| **s != 0.0).count() as f64;
            signs.iter().map(|s| s / (count + 1e-10)).collect()
        }
    }
}

/// Into the ball around `x0`, then into [0,1].
fn into(norm: Norm, x0: &[f64], v: Vec<f64>, eps: f64) -> Vec<f64> {
    let delta: Vec<f64> = v.iter().zip(x0).map(|(v, o)| v - o).collect();
    let delta = match norm {
        Norm::Linf => delta.iter().map(|d| d.clamp(-eps, eps)).collect(),
        Norm::L2 => {
            let length = delta.iter().map(|d| d * d).sum::<f64>().sqrt();
            delta.iter().map(|d| if length > eps { d * eps / length } else { *d }).collect()
        }
        Norm::L1 => project_l1(x0, &delta, eps),
    };
    (0..x0.len()).map(|i| (x0[i] + delta[i]).clamp(0.0, 1.0)).collect()
}
