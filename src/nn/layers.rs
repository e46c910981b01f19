//! The few layer combinations that all networks share.
//! Must not know any network.

use super::Net;
use crate::graph::{Conv, Graph, Op, Value};
use crate::tensor::{DType, Shape};

/// PyTorch's default for batch norm.
const BN_EPS: f32 = 1e-5;

/// A graph under construction and the mode it is built in.
pub(super) struct Layers<'a> {
    pub graph: &'a mut Graph,
    /// In training the seed of dropout; `None` in evaluation.
    pub train: Option<u64>,
}

/// Output channels, side of the square kernel and stride of a convolution padded by half its kernel.
#[derive(Clone, Copy)]
pub(super) struct ConvSize {
    pub out: usize,
    pub kernel: usize,
    pub stride: usize,
}

impl Layers<'_> {
    pub fn channels(&self, x: Value) -> usize {
        self.graph.shape(x).hwc().2
    }
    /// Convolution without bias.
    pub fn conv(&mut self, name: &str, x: Value, size: ConvSize) -> Value {
        self.conv_groups(name, x, size, 1)
    }
    /// The same in groups.
    pub fn conv_groups(&mut self, name: &str, x: Value, size: ConvSize, groups: usize) -> Value {
        let conv = Conv { groups, ..Conv::square(self.channels(x), size.out, size.kernel, size.stride, size.kernel / 2) };
        self.graph.conv2d(name, x, conv, false)
    }
    pub fn bn(&mut self, name: &str, x: Value) -> Value {
        self.bn_eps(name, x, BN_EPS)
    }
    pub fn bn_eps(&mut self, name: &str, x: Value, eps: f32) -> Value {
        self.graph.batch_norm(name, x, eps, self.train.is_some())
    }
    pub fn bn_relu(&mut self, name: &str, x: Value) -> Value {
        let y = self.bn(name, x);
        self.graph.relu(y)
    }
    /// Nothing in evaluation; in training keeps each element with probability `1 - p`. Every call is its own site.
    pub fn dropout(&mut self, x: Value, p: f32) -> Value {
        let Some(seed) = self.train.filter(|_| p > 0.0) else { return x };
        let made = self.graph.nodes().iter().filter(|n| matches!(n.op, Op::DropoutMask { .. })).count();
        let site = u16::try_from(made).expect("a graph has fewer than 65536 dropout layers");
        let index = self.input("index", Shape::per_image(&[]));
        let step = self.input("step", Shape::fixed(&[]));
        let mask = self.graph.push(Op::DropoutMask { p, site, seed }, &[x, index, step]);
        self.graph.push(Op::Dropout { p }, &[x, mask])
    }
    fn input(&mut self, name: &str, shape: Shape) -> Value {
        self.graph.input_named(name).unwrap_or_else(|| self.graph.input(name, shape, DType::I32))
    }
    /// Global average pool and one linear layer.
    pub fn pooled_head(&mut self, name: &str, x: Value, classes: usize) -> Net {
        let features = self.graph.global_avg_pool(x);
        Net { logits: self.graph.linear(name, features, classes, true), features }
    }
    /// The same with the linear layer stored as a 1x1 convolution, `[classes, width, 1, 1]`.
    pub fn pooled_conv_head(&mut self, name: &str, x: Value, classes: usize) -> Net {
        let features = self.graph.global_avg_pool(x);
        let width = self.channels(x);
        let pixel = self.graph.push(Op::Unflatten { hwc: [1, 1, width] }, &[features]);
        let logits = self.graph.conv2d(name, pixel, Conv::square(width, classes, 1, 1, 0), true);
        Net { logits: self.graph.flatten(logits), features }
    }
}
