//! Sets of arrays: a `.safetensors` or `.npz` file, or a folder of such parts.
//! Knows which names and shapes mean images and labels; how bytes are stored is the business of `array`.

use super::array::{Array, Kind, open as open_arrays};
use super::{HELD_BYTES, Images, Opened, Source, entries};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

const IMAGES: [&str; 3] = ["images", "x", "adversarial"];
const LABELS: [&str; 3] = ["label", "labels", "y"];
const INDEX: [&str; 1] = ["index"];

/// The files of a set in order.
#[derive(Debug)]
pub(super) struct Shards {
    shards: Vec<Shard>,
    bytes: bool,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    images: Array,
    /// Row of the set that is row 0 here.
    start: usize,
}

/// What one file adds to a set.
struct Part {
    images: Array,
    labels: Option<Vec<i64>>,
    index: Option<Vec<i64>>,
}

/// Opens a file, or all parts in a folder in the order of their names.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let mut shards: Vec<Shard> = Vec::new();
    let (mut labels, mut index) = (Vec::new(), Vec::new());
    let mut count = 0;
    for path in parts(path)? {
        let part = open_part(&path)?;
        if let Some(first) = shards.first() {
            agree(first, &path, &part.images)?;
        }
        let rows = part.images.dims[0];
        collect(&path, count, "labels", i64::from(i32::MAX), part.labels, &mut labels)?;
        collect(&path, count, "indices", i64::from(u32::MAX), part.index, &mut index)?;
        shards.push(Shard { path, images: part.images, start: count });
        count += rows;
    }
    let first = shards.first().expect("a set has at least one file");
    if count == 0 {
        return Err(Error::input(format!("`{}` holds no images", path.display())));
    }
    let shape: [usize; 3] = first.images.dims[1..].try_into().expect("images have four dimensions");
    let bytes = first.images.kind == Kind::U8;
    let shards = Shards { shards, bytes };
    shards.check_range(count, shape.iter().product())?;
    Ok(Opened {
        source: Source::File(shards),
        shape,
        count,
        labels: (!labels.is_empty()).then(|| labels.into_iter().map(|l| l as i32).collect()),
        index: (!index.is_empty()).then(|| index.into_iter().map(|i| i as u32).collect()),
        class_names: Vec::new(),
    })
}

impl Shards {
    /// The images `rows`. Floats outside [0,1] are an error.
    pub fn read(&self, rows: Range<usize>) -> Result<Images> {
        let (mut bytes, mut floats) = (Vec::new(), Vec::new());
        for shard in &self.shards {
            let end = shard.start + shard.images.dims[0];
            let (from, to) = (rows.start.max(shard.start), rows.end.min(end));
            if from >= to {
                continue;
            }
            let read = shard.images.read(from - shard.start..to - shard.start)?;
            match shard.images.kind {
                Kind::U8 => bytes.extend(read),
                Kind::F64 => {
                    let values: Vec<f64> = bytemuck::pod_collect_to_vec(&read);
                    floats.extend(in_range(&shard.path, values.into_iter().map(|v| v as f32).collect())?);
                }
                _ => floats.extend(in_range(&shard.path, bytemuck::pod_collect_to_vec(&read))?),
            }
        }
        Ok(if self.bytes { Images::U8(bytes) } else { Images::F32(floats) })
    }

    /// Reads a set of floats once, so that a bad image is told before an attack begins and not in its middle. A set
    /// too large for that is checked as it is read.
    fn check_range(&self, count: usize, chw: usize) -> Result<()> {
        if self.bytes || count * chw * size_of::<f32>() > HELD_BYTES {
            return Ok(());
        }
        let rows = ((64 << 20) / (chw * size_of::<f32>())).max(1);
        for start in (0..count).step_by(rows) {
            self.read(start..count.min(start + rows))?;
        }
        Ok(())
    }
}

/// The file itself, or the files of a folder.
fn parts(path: &Path) -> Result<Vec<PathBuf>> {
    if !path.is_dir() {
        return Ok(vec![path.to_path_buf()]);
    }
    let is_part = |p: &PathBuf| p.extension().is_some_and(|e| e == "safetensors" || e == "npz");
    let parts: Vec<PathBuf> = entries(path)?.into_iter().filter(is_part).collect();
    if parts.is_empty() {
        return Err(Error::input(format!("no `.safetensors` or `.npz` file in `{}`", path.display()))
            .with_hint("a folder of pictures is opened with `images:DIR`"));
    }
    Ok(parts)
}

