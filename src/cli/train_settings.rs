//! The run that the options of `petard train` mean: defaults of the recipe, each overridden by its option.
//! Must not know how a step is made.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use super::options::open_device;
use super::train_args::{Args, ChooseOn, DEMO, LossKind, MarginKind, Shape, Unit};
use super::value;
use crate::data::{self, Dataset, Split};
use crate::device::{Device, DeviceOptions};
use crate::error::{Error, Result};
use crate::nn::{ModelCard, Weights};
use crate::session::Model;
use crate::threat::{Norm, ThreatModel};
use crate::train::{
    Ascent, Augment, Awp, BatchNorm, Config, Crafting, Criterion, Defaults, Extra, Guard, LongTail, Margins, Method, MultiMargin,
    Pairing, Recipe, Sampler, Schedule, Start, Tricks,
};

/// What was typed, settled: nothing below refers to the command line.
pub struct Settings {
    pub device: Device,
    pub config: Config,
    pub train: Dataset,
    pub extra: Option<Dataset>,
    pub test: Option<Dataset>,
    pub weights: Option<Weights>,
}

impl Args {
    /// Everything that can fail early fails here, the cheap checks first.
    pub fn resolve(&self) -> Result<Settings> {
        let mut defaults = self.recipe.defaults(self.threat()?);
        let crafting = self.crafting(&defaults)?;
        self.only_where_used()?;
        defaults.method = self.method(&defaults)?;
        let threads = self.threads.unwrap_or(0);
        let device =
            open_device(&self.device, &DeviceOptions { threads, precision: self.precision, ..DeviceOptions::default() })?;
        let demo = self.model.is_none() && self.data.split(':').next() == Some("synthetic");
        let name = match &self.model {
            Some(name) => name,
            None if demo => DEMO.model,
            None => {
                return Err(Error::usage("no model is named")
                    .with_hint("name a card, such as `--model resnet18-cifar10`; `petard models` lists them"));
            }
        };
        let (card, card_text) = self.card(name)?;
        if let (Some(sphere), Recipe::Alp) = (card.sphere, self.recipe) {
            // The weight is meant for cosines, the logits are `scale` times these.
            defaults.method.outer.squared /= f64::from(sphere.scale).powi(2);
        }
        let limit = self.limit.or(demo.then_some(DEMO.images));
        let open = |spec: &str, split, limit| {
            let options =
                data::Options { split, shape: Some(card.input), classes: Some(card.classes), limit, ..Default::default() };
            Dataset::open(spec, &options)
        };
        let train = open(&self.data, Split::Train, limit)?;
        let extra = self.extra.as_deref().map(|spec| open(spec, Split::Train, None)).transpose()?;
        let test = (self.choose_on == ChooseOn::Test).then(|| open(&self.data, Split::Test, None)).transpose()?;
        let weights = self.weights.as_deref().map(|path| Model::load(name, Some(path)).map(|m| m.weights)).transpose()?;
        let epochs = self.epochs.unwrap_or(if demo { DEMO.epochs } else { defaults.epochs });
        let tricks = self.tricks(&card, extra.as_ref());
        let config = Config {
            card,
            card_text,
            recipe: self.recipe,
            crafting,
            method: defaults.method,
            tricks,
            tail: self.tail()?,
            epochs,
            batch: self.batch_size,
            lr_max: self.lr_max.unwrap_or(defaults.lr_max),
            schedule: self.schedule(&defaults, epochs)?,
            momentum: self.momentum,
            nesterov: self.nesterov,
            weight_decay: self.weight_decay.unwrap_or(defaults.weight_decay),
            smoothing: self.label_smoothing,
            ema: self.ema,
            augment: Augment { pad: self.pad_crop, flip: self.flip, cutout: self.cutout },
            val: self.val.unwrap_or((train.len() / 10).min(1000)),
            choose_on_test: self.choose_on == ChooseOn::Test,
            probe_steps: self.val_steps,
            drop_last: self.drop_last,
            data: self.data.clone(),
            images: train.len(),
            initial: weights.as_ref().map(|w| w.sha256.clone()),
            precision: self.precision,
            seed: self.seed,
        };
        config.check()?;
        Ok(Settings { device, config, train, extra, test, weights })
    }

