//! The rule by which APGD sets the step of an image, and what an image carries from turn to turn for it.
//! Must not know networks, losses or devices.
//! Croce and Hein 2020, <https://arxiv.org/abs/2003.01690>; for L1: Croce and Hein 2021, <https://arxiv.org/abs/2103.01208>.

use crate::threat::Norm;

/// When the step of an image is looked at, and what makes it smaller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ApgdRule {
    /// Norm of the ball.
    pub norm: Norm,
    /// Steps in all.
    pub steps: usize,
    /// Share of steps that must have raised the loss, or the step is halved; not used in L1.
    pub rho: f32,
    /// Starts in balls of three and two times the radius, for 30 % of the steps each; L1 only.
    pub larger: bool,
}

/// What an image carries: the places of its numbers in a row of [`ApgdRule::STATE`] of them. All zero but [`at::RADIUS`]
/// when an image sits down.
pub mod at {
    /// Turns made in this phase.
    pub const TURN: usize = 0;
    /// Which of the balls, counted from 0.
    pub const PHASE: usize = 1;
    /// Its radius.
    pub const RADIUS: usize = 2;
    /// Length of the next move; 0 only projects.
    pub const STEP: usize = 3;
    /// Share of the last move in the next.
    pub const MOMENTUM: usize = 4;
    /// The step size as checks leave it.
    pub const ETA: usize = 5;
    /// Highest loss of this phase.
    pub const BEST: usize = 6;
    /// Loss of the turn before.
    pub const LAST: usize = 7;
    /// Loss at the very start.
    pub const FIRST: usize = 8;
    /// Steps since the last check.
    pub const SINCE: usize = 9;
    /// Steps from that check to the next.
    pub const PERIOD: usize = 10;
    /// Steps since the last check that raised the loss.
    pub const RISES: usize = 11;
    /// Highest loss at the last check.
    pub const AT_CHECK: usize = 12;
    /// Whether the last check halved the step; true before the first.
    pub const HALVED: usize = 13;
    /// Share of the values that a step in L1 moves.
    pub const TOP: usize = 14;
    /// Values that the best image had changed at the last check, in L1.
    pub const CHANGED: usize = 15;
    /// Flag: the image just looked at is the best.
    pub const BETTER: usize = 16;
    /// Flag: it is the one to return, if any is.
    pub const STORE: usize = 17;
    /// Flag: the next move starts at the best image.
    pub const BACK: usize = 18;
    /// Flag: some image of the last phase has reached the goal.
    pub const BROKEN: usize = 19;
}

/// The checks of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// Steps.
    pub steps: usize,
    /// Steps before the first check.
    pub first: usize,
    /// How many fewer before each of the following..
    pub shrink: usize,
    /// .. down to so many.
    pub least: usize,
}

impl ApgdRule {
    /// Numbers of an image.
    pub const STATE: usize = 20;

    /// The phases, one after the other. Of `p` phases the `i`-th has `p - i` times the radius.
    pub fn phases(&self) -> Vec<Phase> {
        let n = self.steps;
        let part = (3 * n).div_ceil(10);
        // The last has whatever is left, in a run of very few steps nothing.
        let lengths = if self.larger { vec![part.min(n), part.min(n - part.min(n)), n - (2 * part).min(n)] } else { vec![n] };
        lengths.into_iter().map(|steps| self.phase(steps)).collect()
    }

    fn phase(&self, steps: usize) -> Phase {
        let percent = |share: usize| (share * steps / 100).max(1);
        match self.norm {
            Norm::L1 => Phase { steps, first: percent(4), shrink: 0, least: percent(4) },
            _ => Phase { steps, first: percent(22), shrink: percent(3), least: percent(6) },
        }
    }

    /// Looks at an image in all: each phase looks at its start too.
    pub fn turns(&self) -> usize {
        self.phases().iter().map(|p| p.steps + 1).sum()
    }

    /// An image that sits down, `eps` being its radius in the end.
    pub fn fresh(&self, eps: f32) -> [f32; ApgdRule::STATE] {
        let mut state = [0.0; ApgdRule::STATE];
        state[at::RADIUS] = self.phases().len() as f32 * eps;
        state
    }

    /// Panics where the rule makes no sense.
    pub fn check(&self) {
        assert!(self.steps > 0 && self.rho >= 0.0 && (!self.larger || self.norm == Norm::L1), "{self:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_fall_where_the_paper_has_them() {
        let rule = ApgdRule { norm: Norm::Linf, steps: 100, rho: 0.75, larger: false };
        let phase = rule.phases()[0];
        let (mut period, mut next, mut checks) = (phase.first, phase.first, Vec::new());
        while next <= 100 {
            checks.push(next);
            period = (period - phase.shrink).max(phase.least);
            next += period;
        }
        assert_eq!(checks, [22, 41, 57, 70, 80, 87, 93, 99]);
        let l1 = ApgdRule { norm: Norm::L1, larger: true, ..rule };
        let lengths: Vec<(usize, usize)> = l1.phases().iter().map(|p| (p.steps, p.first)).collect();
        assert_eq!((lengths, l1.turns()), (vec![(30, 1), (30, 1), (40, 1)], 103));
        assert_eq!(ApgdRule { larger: false, ..l1 }.phases()[0].first, 4);
        let lengths = |steps| ApgdRule { steps, ..l1 }.phases().iter().map(|p| p.steps).collect::<Vec<_>>();
        assert_eq!((lengths(1), lengths(2), lengths(10)), (vec![1, 0, 0], vec![1, 1, 0], vec![3, 3, 4]));
    }
}
