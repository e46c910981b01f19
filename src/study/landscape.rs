//! Loss landscapes: the mean loss of a set along two random directions in the space of weights.
//! Must not know how images were made. Filter-normalised directions: Li and others 2018.

use std::collections::BTreeMap;

use super::{Losses, Samples, Stop, check};
use crate::device::Device;
use crate::error::Result;
use crate::rng::{Purpose, Stream};
use crate::session::Model;
use crate::tensor::HostData;

/// Parameters by name.
type Params = BTreeMap<String, Vec<f32>>;

/// A random direction: in each filter (an entry of the first dimension) normal numbers, scaled to the length of the filter; zero
/// for biases and whatever belongs to batch norm. `number` tells directions of one seed apart.
pub fn direction(model: &Model, seed: u64, number: u16) -> Params {
    let one = |(position, (name, tensor)): (usize, (&String, &crate::tensor::HostTensor))| {
        let HostData::F32(weights) = &tensor.data else { unreachable!("weights are f32 once loaded") };
        let mut out = vec![0.0; weights.len()];
        if tensor.dims.len() > 1 {
            let stream = Stream { seed, index: position as u32, step: 1, purpose: Purpose::Init, restart: number };
            stream.fill_normal(&mut out);
            let each = weights.len() / tensor.dims[0];
            let length = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
            for (d, w) in out.chunks_exact_mut(each).zip(weights.chunks_exact(each)) {
                let by = (length(w) / (length(d) + 1e-10)) as f32;
                d.iter_mut().for_each(|x| *x *= by);
            }
        }
        (name.clone(), out)
    };
    model.weights.tensors.iter().enumerate().map(one).collect()
}

/// Mean losses of several sets at the points of a grid.
#[derive(Clone, Debug)]
pub struct Landscape {
    /// Steps along both directions.
    pub steps: Vec<f64>,
    /// For each set the losses, row by row: the second direction downwards, the first to the right.
    pub losses: Vec<Vec<f64>>,
}

/// Measures `sets` on a grid of `points` by `points` from `-extent` to `extent`. `done` is called with the points done.
///
/// # Errors
/// What computing can fail with, and [`crate::Error::Interrupted`].
pub fn run(
    (device, model): (&Device, &Model),
    sets: &[Samples],
    (points, extent): (usize, f64),
    seed: u64,
    batch: usize,
    stop: Stop,
    mut done: impl FnMut(usize, usize),
) -> Result<Landscape> {
    assert!(points > 1 && extent > 0.0 && !sets.is_empty(), "{points} points to {extent} for {} sets", sets.len());
    let directions = [direction(model, seed, 1), direction(model, seed, 2)];
    let steps: Vec<f64> = (0..points).map(|i| extent * (2.0 * i as f64 / (points - 1) as f64 - 1.0)).collect();
    let most = sets.iter().map(Samples::len).max().expect("a set");
    let mut losses = Losses::new(device, model, batch.min(most))?;
    let mut out = Landscape { steps: steps.clone(), losses: vec![Vec::new(); sets.len()] };
    for (row, &b) in steps.iter().enumerate() {
        for (column, &a) in steps.iter().enumerate() {
            check(stop)?;
            let moved: Params = model
                .weights
                .tensors
                .iter()
                .map(|(name, tensor)| {
                    let HostData::F32(weights) = &tensor.data else { unreachable!("weights are f32 once loaded") };
                    let [first, second] = [0, 1].map(|d| &directions[d][name]);
                    let at = |i: usize| weights[i] + a as f32 * first[i] + b as f32 * second[i];
                    (name.clone(), (0..weights.len()).map(at).collect())
                })
                .collect();
            losses.set_params(moved.iter().map(|(name, data)| (name.as_str(), data.as_slice())))?;
            for (set, out) in sets.iter().zip(&mut out.losses) {
                let each = losses.losses(set)?;
                out.push(each.iter().map(|&l| f64::from(l)).sum::<f64>() / each.len() as f64);
            }
            done(row * points + column + 1, points * points);
        }
    }
    Ok(out)
}
