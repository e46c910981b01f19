//! What an epoch gave, as a line of a table for people and of a CSV file for programs.
//! Must not know where the lines go.

use super::config::Config;
use super::evaluate::Score;

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
        format!("{text}   {:>6.1} s{}", self.seconds, if self.best { "  *" } else { "" })
    }

    /// First line of the CSV file.
    pub fn csv_header() -> &'static str {
        "epoch,lr,train_loss,train_accuracy,evaluated_on,images,clean_accuracy,robust_accuracy,attack_batch_norm,best,seconds\n"
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
            config.crafting.map(|c| c.batch_norm.name().to_string()).unwrap_or_default(),
            u8::from(self.best).to_string(),
            format!("{:.3}", self.seconds),
        ];
        fields.join(",") + "\n"
    }
}