    /// The card and its text, with a sphere where `--he` asks for one.
    fn card(&self, name: &str) -> Result<(ModelCard, String)> {
        let (card, text) = (ModelCard::find(name)?, ModelCard::text(name)?);
        let Some(scale) = self.he else { return Ok((card, text)) };
        if card.sphere.is_some() {
            return Err(Error::usage(format!("the card `{name}` has a sphere of its own")).with_hint("leave `--he` out"));
        }
        let (features, weights) = (self.he_of != Unit::Weights, self.he_of != Unit::Features);
        let gamma = self.he_gamma;
        let line = format!("sphere = {{ scale = {scale:?}, features = {features}, weights = {weights}, gamma = {gamma:?} }}");
        let text = format!("{}\n{line}\n", text.trim_end());
        Ok((ModelCard::parse(&text, &card.name, std::path::Path::new(""))?, text))
    }

    fn threat(&self) -> Result<ThreatModel> {
        let eps = match &self.eps {
            Some(text) => value::radius("--eps", self.norm, text)?,
            None => self.norm.default_eps(),
        };
        Ok(ThreatModel::new(self.norm, eps))
    }

    fn crafting(&self, defaults: &Defaults) -> Result<Option<Crafting>> {
        let Some(default) = defaults.crafting else {
            let given = [
                ("--eps", self.eps.is_some()),
                ("--alpha", self.alpha.is_some()),
                ("--steps", self.steps.is_some()),
                ("--attack-bn", self.attack_bn.is_some()),
                ("--attack-loss", self.attack_loss.is_some()),
                ("--attack-noise", self.attack_noise.is_some()),
            ];
            return match given.into_iter().find(|(_, given)| *given) {
                Some((option, _)) => Err(Error::usage(format!("`{option}` is not used by `--recipe standard`"))
                    .with_hint(format!("leave `{option}` out, or use `--recipe pgd-at`"))),
                None => Ok(None),
            };
        };
        if self.recipe == Recipe::FgsmRs && (self.steps.is_some() || self.norm != Norm::Linf) {
            return Err(Error::usage("`--recipe fgsm-rs` makes one step in linf").with_hint("use `--recipe pgd-at`"));
        }
        if self.recipe == Recipe::Free && (self.norm == Norm::L1 || self.steps.is_some() || self.attack_bn.is_some()) {
            return Err(Error::usage("`--recipe free` attacks in the training step itself, in linf or l2")
                .with_hint("leave `--steps` and `--attack-bn` out; `--replays` says how often a batch is used"));
        }
        let alpha = self.alpha.as_deref().map(|text| value::radius("--alpha", self.norm, text)).transpose()?;
        let start = match self.attack_noise {
            None => default.start,
            Some(0.0) => Start::Ball,
            Some(sigma) if sigma > 0.0 && sigma.is_finite() => Start::Noise(sigma),
            Some(sigma) => return Err(Error::usage(format!("`--attack-noise {sigma}` is no deviation"))),
        };
        Ok(Some(Crafting {
            alpha: alpha.unwrap_or(default.alpha),
            steps: self.steps.unwrap_or(default.steps),
            batch_norm: self.attack_bn.unwrap_or(default.batch_norm),
            ascent: self.attack_loss.unwrap_or(default.ascent),
            start,
            ..default
        }))
    }

    /// An option of another recipe is an error: it would say nothing.
    fn only_where_used(&self) -> Result<()> {
        use Recipe::{Alp, AvMixup, Free, Mart, Mma, Trades};
        let rules: [(&str, bool, &[Recipe]); 12] = [
            ("--beta", self.beta.is_some(), &[Trades, Mart]),
            ("--passes", self.passes.is_some(), &[Trades, Mart, Alp]),
            ("--pairing", self.pairing.is_some(), &[Alp]),
            ("--pair-over", self.pair_over.is_some(), &[Alp]),
            ("--clean-loss", self.clean_loss.is_some(), &[Trades, Alp, Mma]),
            ("--attacked-loss", self.attacked_loss.is_some(), &[Trades, Alp]),
            ("--replays", self.replays.is_some(), &[Free]),
            ("--stretch", self.stretch.is_some(), &[AvMixup]),
            ("--end-label", self.end_label.is_some(), &[AvMixup]),
            ("--hinge", self.hinge.is_some(), &[Mma]),
            ("--least-radius", self.least_radius.is_some(), &[Mma]),
            ("--bisections", self.bisections.is_some(), &[Mma]),
        ];
        match rules.into_iter().find(|(_, given, of)| *given && !of.contains(&self.recipe)) {
            None if self.recipe == Mma && self.alpha.is_some() => {
                Err(Error::usage("`--alpha` is not used by `--recipe mma`: its steps follow each image's radius"))
            }
            None if self.recipe == Free && (self.attack_loss.is_some() || self.attack_noise.is_some()) => {
                Err(Error::usage("`--attack-loss` and `--attack-noise` are not used by `--recipe free`"))
            }
            None => Ok(()),
            Some((option, _, of)) => {
                let names: Vec<String> = of.iter().map(|r| format!("`--recipe {}`", r.name())).collect();
                let error = Error::usage(format!("`{option}` is not used by `--recipe {}`", self.recipe.name()));
                Err(error.with_hint(format!("leave `{option}` out, or use {}", names.join(" or "))))
            }
        }
    }

