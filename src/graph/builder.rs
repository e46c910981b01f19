//! The verbs that networks are written in. Each adds its nodes under the parameter names of the state dict.
//! Knows no network; shapes are asserted by `push`.

use std::ops::Range;

use super::{Conv, Graph, Op, Pool, ResponseNorm, Role, Value};

impl Graph {
    /// Convolution with weight `{name}.weight` and, where `bias`, `{name}.bias`.
    pub fn conv2d(&mut self, name: &str, x: Value, conv: Conv, bias: bool) -> Value {
        self.set_scope(name);
        let w =
            self.param(&format!("{name}.weight"), &[conv.k, conv.c / conv.groups, conv.kernel[0], conv.kernel[1]], Role::Weight);
        let y = self.push(Op::Conv2d(conv), &[x, w]);
        if bias { self.add_bias(name, y, conv.k) } else { y }
    }
    /// Linear layer `{name}.weight [out, in]`, and `{name}.bias` where asked.
    pub fn linear(&mut self, name: &str, x: Value, out: usize, bias: bool) -> Value {
        self.set_scope(name);
        let n_in = self.shape(x).elems();
        let w = self.param(&format!("{name}.weight"), &[out, n_in], Role::Weight);
        let y = self.push(Op::Linear, &[x, w]);
        if bias { self.add_bias(name, y, out) } else { y }
    }
    fn add_bias(&mut self, name: &str, y: Value, channels: usize) -> Value {
        let b = self.param(&format!("{name}.bias"), &[channels], Role::Weight);
        self.push(Op::AddBias, &[y, b])
    }
    /// Batch norm with running statistics (`train = false`) or the batch's own.
    ///
    /// In training the updates of the running statistics are separate nodes: see [`Graph::running_updates`].
    pub fn batch_norm(&mut self, name: &str, x: Value, eps: f32, train: bool) -> Value {
        self.set_scope(name);
        let c = *self.shape(x).dims.last().expect("a value with channels");
        let gamma = self.param(&format!("{name}.weight"), &[c], Role::Weight);
        let beta = self.param(&format!("{name}.bias"), &[c], Role::Weight);
        let mean = self.param(&format!("{name}.running_mean"), &[c], Role::Statistic);
        let var = self.param(&format!("{name}.running_var"), &[c], Role::Statistic);
        if train {
            let stats = self.push(Op::BatchStats, &[x]);
            self.push(Op::BatchNormTrain { eps }, &[x, stats, gamma, beta])
        } else {
            self.push(Op::BatchNorm { eps }, &[x, gamma, beta, mean, var])
        }
    }
    /// For each batch norm in train mode, `(running value, its next value)`: carries for the plan.
    pub fn running_updates(&mut self, momentum: f32) -> Vec<(Value, Value)> {
        let mut out = Vec::new();
        for v in self.values() {
            let node = self.node(v);
            if !matches!(node.op, Op::BatchNormTrain { .. }) {
                continue;
            }
            let (x, stats, name) = (node.inputs[0], node.inputs[1], node.label.clone());
            for (row, key) in ["running_mean", "running_var"].into_iter().enumerate() {
                let running = self.params[&format!("{name}.{key}")];
                out.push((running, self.push(Op::RunningUpdate { momentum, row }, &[running, stats, x])));
            }
        }
        out
    }
    /// The same for several passes through one network, each given by the range of its nodes: the statistics of the first
    /// pass go in first. A pass may be named twice.
    pub fn running_updates_of(&mut self, momentum: f32, passes: &[Range<usize>]) -> Vec<(Value, Value)> {
        let mut out: Vec<(Value, Value)> = Vec::new();
        for v in passes.iter().flat_map(|pass| self.values().filter(|v| pass.contains(&v.index()))).collect::<Vec<_>>() {
            let node = self.node(v);
            if !matches!(node.op, Op::BatchNormTrain { .. }) {
                continue;
            }
            let (x, stats, name) = (node.inputs[0], node.inputs[1], node.label.clone());
            for (row, key) in ["running_mean", "running_var"].into_iter().enumerate() {
                let running = self.params[&format!("{name}.{key}")];
                let at = out.iter().position(|(state, _)| *state == running);
                let before = at.map_or(running, |at| out[at].1);
                let next = self.push(Op::RunningUpdate { momentum, row }, &[before, stats, x]);
                match at {
                    Some(at) => out[at].1 = next,
                    None => out.push((running, next)),
                }
            }
        }
        out
    }
    /// `max(x, 0)`.
    pub fn relu(&mut self, x: Value) -> Value {
        self.push(Op::Relu { cap: None }, &[x])
    }
    /// `min(max(x, 0), 6)`.
    pub fn relu6(&mut self, x: Value) -> Value {
        self.push(Op::Relu { cap: Some(6.0) }, &[x])
    }
    /// Sum of two values of one shape.
    pub fn add(&mut self, a: Value, b: Value) -> Value {
        self.push(Op::Add, &[a, b])
    }
    /// Joins along channels.
    pub fn concat(&mut self, parts: &[Value]) -> Value {
        self.push(Op::Concat, parts)
    }
    /// Maximum pooling.
    pub fn max_pool(&mut self, x: Value, pool: Pool) -> Value {
        self.push(Op::MaxPool(pool), &[x])
    }
    /// Average pooling.
    pub fn avg_pool(&mut self, x: Value, pool: Pool) -> Value {
        self.push(Op::AvgPool(pool), &[x])
    }
    /// Mean over height and width: `[N, H, W, C]` -> `[N, C]`.
    pub fn global_avg_pool(&mut self, x: Value) -> Value {
        self.push(Op::GlobalAvgPool, &[x])
    }
    /// `[N, H, W, C]` -> `[N, C*H*W]` in PyTorch's order.
    pub fn flatten(&mut self, x: Value) -> Value {
        self.push(Op::Flatten, &[x])
    }
    /// `hw` pixels of each image, the first of them at `from`; `fill` where the image has none: cropping, padding, shifting.
    pub fn window(&mut self, x: Value, from: [isize; 2], hw: [usize; 2], fill: f32) -> Value {
        self.push(Op::Window { from, hw, fill }, &[x])
    }
    /// Each value divided by `(bias + alpha / size * sum of squares of the size channels around it) ^ beta`.
    pub fn local_response_norm(&mut self, x: Value, size: usize, alpha: f32, beta: f32, bias: f32) -> Value {
        self.push(Op::ResponseNorm(ResponseNorm { size, alpha, beta, bias }), &[x])
    }
    /// `(x - mean) / std` per channel.
    pub fn normalise(&mut self, x: Value, mean: &[f32], std: &[f32]) -> Value {
        assert!(std.iter().all(|&s| s > 0.0), "standard deviations must be positive: {std:?}");
        self.set_scope("normalise");
        self.push(Op::Normalise { mean: mean.to_vec(), std: std.to_vec() }, &[x])
    }
}
