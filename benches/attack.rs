//! Times PGD as a user runs it, through `petard::attack::run`: networks from their cards, random weights, painted images.
//! With `--serve` it answers requests on its standard input, so that it can take turns with a peer.

mod meter;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io::{BufRead, Write};

use petard::attack::{Given, Hooks, Job};
use petard::data::{Images, Options};
use petard::graph::{Graph, Value};
use petard::nn::{ModelCard, Weights, build};
use petard::plan::compile_for;
use petard::session::Session;
use petard::session::image_input;
use petard::tensor::HostTensor;
use petard::{Dataset, Device, Model, Pgd, ThreatModel, attack};

use meter::{Draw, Spent, Watch};

const NETS: [&str; 3] = ["resnet18-cifar10", "vgg16-bn-cifar10", "resnet20-cifar10"];
const BATCHES: [usize; 2] = [64, 1];
const CARD_BATCHES: [usize; 2] = [512, 128];
/// Steps before the clock starts: they touch the memory and fill the caches.
const WARM_UP: usize = 2;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let bench = Bench::new();
    if arguments.iter().any(|a| a == "--serve") {
        return bench.serve();
    }
    println!("{}", meter::header());
    let filter = arguments.iter().find(|a| !a.starts_with('-'));
    let batches = if bench.device.card().is_some() { CARD_BATCHES } else { BATCHES };
    for (net, batch) in NETS.iter().flat_map(|net| batches.map(|batch| (*net, batch))) {
        let id = format!("attack.pgd/{}/n{batch}.{net}", meter::device());
        if filter.is_none_or(|f| id.contains(f)) {
            bench.report(&id, net, batch);
        }
    }
}

/// What every run shares.
struct Bench {
    device: Device,
    images: Dataset,
    models: RefCell<BTreeMap<String, Model>>,
    /// Attacks on a card by network and batch, with their losses.
    bound: RefCell<BTreeMap<String, (Session, Value)>>,
    /// The images lie here.
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for temporary files");
        let path = folder.path().join("images.safetensors");
        unlabelled(&path);
        let images =
            Dataset::open(&format!("file:{}", path.display()), &Options::default()).unwrap_or_else(|e| panic!("images: {e}"));
        let device = meter::open();
        Bench { device, images, models: RefCell::default(), bound: RefCell::default(), _folder: folder }
    }

    /// The network of a card with seeded weights, made once.
    fn model(&self, net: &str) -> petard::Result<Model> {
        if let Some(model) = self.models.borrow().get(net) {
            return Ok(model.clone());
        }
        let model = random_model(ModelCard::find(net)?)?;
        self.models.borrow_mut().insert(net.to_string(), model.clone());
        Ok(model)
    }

    /// `steps` steps of PGD on one batch, on the clock from the first step after the warm-up on.
    fn attack(&self, net: &str, batch: usize, steps: usize) -> petard::Result<Spent> {
        let model = self.model(net)?;
        let most = self.images.len();
        if self.device.card().is_some() {
            return self.replays(net, batch, steps);
        }
        if batch == 0 || batch > most || steps == 0 {
            return Err(petard::Error::usage(format!("batches are 1 to {most}, steps 1 or more")));
        }
        let images = Dataset::open(self.images.spec(), &Options { limit: Some(batch), ..Options::default() })?;
        let (mut asked, mut watch, mut spent) = (0, None, None);
        let progress = |_| {
            // Called before each step. The step after the last that counts only makes the call that stops the clock.
            if asked == WARM_UP {
                watch = Some(Watch::start());
            } else if asked == WARM_UP + steps {
                spent = watch.take().map(Watch::stop);
            }
            asked += 1;
        };
        let hooks = Hooks { progress: Some(Box::new(progress)), ..Hooks::default() };
        let job = Job::new(pgd(WARM_UP + steps + 1), batch);
        attack::run(&self.device, &model, &images, &job, &Given::default(), hooks)?;
        Ok(spent.expect("the attack reports before each of its steps"))
    }

    /// `steps` steps on a card, which does its work after it was asked for: the clock stops when the last loss is there.
    fn replays(&self, net: &str, batch: usize, steps: usize) -> petard::Result<Spent> {
        let key = format!("{net} {batch}");
        if !self.bound.borrow().contains_key(&key) {
            let bound = self.bind(net, batch)?;
            self.bound.borrow_mut().insert(key.clone(), bound);
        }
        let mut sessions = self.bound.borrow_mut();
        let (session, loss) = sessions.get_mut(&key).expect("just put there");
        let watch = Watch::start();
        for _ in 0..steps {
            session.run("attack")?;
        }
        session.read(*loss)?;
        Ok(watch.stop())
    }

    /// An attack on the card, warm: the session and its loss.
    fn bind(&self, net: &str, batch: usize) -> petard::Result<(Session, Value)> {
        let model = self.model(net)?;
        let (graph, values) = pgd(1).step_graph(&model.card, false);
        let segments = values.segments();
        let mut session = Session::new(&self.device, &model, &graph, &segments, batch, false)?;
        let at = |name: &str| graph.input_named(name).expect("an input of the attack");
        let draw = &mut Draw(2);
        for row in 0..batch {
            let image: Vec<f32> = (0..model.input().iter().product()).map(|_| draw.unit()).collect();
            session.write_image(at("x0"), row, &image)?;
            session.write_i32(at("label"), row, draw.below(model.card.classes) as i32)?;
            session.write_i32(at("index"), row, row as i32)?;
            for (name, value) in [("alpha", 2.0 / 255.0), ("eps", 8.0 / 255.0), ("length", 8.0 / 255.0), ("fresh", 1.0)] {
                session.write_f32(at(name), row, value)?;
            }
        }
        session.run("begin")?;
        for _ in 0..WARM_UP {
            session.run("attack")?;
        }
        let loss = segments.iter().find(|s| s.name == "attack").expect("an attack has steps").outputs[0];
        session.read(loss)?;
        Ok((session, loss))
    }

    /// One line: throughput, and what the plan needs.
    fn report(&self, id: &str, net: &str, batch: usize) {
        let fail = |e: petard::Error| -> ! { panic!("{id}: {e}") };
        let once = self.attack(net, batch, 1).unwrap_or_else(|e| fail(e));
        if !meter::measuring() {
            return println!("{id}: runs");
        }
        // About a second of steps for each sample.
        let steps = (1.0 / once.fair().as_secs_f64()).ceil() as usize;
        let mut seconds: Vec<f64> = (0..5)
            .map(|_| self.attack(net, batch, steps).unwrap_or_else(|e| fail(e)).fair().as_secs_f64() / (batch * steps) as f64)
            .collect();
        seconds.sort_by(f64::total_cmp);
        let [best, median, worst] = [seconds[0], seconds[2], seconds[4]].map(|s| 1.0 / s);
        let needs = self.needs(net, batch).unwrap_or_else(|e| fail(e));
        println!("{id:<48} {median:>8.1} image-steps/s ({worst:.1} to {best:.1}), {needs}");
    }

    /// Steps of the plan and the memory it takes.
    fn needs(&self, net: &str, batch: usize) -> petard::Result<String> {
        let (graph, values) = pgd(1).step_graph(&self.model(net)?.card, false);
        let plan = compile_for(&graph, &values.segments(), batch, self.device.precision())?;
        let launches = plan.program("attack").expect("an attack has steps").steps.len();
        let mut executor = self.device.bind(plan, false)?;
        executor.run("pack")?;
        let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
        let (arena, packed) = (mib(executor.plan().arena_bytes()), mib(executor.packed_bytes()));
        Ok(format!("{launches} launches a step, arena {arena:.1} MiB, packed weights {packed:.1} MiB"))
    }

    /// Answers each line `NET BATCH STEPS` with a line of JSON: seconds for all steps together.
    fn serve(&self) {
        for line in std::io::stdin().lock().lines() {
            let line = line.expect("a readable standard input");
            let words: Vec<&str> = line.split_whitespace().collect();
            let answer = match words[..] {
                [net, batch, steps] => match (batch.parse(), steps.parse()) {
                    (Ok(batch), Ok(steps)) => self.attack(net, batch, steps).map_err(|e| e.to_string()),
                    _ => Err(format!("`{batch}` and `{steps}` must be numbers")),
                },
                _ => Err(format!("`{line}` is not `NET BATCH STEPS`")),
            };
            let answer = match answer {
                Ok(spent) => serde_json::json!({"wall": spent.wall.as_secs_f64(), "cpu": spent.cpu.as_secs_f64()}),
                Err(error) => serde_json::json!({"error": error}),
            };
            println!("{answer}");
            std::io::stdout().flush().expect("somebody reads the answers");
        }
    }
}

