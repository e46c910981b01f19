//! CIFAR-10-C and CIFAR-100-C: a `.npy` file for each corruption, its 10,000 images at five severities one after the other.
//! Knows no other format. Hendrycks and Dietterich 2019.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use npyz::{DType, NpyHeader, Order};

use super::corrupt::{Corruption, SEVERITIES};
use super::{Opened, Source};
use crate::error::{Error, Result};
use crate::tensor::hwc_to_chw;

/// Bytes of an image, 32 x 32 x 3.
const PIXELS: usize = 3072;

/// Opens `DIR/NAME`, all severities, or `DIR/NAME/S`, one of them.
pub(super) fn open(spec: &str, classes: u64) -> Result<Opened> {
    let (dir, kind, severity) = parse(spec)?;
    let path = dir.join(format!("{kind}.npy"));
    let (mut file, shape) = header(&path, "|u1")?;
    let [rows, 32, 32, 3] = shape[..] else {
        return Err(Error::input(format!("`{}` holds an array of {shape:?}, not N x 32 x 32 x 3", path.display())));
    };
    if rows == 0 || rows % SEVERITIES as u64 != 0 {
        return Err(Error::input(format!(
            "`{}` holds {rows} images, not as many for each of {SEVERITIES} severities",
            path.display()
        )));
    }
    let labels = labels(&dir.join("labels.npy"), rows, classes)?;
    let each = rows as usize / SEVERITIES;
    let (first, count) = severity.map_or((0, rows as usize), |s| ((s - 1) * each, each));
    let failed = |e| Error::io("read", &path, e);
    file.seek(SeekFrom::Current((first * PIXELS) as i64)).map_err(failed)?;
    let mut bytes = vec![0; count * PIXELS];
    file.read_exact(&mut bytes).map_err(failed)?;
    let mut pixels = vec![0; bytes.len()];
    let images = bytes.chunks_exact(PIXELS).zip(pixels.chunks_exact_mut(PIXELS));
    images.for_each(|(hwc, chw)| hwc_to_chw(hwc, (32, 32, 3), chw));
    Ok(Opened {
        source: Source::Bytes { pixels, chw: PIXELS },
        shape: [3, 32, 32],
        count,
        labels: Some(labels[first..first + count].to_vec()),
        index: None,
        class_names: Vec::new(),
    })
}

/// Folder, name and severity of `DIR/NAME` or `DIR/NAME/S`.
fn parse(spec: &str) -> Result<(&Path, &'static str, Option<usize>)> {
    let path = Path::new(spec);
    let last = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let (named, severity) = match last(path).parse::<usize>() {
        Ok(severity) if (1..=SEVERITIES).contains(&severity) => (path.parent().unwrap_or(path), Some(severity)),
        Ok(severity) => return Err(Error::usage(format!("severity {severity} in `{spec}` is not 1 to {SEVERITIES}"))),
        Err(_) => (path, None),
    };
    match (Corruption::of(&last(named)), named.parent()) {
        (Some(kind), Some(dir)) => Ok((dir, kind.name(), severity)),
        _ => {
            let names: Vec<&str> = Corruption::ALL.iter().map(|c| c.name()).collect();
            Err(Error::usage(format!("`{spec}` names no corruption")).with_hint(format!(
                "write `DIR/NAME` or `DIR/NAME/SEVERITY`, NAME one of {}; `petard corruptions` takes the folder alone",
                names.join(", ")
            )))
        }
    }
}

/// The file behind its header, and the array's shape.
fn header(path: &Path, dtype: &str) -> Result<(File, Vec<u64>)> {
    let broken =
        |what: String| Error::input(format!("cannot read `{}`: {what}", path.display())).with_hint("is the download complete?");
    let mut file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let header = NpyHeader::from_reader(&mut file).map_err(|e| broken(e.to_string()))?;
    let found = match header.dtype() {
        DType::Plain(plain) => plain.to_string(),
        other => other.descr(),
    };
    if found != dtype && !(dtype == "|u1" && found == "<u1") {
        return Err(broken(format!("its elements are `{found}`, not `{dtype}`")));
    }
    if header.order() != Order::C {
        return Err(broken("it lies by columns".into()));
    }
    Ok((file, header.shape().to_vec()))
}