fn open_part(path: &Path) -> Result<Part> {
    let wanted = [&IMAGES[..], &LABELS, &INDEX].concat();
    let (mut arrays, all) = open_arrays(path, &wanted)?;
    let images = take(&mut arrays, &IMAGES).map(|(_, array)| array).ok_or_else(|| {
        let all = if all.is_empty() { "nothing".to_owned() } else { format!("`{}`", all.join("`, `")) };
        Error::input(format!("no images in `{}`, which holds {all}", path.display()))
            .with_hint("name them `images` (or `x`, `adversarial`): N x C x H x W, bytes or floats in [0,1]")
    })?;
    check_images(path, &images)?;
    let rows = images.dims[0];
    let labels = take(&mut arrays, &LABELS).map(|(name, array)| integers(path, name, &array, rows)).transpose()?;
    let index = take(&mut arrays, &INDEX).map(|(name, array)| integers(path, name, &array, rows)).transpose()?;
    Ok(Part { images, labels, index })
}

/// The first of `names` that is there.
fn take<'n>(arrays: &mut BTreeMap<String, Array>, names: &[&'n str]) -> Option<(&'n str, Array)> {
    names.iter().find_map(|&name| arrays.remove(name).map(|array| (name, array)))
}

fn check_images(path: &Path, images: &Array) -> Result<()> {
    let (path, dims) = (path.display(), &images.dims);
    let shape = dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("x");
    if let Kind::Other(kind) = &images.kind {
        return Err(Error::input(format!("images of `{path}` are of type `{kind}`"))
            .with_hint("save them as bytes (u8) or as 32-bit floats in [0,1]"));
    }
    if matches!(images.kind, Kind::I32 | Kind::I64) {
        return Err(Error::input(format!("images of `{path}` are integers of several bytes"))
            .with_hint("save them as bytes: `images.astype(numpy.uint8)`"));
    }
    if dims.len() != 4 || dims[1..].contains(&0) {
        return Err(
            Error::input(format!("images of `{path}` are {shape}")).with_hint("four dimensions are needed: N x C x H x W")
        );
    }
    let few = |c: usize| c == 1 || c == 3;
    if !few(dims[1]) && few(dims[3]) {
        return Err(Error::input(format!("images of `{path}` are {shape}: channels seem to come last"))
            .with_hint("save them as N x C x H x W: `images.transpose(0, 3, 1, 2)`"));
    }
    Ok(())
}

/// A column of one integer an image.
fn integers(path: &Path, name: &str, array: &Array, rows: usize) -> Result<Vec<i64>> {
    let wrong = |what: String| Error::input(format!("`{name}` of `{}` {what}", path.display()));
    if array.dims != [rows] {
        return Err(wrong(format!("has shape {:?} for {rows} images", array.dims)).with_hint("one integer an image is needed"));
    }
    match &array.kind {
        Kind::U8 => Ok(array.read(0..rows)?.into_iter().map(i64::from).collect()),
        Kind::I32 => {
            let values: Vec<i32> = bytemuck::pod_collect_to_vec(&array.read(0..rows)?);
            Ok(values.into_iter().map(i64::from).collect())
        }
        Kind::I64 => Ok(bytemuck::pod_collect_to_vec(&array.read(0..rows)?)),
        other => Err(wrong(format!("is of type {other:?}")).with_hint("save it as int64")),
    }
}

/// All parts must have the same kind of images.
fn agree(first: &Shard, path: &Path, images: &Array) -> Result<()> {
    let bytes = |a: &Array| a.kind == Kind::U8;
    if first.images.dims[1..] != images.dims[1..] || bytes(&first.images) != bytes(images) {
        let say = |p: &Path, a: &Array| format!("`{}` holds {:?} of {:?}", p.display(), a.kind, &a.dims[1..]);
        let message = format!("{}, {}", say(&first.path, &first.images), say(path, images));
        return Err(Error::input(message).with_hint("the parts of a set must be alike"));
    }
    Ok(())
}

