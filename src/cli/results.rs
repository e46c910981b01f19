//! Where everything that a run of attacks gives is written: images, pictures, report, JSON.
//! Must not know how any of it came about.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::output::{self, Json};
use super::run_args::RunArgs;
use crate::attack::{Returned, quantised};
use crate::data::save;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::outcome::{Outcome, Rounded};
use crate::report::{self, Facts};
use crate::session::{Classifier, Model, argmax};
use crate::threat::{Goal, ThreatModel};

/// Where everything that a run gives is written.
pub struct Results {
    json: Json,
    set: Option<save::Writer>,
    pictures: Option<Pictures>,
    shape: [usize; 3],
}

/// Images as picture files, judged as they are there.
struct Pictures {
    dir: PathBuf,
    goal: Goal,
    classifier: Classifier,
    rounded: Rounded,
}

impl Results {
    /// Finds every conflict before the attack starts. `notes` go into the header of a saved set.
    ///
    /// # Errors
    /// [`Error::Usage`] where two results have one name or images cannot be pictures; [`Error::Io`] where nothing can be
    /// written later.
    pub fn prepare(
        args: &RunArgs,
        device: &Device,
        model: &Model,
        goal: Goal,
        batch: usize,
        notes: &[(&str, Value)],
    ) -> Result<Self> {
        let shape = model.input();
        let json = Json::prepare(args.json.as_ref())?;
        if let (Json::File(a), Some(b)) = (&json, &args.save)
            && a == b
        {
            return Err(Error::usage(format!("`--json` and `--save` both name `{}`", b.display())));
        }
        let pictures = args.save_png.as_deref().map(|dir| Pictures::prepare(dir, device, model, goal, batch)).transpose()?;
        let mut set = None;
        if let Some(path) = &args.save {
            output::not_there("--save", path)?;
            let mut writer = save::Writer::create(path, shape)?;
            notes.iter().for_each(|(key, value)| writer.note(key, value.clone()));
            set = Some(writer);
        }
        Ok(Results { json, set, pictures, shape })
    }

    /// Whether returned images are wanted.
    pub fn saves(&self) -> bool {
        self.set.is_some() || self.pictures.is_some()
    }

    /// Takes returned images.
    ///
    /// # Errors
    /// [`Error::Io`] where they cannot be written.
    pub fn take(&mut self, returned: &Returned) -> Result<()> {
        let wide = |narrow: &[i32]| -> Vec<i64> { narrow.iter().map(|&v| v.into()).collect() };
        let index: Vec<i64> = returned.index.iter().map(|&v| v.into()).collect();
        if let Some(set) = &mut self.set {
            set.append(&save::Attacked {
                adversarial: returned.adversarial,
                label: &wide(returned.label),
                prediction: &wide(returned.prediction),
                index: &index,
            })?;
        }
        match &mut self.pictures {
            Some(pictures) => pictures.take(returned, self.shape),
            None => Ok(()),
        }
    }

    /// Files first: a report must not speak of images that could not be saved.
    ///
    /// # Errors
    /// [`Error::Io`] where a file cannot be written.
    pub fn finish(self, facts: &Facts, outcome: &mut Outcome) -> Result<()> {
        if let Some(set) = self.set {
            set.finish()?;
        }
        outcome.rounded = self.pictures.map(|p| p.rounded);
        let outcome = &*outcome;
        self.json.write(&report::attack_text(facts, outcome), || report::attack_json(facts, outcome))
    }
}

impl Pictures {
    fn prepare(dir: &Path, device: &Device, model: &Model, goal: Goal, batch: usize) -> Result<Self> {
        let channels = model.input()[0];
        if channels != 1 && channels != 3 {
            return Err(Error::usage(format!("`--save-png` takes images of 1 or 3 channels, not {channels}"))
                .with_hint("use `--save FILE.safetensors`"));
        }
        output::picture_folder("--save-png", dir)?;
        let classifier = Classifier::new(device, model, batch)?;
        Ok(Pictures { dir: dir.to_path_buf(), goal, classifier, rounded: Rounded::default() })
    }

    fn take(&mut self, returned: &Returned, shape: [usize; 3]) -> Result<()> {
        let elems: usize = shape.iter().product();
        let images = returned.adversarial.chunks_exact(elems).zip(returned.clean.chunks_exact(elems));
        let goals: Vec<Goal> = returned.eps.iter().map(|&eps| self.goal_of(eps)).collect();
        let rounded: Vec<Vec<f32>> = images.zip(&goals).map(|((x, x0), &goal)| quantised(goal, x0, x)).collect();
        let views: Vec<&[f32]> = rounded.iter().map(Vec::as_slice).collect();
        let logits = self.classifier.logits(&views)?;
        let clean = returned.clean.chunks_exact(elems);
        for (i, ((x, x0), z)) in rounded.iter().zip(clean).zip(logits.chunks_exact(self.classifier.classes())).enumerate() {
            let class = argmax(z).map_or(-1, |c| c as i32);
            self.rounded.right += usize::from(class == returned.label[i] && class >= 0);
            self.rounded.outside += usize::from(!goals[i].allows(x0, x));
            self.rounded.undone += usize::from(class == returned.label[i] && returned.prediction[i] != class);
            save::save_png(&self.dir, returned.index[i] as usize, shape, x)?;
        }
        self.rounded.images += rounded.len();
        Ok(())
    }

    fn goal_of(&self, eps: f64) -> Goal {
        match self.goal {
            Goal::Within(threat) => Goal::Within(ThreatModel { eps, ..threat }),
            nearest => nearest,
        }
    }
}
