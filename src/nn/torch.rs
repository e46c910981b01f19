//! Reads the weights out of a PyTorch checkpoint without Python: the zip form (since 1.6) and the form before it.
//! Must not know networks or their names. Nothing in the file is executed: see `pickle.rs`.
//! Memory is bounded by the file: what is read lies in it, what is made of it is at most [`MAX_GROWTH`] times as large.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Take};
use std::ops::Range;
use std::path::Path;

use super::checkpoint::{self, Element, TensorRef};
use super::pickle::{Pickle, Value};
use super::zip::{Zip, bad, read_range};
use crate::error::{Error, Result};
use crate::tensor::{HostData, HostTensor};

/// The integer in front of a checkpoint of the old form, little-endian.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];
/// The version behind it.
const LEGACY_VERSION: i64 = 1001;
/// Bytes of tensors for each byte of the file: a mask of bytes becomes 8 times as large, and tensors may share elements.
const MAX_GROWTH: u64 = 16;
/// What a file of any size may make, so that small ones can hold expanded tensors.
const FREE_BYTES: u64 = 1 << 20;

/// The weights of a checkpoint.
#[derive(Clone, Debug, PartialEq)]
pub struct StateDict {
    /// Contiguous tensors by name: 32-bit floats for all float types, 64-bit integers for integers and booleans.
    pub tensors: BTreeMap<String, HostTensor>,
    /// Where in the checkpoint they stood, such as `state_dict`; empty where the checkpoint is the weights.
    pub entry: String,
    /// Where other tensors stand, such as `ema`: each can be asked for by this name.
    pub others: Vec<String>,
    /// Names beside the tensors that held something else.
    pub skipped: Vec<String>,
}

/// Reads the checkpoint that `torch.save` wrote to `path`. Nothing in it is executed, whatever it holds.
///
/// Wrappers such as `{"state_dict": .., "epoch": ..}` are opened, two deep. Of several weights the plain ones are taken
/// and averaged ones (`ema`) only where there are no others; `entry` asks for one by its dotted name. Tensors are
/// copied to contiguous ones; halves and `bfloat16` are widened, doubles rounded to nearest. Prefixes stay.
///
/// # Errors
/// [`Error::Io`] where the file cannot be read; [`Error::Model`] where it is no checkpoint or a broken one, where it
/// holds a whole network or TorchScript instead of weights, where `entry` is not in it, or where one of the weights is
/// of a kind that has no plain elements (sparse, quantised, complex, 8-bit float).
pub fn read_state_dict(path: &Path, entry: Option<&str>) -> Result<StateDict> {
    let source = path.display().to_string();
    let named = |e: io::Error| match e.kind() {
        io::ErrorKind::InvalidData => broken(&source, &e.to_string()),
        io::ErrorKind::UnexpectedEof => broken(&source, "it ends too early"),
        io::ErrorKind::Unsupported => repacked(&source, &e.to_string()),
        _ => Error::io("read", path, e),
    };
    let file = File::open(path).map_err(named)?;
    let bytes = file.metadata().map_err(named)?.len();
    let head = read_range(&file, 0..bytes.min(16)).map_err(named)?;
    let checkpoint = match head.as_slice() {
        [b'P', b'K', 3, 4, ..] => {
            let zip = Zip::open(&file, bytes).map_err(named)?;
            check_form(&zip, &source)?;
            Checkpoint::of_zip(&file, &zip).map_err(named)?
        }
        [0x80, ..] => Checkpoint::of_legacy(&file, bytes).map_err(named)?,
        _ => return Err(foreign(&source)),
    };
    let found = checkpoint::find(&checkpoint.pickle, entry, &source)?;
    let mut tensors = BTreeMap::new();
    let mut budget = bytes.saturating_mul(MAX_GROWTH).saturating_add(FREE_BYTES);
    for (name, tensor) in found.tensors {
        let refused = |e: io::Error| match e.kind() {
            io::ErrorKind::InvalidData => broken(&source, &format!("`{name}` {e}")),
            _ => named(e),
        };
        let plan = checkpoint.plan(&tensor, &mut budget).map_err(refused)?;
        tensors.insert(name.to_string(), plan.read(&file, checkpoint.big_endian).map_err(refused)?);
    }
    Ok(StateDict { tensors, entry: found.entry, others: found.others, skipped: found.skipped })
}

fn broken(source: &str, why: &str) -> Error {
    let error = Error::model(format!("`{source}` is not a complete PyTorch checkpoint: {why}"));
    error.with_hint("was the download or the copy cut short? fetch it again and compare its `sha256sum`")
}

fn repacked(source: &str, why: &str) -> Error {
    let error = Error::model(format!("`{source}` was packed again since PyTorch wrote it: {why}"));
    error.with_hint("load and save it once more in Python: `torch.save(torch.load(\"old.pt\"), \"new.pt\")`")
}

