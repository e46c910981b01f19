//! The folder of a run: weights, the state to go on from, log, configuration, and a card to attack the result by.
//! Must not know how a step is made. Every file appears whole or not at all; `last.state.safetensors` is written last
//! and holds all that a resumed run needs, so a kill between two files loses nothing.
//!
//! `config.json`; `best`, `last` (with an average also `best-ema`, `last-ema`) `.safetensors`: state dicts; `card.toml`:
//! the card with the best weights (the average where there is one) and their digest; `log.csv`: a line an epoch;
//! `classes.csv`: the best epoch, class by class.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Map, Value as Json, json};

use super::config::Config;
use super::evaluate::Score;
use super::log::Row;
use crate::error::{Error, Result};
use crate::nn::{self, Weights};
use crate::tensor::{HostData, HostTensor};

/// Names of files that are not complete yet, those of `Weights::save` too.
const PREFIX: &str = ".petard-";

/// Tensors by name.
pub(super) type Tensors = BTreeMap<String, HostTensor>;

/// The epoch whose checkpoint is the best so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Best {
    /// From 1.
    pub epoch: usize,
    /// Its score; `None` where nothing is chosen by.
    pub score: Option<Score>,
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Position {
    /// Finished epochs.
    pub epoch: usize,
    /// Steps made in the next one, and what they saw.
    pub step: usize,
    pub loss: f64,
    pub seen: usize,
    pub correct: usize,
    pub best: Option<Best>,
    /// What the guard saw after the last epoch, and how often it went back.
    pub guarded: Option<f64>,
    pub rollbacks: u32,
    /// Whether the run has ended before its last epoch.
    pub ended: bool,
}

/// The state that a guard goes back to.
pub(super) const GOOD: &str = "good.state.safetensors";
/// The state that a run goes on from.
pub(super) const LAST: &str = "last.state.safetensors";

/// A run as it was saved.
pub(super) struct Saved {
    pub at: Position,
    pub state: Tensors,
}

/// The folder of a run.
pub(super) struct Folder {
    path: PathBuf,
    config: Config,
    /// Lines of the log without the header.
    log: String,
}

