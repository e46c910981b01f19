//! Accuracy of the network as it would be deployed: on the images as they are, and under a short PGD.
//! Must not know where the images come from. A quick look to choose by; the verdict on a network is the attack's.

use std::ops::Range;

use super::engine::Engine;
use super::feed::Pool;
use crate::error::Result;
use crate::session::argmax;
use crate::threat::ThreatModel;

/// The attack of an evaluation: PGD from a random start, batch norms in eval mode.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Probe {
    pub threat: ThreatModel,
    pub alpha: f64,
    pub steps: usize,
    pub seed: u64,
}

/// How many images were right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Score {
    /// Images looked at.
    pub images: usize,
    /// Right as they are.
    pub clean: usize,
    /// Right as they are and under attack; `None` where there was no attack.
    pub robust: Option<usize>,
}

impl Score {
    /// Share of images that are right as they are.
    pub fn clean_accuracy(&self) -> f64 {
        self.clean as f64 / self.images as f64
    }
    /// Share of images that are right as they are and under attack.
    pub fn robust_accuracy(&self) -> Option<f64> {
        self.robust.map(|r| r as f64 / self.images as f64)
    }
    /// What is compared: robust images before clean ones.
    pub(super) fn rank(&self) -> (usize, usize) {
        (self.robust.unwrap_or(0), self.clean)
    }
}

/// How many images of each class were right.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ByClass {
    pub images: Vec<usize>,
    pub clean: Vec<usize>,
    pub robust: Vec<usize>,
}

impl ByClass {
    pub fn new(classes: usize) -> Self {
        ByClass { images: vec![0; classes], clean: vec![0; classes], robust: vec![0; classes] }
    }

    /// A line a class, and for many classes one for each tenth of them; `trained` counts the images that were learned from.
    pub fn csv(&self, trained: &[usize], attacked: bool) -> String {
        let line = |name: String, of: Range<usize>| {
            let sum = |list: &[usize]| list[of.clone()].iter().sum::<usize>();
            let robust = if attacked { sum(&self.robust).to_string() } else { String::new() };
            format!("{name},{},{},{},{robust}\n", sum(trained), sum(&self.images), sum(&self.clean))
        };
        let classes = trained.len();
        let mut out = "class,trained,images,clean_correct,robust_correct\n".to_string();
        out.extend((0..classes).map(|c| line(c.to_string(), c..c + 1)));
        if classes >= 20 && classes.is_multiple_of(10) {
            let each = classes / 10;
            out.extend((0..10).map(|g| line(format!("{}-{}", g * each, (g + 1) * each - 1), g * each..(g + 1) * each)));
        }
        out
    }
}

/// Evaluates on all of `pool`. `tell` is called before each batch; its error ends the evaluation.
pub(super) fn evaluate(
    engine: &mut Engine,
    pool: &Pool,
    probe: Option<Probe>,
    by_class: &mut ByClass,
    tell: &mut dyn FnMut() -> Result<()>,
) -> Result<Score> {
    let mut score = Score { images: pool.len(), clean: 0, robust: probe.map(|_| 0) };
    let positions: Vec<usize> = (0..pool.len()).collect();
    for group in positions.chunks(engine.batch()) {
        tell()?;
        // The last batch is padded with its own last image, which is not counted again.
        let padded: Vec<usize> = (0..engine.batch()).map(|row| group[row.min(group.len() - 1)]).collect();
        let batch = pool.plain(&padded)?;
        engine.load(batch.images())?;
        let right = correct(engine, &batch.label)?;
        score.clean += right[..group.len()].iter().filter(|&&r| r).count();
        for (row, &right) in right[..group.len()].iter().enumerate() {
            by_class.images[batch.label[row] as usize] += 1;
            by_class.clean[batch.label[row] as usize] += usize::from(right);
        }
        let (Some(probe), Some(robust)) = (probe, &mut score.robust) else { continue };
        engine.set_radius(probe.threat.eps)?;
        engine.begin(probe.seed, 0, 1)?;
        engine.set_step_length(probe.alpha)?;
        for _ in 0..probe.steps {
            tell()?;
            engine.probe()?;
        }
        let still = correct(engine, &batch.label)?;
        for row in 0..group.len() {
            // As in an attack, a point outside the threat model breaks nothing.
            let inside = probe.threat.contains(batch.image(row), &engine.image(row)?);
            let stands = right[row] && (still[row] || !inside);
            by_class.robust[batch.label[row] as usize] += usize::from(stands);
            *robust += usize::from(stands);
        }
    }
    Ok(score)
}

/// Whether the network as deployed is right about each image as it stands.
pub(super) fn correct(engine: &mut Engine, label: &[i32]) -> Result<Vec<bool>> {
    let logits = engine.logits()?;
    let classes = logits.len() / label.len();
    Ok(logits.chunks_exact(classes).zip(label).map(|(z, &y)| argmax(z) == usize::try_from(y).ok()).collect())
}
