//! MMA's search: for each image the place where its attack crosses the boundary, and the radius it remembers.
//! Must not know epochs or files.
//! Ding et al. 2020, <https://arxiv.org/abs/1812.02637>, algorithm 2.

use super::engine::Engine;
use super::evaluate::correct;
use super::recipe::{Crafting, Mma};
use crate::error::Result;

/// Share of the radius that the steps of the search cover together.
const REACH: f64 = 2.5;

/// The radius of each image of the split, by position.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Margins {
    pub radius: Vec<f32>,
}

/// A batch under attack.
pub(super) struct Search<'a> {
    pub engine: &'a mut Engine,
    pub crafting: Crafting,
    pub mma: Mma,
    pub label: &'a [i32],
    pub index: &'a [u32],
}

impl Margins {
    /// For a split of `images`.
    pub fn new(images: usize, mma: Mma) -> Self {
        Margins { radius: vec![mma.least as f32; images] }
    }

    /// Attacks the loaded images, each within its own radius, moves them to the boundary, remembers how far that was, and says
    /// what each loss weighs: an image that is wrong without attack is learned as it is, one beyond the hinge only as it is.
    pub fn attack(&mut self, s: Search, start: impl Fn(&mut Engine) -> Result<()>, pass: impl Fn(usize) -> u32) -> Result<()> {
        let Search { engine, crafting, mma, label, index } = s;
        let n = label.len();
        let right = correct(engine, label)?;
        let radius: Vec<f32> = index.iter().map(|&i| self.radius[i as usize]).collect();
        engine.set_radii(&radius)?;
        engine.set_step_lengths(
            &radius.iter().map(|r| (REACH * f64::from(*r) / crafting.steps as f64) as f32).collect::<Vec<_>>(),
        )?;
        start(engine)?;
        for k in 0..crafting.steps {
            engine.craft(pass(k))?;
        }
        let held = correct(engine, label)?;
        engine.keep()?;
        let most = mma.most * mma.hinge;
        let mut low: Vec<f64> = held.iter().map(|&held| if held { 1.0 } else { 0.0 }).collect();
        let mut high: Vec<f64> = (0..n).map(|i| if held[i] { (most / f64::from(radius[i])).max(1.0) } else { 1.0 }).collect();
        for _ in 0..mma.bisections {
            let middle: Vec<f64> = low.iter().zip(&high).map(|(l, h)| l.midpoint(*h)).collect();
            look(engine, &middle)?;
            for (i, held) in correct(engine, label)?.into_iter().enumerate() {
                *(if held { &mut low[i] } else { &mut high[i] }) = middle[i];
            }
        }
        let reached: Vec<f64> = (0..n).map(|i| if right[i] { high[i] } else { 0.0 }).collect();
        look(engine, &reached)?;
        let mut weight = vec![0.0; n];
        for i in 0..n {
            let found = (reached[i] * f64::from(radius[i])).clamp(mma.least, most);
            if right[i] {
                self.radius[index[i] as usize] = found as f32;
            }
            // A wrong image stays where it is, and so this term is its plain loss.
            weight[i] = if !right[i] || found < mma.hinge { (1.0 - mma.clean_share) as f32 } else { 0.0 };
        }
        engine.set_weights(&vec![mma.clean_share as f32; n], &weight)
    }
}

fn look(engine: &mut Engine, share: &[f64]) -> Result<()> {
    engine.set_share(&share.iter().map(|&s| s as f32).collect::<Vec<_>>())?;
    engine.along()
}
