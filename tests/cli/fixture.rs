//! A folder with a tiny model and tiny sets, and the program run inside it with relative paths.
//! Knows no single test.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use petard::ModelCard;
use petard::graph::Graph;
use petard::nn::build;
use petard::session::image_input;
use safetensors::tensor::{Dtype, TensorView};

use crate::support::Rng;

/// An attack on the tiny model.
pub const TINY: &str = "attack --model tiny.toml";
/// A short one.
pub const ATTACK: &str = "attack --model tiny.toml --limit 12 --steps 4";

/// The card of the tiny model, for this many classes.
pub fn card(classes: usize) -> String {
    format!(
        "arch = \"resnet\"\ninput = [3, 32, 32]\nclasses = {classes}\nblocks = [1, 1]\nwidths = [4, 8]\nstem = \"cifar\"\n\
         weights = \"tiny.safetensors\"\n"
    )
}

/// What a run of the program gave.
pub struct Ran {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A folder that lives as long as the test.
pub struct Fixture {
    folder: tempfile::TempDir,
    before: Vec<String>,
}

impl Fixture {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let mut f = Fixture { folder, before: Vec::new() };
        let tensors = weights(&f);
        fs::write(f.path("five.toml"), card(5)).expect("a card");
        save(&f, "tiny.safetensors", &tensors);
        f.before = f.names();
        f
    }
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
    /// The program with these words.
    pub fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_petard"));
        command.args(line.split_whitespace()).current_dir(self.folder.path()).stdin(Stdio::null());
        // Without cards `auto` is the CPU, whose numbers are asked for.
        command.env("COLUMNS", "100").env("NO_COLOR", "1").env("CUDA_VISIBLE_DEVICES", "-1");
        command
    }
    /// Runs the program to its end.
    pub fn run(&self, line: &str) -> Ran {
        finish(self.command(line))
    }
    /// The same for words that hold spaces.
    pub fn words(&self, words: &[&str]) -> Ran {
        let mut command = self.command("");
        command.args(words);
        finish(command)
    }
    /// The same, and it must succeed.
    pub fn ok(&self, line: &str) -> Ran {
        let ran = self.run(line);
        assert_eq!(ran.code, 0, "petard {line}\n{}", ran.stderr);
        ran
    }
    /// Fails unless exactly these files and folders are new.
    pub fn left(&self, new: &[&str]) {
        let names: Vec<String> = self.names().into_iter().filter(|n| !self.before.contains(n)).collect();
        assert_eq!(names, new, "what the run left behind");
    }
    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.folder.path()).expect("the folder");
        let mut names: Vec<String> = entries.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    /// Writes everything that is wrong with models and data.
    pub fn add_bad_files(&mut self) {
        let whole = fs::read(self.path("tiny.safetensors")).expect("the weights");
        fs::write(self.path("cut.safetensors"), &whole[..whole.len() - 100]).expect("a file");
        fs::write(self.path("noise.safetensors"), [7; 300]).expect("a file");
        let mut tensors = weights(self);
        tensors.get_mut("fc.weight").expect("a tensor").1[3] = f32::NAN;
        save(self, "nan.safetensors", &tensors);
        fs::create_dir(self.path("empty")).expect("a folder");
        let images = |shape: &[usize], values: Vec<f32>| BTreeMap::from([("images".to_string(), (shape.to_vec(), values))]);
        save(self, "small.safetensors", &images(&[2, 3, 16, 16], vec![0.5; 2 * 768]));
        save(self, "range.safetensors", &images(&[1, 3, 32, 32], vec![2.0; 3072]));
        save(self, "three.safetensors", &images(&[3, 3, 32, 32], vec![0.5; 3 * 3072]));
        fs::write(self.path("typo.toml"), card(10).replace("widths", "widht")).expect("a card");
        let small = card(10).replace("input = [3, 32, 32]", "input = [3, 16, 16]");
        fs::write(self.path("small.toml"), small).expect("a card");
        fs::write(self.path("there.safetensors"), "from an older run").expect("a file");
        self.before = self.names();
    }
    /// Twelve random images without labels.
    pub fn unlabelled(&self, name: &str) {
        self.unlabelled_of(name, 12);
    }
    /// `n` random images of 256 levels without labels: the model's own predictions are, so all of them are attacked.
    pub fn unlabelled_of(&self, name: &str, n: usize) {
        let mut rng = Rng::new(11);
        let pixels: Vec<f32> = (0..n * 3072).map(|_| (rng.unit() * 255.0).round() as f32 / 255.0).collect();
        save(self, name, &BTreeMap::from([("x".to_string(), (vec![n, 3, 32, 32], pixels))]));
    }
}

fn finish(mut command: Command) -> Ran {
    let out = command.output().expect("the program starts");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    // A signal has no exit code; 128 is no code of ours.
    Ran { code: out.status.code().unwrap_or(128), stdout: text(out.stdout), stderr: text(out.stderr) }
}

type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Random weights of the tiny model, for ten classes, with the card beside them.
fn weights(f: &Fixture) -> Tensors {
    fs::write(f.path("tiny.toml"), card(10)).expect("a card");
    let card = ModelCard::read(&f.path("tiny.toml")).expect("the card is right");
    let mut graph = Graph::new();
    let x = image_input(&mut graph, "x", &card);
    build(&card, &mut graph, x, false);
    let mut rng = Rng::new(1);
    let mut tensor = |name: &str, dims: &[usize]| -> Vec<f32> {
        let fan_in: usize = dims[1..].iter().product();
        let draw = |_| match name.rsplit('.').next() {
            Some("running_var") => 1.0,
            Some("running_mean" | "bias") => 0.0,
            _ if dims.len() == 1 => 1.0,
            _ => rng.normal() as f32 * (2.0 / fan_in as f32).sqrt(),
        };
        (0..dims.iter().product()).map(draw).collect()
    };
    let dims = |v| graph.shape(v).dims.clone();
    graph.params().iter().map(|(n, &v)| (n.clone(), (dims(v), tensor(n, &dims(v))))).collect()
}

fn save(f: &Fixture, name: &str, tensors: &Tensors) {
    let views = tensors.iter().map(|(name, (dims, values))| {
        let view = TensorView::new(Dtype::F32, dims.clone(), bytemuck::cast_slice(values));
        (name.clone(), view.expect("the bytes fit the shape"))
    });
    safetensors::serialize_to_file(views, None, &f.path(name)).expect("a file");
}
