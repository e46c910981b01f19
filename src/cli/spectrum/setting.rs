//! What every study of a model needs: device, model, images in memory, and a way to stop.
//! Must not know which study it is.

use crate::cli::options::{DataArgs, DeviceArgs, ModelArgs, warn_of};
use crate::cli::stop::Stop;
use crate::device::Device;
use crate::error::Result;
use crate::session::Model;
use crate::study::Samples;

/// Which model on which images, where.
#[derive(Debug, clap::Args)]
pub struct SettingArgs {
    #[command(flatten)]
    pub model: ModelArgs,
    #[command(flatten)]
    pub data: DataArgs,
    #[command(flatten)]
    pub device: DeviceArgs,
}

/// What was typed, opened.
pub struct Setting {
    pub stop: Stop,
    pub device: Device,
    pub model: Model,
    pub samples: Samples,
    pub batch: usize,
    /// `48 images of cifar10:DIR (test)`.
    pub images: String,
}

impl SettingArgs {
    /// Opens everything and reads all images.
    ///
    /// # Errors
    /// Where something is missing, wrong, or does not fit.
    pub fn open(&self, command: &str) -> Result<Setting> {
        let stop = Stop::listen()?;
        self.device.only_f32(command)?;
        let device = self.device.open()?;
        let model = self.model.load(&self.data)?;
        let data = self.data.open(&model.card)?;
        let batch = self.device.batch(device.card().is_some(), model.input());
        let samples = Samples::read(&device, &model, &data, batch)?;
        let images = format!("{} images of {} ({})", data.len(), data.spec(), self.data.split());
        Ok(Setting { stop, device, model, samples, batch, images })
    }
    /// `petard spectrum NAME` with the model and the images; then `own`; then the device.
    pub fn repeat(&self, name: &str, own: Vec<String>, setting: &Setting) -> String {
        let mut words = vec!["petard".to_string(), "spectrum".into(), name.into()];
        words.extend(self.model.words(&self.data));
        words.extend(self.data.words());
        words.extend(own);
        words.extend(self.device.words(setting.batch));
        words.join(" ")
    }
}

impl Setting {
    /// Model and device, for a report; what the device has to say goes to stderr.
    pub fn facts(&self) -> Vec<(String, String)> {
        warn_of(&self.device);
        vec![("model".into(), self.model.card.name.clone()), ("device".into(), self.device.describe())]
    }
}

/// `values` with their positions.
pub fn numbered(values: &[f64]) -> Vec<(f64, f64)> {
    values.iter().enumerate().map(|(i, &v)| (i as f64, v)).collect()
}
