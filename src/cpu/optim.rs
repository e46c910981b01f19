//! The update of parameters: SGD with momentum and weight decay, moving averages. Element by element, in place.
//! Must not know schedules, nor which parameter an array is.
//! As PyTorch's `optim.SGD` without dampening: weight decay is added to the gradient, momentum starts at zero.

use rayon::prelude::*;

/// Elements that one thread takes at a time.
const CHUNK: usize = 1 << 14;

/// `v <- momentum * v + (g + weight_decay * w)`; `hyper` = learning rate, momentum, weight decay.
pub(crate) fn velocity(v: &mut [f32], g: &[f32], w: &[f32], hyper: &[f32]) {
    let &[_, momentum, decay] = hyper else { panic!("{} hyperparameters, not 3", hyper.len()) };
    update(v, g, w, |v, g, w| momentum * v + (g + decay * w));
}

/// `w <- w - lr * v` with the next velocity, or by Nesterov `w <- w - lr * (g + weight_decay * w + momentum * v)`.
pub(crate) fn step(nesterov: bool, w: &mut [f32], g: &[f32], v: &[f32], hyper: &[f32]) {
    let &[lr, momentum, decay] = hyper else { panic!("{} hyperparameters, not 3", hyper.len()) };
    if nesterov {
        update(w, g, v, |w, g, v| w - lr * ((g + decay * w) + momentum * v));
    } else {
        update(w, g, v, |w, _, v| w - lr * v);
    }
}

/// `average <- decay * average + (1 - decay) * value`, written so that equal numbers stay equal.
pub(crate) fn ema(average: &mut [f32], value: &[f32], decay: &[f32]) {
    assert_eq!(decay.len(), 1, "one decay");
    let share = (1.0 - f64::from(decay[0])) as f32;
    update(average, value, value, |average, value, _| average + share * (value - average));
}

fn update(x: &mut [f32], a: &[f32], b: &[f32], f: impl Fn(f32, f32, f32) -> f32 + Sync) {
    assert!(x.len() == a.len() && x.len() == b.len(), "update of {} values by {} and {}", x.len(), a.len(), b.len());
    let parts = a.par_chunks(CHUNK).zip(b.par_chunks(CHUNK));
    x.par_chunks_mut(CHUNK).zip(parts).for_each(|(x, (a, b))| {
        for ((x, &a), &b) in x.iter_mut().zip(a).zip(b) {
            *x = f(*x, a, b);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::{Purpose, Stream};

    fn draw(restart: u16, len: usize) -> Vec<f32> {
        let mut out = vec![0.0; len];
        Stream { seed: 3, index: 0, step: 0, purpose: Purpose::Init, restart }.fill_normal(&mut out);
        out
    }

    #[test]
    fn updates_follow_f64() {
        let len = CHUNK + 7;
        let (w, g, v, hyper) = (draw(0, len), draw(1, len), draw(2, len), [0.1f32, 0.9, 5e-4]);
        let [lr, m, d] = hyper.map(f64::from);
        let near = |got: f32, want: f64, size: f64| assert!((f64::from(got) - want).abs() <= 4.0 * size * 2f64.powi(-24));
        let (mut next, mut plain, mut nesterov) = (v.clone(), w.clone(), w.clone());
        velocity(&mut next, &g, &w, &hyper);
        step(false, &mut plain, &g, &next, &hyper);
        step(true, &mut nesterov, &g, &next, &hyper);
        for i in 0..len {
            let [w, g, v, n] = [w[i], g[i], v[i], next[i]].map(f64::from);
            near(next[i], m * v + g + d * w, v.abs() + g.abs() + w.abs());
            near(plain[i], w - lr * n, w.abs() + n.abs());
            near(nesterov[i], w - lr * (g + d * w + m * n), w.abs() + g.abs() + n.abs());
        }
    }

    #[test]
    fn the_first_step_is_the_gradient() {
        let (w, g) = (draw(0, 9), draw(1, 9));
        let mut v = vec![0.0; 9];
        velocity(&mut v, &g, &w, &[0.1, 0.9, 0.0]);
        assert_eq!(v, g);
    }

    #[test]
    fn averages_lie_between_and_keep_what_is_equal() {
        let mut average = [1.0, 0.3, 5.0];
        ema(&mut average, &[3.0, 0.3, f32::NAN], &[0.75]);
        assert_eq!(average[..2], [1.5, 0.3]);
        assert!(average[2].is_nan());
    }
}
