//! A network and its gradients as plain data: nodes in creation order, which is a topological order.
//! Knows no weights, no device and no batch size.

pub mod apgd;
mod builder;
mod grad;
pub mod hop;
pub mod nearest;
mod op;
mod plane;
mod ring;
mod shape;

use std::collections::BTreeMap;

pub use apgd::ApgdRule;
pub use grad::vjp;
pub use nearest::{Follow, Nearest, Search};
pub use op::{Conv, Diversity, Loss, Objective, Op, Pool, ResponseNorm, Role, StartKind};
pub use plane::Plane;
pub use ring::Rings;

use crate::tensor::{DType, Shape};

/// The output of a node: its index in the graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Value(pub(crate) u32);

impl Value {
    /// Position of the node in [`Graph::nodes`].
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// One operation with its inputs and the type of its output.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// What is computed.
    pub op: Op,
    /// From what, in the order the op names.
    pub inputs: Vec<Value>,
    /// Shape of the output.
    pub shape: Shape,
    /// Element type of the output.
    pub dtype: DType,
    /// Name for people, such as the layer that made the node; may be empty.
    pub label: String,
}

/// Nodes, append-only. A node's inputs always stand before it.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: Vec<Node>,
    params: BTreeMap<String, Value>,
    scope: String,
    prefix: String,
}

impl Graph {
    /// An empty graph.
    pub fn new() -> Self {
        Graph::default()
    }
    /// All nodes in topological order.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }
    /// The node that makes `value`.
    pub fn node(&self, value: Value) -> &Node {
        &self.nodes[value.index()]
    }
    /// Shape of `value`.
    pub fn shape(&self, value: Value) -> &Shape {
        &self.node(value).shape
    }
    /// Values in creation order.
    pub fn values(&self) -> impl DoubleEndedIterator<Item = Value> + use<> {
        (0..self.nodes.len() as u32).map(Value)
    }
    /// Parameters by name, in alphabetical order.
    pub fn params(&self) -> &BTreeMap<String, Value> {
        &self.params
    }
    /// The input called `name`, if there is one.
    pub fn input_named(&self, name: &str) -> Option<Value> {
        self.values().find(|&v| matches!(&self.node(v).op, Op::Input { name: n, .. } if n == name))
    }
    /// Labels of the nodes added from now on, usually the layer's name in the state dict.
    pub fn set_scope(&mut self, scope: &str) {
        self.scope = scope.to_string();
    }

    /// What the names of parameters asked for from now on begin with: networks of several models in one graph keep theirs apart.
    pub fn set_prefix(&mut self, prefix: &str) {
        self.prefix = prefix.to_string();
    }

    /// Appends a node; the shape follows from the op. Panics where the inputs do not fit: that is a fault of the caller.
    pub fn push(&mut self, op: Op, inputs: &[Value]) -> Value {
        for v in inputs {
            assert!(v.index() < self.nodes.len(), "{op:?} reads a value that does not exist yet");
        }
        let kinds: Vec<(&Shape, DType)> = inputs.iter().map(|&v| (self.shape(v), self.node(v).dtype)).collect();
        let (shape, dtype) = shape::infer(&op, &kinds);
        self.append(op, inputs, shape, dtype)
    }

    /// A value written by the host.
    pub fn input(&mut self, name: &str, shape: Shape, dtype: DType) -> Value {
        assert!(self.input_named(name).is_none(), "two inputs are called `{name}`");
        self.append(Op::Input { name: name.to_string(), dtype }, &[], shape, dtype)
    }

    /// A named parameter; asked for twice it is the same value.
    pub fn param(&mut self, name: &str, dims: &[usize], role: Role) -> Value {
        let shape = Shape::fixed(dims);
        let name = &format!("{}{name}", self.prefix);
        if let Some(&v) = self.params.get(name) {
            assert_eq!(*self.shape(v), shape, "parameter `{name}` is used with two shapes");
            return v;
        }
        let v = self.append(Op::Param { name: name.to_string(), role }, &[], shape, DType::F32);
        self.params.insert(name.to_string(), v);
        v
    }

    fn append(&mut self, op: Op, inputs: &[Value], shape: Shape, dtype: DType) -> Value {
        let id = u32::try_from(self.nodes.len()).expect("a graph has fewer than 2^32 nodes");
        let label = match &op {
            Op::Input { name, .. } | Op::Param { name, .. } => name.clone(),
            _ => self.scope.clone(),
        };
        self.nodes.push(Node { op, inputs: inputs.to_vec(), shape, dtype, label });
        Value(id)
    }
}
