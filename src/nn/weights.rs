//! Weights: state dicts in and out, matched by name and shape to the parameters of a graph.
//! Must not know networks, devices or layouts other than PyTorch's.

use std::collections::BTreeMap;
use std::path::Path;

use super::ModelCard;
use super::tensorfile::{self, Hasher, TensorFile};
use super::torch::read_state_dict;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::tensor::{HostData, HostTensor, Shape};

/// Wrappers that leave their name in front of every key of a checkpoint.
const WRAPPERS: [&str; 6] = ["module.", "model.", "_orig_mod.", "net.", "network.", "backbone."];
/// Path segments that mean the same in the two dialects of residual networks.
const DIALECTS: [(&str, &str); 2] = [("downsample", "shortcut"), ("fc", "linear")];
/// Tensors of each kind that an error lists before it counts the rest.
const LISTED: usize = 8;

/// One f32 array for every parameter of a graph, under the graph's names, all values finite.
#[derive(Clone, Debug, PartialEq)]
pub struct Weights {
    /// In PyTorch layout.
    pub tensors: BTreeMap<String, HostTensor>,
    /// SHA-256 of the file they came from; for weights from memory, of the file that [`Weights::save`] would write.
    pub sha256: String,
    /// Tensors that the file holds for code that never runs (`sub_block1` of wide networks, auxiliary heads).
    pub unused: Vec<String>,
    /// Other weights in the same checkpoint, such as `ema`; each can be asked for by this name.
    pub others: Vec<String>,
}

impl Weights {
    /// The weights in the file at `path` for the network that `card` wrote into `graph`: safetensors, or a PyTorch
    /// checkpoint (`.pt`, `.pth`), in which `entry` names one of several state dicts.
    ///
    /// Wrapper prefixes (`module.`, `model.`, `_orig_mod.` ..) are stripped, `num_batches_tracked` is ignored, and
    /// `downsample`/`shortcut` and `fc`/`linear` stand for each other. Elements of 16 and 64 bits become f32.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read; [`Error::Model`] where it is broken, differs from the card's
    /// `sha256`, does not hold exactly the graph's parameters, or holds a value that is not finite.
    pub fn load(path: &Path, entry: Option<&str>, card: &ModelCard, graph: &Graph) -> Result<Weights> {
        if tensorfile::is_checkpoint(path)? {
            return Weights::load_checkpoint(path, entry, card, graph);
        }
        if let Some(entry) = entry {
            let text = format!("`{}` is a safetensors file: it holds one state dict and no `{entry}`", path.display());
            return Err(Error::model(text).with_hint("leave the entry out"));
        }
        let mut file = TensorFile::open(path)?;
        let source = path.display().to_string();
        check_sha256(&source, &file.sha256, card)?;
        let names: Vec<(&str, &[usize])> = file.entries.iter().map(|(n, i)| (n.as_str(), i.shape.as_slice())).collect();
        let found = match_names(&names, graph).map_err(|misfit| misfit.error(&source, Some(card)))?;
        let mut tensors = BTreeMap::new();
        for (name, index) in found.used {
            let values = file.read(index)?;
            check_finite(&source, &name, &values)?;
            tensors.insert(name, HostTensor::f32(&file.entries[index].1.shape, values));
        }
        Ok(Weights { tensors, sha256: file.sha256, unused: found.unused, others: Vec::new() })
    }

    fn load_checkpoint(path: &Path, entry: Option<&str>, card: &ModelCard, graph: &Graph) -> Result<Weights> {
        let source = path.display().to_string();
        let sha256 = tensorfile::file_sha256(path)?;
        check_sha256(&source, &sha256, card)?;
        let mut dict = read_state_dict(path, entry)?;
        // Counters are the only integers in a state dict that eval mode can do without.
        dict.tensors.retain(|name, t| !(name.ends_with("num_batches_tracked") && matches!(t.data, HostData::I64(_))));
        let (tensors, unused) = take_tensors(&source, dict.tensors, Some(card), graph)?;
        Ok(Weights { tensors, sha256, unused, others: dict.others })
    }

    /// Weights from memory, such as an embedder's or a trainer's, by the same rules as [`Weights::load`].
    ///
    /// # Errors
    /// [`Error::Model`] where names, shapes, element types or values do not fit.
    pub fn from_tensors(map: BTreeMap<String, HostTensor>, graph: &Graph) -> Result<Weights> {
        let (tensors, unused) = take_tensors("weights from memory", map, None, graph)?;
        let mut weights = Weights { tensors, sha256: String::new(), unused, others: Vec::new() };
        let mut hasher = Hasher::default();
        tensorfile::write(&mut hasher, weights.slices()).expect("a hasher takes every byte");
        weights.sha256 = hasher.finish();
        Ok(weights)
    }