/// Appends the integers of a part; `rows` came before it.
fn collect(path: &Path, rows: usize, what: &str, max: i64, part: Option<Vec<i64>>, all: &mut Vec<i64>) -> Result<()> {
    if (part.is_some() && all.len() != rows) || (part.is_none() && !all.is_empty()) {
        return Err(Error::input(format!("only some parts have {what}, see `{}`", path.display())));
    }
    let part = part.unwrap_or_default();
    if let Some(bad) = part.iter().find(|&&v| v < 0 || v > max) {
        return Err(Error::input(format!("{what} of `{}` hold {bad}", path.display())).with_hint("they count from 0"));
    }
    all.extend(part);
    Ok(())
}

/// `values`, or an error where one of them is no pixel.
fn in_range(path: &Path, values: Vec<f32>) -> Result<Vec<f32>> {
    if values.iter().all(|v| (0.0..=1.0).contains(v)) {
        return Ok(values);
    }
    let (min, max) = values.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(a, b), &v| (a.min(v), b.max(v)));
    let nans = values.iter().filter(|v| v.is_nan()).count();
    let nans = if nans == 0 { String::new() } else { format!(", {nans} of them NaN") };
    Err(Error::input(format!("images of `{}` have values from {min} to {max}{nans}", path.display()))
        .with_hint("pixels must lie in [0,1]: divide by 255, or undo the normalisation"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Options};
    use npyz::WriterBuilder;
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    type Column<'a> = (&'a str, Dtype, &'a [usize], Vec<u8>);

    fn write(path: &Path, columns: &[Column]) {
        let views = columns
            .iter()
            .map(|(name, dtype, shape, bytes)| (*name, TensorView::new(*dtype, shape.to_vec(), bytes).expect("a fitting shape")));
        safetensors::serialize_to_file(views, None, path).expect("a small file");
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        bytemuck::cast_slice(values).to_vec()
    }

    /// What opening one file of `columns` says.
    fn refusal(columns: &[Column]) -> String {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.safetensors");
        write(&path, columns);
        let error = open(&path).err().expect("refused");
        format!("{error}; {}", error.hint().unwrap_or_default())
    }

    #[test]
    fn bytes_labels_and_positions_of_all_parts() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for part in 0..3_u8 {
            let images: Vec<u8> = (0..24).map(|v| v + 100 * (part % 2)).collect();
            let index = [40_i64 + i64::from(part), 7].map(i64::to_le_bytes).concat();
            let columns = [
                ("x", Dtype::U8, &[2, 3, 2, 2][..], images),
                ("y", Dtype::U8, &[2][..], vec![part, 9]),
                ("index", Dtype::I64, &[2][..], index),
            ];
            write(&dir.path().join(format!("part-{part:05}.safetensors")), &columns);
        }
        std::fs::write(dir.path().join("manifest.json"), "{}").expect("a small file");
        let options = Options { offset: 1, limit: Some(4), ..Options::default() };
        let set = Dataset::open(&format!("file:{}", dir.path().display()), &options).expect("three parts");
        assert_eq!((set.len(), set.shape()), (4, [3, 2, 2]));
        assert_eq!(set.labels(), Some(&[9, 1, 9, 2][..]));
        let batch = set.read(0..4).expect("whole parts");
        assert_eq!(batch.index, [7, 41, 7, 42]);
        let Images::U8(bytes) = &batch.images else { panic!("bytes stay bytes") };
        assert_eq!((bytes[0], bytes[12], bytes[24], bytes[36]), (12, 100, 112, 0));
        let mut pixels = vec![0.0; 12];
        batch.pixels_f32(1, &mut pixels);
        assert_eq!(pixels[1], 101.0 / 255.0);
    }

    #[test]
    fn numpy_archives_of_doubles_become_floats() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.npz");
        let mut npz = npyz::npz::NpzWriter::create(&path).expect("a fresh file");
        // Compressed, as `savez_compressed` does.
        let images = npz.array("images", Default::default()).expect("room").default_dtype();
        let mut images = images.shape(&[2, 1, 1, 2]).begin_nd().expect("room");
        images.extend([0.0_f64, 0.1, 0.25, 1.0]).expect("room");
        images.finish().expect("four values");
        npz.zip_writer().finish().expect("room");
        drop(npz);
        let set = Dataset::open(&format!("file:{}", path.display()), &Options::default()).expect("a good archive");
        assert!(!set.labelled());
        assert_eq!(set.read(0..2).expect("held").images, Images::F32(vec![0.0, 0.1, 0.25, 1.0]));

        let good = std::fs::read(&path).expect("just written");
        for cut in [1, 30, good.len() / 2, good.len() - 8] {
            std::fs::write(&path, &good[..good.len() - cut]).expect("a small file");
            assert!(open(&path).is_err(), "{cut} bytes cut off");
        }
    }

    #[test]
    fn the_checksum_of_an_archive_is_compared() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("x.npz");
        let mut writer = crate::data::save::Writer::create(&path, [1, 1, 2]).expect("a fresh path");
        let rows = crate::data::save::Attacked { adversarial: &[0.3, 0.7], label: &[0], prediction: &[0], index: &[0] };
        writer.append(&rows).expect("room");
        writer.finish().expect("room");
        assert!(open(&path).is_ok());
        // The lowest bit of a pixel: still in [0,1], but not what was written.
        let mut bytes = std::fs::read(&path).expect("just written");
        let pixel = 0.3_f32.to_le_bytes();
        let at = bytes.windows(4).position(|w| w == pixel).expect("not compressed");
        bytes[at] ^= 1;
        std::fs::write(&path, bytes).expect("a small file");
        assert!(open(&path).err().expect("refused").to_string().contains("checksum"));
    }

    #[test]
    fn unusable_images_are_refused_with_a_way_out() {
        let shape = &[1, 1, 1, 3][..];
        for (columns, say) in [
            (("images", Dtype::F32, shape, floats(&[-0.5, 0.0, 2.0])), "values from -0.5 to 2; pixels must lie"),
            (("images", Dtype::F32, shape, floats(&[0.5, f32::NAN, 0.25])), "from 0.25 to 0.5, 1 of them NaN"),
            (("images", Dtype::F32, &[1, 8, 8, 3], floats(&[0.0; 192])), "transpose(0, 3, 1, 2)"),
            (("images", Dtype::F32, &[8, 8, 3], floats(&[0.0; 192])), "four dimensions"),
            (("images", Dtype::F16, shape, vec![0; 6]), "of type `f16`"),
            (("images", Dtype::I64, shape, vec![0; 24]), "astype(numpy.uint8)"),
            (("images", Dtype::U8, &[0, 1, 1, 3], vec![]), "holds no images"),
            (("pictures", Dtype::U8, shape, vec![0; 3]), "holds `pictures`"),
        ] {
            let text = refusal(&[columns]);
            assert!(text.contains(say), "{text}");
        }
    }

    #[test]
    fn unusable_labels_are_refused() {
        let label = |dtype, shape: &'static [usize], bytes| {
            refusal(&[("images", Dtype::U8, &[2, 1, 1, 1], vec![0; 2]), ("label", dtype, shape, bytes)])
        };
        assert!(label(Dtype::U8, &[3], vec![0; 3]).contains("[3] for 2 images"));
        assert!(label(Dtype::F32, &[2], vec![0; 8]).contains("int64"));
        assert!(label(Dtype::I64, &[2], [0_i64, -1].map(i64::to_le_bytes).concat()).contains("labels of"));
        assert!(label(Dtype::I64, &[2], [0_i64, 1 << 40].map(i64::to_le_bytes).concat()).contains("1099511627776"));
    }

    #[test]
    fn parts_must_be_alike() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert!(open(dir.path()).is_err(), "nothing in it");
        write(&dir.path().join("a.safetensors"), &[("x", Dtype::U8, &[1, 1, 1, 2], vec![0; 2])]);
        write(&dir.path().join("b.safetensors"), &[("x", Dtype::U8, &[1, 1, 2, 2], vec![0; 4])]);
        assert!(open(dir.path()).err().expect("refused").to_string().contains("[1, 1, 2]"));
        let labelled = [("x", Dtype::U8, &[1, 1, 1, 2][..], vec![0; 2]), ("y", Dtype::U8, &[1][..], vec![0])];
        write(&dir.path().join("b.safetensors"), &labelled);
        assert!(open(dir.path()).err().expect("refused").to_string().contains("only some parts have labels"));
    }
}