impl Folder {
    /// Opens the folder for a run: a new one, or with `resume` one that holds a run of the same configuration.
    pub fn open(path: &Path, config: &Config, resume: bool) -> Result<(Self, Option<Saved>)> {
        let mut folder = Folder { path: path.to_path_buf(), config: config.clone(), log: String::new() };
        let shown = path.display();
        let there = folder.file("last.state.safetensors").exists();
        if there && !resume {
            return Err(Error::usage(format!("`{shown}` holds a run already"))
                .with_hint("go on with it by `--resume`, or choose another folder with `--out`"));
        }
        if resume && there {
            folder.sweep()?;
            let saved = folder.read(LAST)?;
            folder.log = folder.log_until(saved.at.epoch)?;
            return Ok((folder, Some(saved)));
        }
        fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))?;
        let text = serde_json::to_string_pretty(&config.parameters()).expect("numbers and texts are JSON") + "\n";
        folder.put("config.json", text.as_bytes())?;
        Ok((folder, None))
    }

    /// Removes half-written files that a kill left behind.
    fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.path).map_err(|e| Error::io("read", &self.path, e))?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(PREFIX) {
                fs::remove_file(entry.path()).map_err(|e| Error::io("remove", entry.path(), e))?;
            }
        }
        Ok(())
    }

    /// Where a file of the run lies.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Saves the weights and their average as `best` or `last`; the best ones get a card.
    pub fn save_weights(&self, which: &str, weights: &Tensors, average: &Tensors) -> Result<()> {
        let graph = nn::parameters(&self.config.card);
        let mut name = format!("{which}.safetensors");
        let mut saved = Weights::from_tensors(weights.clone(), &graph)?;
        saved.save(&self.file(&name))?;
        if !average.is_empty() {
            name = format!("{which}-ema.safetensors");
            saved = Weights::from_tensors(average.clone(), &graph)?;
            saved.save(&self.file(&name))?;
        }
        if which == "best" {
            self.put("card.toml", card(&self.config, &name, &saved.sha256).as_bytes())?;
        }
        Ok(())
    }

    /// Adds a line to the log.
    pub fn log(&mut self, row: &Row) -> Result<()> {
        self.log += &row.csv(&self.config);
        self.put("log.csv", format!("{}{}", Row::csv_header(), self.log).as_bytes())
    }

    /// Keeps the weights of an epoch.
    pub fn keep(&self, epoch: usize, weights: &Tensors) -> Result<()> {
        let graph = nn::parameters(&self.config.card);
        Weights::from_tensors(weights.clone(), &graph)?.save(&self.file(&format!("epoch-{epoch}.safetensors"))).map(drop)
    }

    /// Saves everything that the rest of the run depends on, as [`LAST`] or [`GOOD`].
    pub fn save_state(&self, name: &str, at: &Position, state: &Tensors) -> Result<()> {
        let view = |t: &HostTensor| -> Vec<u8> {
            let HostData::F32(data) = &t.data else { unreachable!("the state is f32") };
            data.iter().flat_map(|v| v.to_le_bytes()).collect()
        };
        let bytes: Vec<(&String, &HostTensor, Vec<u8>)> = state.iter().map(|(name, t)| (name, t, view(t))).collect();
        let views = bytes.iter().map(|(name, t, bytes)| {
            (name.as_str(), TensorView::new(Dtype::F32, t.dims.clone(), bytes).expect("as many bytes as the dimensions say"))
        });
        let meta = HashMap::from([("petard".to_string(), Json::Object(self.describe(at)).to_string())]);
        let file = safetensors::serialize(views, Some(meta)).expect("names are unique and sizes fit");
        self.put(name, &file)
    }

    fn describe(&self, at: &Position) -> Map<String, Json> {
        let best = at.best.map(|b| {
            json!({ "epoch": b.epoch, "score": b.score.map(|s| json!({ "images": s.images, "clean": s.clean, "robust": s.robust })) })
        });
        let mut meta = Map::new();
        meta.insert("epoch".into(), json!(at.epoch));
        meta.insert("step".into(), json!(at.step));
        // Its bits: a decimal could come back as a neighbour.
        meta.insert("loss".into(), json!(at.loss.to_bits()));
        meta.insert("seen".into(), json!(at.seen));
        meta.insert("correct".into(), json!(at.correct));
        meta.insert("guarded".into(), json!(at.guarded.map(f64::to_bits)));
        meta.insert("rollbacks".into(), json!(at.rollbacks));
        meta.insert("ended".into(), json!(at.ended));
        meta.insert("best".into(), json!(best));
        meta.insert("config".into(), Json::Object(self.config.parameters()));
        meta
    }

    /// The state saved as `name`.
    pub fn read(&self, name: &str) -> Result<Saved> {
        let path = self.file(name);
        let bytes = fs::read(&path).map_err(|e| Error::io("read", &path, e))?;
        let broken = || {
            Error::model(format!("`{}` is not the state of a training run", path.display()))
                .with_hint("start anew in another folder with `--out`")
        };
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(|_| broken())?;
        let meta = header.metadata().as_ref().and_then(|m| m.get("petard")).ok_or_else(broken)?;
        let meta: Json = serde_json::from_str(meta).map_err(|_| broken())?;
        self.same_config(meta["config"].as_object().ok_or_else(broken)?)?;
        let at = position(&meta).ok_or_else(broken)?;
        let file = SafeTensors::deserialize(&bytes).map_err(|_| broken())?;
        let f32s = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&v| f32::from_le_bytes(v)).collect();
        let tensors = file.tensors().into_iter();
        let state = tensors.map(|(name, t)| (name, HostTensor::f32(t.shape(), f32s(t.data())))).collect();
        Ok(Saved { at, state })
    }

    /// Refuses to go on with another configuration, naming the first difference.
    fn same_config(&self, then: &Map<String, Json>) -> Result<()> {
        let now = self.config.parameters();
        let Some(key) = now.keys().chain(then.keys()).find(|&k| now.get(k) != then.get(k)) else { return Ok(()) };
        let show = |map: &Map<String, Json>| map.get(key).map_or("none".to_string(), Json::to_string);
        let shown = self.path.display();
        let text = match key.as_str() {
            "card" => format!("the run in `{shown}` has another card of the name `{}`", self.config.card.name),
            _ => format!("the run in `{shown}` has {key} {}, now it is {}", show(then), show(&now)),
        };
        Err(Error::usage(text).with_hint("resume with the options of the first start, or choose another folder with `--out`"))
    }

    /// The lines of the log up to `epoch`: a line whose state was never saved is made again.
    fn log_until(&self, epoch: usize) -> Result<String> {
        let path = self.file("log.csv");
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => return Err(Error::io("read", &path, e)),
        };
        let number = |line: &str| line.split(',').next().and_then(|n| n.parse::<usize>().ok());
        Ok(text.lines().filter(|l| number(l).is_some_and(|n| n <= epoch)).map(|l| format!("{l}\n")).collect())
    }

    /// Writes a file beside its place and renames it when complete.
    pub fn put(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let path = self.file(name);
        let failed = |e| Error::io("write", &path, e);
        let mut builder = tempfile::Builder::new();
        builder.prefix(PREFIX);
        #[cfg(unix)]
        builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = builder.tempfile_in(&self.path).map_err(failed)?;
        file.write_all(bytes).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
        file.persist(&path).map_err(|e| failed(e.error))?;
        Ok(())
    }
}

fn position(meta: &Json) -> Option<Position> {
    let count = |v: &Json| v.as_u64().and_then(|n| usize::try_from(n).ok());
    let score = |v: &Json| Some(Score { images: count(&v["images"])?, clean: count(&v["clean"])?, robust: count(&v["robust"]) });
    let best = match &meta["best"] {
        Json::Null => None,
        b => Some(Best { epoch: count(&b["epoch"])?, score: score(&b["score"]) }),
    };
    Some(Position {
        epoch: count(&meta["epoch"])?,
        step: count(&meta["step"])?,
        loss: f64::from_bits(meta["loss"].as_u64()?),
        seen: count(&meta["seen"])?,
        correct: count(&meta["correct"])?,
        best,
        guarded: meta["guarded"].as_u64().map(f64::from_bits),
        rollbacks: meta["rollbacks"].as_u64().and_then(|n| u32::try_from(n).ok())?,
        ended: meta["ended"].as_bool()?,
    })
}

/// The card with the trained weights in place of its own: keys of a line that speak of weights are replaced.
fn card(config: &Config, weights: &str, sha256: &str) -> String {
    let replaced = ["name", "weights", "sha256", "clean_accuracy", "command"];
    let key = |line: &str| line.split('=').next().map(|k| k.trim().to_string()).unwrap_or_default();
    let kept: Vec<&str> = config.card_text.lines().filter(|l| !replaced.contains(&key(l).as_str())).collect();
    let name = &config.card.name;
    format!("{}\nname = {}\nweights = \"{weights}\"\nsha256 = \"{sha256}\"\n", kept.join("\n"), json!(name))
}