    fn method(&self, defaults: &Defaults) -> Result<Method> {
        let mut method = defaults.method;
        let outer = &mut method.outer;
        if let (Some(mart), Some(beta)) = (&mut outer.mart, self.beta) {
            *mart = beta;
        } else if let Some(beta) = self.beta {
            outer.kl = beta;
        }
        outer.clean_twice = self.passes.map_or(outer.clean_twice, |n| n == 3);
        outer.squared = self.pairing.unwrap_or(outer.squared);
        outer.pairing = self.pair_over.unwrap_or(outer.pairing);
        if method.mma.is_none() {
            outer.clean = self.clean_loss.unwrap_or(outer.clean);
            outer.attacked = self.attacked_loss.unwrap_or(outer.attacked);
        }
        method.replays = self.replays.unwrap_or(method.replays);
        if let Some(by) = &mut method.avmix {
            by.stretch = self.stretch.unwrap_or(by.stretch);
            by.label[1] = self.end_label.unwrap_or(by.label[1]);
        }
        if let Some(m) = &mut method.mma {
            let length = |option: &str, text: &Option<String>, default: f64| match text {
                Some(text) => value::radius(option, self.norm, text),
                None => Ok(default),
            };
            m.hinge = length("--hinge", &self.hinge, m.hinge)?;
            m.least = length("--least-radius", &self.least_radius, m.least)?;
            m.bisections = self.bisections.unwrap_or(m.bisections);
            m.clean_share = self.clean_loss.unwrap_or(m.clean_share);
        }
        Ok(method)
    }

    fn tricks(&self, card: &ModelCard, extra: Option<&Dataset>) -> Tricks {
        Tricks {
            awp: self.awp.map(|gamma| Awp { gamma, warmup: self.awp_warmup }),
            mixup: self.mixup,
            eps_warmup: self.eps_warmup,
            guard: self.guard,
            patience: self.patience,
            save_every: self.save_every,
            margin: self.margin * card.sphere.map_or(1.0, |s| f64::from(s.scale)),
            extra: extra.map(|set| Extra { data: set.spec().to_string(), images: set.len(), fraction: self.extra_fraction }),
        }
    }

    fn tail(&self) -> Result<LongTail> {
        let kind = self.class_margins;
        use MarginKind::{Ldam, LogitAdjust, Multi, Temperatures};
        let rules: [(&str, bool, &[MarginKind]); 6] = [
            ("--class-tau", self.class_tau.is_some(), &[LogitAdjust, Temperatures]),
            ("--loss-scale", self.loss_scale.is_some(), &[Ldam, Multi]),
            ("--ldam-max", self.ldam_max.is_some(), &[Ldam]),
            ("--m0", self.m0.is_some(), &[Multi]),
            ("--tau-b", self.tau_b.is_some(), &[Multi]),
            ("--tau-m", self.tau_m.is_some(), &[Multi]),
        ];
        if let Some((option, ..)) = rules.into_iter().find(|(_, given, of)| *given && !of.contains(&kind)) {
            let error = Error::usage(format!("`{option}` is not used by this `--class-margins`"));
            return Err(error.with_hint("its own kinds are named beside it in `petard train --help`"));
        }
        if self.focal_gamma.is_some() && !matches!(self.loss, LossKind::Focal | LossKind::SigmoidFocal) {
            return Err(Error::usage("`--focal-gamma` is used by `--loss focal` and `sigmoid-focal` only"));
        }
        if self.defer > 0 && kind == MarginKind::None && self.class_balanced.is_none() {
            return Err(Error::usage("`--defer` puts off `--class-margins` and `--class-balanced`: there is neither"));
        }
        let gamma = self.focal_gamma.unwrap_or(2.0);
        if !(gamma.is_finite() && gamma >= 0.0) {
            return Err(Error::usage(format!("`--focal-gamma {gamma}` must be at least 0")));
        }
        let focal = match self.loss {
            LossKind::Ce => None,
            LossKind::Focal => Some(Criterion::Focal { gamma }),
            LossKind::SigmoidFocal => Some(Criterion::SigmoidFocal { gamma }),
            LossKind::Bce => Some(Criterion::SigmoidFocal { gamma: 0.0 }),
        };
        let scale = |default: f64| self.loss_scale.unwrap_or(default);
        let margins = match kind {
            MarginKind::None => Margins::None,
            MarginKind::Ldam => Margins::Ldam { max: self.ldam_max.unwrap_or(0.5), scale: scale(1.0) },
            MarginKind::LogitAdjust => Margins::Adjusted { tau: self.class_tau.unwrap_or(1.0) },
            MarginKind::Temperatures => Margins::Temperatures { tau: self.class_tau.unwrap_or(0.3) },
            MarginKind::Multi => Margins::Multi(MultiMargin {
                s: scale(10.0),
                m0: self.m0.unwrap_or(0.1),
                tau_b: self.tau_b.unwrap_or(1.5),
                tau_m: self.tau_m.unwrap_or(0.3),
            }),
        };
        let (balanced, defer, classifier_only) = (self.class_balanced, self.defer, self.only_classifier);
        Ok(LongTail { focal, margins, balanced, defer, sampler: self.sampler, classifier_only })
    }

