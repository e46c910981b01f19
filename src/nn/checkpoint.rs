//! Which of the values in an unpickled checkpoint are the weights, and what each tensor is: type, storage, shape, strides.
//! Must not know files. Only the calls listed here are understood, by their names; everything else is passed over.

use std::collections::{BTreeMap, HashSet};

use super::pickle::{Id, Object, Pickle, Value};
use crate::error::{Error, Result};

/// Names under which trainers keep the weights, best first. A checkpoint without any is taken for the weights themselves.
const PLAIN: [&str; 8] = ["state_dict", "model_state_dict", "model", "net", "network", "model_state", "weights", "params"];
/// Words in the names of averaged weights, which are another network.
const AVERAGED: [&str; 3] = ["ema", "swa", "averaged"];
/// Dicts inside dicts that are looked into.
const MAX_NESTING: usize = 2;
/// Entries looked at in search of weights; a name longer than this cannot be asked for.
const MAX_LOOKS: usize = 1 << 22;
const MAX_KEY: usize = 128;
/// Calls around one tensor (parameter of tensor subclass of ..), and dimensions of one.
const MAX_WRAPS: usize = 8;
const MAX_DIMS: usize = 32;
/// Attributes of an object among which those of a module come.
const MAX_ATTRIBUTES: usize = 16;
/// Names that an error lists before it counts the rest.
const LISTED: usize = 8;

/// Element type of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Element {
    F64,
    F32,
    F16,
    Bf16,
    I64,
    I32,
    I16,
    I8,
    U8,
    Bool,
}

impl Element {
    /// The type that a storage class stands for.
    fn of_class(class: &str) -> Option<Self> {
        Some(match class.strip_prefix("torch.")?.trim_start_matches("cuda.").strip_suffix("Storage")? {
            "Double" => Element::F64,
            "Float" => Element::F32,
            "Half" => Element::F16,
            "BFloat16" => Element::Bf16,
            "Long" => Element::I64,
            "Int" => Element::I32,
            "Short" => Element::I16,
            "Char" => Element::I8,
            "Byte" => Element::U8,
            "Bool" => Element::Bool,
            _ => return None,
        })
    }

    /// Whether the elements become 32-bit floats; the others become 64-bit integers.
    pub fn is_float(self) -> bool {
        matches!(self, Element::F64 | Element::F32 | Element::F16 | Element::Bf16)
    }

    /// Size of one element in the file.
    pub fn bytes(self) -> u64 {
        match self {
            Element::F64 | Element::I64 => 8,
            Element::F32 | Element::I32 => 4,
            Element::F16 | Element::Bf16 | Element::I16 => 2,
            Element::I8 | Element::U8 | Element::Bool => 1,
        }
    }
}

/// A run of elements in the file, or a part of one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Storage<'a> {
    pub key: &'a str,
    pub element: Element,
    /// First element, counted from the start of what `key` names, and number of elements.
    pub offset: u64,
    pub elems: u64,
}

/// A view of a storage, in elements. Nothing has been checked against the storage's size.
#[derive(Debug)]
pub(super) struct TensorRef<'a> {
    pub storage: Storage<'a>,
    pub offset: u64,
    pub dims: Vec<u64>,
    pub strides: Vec<u64>,
}

/// The weights that were chosen.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// Where they stand, such as `state_dict` or `model.ema`; empty for the whole checkpoint.
    pub entry: String,
    /// Where other tensors stand.
    pub others: Vec<String>,
    pub tensors: BTreeMap<&'a str, TensorRef<'a>>,
    /// Names beside the tensors that hold no tensor.
    pub skipped: Vec<String>,
}

/// A dict with tensors, by the names that lead to it.
struct Candidate<'a> {
    path: Vec<&'a str>,
    dict: Id,
}

