//! How the learning rate moves over a run, as a closed formula of the step.
//! Must not know what is trained.

use crate::error::{Error, Result};

/// Shape of the learning rate over a run.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// Always the peak.
    Constant,
    /// Times `factor` from each of these epochs on (0 is the first epoch).
    Step {
        /// Epochs, ascending.
        milestones: Vec<usize>,
        /// Usually 0.1.
        factor: f64,
    },
    /// Half a cosine from the peak to 0 (Loshchilov and Hutter 2017, <https://arxiv.org/abs/1608.03983>).
    Cosine,
    /// Linear from peak / 25 to the peak in the first 30 % of the steps, then linear to peak / 25,000 at the last step
    /// (Smith and Topin 2018, <https://arxiv.org/abs/1708.07120>; numbers of PyTorch's `OneCycleLR`, momentum constant).
    OneCycle,
    /// Linear from 0 to the peak in the middle of the run and back, as the code of Wong et al. 2020 does.
    Cyclic,
}

/// A place in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Steps made before.
    pub step: usize,
    /// Steps of an epoch.
    pub per_epoch: usize,
    /// Epochs of the run.
    pub epochs: usize,
}

impl Schedule {
    /// `constant`, `step`, `cosine`, `one-cycle`, `cyclic`.
    pub fn name(&self) -> &'static str {
        match self {
            Schedule::Constant => "constant",
            Schedule::Step { .. } => "step",
            Schedule::Cosine => "cosine",
            Schedule::OneCycle => "one-cycle",
            Schedule::Cyclic => "cyclic",
        }
    }

    /// The default steps: a tenth at 50 % and again at 75 % of the run (Rice et al. 2020).
    pub fn step_at_half(epochs: usize) -> Self {
        Schedule::Step { milestones: vec![epochs / 2, epochs * 3 / 4], factor: 0.1 }
    }

    /// Refuses milestones that are out of order and factors that are no share.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the value.
    pub fn check(&self) -> Result<()> {
        let Schedule::Step { milestones, factor } = self else { return Ok(()) };
        if milestones.windows(2).any(|pair| pair[0] > pair[1]) {
            return Err(Error::usage(format!("milestones {milestones:?} are not in order")));
        }
        if !(*factor > 0.0 && *factor <= 1.0) {
            return Err(Error::usage(format!("the factor of the steps is {factor}, it must be above 0 and at most 1")));
        }
        Ok(())
    }

    /// The learning rate of the step at `moment`, where `peak` is the largest.
    pub fn lr(&self, peak: f64, moment: Moment) -> f64 {
        let Moment { step, per_epoch, epochs } = moment;
        let total = (per_epoch * epochs) as f64;
        assert!(step < per_epoch * epochs, "step {step} of a run of {total}");
        let at = step as f64;
        match self {
            Schedule::Constant => peak,
            Schedule::Step { milestones, factor } => {
                let passed = milestones.iter().filter(|&&m| step / per_epoch >= m).count();
                peak * factor.powi(passed as i32)
            }
            Schedule::Cosine => peak * 0.5 * (1.0 + (std::f64::consts::PI * at / total).cos()),
            Schedule::OneCycle => {
                let (top, last) = ((0.3 * total - 1.0).max(0.0), total - 1.0);
                if at < top {
                    between(peak / 25.0, peak, at / top)
                } else {
                    between(peak, peak / 25_000.0, if last > top { (at - top) / (last - top) } else { 0.0 })
                }
            }
            Schedule::Cyclic => peak * (1.0 - (2.0 * at / total - 1.0).abs()),
        }
    }
}

fn between(from: f64, to: f64, share: f64) -> f64 {
    from + (to - from) * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn curve(schedule: &Schedule) -> Vec<f64> {
        (0..200).map(|step| schedule.lr(0.2, Moment { step, per_epoch: 20, epochs: 10 })).collect()
    }

    #[track_caller]
    fn near(got: f64, want: f64) {
        assert!((got - want).abs() < 1e-15, "{got} is not {want}");
    }

    #[test]
    fn steps_fall_at_the_start_of_their_epoch() {
        let lr = curve(&Schedule::Step { milestones: vec![5, 7], factor: 0.1 });
        for (step, want) in [(0, 0.2), (99, 0.2), (100, 0.02), (139, 0.02), (140, 0.002), (199, 0.002)] {
            near(lr[step], want);
        }
        assert_eq!(Schedule::step_at_half(200), Schedule::Step { milestones: vec![100, 150], factor: 0.1 });
    }

    #[test]
    fn cosine_starts_at_the_peak_and_is_half_way_in_the_middle() {
        let lr = curve(&Schedule::Cosine);
        near(lr[0], 0.2);
        near(lr[100], 0.1);
        near(lr[50], 0.1 + 0.1 * std::f64::consts::FRAC_1_SQRT_2);
        assert!(lr.windows(2).all(|w| w[0] > w[1]) && lr[199] > 0.0);
    }

    #[test]
    fn one_cycle_has_the_published_ends() {
        let lr = curve(&Schedule::OneCycle);
        near(lr[0], 0.2 / 25.0);
        near(lr[59], 0.2);
        near(lr[199], 0.2 / 25_000.0);
        near(lr[30] - lr[29], (0.2 - 0.008) / 59.0);
        near(lr[129], (0.2 + 0.2 / 25_000.0) / 2.0);
        let one = Schedule::OneCycle.lr(1.0, Moment { step: 0, per_epoch: 1, epochs: 1 });
        assert_eq!(one, 1.0, "a run of one step");
    }

    #[test]
    fn cyclic_is_a_triangle_from_zero() {
        let lr = curve(&Schedule::Cyclic);
        for (step, want) in [(0, 0.0), (50, 0.1), (100, 0.2), (150, 0.1), (199, 0.002)] {
            near(lr[step], want);
        }
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        assert!(Schedule::Step { milestones: vec![3, 2], factor: 0.1 }.check().is_err());
        for factor in [0.0, -1.0, 1.5, f64::NAN] {
            assert!(Schedule::Step { milestones: vec![1], factor }.check().is_err(), "{factor}");
        }
        assert!(curve(&Schedule::Constant).iter().all(|&lr| lr == 0.2));
    }
}
