//! Which nodes become one step: element-wise ops ride on the op before them, masks and winners fall out as side outputs.
//! Must not know memory: places come later.

use super::{Constant, Fused, Head, Segment, Slot, Step};
use crate::error::{Error, Result};
use crate::graph::{Graph, Op, Value};

/// The steps of one segment in order. New constants are appended to `constants`, equal ones are shared.
pub(super) fn steps(graph: &Graph, segment: &Segment, constants: &mut Vec<Constant>) -> Result<Vec<Step>> {
    let mut fuser = Fuser::new(graph, segment);
    fuser.absorb_sides();
    fuser.absorb_batch_norm_grads();
    let mut keyed = Vec::new();
    for value in graph.values() {
        if fuser.needed[value.index()] && !fuser.taken[value.index()] {
            keyed.push(fuser.step(value, constants));
        }
    }
    // A step runs where its last node stood: everything its fused operations read exists by then.
    keyed.sort_by_key(|s| s.output);
    check_weights(graph, &keyed)?;
    Ok(keyed)
}

/// Packed weights are made by the `pack` segment, so they must be there before the segment runs.
fn check_weights(graph: &Graph, steps: &[Step]) -> Result<()> {
    for step in steps {
        if let Some(w) = step.packed_weight()
            && !matches!(graph.node(w).op, Op::Param { .. } | Op::Input { .. })
        {
            return Err(Error::plan(format!("the weights of `{}` are computed inside the segment", step.label)));
        }
    }
    Ok(())
}

impl Step {
    /// The weight value of a convolution or linear layer that reads packed weights.
    pub fn packed_weight(&self) -> Option<Value> {
        match &self.head {
            Head::Op(Op::Conv2d(_) | Op::Conv2dGradInput { .. } | Op::Linear | Op::LinearGradInput) => Some(self.inputs[1]),
            _ => None,
        }
    }
}

/// Values whose contents `op` reads (some inputs are read for their shape only).
pub(super) fn data_inputs(op: &Op, inputs: &[Value]) -> Vec<Value> {
    match op {
        Op::RunningUpdate { .. } => inputs[..2].to_vec(),
        Op::DropoutMask { .. } => inputs[1..].to_vec(),
        _ => inputs.to_vec(),
    }
}

struct Fuser<'a> {
    graph: &'a Graph,
    /// Nodes the segment has to compute (leaves excluded).
    needed: Vec<bool>,
    /// Values that must exist after the run.
    kept: Vec<bool>,
    /// Consumers among the needed nodes, with the input position.
    uses: Vec<Vec<(Value, usize)>>,
    /// Nodes that are part of another node's step.
    taken: Vec<bool>,
    /// For a ReLU its mask node, for a max-pool its winners.
    side: Vec<Option<Value>>,
    /// For a gradient op the batch norm gradient it absorbs.
    before: Vec<Option<Value>>,
}

impl<'a> Fuser<'a> {
    fn new(graph: &'a Graph, segment: &Segment) -> Self {
        let n = graph.nodes().len();
        let mut f = Fuser {
            graph,
            needed: vec![false; n],
            kept: vec![false; n],
            uses: vec![Vec::new(); n],
            taken: vec![false; n],
            side: vec![None; n],
            before: vec![None; n],
        };
        for v in segment.outputs.iter().chain(segment.carries.iter().map(|(_, next)| next)) {
            f.kept[v.index()] = true;
            f.needed[v.index()] = true;
        }
        for value in graph.values().rev() {
            let node = graph.node(value);
            if matches!(node.op, Op::Input { .. } | Op::Param { .. }) {
                f.needed[value.index()] = false;
                continue;
            }
            if f.needed[value.index()] {
                for (position, input) in node.inputs.iter().enumerate() {
                    if data_inputs(&node.op, &node.inputs).contains(input) {
                        f.needed[input.index()] = true;
                        f.uses[input.index()].push((value, position));
                    }
                }
            }
        }
        f
    }

    /// Masks belong to their ReLU's step, winners to their max-pool's.
    fn absorb_sides(&mut self) {
        for value in self.graph.values() {
            if !self.needed[value.index()] {
                continue;
            }
            let node = self.graph.node(value);
            let owner = match &node.op {
                Op::ReluMask { cap } => Some(node.inputs[0]).filter(|&y| self.graph.node(y).op == Op::Relu { cap: *cap }),
                Op::MaxPoolIndex(pool) => {
                    let twin = |&(v, _): &(Value, usize)| self.graph.node(v).op == Op::MaxPool(*pool);
                    self.uses[node.inputs[0].index()].iter().find(|u| twin(u)).map(|&(v, _)| v)
                }
                _ => None,
            };
            if let Some(owner) = owner.filter(|o| self.needed[o.index()] && self.side[o.index()].is_none()) {
                self.side[owner.index()] = Some(value);
                self.taken[value.index()] = true;
            }
        }
    }

    /// `g * scale` before an input gradient is a property of its weights.
    fn absorb_batch_norm_grads(&mut self) {
        for value in self.graph.values() {
            let node = self.graph.node(value);
            if !self.needed[value.index()] || !matches!(node.op, Op::Conv2dGradInput { .. }) {
                continue;
            }
            let g = node.inputs[0];
            let single = self.uses[g.index()].len() == 1 && !self.kept[g.index()];
            if single && matches!(self.graph.node(g).op, Op::BatchNormGrad { .. }) {
                self.before[value.index()] = Some(g);
                self.taken[g.index()] = true;
            }
        }
    }

