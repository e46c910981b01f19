//! The same runs in f64: the graph of a training step, evaluated by the oracle, against PyTorch's f64 losses.
//! Here no sign flips by rounding, so what differs would be the algorithm. Must not run the engine.

use std::collections::BTreeMap;

use petard::graph::{Graph, Value};
use petard::nn::ModelCard;
use petard::plan::Segment;
use petard::tensor::chw_to_hwc;
use petard::train::{Form, step_graph};

use crate::support::naive::{Values, eval};

/// Runs segments as a plan would, in f64.
pub struct Oracle {
    graph: Graph,
    segments: BTreeMap<String, Segment>,
    batch: usize,
    /// Inputs and parameters.
    state: Values,
}

impl Oracle {
    /// All inputs zero, parameters from `weights`.
    pub fn new(card: &ModelCard, form: &Form, weights: impl Fn(&str) -> Vec<f64>) -> Self {
        let (graph, segments) = step_graph(card, form);
        let mut state = Values::new();
        for v in graph.values().filter(|&v| graph.node(v).inputs.is_empty()) {
            state.insert(v, vec![0.0; graph.shape(v).len(form.batch)]);
        }
        for (name, &v) in graph.params() {
            state.insert(v, weights(name));
        }
        let segments = segments.into_iter().map(|s| (s.name.clone(), s)).collect();
        Oracle { graph, segments, batch: form.batch, state }
    }

    /// Sets an input.
    pub fn set(&mut self, name: &str, data: Vec<f64>) {
        let v = self.graph.input_named(name).expect("an input of that name");
        assert_eq!(data.len(), self.graph.shape(v).len(self.batch), "`{name}`");
        self.state.insert(v, data);
    }

    /// Sets an input that holds images, from NCHW.
    pub fn set_images(&mut self, name: &str, chw: &[f64]) {
        let v = self.graph.input_named(name).expect("an input of that name");
        let (shape, size) = (self.graph.shape(v).hwc(), self.graph.shape(v).elems());
        let mut hwc = vec![0.0; chw.len()];
        chw.chunks(size).zip(hwc.chunks_mut(size)).for_each(|(from, to)| chw_to_hwc(from, shape, to));
        self.set(name, hwc);
    }

    /// Runs a segment without outputs.
    pub fn carry(&mut self, segment: &str) {
        let carries = self.segments[segment].carries.clone();
        let wanted: Vec<Value> = carries.iter().map(|&(_, next)| next).collect();
        let values = eval(&self.graph, self.batch, &self.state, &wanted);
        self.state.extend(carries.iter().map(|&(state, _)| state).zip(values));
    }

    /// Runs a segment; the mean of its first output, the losses.
    pub fn run(&mut self, segment: &str) -> f64 {
        let segment = &self.segments[segment];
        let mut wanted = vec![segment.outputs[0]];
        wanted.extend(segment.carries.iter().map(|&(_, next)| next));
        let mut values = eval(&self.graph, self.batch, &self.state, &wanted).into_iter();
        let losses = values.next().expect("the first value asked for");
        let states: Vec<Value> = segment.carries.iter().map(|&(state, _)| state).collect();
        self.state.extend(states.into_iter().zip(values));
        losses.iter().sum::<f64>() / losses.len() as f64
    }
}