/// Finds the weights in the checkpoint at `source`; `entry` chooses among several, by the names of [`Found::others`].
pub(super) fn find<'a>(pickle: &'a Pickle, entry: Option<&str>, source: &str) -> Result<Found<'a>> {
    let mut search = Search { pickle, seen: HashSet::new(), looks: 0, candidates: Vec::new(), scalars: Vec::new(), module: None };
    search.visit(pickle.root);
    let names: Vec<String> = search.candidates.iter().map(|c| c.path.join(".")).collect();
    let chosen = match entry {
        Some(entry) => names.iter().position(|name| name == entry).ok_or_else(|| {
            let text = format!("`{source}` has no weights under `{entry}`");
            Error::model(text).with_hint(format!("it has them under {}", listed(&names)))
        })?,
        None => search.preferred().ok_or_else(|| search.nothing(source, &names))?,
    };
    // A key may come twice: the later one counts.
    let named = |(key, value)| Some((pickle.text(key)?, value));
    let latest: BTreeMap<&str, Id> = pickle.pairs(search.candidates[chosen].dict).filter_map(named).collect();
    let (mut tensors, mut skipped) = (BTreeMap::new(), Vec::new());
    for (key, value) in latest {
        if pickle.is_tensor(value) {
            tensors.insert(key, pickle.tensor(value).map_err(|why| unreadable(source, key, &why))?);
        } else {
            skipped.push(key.to_string());
        }
    }
    let others = names.iter().enumerate().filter(|&(i, _)| i != chosen).map(|(_, name)| name.clone()).collect();
    Ok(Found { entry: names[chosen].clone(), others, tensors, skipped })
}

fn unreadable(source: &str, key: &str, why: &str) -> Error {
    let text = format!("`{source}`: `{key}` cannot be rebuilt: {why}");
    Error::model(text).with_hint(
        "save plain tensors: `torch.save({k: v.detach().cpu().float() for k, v in net.state_dict().items()}, \"weights.pt\")`",
    )
}

/// "`a`, `b` and 3 more"; the whole checkpoint has no name.
fn listed(names: &[String]) -> String {
    let name = |n: &String| if n.is_empty() { "no name at all".to_string() } else { format!("`{n}`") };
    let shown = names.iter().take(LISTED).map(name).collect::<Vec<_>>().join(", ");
    match names.len() {
        0 => "no name".to_string(),
        n if n > LISTED => format!("{shown} and {} more", n - LISTED),
        _ => shown,
    }
}

struct Search<'a> {
    pickle: &'a Pickle,
    /// Values shared by many holders are looked into once.
    seen: HashSet<Id>,
    looks: usize,
    candidates: Vec<Candidate<'a>>,
    /// Dicts of scalars (a best accuracy, a step), taken for weights only where there is nothing else.
    scalars: Vec<Candidate<'a>>,
    /// A whole network: the names that lead to it and its class.
    module: Option<(Vec<&'a str>, String)>,
}

impl<'a> Search<'a> {
    /// Breadth first, so that the whole comes before its parts.
    fn visit(&mut self, root: Id) {
        let mut level = vec![Candidate { path: Vec::new(), dict: root }];
        for depth in 0..=MAX_NESTING {
            let mut next = Vec::new();
            for place in level {
                if self.seen.insert(place.dict) {
                    self.look(place, depth < MAX_NESTING, &mut next);
                }
            }
            level = next;
        }
        if self.candidates.is_empty() {
            self.candidates = std::mem::take(&mut self.scalars);
        }
    }

    fn look(&mut self, place: Candidate<'a>, deeper: bool, next: &mut Vec<Candidate<'a>>) {
        if let Value::Object(object) = self.pickle.get(place.dict) {
            self.look_for_module(object, &place.path);
        }
        let (mut has_array, mut has_scalar) = (false, false);
        for (key, value) in self.pickle.pairs(place.dict) {
            self.looks += 1;
            if self.looks > MAX_LOOKS {
                return;
            }
            let Some(key) = self.pickle.text(key) else { continue };
            let is_tensor = self.pickle.is_tensor(value);
            has_array |= is_tensor && !has_array && self.pickle.has_dims(value);
            has_scalar |= is_tensor;
            let open = matches!(self.pickle.get(value), Value::Dict(_) | Value::Object(_)) && !is_tensor;
            if deeper && open && key.len() <= MAX_KEY {
                let mut path = place.path.clone();
                path.push(key);
                next.push(Candidate { path, dict: value });
            }
        }
        if has_array {
            self.candidates.push(place);
        } else if has_scalar {
            self.scalars.push(place);
        }
    }