    /// Writes all tensors under the names of the state dict. The file appears whole or not at all.
    ///
    /// # Errors
    /// [`Error::Io`] where the folder cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let refused = |e| Error::io("write", path, e);
        let folder = path.parent().filter(|f| !f.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = new_file(folder).map_err(refused)?;
        tensorfile::write(&mut file, self.slices()).map_err(refused)?;
        file.as_file().sync_all().map_err(refused)?;
        file.persist(path).map_err(|e| refused(e.error))?;
        Ok(())
    }

    fn slices(&self) -> impl Iterator<Item = (&str, &[usize], &[f32])> + Clone {
        self.tensors.iter().map(|(name, tensor)| match &tensor.data {
            HostData::F32(values) => (name.as_str(), tensor.dims.as_slice(), values.as_slice()),
            other => panic!("weights are 32-bit floats, `{name}` holds {other:?}"),
        })
    }
}

/// The tensors that the graph's parameters are, and the names of those that no code runs.
fn take_tensors(
    source: &str,
    mut map: BTreeMap<String, HostTensor>,
    card: Option<&ModelCard>,
    graph: &Graph,
) -> Result<(BTreeMap<String, HostTensor>, Vec<String>)> {
    let keys: Vec<String> = map.keys().cloned().collect();
    let names: Vec<(&str, &[usize])> = map.iter().map(|(n, t)| (n.as_str(), t.dims.as_slice())).collect();
    let found = match_names(&names, graph).map_err(|misfit| misfit.error(source, card))?;
    let mut tensors = BTreeMap::new();
    for (name, index) in found.used {
        let tensor = map.remove(&keys[index]).expect("each tensor is used once");
        let HostData::F32(values) = &tensor.data else {
            return Err(Error::model(format!("`{source}`: `{name}` does not hold floats")));
        };
        check_finite(source, &name, values)?;
        tensors.insert(name, tensor);
    }
    Ok((tensors, found.unused))
}

fn check_sha256(source: &str, sha256: &str, card: &ModelCard) -> Result<()> {
    match &card.sha256 {
        Some(want) if want != sha256 => {
            let text = format!("`{source}` has sha256 `{sha256}`, card `{}` expects `{want}`", card.name);
            Err(Error::model(text).with_hint("fetch the right file, or correct `sha256` in the card"))
        }
        _ => Ok(()),
    }
}

