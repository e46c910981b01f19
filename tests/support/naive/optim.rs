//! The update of parameters: SGD with momentum and weight decay, moving averages.
//! Must not know schedules.

use super::Arg;

/// `(v, g, w, hyper)`, `hyper` = learning rate, momentum, weight decay.
pub fn velocity(args: &[Arg]) -> Vec<f64> {
    let (v, g, w, hyper) = (args[0].data, args[1].data, args[2].data, args[3].data);
    (0..v.len()).map(|i| hyper[1] * v[i] + g[i] + hyper[2] * w[i]).collect()
}

/// `(w, g, v, hyper)`, `v` = the next velocity.
pub fn step(args: &[Arg], nesterov: bool) -> Vec<f64> {
    let (w, g, v, hyper) = (args[0].data, args[1].data, args[2].data, args[3].data);
    let direction = |i: usize| if nesterov { g[i] + hyper[2] * w[i] + hyper[1] * v[i] } else { v[i] };
    (0..w.len()).map(|i| w[i] - hyper[0] * direction(i)).collect()
}

/// `(average, value, decay)`.
pub fn ema(args: &[Arg]) -> Vec<f64> {
    let decay = args[2].data[0];
    args[0].zip(&args[1], |average, value| decay * average + (1.0 - decay) * value)
}
