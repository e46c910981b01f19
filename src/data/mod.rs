//! Labelled images in, adversarial images out: every set is read as chunks of NCHW pixels.
//! Knows no network, no device and no attack; of a model it is told only the shape and the number of classes.

mod array;
pub mod augmix;
mod cifar;
mod cifar_c;
pub mod corrupt;
mod file;
mod images;
pub mod longtail;
mod resize;
pub mod save;
mod synthetic;

use crate::error::{Error, Result};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::JoinHandle;

/// Pixel bytes up to which a set is held in memory, or checked whole before the first chunk is handed out.
const HELD_BYTES: usize = 4 << 30;

// The formats are little-endian, and arrays are copied from and to them as they lie in memory.
const _: () = assert!(cfg!(target_endian = "little"), "files would have to be byte-swapped");

/// Which part of a set that comes in two parts. Folders of images and files are one part and take no notice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Split {
    /// The images that a network is judged on.
    #[default]
    Test,
    /// The images that a network learns from.
    Train,
}

impl Split {
    /// `test` or `train`.
    pub fn name(self) -> &'static str {
        match self {
            Split::Test => "test",
            Split::Train => "train",
        }
    }
}

/// What a model and a user ask of a set.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The part of the set.
    pub split: Split,
    /// `[C, H, W]` of the model: folders of images are fitted to it, every other set must already have it.
    pub shape: Option<[usize; 3]>,
    /// Classes of the model: a label at or above it is refused.
    pub classes: Option<usize>,
    /// Folders of images: pixels of the shorter side before the centre crop; `None` is 256 for a crop of 224 and in
    /// proportion for others.
    pub resize: Option<usize>,
    /// Images to skip at the beginning of the split.
    pub offset: usize,
    /// Images to use at most, all where `None`.
    pub limit: Option<usize>,
}

/// A set of images, cheap to clone; pixels are read chunk by chunk.
#[derive(Clone, Debug)]
pub struct Dataset {
    spec: Arc<str>,
    source: Arc<Source>,
    shape: [usize; 3],
    labels: Option<Arc<[i32]>>,
    index: Option<Arc<[u32]>>,
    class_names: Arc<[String]>,
    /// The rows of the split that are used.
    rows: Range<usize>,
}

/// Where the pixels of a split come from.
#[derive(Debug)]
enum Source {
    Bytes { pixels: Vec<u8>, chw: usize },
    Images(images::Folder),
    File(file::Shards),
    Synthetic(synthetic::Synthetic),
}

/// A whole split as a source opened it, before `offset` and `limit`.
struct Opened {
    source: Source,
    shape: [usize; 3],
    /// Images in the split.
    count: usize,
    labels: Option<Vec<i32>>,
    /// Position in the split of every row, where it is not simply the row.
    index: Option<Vec<u32>>,
    /// Empty where unknown.
    class_names: Vec<String>,
}

impl Dataset {
    /// Opens `spec`: `cifar10:DIR`, `cifar100:DIR`, `cifar10c:DIR/NAME[/SEVERITY]`, `cifar100c:..`, `images:DIR`, `file:PATH` or `synthetic[:SEED]`.
    ///
    /// Fails for a set that is missing, broken, empty, or of another shape or with more classes than the model.
    pub fn open(spec: &str, options: &Options) -> Result<Self> {
        let opened = match spec.split_once(':').unwrap_or((spec, "")) {
            ("cifar10", dir) => cifar::open(&cifar::CIFAR10, &path_of(spec, dir)?, options.split)?,
            ("cifar100", dir) => cifar::open(&cifar::CIFAR100, &path_of(spec, dir)?, options.split)?,
            ("cifar10c", rest) => cifar_c::open(&path_of(spec, rest)?.to_string_lossy(), 10)?,
            ("cifar100c", rest) => cifar_c::open(&path_of(spec, rest)?.to_string_lossy(), 100)?,
            ("images", dir) => images::open(&path_of(spec, dir)?, options)?,
            ("file", path) => file::open(&path_of(spec, path)?)?,
            ("synthetic", seed) => synthetic::open(seed, options.split)?,
            _ => {
                return Err(Error::usage(format!("unknown data `{spec}`")).with_hint(
                    "use `cifar10:DIR`, `cifar100:DIR`, `cifar10c:DIR/NAME/SEVERITY`, `cifar100c:..`, `images:DIR`, `file:PATH` \
                     (.safetensors, .npz) or `synthetic`",
                ));
            }
        };
        opened.select(spec, options)
    }