/// The attack of the peers' papers: L-inf, 8/255 in steps of 2/255.
fn pgd(steps: usize) -> Pgd {
    Pgd::new(ThreatModel::linf(8.0 / 255.0), 2.0 / 255.0, steps)
}

/// Writes painted images without labels: then the network's own answers are the labels, and every image is attacked.
fn unlabelled(path: &std::path::Path) {
    let count = BATCHES[0];
    let painted = Dataset::open("synthetic", &Options::default()).and_then(|set| set.read(0..count));
    let batch = painted.unwrap_or_else(|e| panic!("painted images: {e}"));
    let Images::U8(pixels) = &batch.images else { unreachable!("painted images are bytes") };
    let dims = [&[count][..], &batch.shape].concat();
    let view = safetensors::tensor::TensorView::new(safetensors::Dtype::U8, dims, pixels).expect("pixels fill their shape");
    safetensors::serialize_to_file([("images", view)], None, path).expect("a writable temporary folder");
}

/// Weights that keep activations of order one through all layers, and batch norms that do something.
fn random_model(card: ModelCard) -> petard::Result<Model> {
    let mut graph = Graph::new();
    let x = image_input(&mut graph, "x", &card);
    build(&card, &mut graph, x, false);
    let draw = &mut Draw(0);
    let mut tensors = BTreeMap::new();
    for (name, &value) in graph.params() {
        let dims = &graph.shape(value).dims;
        let fan_in: usize = dims[1..].iter().product();
        let spread = (2.0 / fan_in as f32).sqrt();
        let mut number = || match (dims.len(), name.rsplit('.').next()) {
            (1, Some("running_var")) => 0.5 + draw.unit(),
            (1, Some("weight")) => 0.5 + 0.5 * draw.unit(),
            (1, _) => 0.1 * draw.centred(),
            _ => spread * draw.centred(),
        };
        let values = (0..graph.shape(value).elems()).map(|_| number()).collect();
        tensors.insert(name.clone(), HostTensor::f32(dims, values));
    }
    let weights = Weights::from_tensors(tensors, &graph)?;
    Ok(Model { card, weights })
}
