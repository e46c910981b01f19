//! Linear layers, as convolutions of one pixel.
//! Must not know graphs, training or where the arrays live.

use super::conv::{ConvPanels, Way, Workspace, matrix_grad_weight};
use super::epilogue::Epi;
use super::simd::Isa;
use crate::graph::Conv;

/// The packed weights of one direction of one linear layer.
pub(crate) struct LinearPanels(ConvPanels);

impl LinearPanels {
    /// Packs `w [out, in]` for `x [N, in]` -> `[N, out]`.
    pub(crate) fn forward(isa: Isa, n_out: usize, n_in: usize, w: &[f32]) -> Self {
        LinearPanels(ConvPanels::forward(isa, &Conv::square(n_in, n_out, 1, 1, 0), Way::Direct, w, None))
    }

    /// Packs `w [out, in]` for `g [N, out]` -> `[N, in]`.
    pub(crate) fn grad_input(isa: Isa, n_out: usize, n_in: usize, w: &[f32]) -> Self {
        LinearPanels(ConvPanels::grad_input(isa, &Conv::square(n_in, n_out, 1, 1, 0), Way::Direct, w, None))
    }

    /// Packs other weights of the same shape into the same memory.
    pub(crate) fn refill(&mut self, w: &[f32]) {
        self.0.refill(w, None);
    }

    /// Memory that the packed weights take.
    pub(crate) fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// `n` rows; `dst` is overwritten.
    pub(crate) fn run(&self, work: &Workspace, n: usize, src: &[f32], dst: &mut [f32], epilogue: &mut [Epi]) {
        self.0.run(work, n, [1, 1], src, dst, epilogue);
    }
}

/// `x [N, in]`, `g [N, out]` -> `dw [out, in]`, overwritten. Bits do not depend on the number of threads.
pub(crate) fn linear_grad_weight(n: usize, n_in: usize, n_out: usize, x: &[f32], g: &[f32], dw: &mut [f32]) {
    matrix_grad_weight((n, n_in, n_out), x, g, dw);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cpu::testing::{Checked, random};

    #[test]
    fn linear_layers_agree_with_f64() {
        for (n, n_in, n_out) in [(1, 1, 1), (1, 512, 10), (5, 64, 100), (64, 33, 10), (7, 300, 65), (0, 4, 5)] {
            let (x, w, g) = (random(1, n * n_in), random(2, n_out * n_in), random(3, n * n_out));
            let (mut y, mut dx, mut dw) = (Checked::zeros(g.len()), Checked::zeros(x.len()), Checked::zeros(w.len()));
            for (i, o, c) in (0..n).flat_map(|i| (0..n_out).flat_map(move |o| (0..n_in).map(move |c| (i, o, c)))) {
                let [a, b, d] = [x[i * n_in + c], w[o * n_in + c], g[i * n_out + o]].map(f64::from);
                y.add(i * n_out + o, a * b);
                dx.add(i * n_in + c, d * b);
                dw.add(o * n_in + c, d * a);
            }
            for isa in Isa::available() {
                let what = format!("{isa:?} {n} {n_in} {n_out}");
                let (mut got_y, mut got_dx) = (vec![f32::NAN; g.len()], vec![f32::NAN; x.len()]);
                let work = Workspace::new(1);
                LinearPanels::forward(isa, n_out, n_in, &w).run(&work, n, &x, &mut got_y, &mut []);
                y.compare(&got_y, &what);
                LinearPanels::grad_input(isa, n_out, n_in, &w).run(&work, n, &g, &mut got_dx, &mut []);
                dx.compare(&got_dx, &what);
            }
            let mut got_dw = vec![f32::NAN; w.len()];
            linear_grad_weight(n, n_in, n_out, &x, &g, &mut got_dw);
            dw.compare(&got_dw, "weight gradient");
        }
    }
}