fn foreign(source: &str) -> Error {
    let error = Error::model(format!("`{source}` is not a PyTorch checkpoint"));
    error.with_hint("save the weights in Python: `torch.save(net.state_dict(), \"weights.pt\")`")
}

/// Refuses archives of another kind.
fn check_form(zip: &Zip, source: &str) -> Result<()> {
    let is_code = |name: &str| name.ends_with("/constants.pkl") || name.contains("/code/");
    if zip.names().any(is_code) {
        let text = format!("`{source}` is a TorchScript archive: it holds a program, not only weights");
        let hint = format!(
            "save its weights in Python:\n  net = torch.jit.load(\"{source}\", map_location=\"cpu\")\n  torch.save(net.state_dict(), \"weights.pt\")"
        );
        return Err(Error::model(text).with_hint(hint));
    }
    if zip.names().any(|name| name.ends_with("/data.pkl")) { Ok(()) } else { Err(foreign(source)) }
}

/// What a container held: the values, and where in the file the elements lie.
struct Checkpoint {
    pickle: Pickle,
    storages: HashMap<String, Range<u64>>,
    big_endian: bool,
}

impl Checkpoint {
    /// An archive of `NAME/data.pkl` (the pickle), `NAME/data/KEY` (the storages) and `NAME/byteorder`.
    fn of_zip(file: &File, zip: &Zip) -> io::Result<Checkpoint> {
        let name = zip.names().filter(|name| name.ends_with("/data.pkl")).min_by_key(|name| name.len());
        let name = name.ok_or_else(|| bad("it has no `data.pkl`"))?;
        let folder = name.trim_end_matches("data.pkl");
        let pickle = Pickle::read(&mut input(file, zip.place(name)?)?)?;
        let mut storages = HashMap::new();
        let prefix = format!("{folder}data/");
        for (name, key) in zip.names().filter_map(|name| Some((name, name.strip_prefix(&prefix)?))) {
            storages.insert(key.to_string(), zip.place(name)?);
        }
        let order = format!("{folder}byteorder");
        let big_endian = zip.names().any(|name| name == order) && read_range(file, zip.place(&order)?)? == b"big";
        Ok(Checkpoint { pickle, storages, big_endian })
    }

    /// Five pickles (magic number, version, a note on the machine, the object, the keys of its storages), and each
    /// storage as a count of elements and the elements, always little-endian.
    fn of_legacy(file: &File, bytes: u64) -> io::Result<Checkpoint> {
        let mut input = input(file, 0..bytes)?;
        let magic = Pickle::read(&mut input)?;
        if !matches!(magic.get(magic.root), Value::Long(number) if *number == MAGIC) {
            return Err(bad("it is a pickle, but not one that `torch.save` wrote"));
        }
        let version = Pickle::read(&mut input)?;
        if !matches!(version.get(version.root), Value::Int(LEGACY_VERSION)) {
            return Err(bad("it is of an unknown version"));
        }
        Pickle::read(&mut input)?;
        let pickle = Pickle::read(&mut input)?;
        let keys = Pickle::read(&mut input)?;
        let mut at = bytes - input.limit();
        let elements: HashMap<&str, Element> = pickle.storages().map(|s| (s.key, s.element)).collect();
        let mut storages = HashMap::new();
        for key in keys.texts() {
            let element = elements.get(key).ok_or_else(|| bad(format!("nothing says what its storage `{key}` holds")))?;
            let start = at.checked_add(8).filter(|&start| start <= bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
            let count = read_range(file, at..start)?.try_into().expect("eight bytes were asked for");
            let size = u64::from_le_bytes(count).checked_mul(element.bytes());
            at = size.and_then(|size| start.checked_add(size)).filter(|&end| end <= bytes).ok_or(io::ErrorKind::UnexpectedEof)?;
            storages.insert(key.to_string(), start..at);
        }
        Ok(Checkpoint { pickle, storages, big_endian: false })
    }

    /// Where the elements of `tensor` lie, after all checks; what it will take is paid for from `budget` (bytes).
    fn plan(&self, tensor: &TensorRef, budget: &mut u64) -> io::Result<Plan> {
        let TensorRef { storage, offset, dims, strides } = tensor;
        let place = self.storages.get(storage.key).ok_or_else(|| bad("has a storage that is not in the file"))?;
        let size = storage.element.bytes();
        let whole = storage.offset.checked_add(storage.elems).and_then(|end| end.checked_mul(size));
        if whole.is_none_or(|whole| whole > place.end - place.start) {
            return Err(bad("has a storage that is shorter than it says"));
        }
        let outside = || bad(format!("of shape {dims:?} and strides {strides:?} leads out of its storage"));
        let elems = dims.iter().try_fold(1u64, |n, &d| n.checked_mul(d)).ok_or_else(outside)?;
        let reach = |&(d, s): &(u64, u64)| (d - 1).checked_mul(s);
        let axes: Vec<(u64, u64)> = dims.iter().copied().zip(strides.iter().copied()).collect();
        let last = if elems == 0 { Some(0) } else { axes.iter().try_fold(0u64, |n, axis| n.checked_add(reach(axis)?)) };
        let span = last.map(|last| last + u64::from(elems > 0)).ok_or_else(outside)?;
        if offset.checked_add(span).is_none_or(|end| end > storage.elems) {
            return Err(outside());
        }
        let wide = if storage.element.is_float() { 4 } else { 8 };
        let cost = elems.checked_mul(wide).map(|out| out.max(span * size)).filter(|cost| cost <= budget);
        *budget -= cost.ok_or_else(|| bad(format!("of shape {dims:?} would make more of this file than it can hold")))?;
        let start = place.start + (storage.offset + offset) * size;
        Ok(Plan { element: storage.element, range: start..start + span * size, axes, elems: elems as usize })
    }
}

/// A tensor that is known to fit: `axes` (size, stride) never lead out of `range`.
struct Plan {
    element: Element,
    range: Range<u64>,
    axes: Vec<(u64, u64)>,
    elems: usize,
}

impl Plan {
    fn read(&self, file: &File, big_endian: bool) -> io::Result<HostTensor> {
        let mut bytes = read_range(file, self.range.clone())?;
        if !self.is_dense() {
            bytes = self.gathered(&bytes);
        }
        if big_endian {
            bytes.chunks_exact_mut(self.element.bytes() as usize).for_each(<[u8]>::reverse);
        }
        let dims = self.axes.iter().map(|&(d, _)| d as usize).collect();
        Ok(HostTensor { dims, data: decode(self.element, &bytes) })
    }

