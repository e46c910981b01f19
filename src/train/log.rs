//! What an epoch gave, as a line of a table for people and of a CSV file for programs.
//! Must not know where the lines go.

use super::config::Config;
use super::evaluate::Score;
use super::learn::Times;

/// One finished epoch.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// From 1.
    pub epoch: usize,
    /// Learning rate of its last step.
    pub lr: f64,
    /// Mean loss of the images as they were trained on.
    pub loss: f64,
    /// Share of those that were right before the step on them.
    pub accuracy: f64,
    /// On what the best checkpoint is chosen by; `None` where nothing is.
    pub score: Option<Score>,
    /// Whether this is the best epoch so far.
    pub best: bool,
    /// What they were spent on.
    pub times: Times,
    /// Share of a training batch that the guard found right under attack, where there is one; and what it did.
    pub guarded: Option<(f64, bool)>,
    /// Seconds the epoch took, evaluation included; after an interruption those since the start.
    pub seconds: f64,
}

impl Row {
    /// First line of the table.
    pub fn header(config: &Config) -> String {
        let robust = if config.crafting.is_some() { "   robust" } else { "" };
        let on = config.chosen_on();
        let on = if on == "none" { String::new() } else { format!("   {on:>5} clean{robust}") };
        format!("epoch         lr       loss   train acc{on}       time")
    }

    /// A line of the table; a star marks the best epoch so far.
    pub fn line(&self) -> String {
        let percent = |share: f64| format!("{:.2} %", 100.0 * share);
        let mut text = format!("{:>5}   {:<8.6}   {:>8.4}   {:>9}", self.epoch, self.lr, self.loss, percent(self.accuracy));
        if let Some(score) = self.score {
            text += &format!("   {:>11}", percent(score.clean_accuracy()));
            text += &score.robust_accuracy().map(|r| format!("  {:>7}", percent(r))).unwrap_or_default();
        }
        text = format!("{text}   {:>6.1} s{}", self.seconds, if self.best { "  *" } else { "" });
        match self.guarded {
            Some((robust, true)) => format!("{text}  overfits to its attack: {} under PGD-5, rolled back", percent(robust)),
            _ => text,
        }
    }

    /// First line of the CSV file.
    pub fn csv_header() -> &'static str {
        "epoch,lr,train_loss,train_accuracy,evaluated_on,images,clean_accuracy,robust_accuracy,attack_batch_norm,best,guard_accuracy,overfitted,\
         seconds,data_seconds,attack_seconds,step_seconds,evaluation_seconds\n"
    }

    /// A line of the CSV file; accuracies are shares, empty where there is none.
    pub fn csv(&self, config: &Config) -> String {
        let number = |v: Option<f64>| v.map(|v| format!("{v:.6}")).unwrap_or_default();
        let fields = [
            self.epoch.to_string(),
            format!("{:.8}", self.lr),
            format!("{:.6}", self.loss),
            format!("{:.6}", self.accuracy),
            config.chosen_on().into(),
            self.score.map(|s| s.images.to_string()).unwrap_or_default(),
            number(self.score.map(|s| s.clean_accuracy())),
            number(self.score.and_then(|s| s.robust_accuracy())),
            config.attack_batch_norm().into(),
            u8::from(self.best).to_string(),
            number(self.guarded.map(|g| g.0)),
            self.guarded.map(|g| u8::from(g.1).to_string()).unwrap_or_default(),
            format!("{:.3}", self.seconds),
            format!("{:.3}", self.times.data),
            format!("{:.3}", self.times.attack),
            format!("{:.3}", self.times.step),
            format!("{:.3}", self.times.evaluation),
        ];
        fields.join(",") + "\n"
    }
}
