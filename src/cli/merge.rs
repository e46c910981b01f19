//! `petard merge`: the results of shards joined into those of one run.
//! Must not know how attacks work.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Map, Value, json};

use super::output::{self, Json};
use crate::attack::{COUNTED, black_box, doubts};
use crate::data::{self, Dataset, save};
use crate::error::{Error, Result};
use crate::outcome::{Cost, Doubt, Member, Outcome, PerImage, Rounded};
use crate::plan::Precision;
use crate::report::{self, Facts};
use crate::threat::Goal;

/// Join the JSON reports of all shards of an attack or evaluation, and the sets that they saved
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Numbers, lists and images are those of a run without shards; seconds are summed.

Examples:
  petard attack --model my.toml --data cifar10:DIR --shard 0/2 --json a.json --save a.safetensors
  petard attack --model my.toml --data cifar10:DIR --shard 1/2 --json b.json --save b.safetensors
  petard merge a.json b.json --json all.json --save all.safetensors")]
pub struct Args {
    /// JSON reports of the shards, in any order
    #[arg(required = true, value_name = "FILE")]
    shards: Vec<PathBuf>,
    /// JSON to a file; bare: JSON on stdout and the report on stderr
    #[arg(long, value_name = "FILE", num_args = 0..=1)]
    json: Option<Option<PathBuf>>,
    /// Join the sets that the shards saved: a .safetensors or .npz file, or a folder of parts
    #[arg(long, value_name = "DIR|FILE")]
    save: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<ExitCode> {
    let json = Json::prepare(args.json.as_ref())?;
    let shards = read_all(&args.shards)?;
    let (mut facts, outcome) = joined(&shards)?;
    if let Some(path) = &args.save {
        output::not_there("--save", path)?;
        join_sets(path, &shards, &facts, &outcome)?;
        facts.saved = Some(path.to_string_lossy().into_owned());
    }
    if shards[0].report["schema"] == EVAL {
        json.write(&report::eval_text(&facts, &outcome), || report::eval_json(&facts, &outcome))?;
    } else {
        json.write(&report::attack_text(&facts, &outcome), || report::attack_json(&facts, &outcome))?;
    }
    Ok(ExitCode::SUCCESS)
}

const ATTACK: &str = "petard.attack/1";
const EVAL: &str = "petard.eval/1";

/// The report of one shard.
struct Shard {
    path: PathBuf,
    report: Value,
    part: usize,
}

impl Shard {
    fn read(path: &Path) -> Result<(Self, usize)> {
        let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
        let report: Value =
            serde_json::from_str(&text).map_err(|e| Error::input(format!("`{}` is not JSON: {e}", path.display())))?;
        if report["schema"] != ATTACK && report["schema"] != EVAL {
            return Err(Error::input(format!("`{}` is no report of `petard attack` or `petard eval`", path.display())));
        }
        let number = |key: &str| report["shard"][key].as_u64().map(|n| n as usize);
        let (Some(part), Some(of)) = (number("part"), number("of")) else {
            return Err(Error::input(format!("`{}` is the report of a whole run, not of a shard", path.display())));
        };
        Ok((Shard { path: path.to_path_buf(), report, part }, of))
    }

