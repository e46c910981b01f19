//! Attacks: what one is, what it is given, what it answers; and the run around them, from clean images to a verdict on each.
//! Must not know the command line or how a report looks.

mod apgd;
pub mod auto;
mod boundary;
mod check;
mod choices;
mod climb;
mod cw;
mod ddn;
mod deepfool;
mod ead;
mod fab;
mod fmn;
mod hop_skip_jump;
mod job;
mod journal;
mod looks;
mod momentum;
mod nearest;
mod pgd;
mod place;
mod quantise;
mod rows;
mod run;
mod search;
mod square;
mod target;

use std::fmt;

use serde_json::{Map, Value as Json};

pub use apgd::Apgd;
pub use check::{COUNTED, black_box, doubts};
pub use choices::{AttackLoss, Keep};
pub use climb::{Climb, From, Objective, Stepping};
pub use cw::Cw;
pub use ddn::Ddn;
pub use deepfool::DeepFool;
pub use ead::{Ead, Rule};
pub use fab::Fab;
pub use fmn::Fmn;
pub use hop_skip_jump::HopSkipJump;
pub use job::{Given, Hooks, Job, Progress, Returned, ReturnedHook};
pub use journal::Journal;
pub use momentum::{Kernel, Momentum};
pub use pgd::{Pgd, Start, StepValues};
pub use place::{Net, Place};
pub use quantise::quantised;
pub use rows::{Rows, drive};
pub use run::run;
pub use search::RadiusSearch;
pub use square::{Square, windows};
pub use target::Target;

use crate::error::Result;
use crate::graph::Graph;
use crate::outcome::{Cost, Doubt};
use crate::plan::Segment;
use crate::threat::Goal;

/// Parameters of an attack in the order they are printed.
pub type Parameters = Map<String, Json>;

/// Called between steps with images done and image-steps made; an error ends the attack.
pub type Tell<'t> = &'t mut dyn FnMut(usize, u64) -> Result<()>;

/// An attack with all its parameters settled. Whoever implements this and [`Bound`] has an attack that every command takes.
pub trait Attack: fmt::Debug + Send + Sync {
    /// Name under which it is reported, such as `pgd`.
    fn name(&self) -> &str;
    /// All parameters, resolved, in the order they are printed; the first is `name`. A key that is an option of the command
    /// line is spelled as the option with `_` for `-`, and its value reads back as the same.
    fn parameters(&self) -> Parameters;
    /// Refuses what cannot be run on a model with `classes` classes.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] naming the parameter.
    fn check(&self, classes: usize) -> Result<()>;
    /// What it is after.
    fn goal(&self) -> Goal;
    /// What is aimed at, for each image.
    fn target(&self) -> Target {
        Target::None
    }
    /// Independent runs; an image leaves after the first that breaks it.
    fn restarts(&self) -> usize {
        1
    }
    /// Whether the first restart may start at images that the caller gives.
    fn takes_starts(&self) -> bool {
        false
    }
    /// The graph of the attack and its segments, as `petard plan` shows them.
    fn sketch(&self, net: &Net) -> (Graph, Vec<Segment>);
    /// Plans the attack and binds it to a device.
    ///
    /// # Errors
    /// What compiling and binding can fail with.
    fn bind(&self, place: &Place) -> Result<Box<dyn Bound>>;
    /// What casts doubt on its numbers whatever it finds, on a model with `classes` classes.
    fn doubts(&self, _classes: usize, _given_starts: bool) -> Vec<Doubt> {
        Vec::new()
    }
}

/// An attack bound to a device.
pub trait Bound {
    /// Attacks every case once; the answers are in the order of the cases.
    ///
    /// # Errors
    /// What the device can fail with, and what `tell` returns.
    fn attack(&mut self, cases: &[&Case], restart: usize, tell: Tell) -> Result<Vec<Found>>;
    /// Whether the device is asked for its own verdict, in less than f32.
    fn claims(&self) -> bool {
        false
    }
}

/// One image under attack.
#[derive(Clone, Debug)]
pub struct Case {
    /// Position in the split: random numbers belong to it.
    pub index: u32,
    /// The label judged by.
    pub label: i32,
    /// The model's class of the clean image; -1 where a logit was NaN.
    pub clean: i32,
    /// The class aimed at.
    pub target: Option<i32>,
    /// The radius for this image; infinite where the nearest point is wanted.
    pub eps: f64,
    /// The clean image, NCHW in [0,1].
    pub x0: Vec<f32>,
    /// The model's logits on it, in f32.
    pub logits: Vec<f32>,
    /// Where the attack starts, if the caller gave it.
    pub start: Option<Vec<f32>>,
    /// What will be returned.
    pub best: Option<Candidate>,
    /// Whether an attack reached its goal.
    pub broken: bool,
    /// The attack of a job that did, by its place in the list.
    pub by: Option<usize>,
    /// What each attack of the job spent on this image.
    pub costs: Vec<Cost>,
    /// What it met: the sum of the bits of [`crate::outcome::Met`].
    pub met: u16,
    /// Successes by the device's own verdict, and those that the f32 network confirmed.
    pub claims: [u32; 2],
    /// Rounds (attacks and restarts) that are behind it.
    pub rounds: usize,
}

impl Case {
    /// What is returned for this image: the best point found, or the image itself.
    fn returned(&self) -> &[f32] {
        self.best.as_ref().map_or(&self.x0, |b| &b.x)
    }
}

/// A point an attack returned for one image, with the model's class for it.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// NCHW.
    pub x: Vec<f32>,
    /// Class by direct f32 kernels.
    pub prediction: i32,
    /// The attack's own loss.
    pub loss: f32,
}

/// What an attack answers for one image.
#[derive(Clone, Debug)]
pub struct Found {
    /// The point, NCHW in [0,1]; the clean image where nothing was found and nothing is worth returning.
    pub x: Vec<f32>,
    /// How good the point is where it does not reach the goal: of several restarts the highest is returned.
    pub loss: f32,
    /// Loss at the start and at the last iterate that was looked at, where the attack climbs one by several steps.
    pub climbed: Option<(f32, f32)>,
    /// Worst gradient met: 0 ordinary, 1 all zero, 2 not finite.
    pub status: u8,
    /// What was spent.
    pub cost: Cost,
    /// Whether the device's own verdict on this point is that the goal is reached; `None` where it was not asked.
    pub claimed: Option<bool>,
}