    fn schedule(&self, defaults: &Defaults, epochs: usize) -> Result<Schedule> {
        let stepped = matches!(defaults.schedule, Schedule::Step { .. }) && self.lr_schedule.is_none();
        if let (Some(_), false) = (&self.milestones, stepped || self.lr_schedule == Some(Shape::Step)) {
            return Err(Error::usage("`--milestones` is used by `--lr-schedule step` only").with_hint("leave one of them out"));
        }
        Ok(match (self.lr_schedule, &defaults.schedule) {
            (None, Schedule::Step { milestones, factor }) => {
                // In proportion, where the run is shorter or longer than the recipe's.
                let moved = milestones.iter().map(|m| m * epochs / defaults.epochs).collect();
                Schedule::Step { milestones: self.milestones.clone().unwrap_or(moved), factor: *factor }
            }
            (None, other) => other.clone(),
            (Some(Shape::Constant), _) => Schedule::Constant,
            (Some(Shape::Step), _) => match &self.milestones {
                Some(milestones) => Schedule::Step { milestones: milestones.clone(), factor: 0.1 },
                None => Schedule::step_at_half(epochs),
            },
            (Some(Shape::Cosine), _) => Schedule::Cosine,
            (Some(Shape::OneCycle), _) => Schedule::OneCycle,
            (Some(Shape::Cyclic), _) => Schedule::Cyclic,
        })
    }

    /// An interrupted run can be gone on with.
    pub fn way_on(&self, error: Error) -> Error {
        match error {
            Error::Interrupted { message } => Error::Interrupted {
                message: format!("{message} in `{}`; go on with the same options and `--resume`", self.out.display()),
            },
            other => other,
        }
    }
}

impl ValueEnum for Recipe {
    fn value_variants<'a>() -> &'a [Self] {
        &Recipe::ALL
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        let value = PossibleValue::new(self.name()).help(self.about());
        Some(match self {
            Recipe::PgdAt => value.aliases(["pgd", "at", "pgd_at"]),
            Recipe::FgsmRs => value.alias("fgsm_rs"),
            _ => value,
        })
    }
}

impl ValueEnum for BatchNorm {
    fn value_variants<'a>() -> &'a [Self] {
        &[BatchNorm::Eval, BatchNorm::Train, BatchNorm::Frozen]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for Ascent {
    fn value_variants<'a>() -> &'a [Self] {
        &[Ascent::CrossEntropy, Ascent::Kl, Ascent::SoftMargin]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for Pairing {
    fn value_variants<'a>() -> &'a [Self] {
        &[Pairing::Entries, Pairing::Rows]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for Guard {
    fn value_variants<'a>() -> &'a [Self] {
        &[Guard::Off, Guard::Stop, Guard::Rollback]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}

impl ValueEnum for Sampler {
    fn value_variants<'a>() -> &'a [Self] {
        &[Sampler::Random, Sampler::ClassAware, Sampler::Mixed]
    }
    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(self.name()))
    }
}
