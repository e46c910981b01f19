//! CIFAR-10 and CIFAR-100 in their official binary versions.
//! Knows no other format. <https://www.cs.toronto.edu/~kriz/cifar.html>

use super::{Opened, Source, Split};
use crate::error::{Error, Result};
use std::path::{Path, PathBuf};

/// Bytes of one image: 3 x 32 x 32, channel by channel.
const PIXELS: usize = 3072;

/// How the files of one of the two sets are laid out.
pub(super) struct Layout {
    name: &'static str,
    classes: usize,
    /// Bytes before the pixels of a record; the last of them is the label.
    head: usize,
    folder: &'static str,
    train: &'static [&'static str],
    test: &'static str,
    names: &'static str,
}

pub(super) const CIFAR10: Layout = Layout {
    name: "CIFAR-10",
    classes: 10,
    head: 1,
    folder: "cifar-10-batches-bin",
    train: &["data_batch_1.bin", "data_batch_2.bin", "data_batch_3.bin", "data_batch_4.bin", "data_batch_5.bin"],
    test: "test_batch.bin",
    names: "batches.meta.txt",
};

/// The coarse label comes first and is skipped.
pub(super) const CIFAR100: Layout = Layout {
    name: "CIFAR-100",
    classes: 100,
    head: 2,
    folder: "cifar-100-binary",
    train: &["train.bin"],
    test: "test.bin",
    names: "fine_label_names.txt",
};

/// Opens the set in `dir` or in the folder of its official name inside `dir`.
pub(super) fn open(layout: &Layout, dir: &Path, split: Split) -> Result<Opened> {
    let dir = find(layout, dir)?;
    let files = match split {
        Split::Test => &[layout.test],
        Split::Train => layout.train,
    };
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for file in files {
        read_file(layout, &dir.join(file), &mut pixels, &mut labels)?;
    }
    Ok(Opened {
        source: Source::Bytes { pixels, chw: PIXELS },
        shape: [3, 32, 32],
        count: labels.len(),
        labels: Some(labels),
        index: None,
        class_names: class_names(layout, &dir)?,
    })
}

fn find(layout: &Layout, dir: &Path) -> Result<PathBuf> {
    let inner = dir.join(layout.folder);
    [dir.to_path_buf(), inner].into_iter().find(|d| d.join(layout.test).is_file()).ok_or_else(|| {
        let (name, test, folder) = (layout.name, layout.test, layout.folder);
        Error::input(format!("no `{test}` in `{}` or in its folder `{folder}`", dir.display()))
            .with_hint(format!("unpack the binary version of {name} (a folder `{folder}`) and name the folder it lies in"))
    })
}

fn read_file(layout: &Layout, path: &Path, pixels: &mut Vec<u8>, labels: &mut Vec<i32>) -> Result<()> {
    let bytes = std::fs::read(path).map_err(|e| Error::io("read", path, e))?;
    let record = layout.head + PIXELS;
    if bytes.is_empty() || bytes.len() % record != 0 {
        let message = format!("`{}` has {} bytes, not a multiple of {record}", path.display(), bytes.len());
        return Err(Error::input(message).with_hint(format!(
            "is the download complete, and the binary version of {}? a record is {} label byte(s) and {PIXELS} pixels",
            layout.name, layout.head
        )));
    }
    for (i, record) in bytes.chunks_exact(record).enumerate() {
        let label = record[layout.head - 1];
        if usize::from(label) >= layout.classes {
            let message = format!("label {label} in record {i} of `{}`", path.display());
            return Err(Error::input(message).with_hint(format!("{} has labels 0 to {}", layout.name, layout.classes - 1)));
        }
        labels.push(i32::from(label));
        pixels.extend_from_slice(&record[layout.head..]);
    }
    Ok(())
}

/// One name a line; nothing where the file is not there.
fn class_names(layout: &Layout, dir: &Path) -> Result<Vec<String>> {
    let path = dir.join(layout.names);
    if !path.is_file() {
        return Ok(Vec::new());
    }
    let text = std::fs::read_to_string(&path).map_err(|e| Error::io("read", &path, e))?;
    let names: Vec<String> = text.lines().map(str::trim).filter(|l| !l.is_empty()).map(str::to_owned).collect();
    if names.len() != layout.classes {
        let message = format!("`{}` names {} classes, {} has {}", path.display(), names.len(), layout.name, layout.classes);
        return Err(Error::input(message));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{Dataset, Images, Options};

    /// Two records of `layout`, with labels 3 and 7, as the test file of a fresh folder.
    fn folder(layout: &Layout, cut: usize) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let mut bytes = Vec::new();
        for label in [3, 7] {
            bytes.extend(vec![9; layout.head - 1]);
            bytes.push(label);
            bytes.extend((0..PIXELS).map(|p| (p % 251) as u8 ^ label));
        }
        bytes.truncate(bytes.len() - cut);
        std::fs::create_dir(dir.path().join(layout.folder)).expect("a fresh folder");
        std::fs::write(dir.path().join(layout.folder).join(layout.test), bytes).expect("a small file");
        dir
    }

    #[test]
    fn both_layouts_give_labels_and_pixels() {
        for (layout, kind) in [(&CIFAR10, "cifar10"), (&CIFAR100, "cifar100")] {
            let dir = folder(layout, 0);
            for at in [dir.path().to_path_buf(), dir.path().join(layout.folder)] {
                let set = Dataset::open(&format!("{kind}:{}", at.display()), &Options::default()).expect("two records");
                assert_eq!(set.labels(), Some(&[3, 7][..]));
                let Images::U8(pixels) = set.read(1..2).expect("in memory").images else { panic!("bytes stay bytes") };
                assert_eq!(pixels[..3], [7, 6, 5]);
            }
        }
    }

    #[test]
    fn broken_files_are_named() {
        let fails = |layout, dir: &Path, split| open(layout, dir, split).err().expect("refused").to_string();
        let dir = folder(&CIFAR10, 5);
        assert!(fails(&CIFAR10, dir.path(), Split::Test).contains("has 6141 bytes, not a multiple of 3073"));
        let dir = folder(&CIFAR100, 0);
        assert!(fails(&CIFAR10, dir.path(), Split::Test).contains("no `test_batch.bin`"));
        assert!(fails(&CIFAR100, dir.path(), Split::Train).contains("train.bin"));
        let dir = folder(&CIFAR10, 0);
        let path = dir.path().join(CIFAR10.folder).join(CIFAR10.test);
        let mut bytes = std::fs::read(&path).expect("just written");
        bytes[3073] = 10;
        std::fs::write(&path, bytes).expect("a small file");
        assert!(fails(&CIFAR10, dir.path(), Split::Test).contains("label 10 in record 1"));
        let dir = folder(&CIFAR10, 0);
        std::fs::write(dir.path().join(CIFAR10.folder).join(CIFAR10.names), "one\ntwo\n").expect("a small file");
        assert!(fails(&CIFAR10, dir.path(), Split::Test).contains("names 2 classes"));
    }
}