/// Labels for `rows` images; bytes or 64-bit integers.
fn labels(path: &Path, rows: u64, classes: u64) -> Result<Vec<i32>> {
    let (mut file, shape, wide) = match header(path, "|u1") {
        Ok((file, shape)) => (file, shape, 1),
        Err(_) => header(path, "<i8").map(|(file, shape)| (file, shape, 8))?,
    };
    if shape != [rows] {
        return Err(Error::input(format!("`{}` holds {shape:?} labels for {rows} images", path.display())));
    }
    let mut bytes = vec![0; rows as usize * wide];
    file.read_exact(&mut bytes).map_err(|e| Error::io("read", path, e))?;
    let label = |b: &[u8]| match b {
        [byte] => i64::from(*byte),
        _ => i64::from_le_bytes(b.try_into().expect("eight bytes")),
    };
    let labels = bytes.chunks_exact(wide).map(label);
    labels
        .map(|l| {
            i32::try_from(l)
                .ok()
                .filter(|l| (0..classes as i32).contains(l))
                .ok_or_else(|| Error::input(format!("label {l} in `{}`, there are {classes} classes", path.display())))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Images, Options};
    use npyz::WriterBuilder;

    fn write<T: npyz::AutoSerialize + Copy>(path: &Path, shape: &[u64], data: &[T]) {
        let file = File::create(path).expect("a fresh file");
        let mut writer = npyz::WriteOptions::new().default_dtype().shape(shape).writer(file).begin_nd().expect("a header");
        writer.extend(data.iter().copied()).expect("elements");
        writer.finish().expect("the end");
    }

    /// Two images at each severity.
    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let pixels: Vec<u8> = (0..10 * PIXELS).map(|i| (i / PIXELS * 20 + i % 3) as u8).collect();
        write(&dir.path().join("fog.npy"), &[10, 32, 32, 3], &pixels);
        write(&dir.path().join("labels.npy"), &[10], &[1u8, 2, 1, 2, 1, 2, 1, 2, 1, 9]);
        dir
    }

    fn open_set(kind: &str, dir: &tempfile::TempDir, rest: &str) -> Result<Dataset> {
        Dataset::open(&format!("{kind}:{}/{rest}", dir.path().display()), &Options::default())
    }

    #[test]
    fn severities_are_parts_in_order() {
        let dir = folder();
        let all = open_set("cifar10c", &dir, "fog").expect("the set");
        assert_eq!((all.len(), all.shape()), (10, [3, 32, 32]));
        let third = open_set("cifar100c", &dir, "fog/3").expect("the set");
        assert_eq!((third.len(), third.labels()), (2, Some(&[1, 2][..])));
        let Images::U8(bytes) = third.read(1..2).expect("an image").images else { panic!("bytes") };
        // Channel by channel: 20 times the image plus the channel.
        assert_eq!((bytes[0], bytes[1024], bytes[3071]), (100, 101, 102));
        assert_eq!(open_set("cifar10c", &dir, "fog/5").expect("the set").labels(), Some(&[1, 9][..]));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let dir = folder();
        let error = |rest: &str| open_set("cifar10c", &dir, rest).expect_err("a wrong spec").to_string();
        assert!(error("rain").contains("names no corruption") && error("fog/6").contains("severity 6"));
        assert!(error("snow").contains("snow.npy"));
        write(&dir.path().join("labels.npy"), &[10], &[10i64; 10]);
        assert!(error("fog").contains("label 10"));
        write(&dir.path().join("labels.npy"), &[9], &[1i64; 9]);
        assert!(error("fog").contains("labels for 10 images"));
        write(&dir.path().join("snow.npy"), &[7, 32, 32, 3], &[0u8; 7 * PIXELS]);
        assert!(error("snow").contains("7 images"));
        write(&dir.path().join("frost.npy"), &[10, 32, 32, 3], &[0f32; 10 * PIXELS]);
        assert!(error("frost").contains("f4"), "{}", error("frost"));
    }
}