    /// The step that starts at `head`, with everything that can ride on it.
    fn step(&mut self, head: Value, constants: &mut Vec<Constant>) -> Step {
        let node = self.graph.node(head);
        let mut inputs = node.inputs.clone();
        let prologue = self.before[head.index()].map(|bn| {
            inputs[0] = self.graph.node(bn).inputs[0];
            self.constant(bn, None, constants)
        });
        let mut epilogue = Vec::new();
        let mut label = node.label.clone();
        let chained = self.fused(head, 0, constants, &mut epilogue);
        let rides = chained || matches!(node.op, Op::Conv2d(_) | Op::Conv2dGradInput { .. } | Op::Linear | Op::LinearGradInput);
        if chained {
            inputs.truncate(1);
        }
        self.taken[head.index()] = true;
        let mut output = head;
        while rides && !self.kept[output.index()] {
            let Some((next, position)) = self.only_use(output) else { break };
            if !self.masks_wait_for(&epilogue, next) || !self.fused(next, position, constants, &mut epilogue) {
                break;
            }
            self.taken[next.index()] = true;
            output = next;
        }
        if output != head && !self.graph.node(output).label.is_empty() && label.is_empty() {
            label.clone_from(&self.graph.node(output).label);
        }
        let side = if matches!(node.op, Op::MaxPool(_)) { self.side[head.index()] } else { None };
        let head = if chained { Head::Chain } else { Head::Op(node.op.clone()) };
        Step { head, inputs, prologue, epilogue, output, side, label }
    }

    /// Whether everybody who reads a mask made so far comes after `next`: riding on delays the whole step.
    fn masks_wait_for(&self, epilogue: &[Fused], next: Value) -> bool {
        epilogue.iter().all(|f| match f {
            Fused::MaskOut { mask, .. } => !self.kept[mask.index()] && self.uses[mask.index()].iter().all(|&(v, _)| v > next),
            _ => true,
        })
    }

    /// The one consumer of `value` that still needs a step; none where there are several.
    fn only_use(&self, value: Value) -> Option<(Value, usize)> {
        let side = self.side[value.index()];
        let mut others = self.uses[value.index()].iter().filter(|(v, _)| Some(*v) != side);
        let first = others.next()?;
        (others.next().is_none() && !self.taken[first.0.index()]).then_some(*first)
    }

    /// Appends the fused form of `node`, entered through input `position`; false where it has none.
    fn fused(&self, node: Value, position: usize, constants: &mut Vec<Constant>, out: &mut Vec<Fused>) -> bool {
        let n = self.graph.node(node);
        match (&n.op, position) {
            (Op::AddBias, 0) => out.push(Fused::Bias(n.inputs[1])),
            (Op::BatchNorm { .. }, 0) => {
                let bias = match out.last() {
                    Some(Fused::Bias(b)) if matches!(self.graph.node(*b).op, Op::Param { .. }) => Some(*b),
                    _ => None,
                };
                out.truncate(out.len() - usize::from(bias.is_some()));
                let c = self.constant(node, bias, constants);
                out.extend([Fused::Scale(c), Fused::Shift(c)]);
            }
            (Op::BatchNormGrad { .. }, 0) => out.push(Fused::Scale(self.constant(node, None, constants))),
            (Op::Add, p) if n.inputs[0] != n.inputs[1] => out.push(Fused::Add(n.inputs[1 - p])),
            (Op::Relu { cap }, _) => {
                out.push(Fused::Relu { cap: *cap });
                if let Some(mask) = self.side[node.index()] {
                    out.push(Fused::MaskOut { mask, cap: *cap });
                }
            }
            (Op::Gate, 0) => out.push(Fused::Gate(n.inputs[1])),
            _ => return false,
        }
        true
    }

    /// The constant of an eval-mode batch norm or its gradient, shared between the two.
    fn constant(&self, bn: Value, bias: Option<Value>, constants: &mut Vec<Constant>) -> usize {
        let n = self.graph.node(bn);
        let (gamma, var, shift, eps) = match &n.op {
            Op::BatchNorm { eps } => (n.inputs[1], n.inputs[4], Some((n.inputs[2], n.inputs[3])), *eps),
            Op::BatchNormGrad { eps } => (n.inputs[1], n.inputs[2], None, *eps),
            other => unreachable!("{other:?} has no constant"),
        };
        // A gradient needs the scale alone, which all constants of one batch norm share.
        let same = |c: &Constant| {
            let shifts = shift.is_none() || c.shift.is_none() || (c.shift, c.bias) == (shift, bias);
            (c.gamma, c.var, c.eps) == (gamma, var, eps) && shifts
        };
        let at = constants.iter().position(same).unwrap_or_else(|| {
            constants.push(Constant {
                gamma,
                var,
                shift: None,
                bias: None,
                eps,
                slot: Slot { offset: 0, bytes: 0 },
                label: n.label.clone(),
            });
            constants.len() - 1
        });
        if constants[at].shift.is_none() {
            (constants[at].shift, constants[at].bias) = (shift, bias);
        }
        at
    }
}