    /// The spec that the set was opened with.
    pub fn spec(&self) -> &str {
        &self.spec
    }
    /// Number of images, after `offset` and `limit`.
    pub fn len(&self) -> usize {
        self.rows.len()
    }
    /// Never: an empty set does not open.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
    /// `[C, H, W]` of every image.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }
    /// Whether every image has a label.
    pub fn labelled(&self) -> bool {
        self.labels.is_some()
    }
    /// Labels of all images in order.
    pub fn labels(&self) -> Option<&[i32]> {
        self.labels.as_ref().map(|l| &l[self.rows.clone()])
    }
    /// Names of the classes, by class number; empty where the set knows none.
    pub fn class_names(&self) -> &[String] {
        &self.class_names
    }

    /// The images `range` alone (0 is the first one of this set). Panics where `range` is empty or leaves the set.
    #[must_use]
    pub fn part(&self, range: Range<usize>) -> Self {
        assert!(range.start < range.end && range.end <= self.len(), "images {range:?} of a set of {}", self.len());
        Dataset { rows: self.rows.start + range.start..self.rows.start + range.end, ..self.clone() }
    }

    /// Reads the images `range` (0 is the first one after `offset`). Panics where `range` leaves the set.
    pub fn read(&self, range: Range<usize>) -> Result<Batch> {
        assert!(range.start <= range.end && range.end <= self.len(), "images {range:?} of a set of {}", self.len());
        let rows = self.rows.start + range.start..self.rows.start + range.end;
        let images = match &*self.source {
            Source::Bytes { pixels, chw } => Images::U8(pixels[rows.start * chw..rows.end * chw].to_vec()),
            Source::Images(folder) => Images::U8(folder.read(rows.clone())?),
            Source::File(shards) => shards.read(rows.clone())?,
            Source::Synthetic(set) => Images::U8(set.read(rows.clone())),
        };
        Ok(Batch {
            images,
            labels: self.labels.as_ref().map(|l| l[rows.clone()].to_vec()),
            index: match &self.index {
                Some(index) => index[rows].to_vec(),
                None => rows.map(|r| r as u32).collect(),
            },
            shape: self.shape,
        })
    }

    /// All images in order, `rows` at a time (the last chunk may be shorter); the next chunk is read on a thread of
    /// its own meanwhile. The first error ends the iteration.
    pub fn chunks(&self, rows: usize) -> Chunks {
        assert!(rows > 0, "chunks of no images");
        let set = self.clone();
        // A channel without room: one chunk waits in the thread's hands while the consumer works on the last.
        let (sender, receiver) = sync_channel(0);
        let thread = std::thread::spawn(move || {
            for start in (0..set.len()).step_by(rows) {
                let batch = set.read(start..set.len().min(start + rows));
                let failed = batch.is_err();
                if sender.send(batch).is_err() || failed {
                    break;
                }
            }
        });
        Chunks { receiver: Some(receiver), thread: Some(thread) }
    }
}