    /// Whether the elements follow each other in row-major order.
    fn is_dense(&self) -> bool {
        let mut expected = 1;
        self.elems == 0
            || self.axes.iter().rev().all(|&(d, s)| {
                let fits = d == 1 || s == expected;
                expected *= d;
                fits
            })
    }

    /// The elements in row-major order.
    fn gathered(&self, bytes: &[u8]) -> Vec<u8> {
        let size = self.element.bytes() as usize;
        let mut out = Vec::with_capacity(self.elems * size);
        let mut index = vec![0; self.axes.len()];
        let mut at = 0;
        for _ in 0..self.elems {
            out.extend_from_slice(&bytes[at as usize * size..][..size]);
            // Counts up like an odometer: the last axis that has not come round moves on.
            for (i, &(d, s)) in index.iter_mut().zip(&self.axes).rev() {
                *i += 1;
                at += s;
                if *i < d {
                    break;
                }
                at -= s * d;
                *i = 0;
            }
        }
        out
    }
}

fn decode(element: Element, bytes: &[u8]) -> HostData {
    fn each<const N: usize, T>(bytes: &[u8], convert: fn([u8; N]) -> T) -> Vec<T> {
        bytes.as_chunks().0.iter().map(|&chunk| convert(chunk)).collect()
    }
    match element {
        Element::F64 => HostData::F32(each(bytes, |b| f64::from_le_bytes(b) as f32)),
        Element::F32 => HostData::F32(each(bytes, f32::from_le_bytes)),
        Element::F16 => HostData::F32(each(bytes, |b| f16_to_f32(u16::from_le_bytes(b)))),
        Element::Bf16 => HostData::F32(each(bytes, |b| f32::from_bits(u32::from(u16::from_le_bytes(b)) << 16))),
        Element::I64 => HostData::I64(each(bytes, i64::from_le_bytes)),
        Element::I32 => HostData::I64(each(bytes, |b| i64::from(i32::from_le_bytes(b)))),
        Element::I16 => HostData::I64(each(bytes, |b| i64::from(i16::from_le_bytes(b)))),
        Element::I8 => HostData::I64(each(bytes, |b| i64::from(i8::from_le_bytes(b)))),
        Element::U8 => HostData::I64(each(bytes, |[b]| i64::from(b))),
        Element::Bool => HostData::I64(each(bytes, |[b]| i64::from(b != 0))),
    }
}

/// An IEEE half, exactly.
pub(super) fn f16_to_f32(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let magnitude = u32::from(bits & 0x7fff);
    match magnitude {
        // Subnormal: a multiple of 2^-24.
        0..0x0400 => f32::from_bits(sign | (magnitude as f32 * f32::powi(2.0, -24)).to_bits()),
        // Infinite or not a number.
        0x7c00.. => f32::from_bits(sign | 0x7f80_0000 | (magnitude & 0x03ff) << 13),
        _ => f32::from_bits(sign | ((magnitude << 13) + ((127 - 15) << 23))),
    }
}

/// The bytes of a range as a stream.
fn input(mut file: &File, range: Range<u64>) -> io::Result<Take<BufReader<&File>>> {
    file.seek(SeekFrom::Start(range.start))?;
    Ok(BufReader::new(file).take(range.end - range.start))
}