    /// A module keeps its parts in attributes of these names.
    fn look_for_module(&mut self, object: &'a Object, path: &[&'a str]) {
        let Some(state) = object.state.filter(|&state| self.module.is_none() && self.seen.insert(state)) else { return };
        let part = |(key, _)| matches!(self.pickle.text(key), Some("_parameters" | "_modules"));
        if self.pickle.pairs(state).take(MAX_ATTRIBUTES).any(part) {
            self.module = Some((path.to_vec(), self.pickle.class_of(object)));
        }
    }

    /// Plain weights under a usual name, else the checkpoint itself, else averaged ones, else the only ones there are.
    fn preferred(&self) -> Option<usize> {
        let rank = |path: &[&str]| {
            let plain: Option<Vec<usize>> = path.iter().map(|name| PLAIN.iter().position(|p| p == name)).collect();
            let averaged =
                path.iter().flat_map(|name| name.split('_')).any(|word| AVERAGED.contains(&word.to_lowercase().as_str()));
            match plain {
                Some(places) if !places.is_empty() => Some((0, places)),
                Some(root) => Some((1, root)),
                None if averaged => Some((2, vec![path.len()])),
                None => None,
            }
        };
        let ranked = self.candidates.iter().enumerate().filter_map(|(i, c)| Some((rank(&c.path)?, i)));
        let only = (self.candidates.len() == 1).then_some(0);
        ranked.min().map(|(_, i)| i).or(only)
    }

    fn nothing(&self, source: &str, names: &[String]) -> Error {
        if !names.is_empty() {
            let text = format!("`{source}` holds tensors under {}, none of which is a usual name for weights", listed(names));
            return Error::model(text).with_hint(format!("say which: entry `{}`", names[0]));
        }
        let Some((path, class)) = &self.module else {
            let text = format!("`{source}` holds no tensors under names");
            return Error::model(text).with_hint("save the weights in Python: `torch.save(net.state_dict(), \"weights.pt\")`");
        };
        let inner: String = path.iter().map(|name| format!("[\"{name}\"]")).collect();
        let text = format!("`{source}` holds a whole pickled network (class `{class}`), which only its own Python code can open");
        Error::model(text).with_hint(format!(
            "if you trust the file, save its weights where that class can be imported:\n  net = torch.load(\"{source}\", map_location=\"cpu\", weights_only=False){inner}\n  torch.save(net.state_dict(), \"weights.pt\")"
        ))
    }
}