impl Opened {
    /// Checks the split against what the model and the user ask for, and cuts it down to `offset` and `limit`.
    fn select(self, spec: &str, options: &Options) -> Result<Dataset> {
        if let Some(want) = options.shape
            && want != self.shape
        {
            let (got, want) = (show(self.shape), show(want));
            return Err(Error::input(format!("images of `{spec}` are {got}, the model takes {want}"))
                .with_hint("choose a model for this set, or an `images:DIR` set, which is resized"));
        }
        if options.offset >= self.count {
            let message = format!("`{spec}` has {} images, offset {} is beyond the end", self.count, options.offset);
            return Err(Error::usage(message));
        }
        if options.limit == Some(0) {
            return Err(Error::usage("a limit of 0 leaves no images"));
        }
        let end = self.count.min(options.offset.saturating_add(options.limit.unwrap_or(usize::MAX)));
        let rows = options.offset..end;
        if let (Some(labels), Some(classes)) = (&self.labels, options.classes) {
            let bad = rows.clone().find(|&r| usize::try_from(labels[r]).map_or(true, |l| l >= classes));
            if let Some(row) = bad {
                let message = format!("label {} of image {row} of `{spec}`, the model has {classes} classes", labels[row]);
                return Err(Error::input(message).with_hint("is this the set that the model was trained for?"));
            }
        }
        Ok(Dataset {
            spec: spec.into(),
            source: Arc::new(self.source),
            shape: self.shape,
            labels: self.labels.map(Into::into),
            index: self.index.map(Into::into),
            class_names: self.class_names.into(),
            rows,
        })
    }
}

/// Pixels as their source holds them.
#[derive(Clone, Debug, PartialEq)]
pub enum Images {
    /// 0 to 255.
    U8(Vec<u8>),
    /// 0 to 1.
    F32(Vec<f32>),
}

/// Some images of a set.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// `[N, C, H, W]`.
    pub images: Images,
    /// Class of each image, where the set knows it.
    pub labels: Option<Vec<i32>>,
    /// Position of each image in its split.
    pub index: Vec<u32>,
    /// `[C, H, W]`.
    pub shape: [usize; 3],
}

impl Batch {
    /// Number of images.
    pub fn len(&self) -> usize {
        self.index.len()
    }
    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }
    /// Writes image `i` as `[C, H, W]` floats in [0,1]; a byte b becomes b / 255, rounded once.
    pub fn pixels_f32(&self, i: usize, out: &mut [f32]) {
        let chw: usize = self.shape.iter().product();
        assert!(i < self.len(), "image {i} of {}", self.len());
        assert_eq!(out.len(), chw, "an image has {chw} values");
        match &self.images {
            Images::U8(bytes) => {
                for (o, &b) in out.iter_mut().zip(&bytes[i * chw..(i + 1) * chw]) {
                    *o = f32::from(b) / 255.0;
                }
            }
            Images::F32(values) => out.copy_from_slice(&values[i * chw..(i + 1) * chw]),
        }
    }
}

/// The chunks of a set; see [`Dataset::chunks`]. Dropping it stops the reading thread.
#[derive(Debug)]
pub struct Chunks {
    receiver: Option<Receiver<Result<Batch>>>,
    thread: Option<JoinHandle<()>>,
}

impl Iterator for Chunks {
    type Item = Result<Batch>;

    fn next(&mut self) -> Option<Self::Item> {
        let received = self.receiver.as_ref()?.recv().ok();
        if received.as_ref().is_none_or(Result::is_err) {
            self.receiver = None;
            // The thread is over or about to be; a panic in it is the consumer's panic.
            if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
                std::panic::resume_unwind(panic);
            }
        }
        received
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        // Without a receiver the next send fails, so the thread ends after the chunk it is reading.
        self.receiver = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The path after the colon of a spec.
fn path_of(spec: &str, path: &str) -> Result<PathBuf> {
    if path.is_empty() {
        let kind = spec.trim_end_matches(':');
        return Err(Error::usage(format!("`{spec}` names no path")).with_hint(format!("write `{kind}:PATH`")));
    }
    Ok(PathBuf::from(path))
}

/// The entries of a folder, sorted by name, without hidden ones.
fn entries(dir: &Path) -> Result<Vec<PathBuf>> {
    let read = |e: std::io::Error| Error::io("read", dir, e);
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(read)? {
        let entry = entry.map_err(read)?;
        if !entry.file_name().as_encoded_bytes().starts_with(b".") {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// `3x32x32`.
fn show(shape: [usize; 3]) -> String {
    format!("{}x{}x{}", shape[0], shape[1], shape[2])
}
