//! The momentum attacks on a device: what is written for an image, which segments make a step, what is answered.
//! Must not know how the graph is built.

use super::super::rows::{Rows, drive};
use super::super::{Bound, Case, Found, Tell};
use super::{Momentum, Values};
use crate::error::Result;
use crate::outcome::Cost;
use crate::session::Session;

/// The attack bound to a device. All rows make the same step: none leaves before the others.
pub(super) struct BoundMomentum {
    attack: Momentum,
    session: Session,
    v: Values,
    step: usize,
    first_loss: Vec<f32>,
}

impl BoundMomentum {
    pub(super) fn new(attack: Momentum, session: Session, v: Values) -> Self {
        BoundMomentum { attack, session, v, step: 0, first_loss: Vec::new() }
    }
}

impl Bound for BoundMomentum {
    fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>> {
        drive(self, cases, restart, tell)
    }
}

impl Rows for BoundMomentum {
    fn batch(&self) -> usize {
        self.session.batch()
    }

    fn load(&mut self, at: usize, case: &Case, restart: usize) -> Result<()> {
        let (s, v, a) = (&mut self.session, &self.v, &self.attack);
        s.write_image(v.x0, at, &case.x0)?;
        s.write_i32(v.label, at, case.label)?;
        if let Some(target) = v.target {
            s.write_i32(target, at, case.target.expect("a targeted attack has targets"))?;
        }
        s.write_i32(v.index, at, case.index as i32)?;
        s.write_i32(v.restart, at, i32::try_from(restart).expect("restarts are checked to fit 16 bits"))?;
        let reach = if a.ahead { a.alpha * a.decay } else { 0.0 };
        let numbers = [
            (v.alpha, a.alpha),
            (v.eps, case.eps),
            (v.decay, a.decay),
            (v.reach, reach),
            (v.length, a.beta * case.eps),
            (v.worst, 0.0),
        ];
        numbers.into_iter().try_for_each(|(value, number)| s.write_f32(value, at, number as f32))?;
        s.executor().write_f32(v.state, at, &[0.0, 1.0])
    }

    fn begin(&mut self, _fresh: &[usize]) -> Result<()> {
        self.step = 0;
        self.session.run("begin")
    }

    fn turn(&mut self) -> Result<()> {
        let (a, s) = (&self.attack, &mut self.session);
        // What the last step would keep for the next is not asked for.
        let neighbours = if self.step + 1 < a.steps { a.samples * a.copies } else { 0 };
        (0..neighbours).try_for_each(|_| s.run("vary"))?;
        (1..a.evaluations()).try_for_each(|_| s.run("sample"))?;
        s.run("step")?;
        if self.step == 0 {
            self.first_loss = s.read(self.v.loss)?;
        }
        self.step += 1;
        Ok(())
    }

    fn through(&mut self, turns: &[Option<usize>]) -> Result<Vec<usize>> {
        let through = |&at: &usize| turns[at].is_some_and(|made| made == self.attack.steps);
        Ok((0..turns.len()).filter(through).collect())
    }

    fn answer(&mut self, at: usize, _case: &Case, turns: usize) -> Result<Found> {
        let a = &self.attack;
        let x = self.session.read_image(self.v.x, at)?;
        let loss = self.session.read_row(self.v.loss, at)?;
        let status = self.session.read_row(self.v.worst, at)? as u8;
        // Losses of resized or darkened images say nothing of each other.
        let plain = self.attack.probability == 0.0 && a.copies == 1;
        let climbed = (turns > 1 && plain).then_some((self.first_loss[at], loss));
        let evaluations = (turns * a.evaluations() + (turns - 1) * a.samples * a.copies) as u64;
        let cost = Cost { forwards: evaluations, backwards: evaluations };
        Ok(Found { x, loss, climbed, status, cost, claimed: None })
    }

    fn steps_a_turn(&self) -> u64 {
        (self.attack.evaluations() + self.attack.samples * self.attack.copies) as u64
    }

    fn refills(&self) -> bool {
        false
    }
}