/// What the values mean to PyTorch.
impl Pickle {
    /// All storages that the pickle mentions, views of others left aside.
    pub(super) fn storages(&self) -> impl Iterator<Item = Storage<'_>> {
        self.values().iter().filter_map(|value| match value {
            Value::Persistent(description) => self.root_storage(*description),
            _ => None,
        })
    }

    /// The strings of a pickled list.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.items(self.root).unwrap_or_default().iter().filter_map(|&id| self.text(id))
    }

    fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    fn global(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Global(name) => Some(name),
            _ => None,
        }
    }

    /// A size, stride or position.
    fn count(&self, id: Id) -> Option<u64> {
        match self.get(id) {
            Value::Int(int) => u64::try_from(*int).ok(),
            _ => None,
        }
    }

    fn items(&self, id: Id) -> Option<&[Id]> {
        match self.get(id) {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    fn counts(&self, id: Id) -> Option<Vec<u64>> {
        let items = match self.call(id) {
            Some(("torch.Size", [items])) => *items,
            _ => id,
        };
        self.items(items).filter(|items| items.len() <= MAX_DIMS)?.iter().map(|&i| self.count(i)).collect()
    }

    /// Name and arguments of a call.
    fn call(&self, id: Id) -> Option<(&str, &[Id])> {
        match self.get(id) {
            Value::Object(object) => Some((self.global(object.callee)?, self.items(object.args)?)),
            _ => None,
        }
    }

    /// The pairs of a dict or of anything that was filled like one. Python 2 hands an `OrderedDict` a list of them.
    fn pairs(&self, id: Id) -> impl Iterator<Item = (Id, Id)> {
        let (given, set): (&[Id], &[(Id, Id)]) = match self.get(id) {
            Value::Dict(pairs) => (&[], pairs),
            Value::Object(object) => match self.call(id) {
                Some(("collections.OrderedDict", [list])) => (self.items(*list).unwrap_or_default(), &object.pairs),
                _ => (&[], &object.pairs),
            },
            _ => (&[], &[]),
        };
        let pair = |&id: &Id| match self.items(id) {
            Some(&[key, value]) => Some((key, value)),
            _ => None,
        };
        given.iter().filter_map(pair).chain(set.iter().copied())
    }

    /// The class of an object that `copyreg` or `object.__new__` would have made.
    fn class_of(&self, object: &Object) -> String {
        let class = match (self.global(object.callee), self.items(object.args)) {
            (Some("copy_reg._reconstructor" | "copyreg._reconstructor"), Some([class, ..])) => *class,
            _ => object.callee,
        };
        // Old files describe a module's class together with its source text.
        let described = match self.get(class) {
            Value::Persistent(description) => self.items(*description).and_then(|items| items.get(1)).copied(),
            _ => None,
        };
        self.global(described.unwrap_or(class)).unwrap_or("unknown").to_string()
    }

    fn is_tensor(&self, id: Id) -> bool {
        self.call(id).is_some_and(|(name, _)| {
            name.starts_with("torch._utils._rebuild_")
                || matches!(name, "torch.nn.parameter.Parameter" | "torch._tensor._rebuild_from_type_v2")
        })
    }

    /// Whether a tensor has dimensions, as weights do, or cannot be rebuilt.
    fn has_dims(&self, id: Id) -> bool {
        self.tensor(id).map_or(true, |tensor| !tensor.dims.is_empty())
    }

    fn tensor(&self, id: Id) -> std::result::Result<TensorRef<'_>, String> {
        let (mut name, mut args) = self.call(id).ok_or("it is no call")?;
        for _ in 0..MAX_WRAPS {
            match (name, args) {
                (
                    "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2",
                    [storage, offset, dims, strides, rest @ ..],
                ) => {
                    // The third of the rest marks views that are negated or conjugated when they are read.
                    if rest.get(2).is_some_and(|&marks| self.pairs(marks).next().is_some()) {
                        return Err("it is marked as negated or conjugated".to_string());
                    }
                    return self.view(*storage, [*offset, *dims, *strides]);
                }
                (
                    "torch._utils._rebuild_parameter"
                    | "torch._utils._rebuild_parameter_with_state"
                    | "torch.nn.parameter.Parameter",
                    [data, ..],
                ) => (name, args) = self.call(*data).ok_or("a parameter of no tensor")?,
                ("torch._tensor._rebuild_from_type_v2", [make, _class, inner, ..]) => {
                    name = self.global(*make).ok_or("a tensor class without a maker")?;
                    args = self.items(*inner).ok_or("a tensor class without arguments")?;
                }
                _ => return Err(format!("it is made by `{name}` with {} arguments", args.len())),
            }
        }
        Err("too many wrappers around it".to_string())
    }

    fn view(&self, storage: Id, [offset, dims, strides]: [Id; 3]) -> std::result::Result<TensorRef<'_>, String> {
        let Value::Persistent(description) = self.get(storage) else { return Err("its storage is not in the file".into()) };
        let storage = self.storage(*description)?;
        let numbers = (self.count(offset), self.counts(dims), self.counts(strides));
        match numbers {
            (Some(offset), Some(dims), Some(strides)) if dims.len() == strides.len() => {
                Ok(TensorRef { storage, offset, dims, strides })
            }
            _ => Err("its offset, shape or strides are no plain numbers".to_string()),
        }
    }

    /// `("storage", class, key, device, elements)`, in old files with `(key, offset, elements)` of a view, or none, behind.
    fn storage(&self, description: Id) -> std::result::Result<Storage<'_>, String> {
        let items = self.items(description).unwrap_or_default();
        let class = items.get(1).and_then(|&class| self.global(class)).unwrap_or("unknown");
        if Element::of_class(class).is_none() {
            return Err(format!("its elements are of the type of `{class}`"));
        }
        let whole = self.root_storage(description).ok_or("its storage is described in an unknown way")?;
        let Some(&[_, offset, elems]) = items.get(5).and_then(|&view| self.items(view)) else { return Ok(whole) };
        match (self.count(offset), self.count(elems)) {
            (Some(offset), Some(elems)) if offset.checked_add(elems).is_some_and(|end| end <= whole.elems) => {
                Ok(Storage { offset, elems, ..whole })
            }
            _ => Err("its storage is a part that lies outside the whole".to_string()),
        }
    }

    fn root_storage(&self, description: Id) -> Option<Storage<'_>> {
        let &[kind, class, key, _device, elems, ..] = self.items(description)? else { return None };
        let element = Element::of_class(self.global(class)?)?;
        (self.text(kind)? == "storage").then_some(())?;
        Some(Storage { key: self.text(key)?, element, offset: 0, elems: self.count(elems)? })
    }
}