/// A temporary file that gets the usual permissions, not those of a secret.
fn new_file(folder: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".petard-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

fn check_finite(source: &str, name: &str, values: &[f32]) -> Result<()> {
    let nan = values.iter().filter(|v| v.is_nan()).count();
    let infinite = values.iter().filter(|v| v.is_infinite()).count();
    if nan + infinite == 0 {
        return Ok(());
    }
    let text = format!("`{source}`: `{name}` holds {nan} NaN and {infinite} infinite of {} values", values.len());
    Err(Error::model(text)
        .with_hint("the training that made it diverged, or a value is too large for 32 bits: take an earlier checkpoint"))
}

/// Which tensor (by position) belongs to which parameter.
struct Matched {
    used: Vec<(String, usize)>,
    unused: Vec<String>,
}

/// Everything that keeps a state dict from fitting, as lines for people.
#[derive(Default)]
struct Misfit {
    missing: Vec<(String, Shape)>,
    extra: Vec<(String, Shape)>,
    misshapen: Vec<Misshapen>,
    doubled: Vec<String>,
}

struct Misshapen {
    name: String,
    found: Shape,
    expected: Shape,
}

fn match_names(names: &[(&str, &[usize])], graph: &Graph) -> std::result::Result<Matched, Misfit> {
    let params = graph.params();
    // A block that the wide networks' code makes and never runs; heads of Inception networks that only training runs.
    let has = |start: &str| params.keys().any(|name| name.starts_with(start));
    let (wide, inception) = (has("block1.layer."), has("inception3a.") || has("Mixed_5b."));
    let spare = |name: &str| {
        (wide && name.starts_with("sub_block1."))
            || (inception && ["aux1.", "aux2.", "AuxLogits."].iter().any(|start| name.starts_with(start)))
    };
    let mut used: BTreeMap<String, usize> = BTreeMap::new();
    let mut unused = Vec::new();
    let mut misfit = Misfit::default();
    for (index, &(raw, dims)) in names.iter().enumerate() {
        let name = canonical(raw, graph);
        let found = Shape { batched: false, dims: dims.to_vec() };
        if name.ends_with("num_batches_tracked") {
            continue;
        }
        let Some(&value) = params.get(&name) else {
            if spare(&name) {
                unused.push(raw.to_string());
            } else {
                misfit.extra.push((raw.to_string(), found));
            }
            continue;
        };
        if let Some(earlier) = used.insert(name.clone(), index) {
            misfit.doubled.push(format!("{} and {raw}", names[earlier].0));
        }
        if *graph.shape(value) != found {
            misfit.misshapen.push(Misshapen { name, found, expected: graph.shape(value).clone() });
        }
    }
    for (name, &value) in params.iter().filter(|(name, _)| !used.contains_key(*name)) {
        misfit.missing.push((name.clone(), graph.shape(value).clone()));
    }
    if misfit.is_empty() { Ok(Matched { used: used.into_iter().collect(), unused }) } else { Err(misfit) }
}

/// The graph's name for a tensor: as it is, without wrappers, or in the other dialect; else without wrappers.
fn canonical(raw: &str, graph: &Graph) -> String {
    let known = |name: &str| graph.params().contains_key(name);
    let mut name = raw;
    while !known(name) {
        match WRAPPERS.iter().find_map(|w| name.strip_prefix(w)) {
            Some(inner) => name = inner,
            None => break,
        }
    }
    let swap = |part: &str| {
        let pair = DIALECTS.iter().find_map(|&(a, b)| if part == a { Some(b) } else { (part == b).then_some(a) });
        pair.unwrap_or(part).to_string()
    };
    let other = name.split('.').map(swap).collect::<Vec<_>>().join(".");
    if !known(name) && known(&other) { other } else { name.to_string() }
}

impl Misfit {
    fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.extra.is_empty() && self.misshapen.is_empty() && self.doubled.is_empty()
    }

    fn error(&self, source: &str, card: Option<&ModelCard>) -> Error {
        let network = card.map_or("the network".to_string(), |c| format!("card `{}`", c.name));
        let mut text = format!("`{source}` does not fit {network}");
        let plain = |list: &[(String, Shape)]| list.iter().map(|(name, shape)| format!("{name} {shape}")).collect::<Vec<_>>();
        let shapes = self.misshapen.iter().map(|m| format!("{} {}, the network has {}", m.name, m.found, m.expected));
        for (title, lines) in [
            ("missing", plain(&self.missing)),
            ("left over", plain(&self.extra)),
            ("other shape", shapes.collect()),
            ("given twice", self.doubled.clone()),
        ] {
            for line in lines.iter().take(LISTED) {
                text.push_str(&format!("\n  {title:<11}  {line}"));
            }
            if lines.len() > LISTED {
                text.push_str(&format!("\n  {title:<11}  and {} more", lines.len() - LISTED));
            }
        }
        Error::model(text).with_hint(self.hint(card))
    }

    fn hint(&self, card: Option<&ModelCard>) -> String {
        let classes = card.map(|c| c.classes);
        let head = |m: &&Misshapen| {
            let (found, expected) = (&m.found.dims, &m.expected.dims);
            Some(expected[0]) == classes
                && found.len() == expected.len()
                && found[0] != expected[0]
                && found[1..] == expected[1..]
        };
        let only = |list: &[(String, Shape)], part: &str| !list.is_empty() && list.iter().all(|(name, _)| name.contains(part));
        let shortcut = |list: &[(String, Shape)]| only(list, ".downsample.") || only(list, ".shortcut.");
        if let Some(m) = self.misshapen.iter().find(head).filter(|_| self.misshapen.iter().all(|m| head(&m))) {
            format!("this head has {0} classes: set `classes = {0}` in the card", m.found.dims[0])
        } else if self.extra.is_empty() && shortcut(&self.missing) {
            "the file has no projections: set `shortcut = \"pad\"` in the card".to_string()
        } else if self.missing.is_empty() && shortcut(&self.extra) {
            "the file has projections: set `shortcut = \"conv\"` in the card".to_string()
        } else {
            "is this the card of that file? names and shapes are those of the `state_dict`; see `models/README.md`".to_string()
        }
    }
}