    fn get<T: serde::de::DeserializeOwned>(&self, key: &str) -> Result<T> {
        serde_json::from_value(self.report[key].clone())
            .map_err(|e| Error::input(format!("`{}`: `{key}` is broken: {e}", self.path.display())))
    }
}

/// Every shard of one run, in order.
fn read_all(paths: &[PathBuf]) -> Result<Vec<Shard>> {
    let mut shards = Vec::new();
    let mut parts = None;
    for path in paths {
        let (shard, of) = Shard::read(path)?;
        if *parts.get_or_insert(of) != of {
            return Err(Error::input(format!("`{}` is one of {of} shards, others are not", path.display())));
        }
        shards.push(shard);
    }
    shards.sort_by_key(|s| s.part);
    let of = parts.expect("at least one file is asked for");
    for (i, shard) in shards.iter().enumerate() {
        if shard.part < i {
            return Err(Error::input(format!("shard {} is there twice, once as `{}`", shard.part, shard.path.display())));
        }
        if shard.part > i {
            break;
        }
    }
    if let Some(missing) = (0..of).find(|&i| shards.get(i).is_none_or(|s| s.part != i)) {
        return Err(Error::input(format!("shard {missing} of {of} is missing")).with_hint("name the report of every shard"));
    }
    let fixed =
        ["model", "data", "attack", "seed", "precision", "split", "offset", "exact", "goal", "input", "version", "labelled"];
    for shard in &shards[1..] {
        if let Some(key) = fixed.into_iter().find(|key| shard.report[*key] != shards[0].report[*key]) {
            let (a, b) = (&shards[0].report[key], &shard.report[key]);
            return Err(Error::input(format!("`{}` belongs to another run: its `{key}` is {b}, not {a}", shard.path.display())));
        }
    }
    Ok(shards)
}

fn joined(shards: &[Shard]) -> Result<(Facts, Outcome)> {
    let first = &shards[0];
    let per_image = lists(shards)?;
    let goal: Goal = first.get("goal")?;
    let parameters: Map<String, Value> = first.get("attack")?;
    let sum = |key: &str| shards.iter().map(|s| s.report[key].as_f64().unwrap_or(0.0)).sum::<f64>();
    let whole = |key: &str| shards.iter().map(|s| s.report[key].as_u64().unwrap_or(0)).sum::<u64>();
    let pair = |key: &str, a: &str, b: &str| {
        let each = shards.iter().filter_map(|s| Some((s.report[key][a].as_u64()? as usize, s.report[key][b].as_u64()? as usize)));
        each.reduce(|x, y| (x.0 + y.0, x.1 + y.1))
    };
    let images = 0..per_image.index.len();
    let labelled = first.report["labelled"] == true;
    let backwards = whole("backwards");
    let mut outcome = Outcome {
        attack: parameters["name"].as_str().unwrap_or_default().into(),
        parameters,
        goal,
        members: members(shards)?,
        images: images.len(),
        labelled,
        clean_correct: images.clone().filter(|&i| per_image.right(i)).count(),
        robust: per_image.robust.iter().filter(|r| **r).count(),
        targeted: pair("targeted", "hit", "tried"),
        confirmed: pair("confirmed", "stood", "claimed"),
        batch: shards.iter().filter_map(|s| s.report["batch_size"].as_u64()).min().unwrap_or(1) as usize,
        max_distance: shards.iter().filter_map(|s| s.report["max_distance"].as_f64()).fold(0.0, f64::max),
        extremes: extremes(shards)?,
        non_finite: whole("non_finite") as usize,
        resumed: whole("resumed") as usize,
        seconds: sum("seconds"),
        attack_seconds: sum("attack_seconds"),
        image_steps: backwards,
        cost: Cost { forwards: whole("forwards"), backwards },
        rounded: rounded(shards)?,
        doubts: Vec::new(),
        per_image,
    };
    outcome.count_standing();
    outcome.doubts = all_doubts(shards, &outcome)?;
    Ok((facts(first, &outcome)?, outcome))
}

/// The lists of all shards, one after the other.
fn lists(shards: &[Shard]) -> Result<PerImage> {
    let mut all: Map<String, Value> = shards[0].get("per_image")?;
    for shard in &shards[1..] {
        let more: Map<String, Value> = shard.get("per_image")?;
        for (key, list) in &mut all {
            let (Some(list), Some(more)) = (list.as_array_mut(), more.get(key).and_then(Value::as_array)) else {
                return Err(Error::input(format!("`{}`: the list `{key}` is broken", shard.path.display())));
            };
            list.extend_from_slice(more);
        }
    }
    serde_json::from_value(Value::Object(all)).map_err(|e| Error::input(format!("the lists of the shards are broken: {e}")))
}

fn members(shards: &[Shard]) -> Result<Vec<Member>> {
    let mut all: Vec<Member> = shards[0].get("members")?;
    for shard in &shards[1..] {
        for (sum, member) in all.iter_mut().zip(shard.get::<Vec<Member>>("members")?) {
            sum.broken += member.broken;
            sum.seconds += member.seconds;
            sum.cost += member.cost;
        }
    }
    Ok(all)
}

fn rounded(shards: &[Shard]) -> Result<Option<Rounded>> {
    let mut all: Option<Rounded> = None;
    for shard in shards {
        let Some(r) = shard.get::<Option<Rounded>>("rounded")? else { return Ok(None) };
        let sum = all.get_or_insert(Rounded::default());
        (sum.images, sum.right) = (sum.images + r.images, sum.right + r.right);
        (sum.undone, sum.outside) = (sum.undone + r.undone, sum.outside + r.outside);
    }
    Ok(all)
}

fn extremes(shards: &[Shard]) -> Result<Option<[f32; 2]>> {
    let mut all: Option<[f32; 2]> = None;
    for shard in shards {
        if let Some([low, high]) = shard.get::<Option<[f32; 2]>>("extremes")? {
            let [a, b] = all.unwrap_or([low, high]);
            all = Some([a.min(low), b.max(high)]);
        }
    }
    Ok(all)
}

/// What follows from the lists is counted again; what some shard says beside that is kept, in its order.
fn all_doubts(shards: &[Shard], outcome: &Outcome) -> Result<Vec<Doubt>> {
    let mut counted = doubts(&outcome.per_image, outcome.labelled);
    counted.extend(black_box(&outcome.members, outcome.images));
    let mut all: Vec<Doubt> = Vec::new();
    for shard in shards {
        for doubt in shard.get::<Vec<Doubt>>("doubts")? {
            let counted_again = COUNTED.contains(&doubt.code.as_ref());
            if !counted_again && !all.iter().any(|d| d.code == doubt.code) {
                all.push(doubt);
            }
        }
    }
    all.extend(counted);
    Ok(all)
}

fn facts(first: &Shard, outcome: &Outcome) -> Result<Facts> {
    let text = |key: &str| first.report[key].as_str().unwrap_or_default().to_string();
    let number = |key: &str| first.report[key].as_u64().unwrap_or(0);
    let command = text("command");
    let words: Vec<&str> = command.split(' ').collect();
    let shard = words.iter().position(|w| *w == "--shard");
    let repeat = words.iter().enumerate().filter(|(i, _)| shard.is_none_or(|at| *i != at && *i != at + 1)).map(|(_, w)| *w);
    Ok(Facts {
        model: text("model"),
        input: first.get("input")?,
        data: text("data"),
        split: if first.report["split"] == "train" { "train" } else { "test" },
        offset: number("offset") as usize,
        device: text("device"),
        precision: Precision::ALL.into_iter().map(Precision::name).find(|name| *name == text("precision")).unwrap_or("f32"),
        batch: outcome.batch,
        exact: first.report["exact"] == true,
        seed: number("seed"),
        shard: None,
        saved: None,
        sources: first.get("sources")?,
        radii: first.get("radii")?,
        repeat: repeat.collect::<Vec<_>>().join(" "),
    })
}

/// The sets that the shards saved, one after the other, as a run without shards would have saved them.
fn join_sets(path: &Path, shards: &[Shard], facts: &Facts, outcome: &Outcome) -> Result<()> {
    let mut writer = save::Writer::create(path, facts.input)?;
    let notes = [
        ("model", json!(facts.model)),
        ("data", json!(facts.data)),
        ("split", json!(facts.split)),
        ("attack", Value::Object(outcome.parameters.clone())),
        ("seed", json!(facts.seed)),
    ];
    notes.into_iter().for_each(|(key, value)| writer.note(key, value));
    let wide = |list: &[i32]| -> Vec<i64> { list.iter().map(|&v| v.into()).collect() };
    for shard in shards {
        let lists: PerImage = shard.get("per_image")?;
        let Some(saved) = shard.report["saved"].as_str() else {
            return Err(Error::input(format!("the run of `{}` saved no images", shard.path.display()))
                .with_hint("leave `--save` out, or run every shard with `--save`"));
        };
        let options = data::Options { shape: Some(facts.input), ..data::Options::default() };
        let set = Dataset::open(&format!("file:{saved}"), &options)?;
        if set.len() != lists.index.len() {
            return Err(Error::input(format!("`{saved}` has {} images, its report {}", set.len(), lists.index.len())));
        }
        let mut done = 0;
        let elems: usize = facts.input.iter().product();
        for chunk in set.chunks(1024) {
            let chunk = chunk?;
            let rows = done..done + chunk.len();
            let mut pixels = vec![0.0; chunk.len() * elems];
            pixels.chunks_exact_mut(elems).enumerate().for_each(|(i, out)| chunk.pixels_f32(i, out));
            let index: Vec<i64> = lists.index[rows.clone()].iter().map(|&v| v.into()).collect();
            let (label, prediction) = (wide(&lists.label[rows.clone()]), wide(&lists.prediction[rows]));
            writer.append(&save::Attacked { adversarial: &pixels, label: &label, prediction: &prediction, index: &index })?;
            done += chunk.len();
        }
    }
    writer.finish()
}
