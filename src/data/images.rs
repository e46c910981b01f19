//! Folders of PNG, JPEG and WebP images: one folder a class, or images without labels.
//! Knows the image formats and no other; decodes when a chunk is read, never ahead.

use super::resize::Fit;
use super::{Opened, Options, Source, entries};
use crate::error::{Error, Result};
use crate::tensor::hwc_to_chw;
use image::ImageReader;
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::io::Read;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Image files, and how they become `[C, H, W]`.
#[derive(Debug)]
pub(super) struct Folder {
    paths: Vec<PathBuf>,
    shape: [usize; 3],
    /// `None`: every image must already have the shape.
    fit: Option<Fit>,
}

/// Lists `dir`; labels are the sorted sub-folders, or what `classes.txt` says of them.
pub(super) fn open(dir: &Path, options: &Options) -> Result<Opened> {
    let listed = entries(dir)?;
    let loose = images_among(listed.iter())?;
    let mut folders = Vec::new();
    for path in listed.iter().filter(|p| p.is_dir()) {
        let paths = images_among(entries(path)?.iter())?;
        if !paths.is_empty() {
            folders.push((name_of(path), paths));
        }
    }
    let text = dir.display();
    if loose.is_empty() && folders.is_empty() {
        return Err(Error::input(format!("no images in `{text}`"))
            .with_hint("expected PNG, JPEG or WebP files, or one folder of them for every class"));
    }
    if !loose.is_empty() && !folders.is_empty() {
        return Err(Error::input(format!("`{text}` holds images both in itself and in the folder `{}`", folders[0].0))
            .with_hint("move the images into class folders, or all of them into one folder to use them without labels"));
    }
    let (paths, labels, class_names) = if folders.is_empty() {
        (loose, None, Vec::new())
    } else {
        let (numbers, class_names) = number(dir, &folders, options.classes)?;
        let labels = folders.iter().zip(numbers).flat_map(|((_, paths), n)| vec![n; paths.len()]).collect();
        (folders.into_iter().flat_map(|(_, paths)| paths).collect(), Some(labels), class_names)
    };
    let (shape, fit) = fitting(&paths[0], options)?;
    let count = paths.len();
    let source = Source::Images(Folder { paths, shape, fit });
    Ok(Opened { source, shape, count, labels, index: None, class_names })
}

impl Folder {
    /// The images `rows` as NCHW bytes.
    pub fn read(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        let chw = self.shape.iter().product();
        let mut out = vec![0; rows.len() * chw];
        // All are tried and the first failure in the order of the set is the one told: the same in every run.
        let read: Vec<Result<()>> =
            out.par_chunks_exact_mut(chw).zip(&self.paths[rows]).map(|(out, path)| self.decode(path, out)).collect();
        read.into_iter().collect::<Result<()>>()?;
        Ok(out)
    }

    fn decode(&self, path: &Path, out: &mut [u8]) -> Result<()> {
        let broken = |e: image::ImageError| match e {
            image::ImageError::IoError(e) if e.kind() != std::io::ErrorKind::UnexpectedEof => Error::io("read", path, e),
            e => Error::input(format!("cannot decode `{}`: {}", path.display(), one_line(&e.to_string())))
                .with_hint("replace the file or take it out of the folder"),
        };
        let image = reader(path)?.decode().map_err(broken)?;
        let (w, h) = (image.width() as usize, image.height() as usize);
        let [c, height, width] = self.shape;
        // Greyscale is repeated; alpha is dropped without blending.
        let rgb = image.into_rgb8().into_raw();
        let bytes = if c == 1 { rgb.chunks_exact(3).map(grey).collect() } else { rgb };
        let fitted = match self.fit {
            Some(fit) => fit.apply(&bytes, (h, w, c)),
            None if (h, w) == (height, width) => bytes,
            None => {
                let (path, first) = (path.display(), self.paths[0].display());
                return Err(Error::input(format!("`{path}` is {h}x{w}, the first image `{first}` is {height}x{width}"))
                    .with_hint("images of several sizes need a model to be fitted to"));
            }
        };
        hwc_to_chw(&fitted, (height, width, c), out);
        Ok(())
    }
}

/// Brightness after ITU-R BT.601, in the fixed point of Pillow; grey stays as it is.
fn grey(rgb: &[u8]) -> u8 {
    ((19_595 * u32::from(rgb[0]) + 38_470 * u32::from(rgb[1]) + 7_471 * u32::from(rgb[2]) + (1 << 15)) >> 16) as u8
}

fn reader(path: &Path) -> Result<ImageReader<std::io::BufReader<std::fs::File>>> {
    let failed = |e| Error::io("read", path, e);
    ImageReader::open(path).map_err(failed)?.with_guessed_format().map_err(failed)
}

/// The shape of the set and the rule that leads to it.
fn fitting(first: &Path, options: &Options) -> Result<([usize; 3], Option<Fit>)> {
    let Some(shape) = options.shape else {
        let (width, height) = reader(first)?
            .into_dimensions()
            .map_err(|e| Error::input(format!("cannot decode `{}`: {}", first.display(), one_line(&e.to_string()))))?;
        return Ok(([3, height as usize, width as usize], None));
    };
    let [channels, height, width] = shape;
    if channels != 1 && channels != 3 {
        return Err(Error::input(format!("images have 1 or 3 channels, the model takes {channels}"))
            .with_hint("use a `file:` set of arrays"));
    }
    let side = height.max(width);
    let short = options.resize.unwrap_or((256.0 * side as f64 / 224.0).round() as usize);
    if short < side {
        return Err(Error::usage(format!("images resized to {short} cannot be cropped to {height}x{width}"))
            .with_hint(format!("resize to {side} or more")));
    }
    Ok((shape, Some(Fit { short, height, width })))
}

/// The class number of every folder, and the names of all classes.
fn number(dir: &Path, folders: &[(String, Vec<PathBuf>)], classes: Option<usize>) -> Result<(Vec<i32>, Vec<String>)> {
    let path = dir.join("classes.txt");
    if path.is_file() {
        let table = table(&path)?;
        let numbers = folders.iter().map(|(name, _)| table.get(name.as_str()).map(|(number, _)| *number).ok_or(name));
        let numbers = numbers.collect::<std::result::Result<Vec<i32>, _>>().map_err(|name| {
            Error::input(format!("`{}` does not number the folder `{name}`", path.display()))
                .with_hint(format!("add a line `{name} NUMBER NAME`"))
        })?;
        let known = table.values().map(|(number, _)| *number as usize + 1).max().unwrap_or(0);
        let mut names: Vec<String> = (0..known).map(|n| format!("class {n}")).collect();
        for (number, name) in table.into_values() {
            names[number as usize] = name;
        }
        return Ok((numbers, names));
    }
    if let Some(classes) = classes
        && classes != folders.len()
    {
        let message = format!("`{}` has {} class folders, the model {classes} classes", dir.display(), folders.len());
        return Err(Error::input(message).with_hint(
            "number them in a `classes.txt` beside them, one line `FOLDER NUMBER NAME` for each, in the model's order",
        ));
    }
    Ok(((0..folders.len() as i32).collect(), folders.iter().map(|(name, _)| name.clone()).collect()))
}

/// `classes.txt`: folder, class number and (optionally) name, a line each.
fn table(path: &Path) -> Result<BTreeMap<String, (i32, String)>> {
    let text = std::fs::read_to_string(path).map_err(|e| Error::io("read", path, e))?;
    let mut table = BTreeMap::new();
    for (at, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let folder = words.next().unwrap_or_default().to_owned();
        // 16 bits: more classes than any classifier, and a slip of the pen cannot ask for a huge table of names.
        let number = words.next().and_then(|n| n.parse::<u16>().ok()).ok_or_else(|| {
            Error::input(format!("line {} of `{}` is not `FOLDER NUMBER NAME`: `{}`", at + 1, path.display(), line.trim()))
        })?;
        let name = words.collect::<Vec<_>>().join(" ");
        let name = if name.is_empty() { folder.clone() } else { name };
        table.insert(folder, (i32::from(number), name));
    }
    Ok(table)
}

/// The files that are images: by their name, or else by their first bytes.
fn images_among<'a>(paths: impl Iterator<Item = &'a PathBuf>) -> Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for path in paths.filter(|p| p.is_file()) {
        let extension = path.extension().map(|e| e.to_ascii_lowercase());
        let named = extension.is_some_and(|e| e == "png" || e == "jpg" || e == "jpeg" || e == "webp");
        if named || looks_like_image(path).map_err(|e| Error::io("read", path, e))? {
            images.push(path.clone());
        }
    }
    Ok(images)
}

fn looks_like_image(path: &Path) -> std::io::Result<bool> {
    let mut head = Vec::new();
    std::fs::File::open(path)?.take(12).read_to_end(&mut head)?;
    let webp = head.starts_with(b"RIFF") && head.get(8..12) == Some(b"WEBP".as_slice());
    Ok(webp || head.starts_with(b"\x89PNG") || head.starts_with(b"\xff\xd8\xff"))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::Dataset;
    use image::{DynamicImage, Rgba, RgbaImage};

    /// A folder with an image of 6 x 5 pixels at every path; all four channels are used.
    fn folder(files: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            let path = dir.path().join(file);
            std::fs::create_dir_all(path.parent().expect("inside the folder")).expect("a fresh folder");
            let image = RgbaImage::from_fn(6, 5, |x, y| Rgba([x as u8 * 40, y as u8 * 50, 7, 128]));
            let image = DynamicImage::from(image);
            let image = if file.contains("jp") { image.into_rgb8().into() } else { image };
            let format = image::ImageFormat::from_path(&path).unwrap_or(image::ImageFormat::Png);
            image.save_with_format(&path, format).expect("a small image");
        }
        dir
    }

    fn open_set(dir: &Path, options: &Options) -> Result<Dataset> {
        Dataset::open(&format!("images:{}", dir.display()), options)
    }

    fn refusal(dir: &Path, options: &Options) -> String {
        open_set(dir, options).expect_err("refused").to_string()
    }

    #[test]
    fn classes_are_the_sorted_folders() {
        let dir = folder(&["b/2.webp", "a/1.png", "a/nameless", "c/.hidden.png"]);
        std::fs::write(dir.path().join("a/notes.txt"), "no image").expect("a small file");
        let set = open_set(dir.path(), &Options::default()).expect("three images");
        assert_eq!((set.shape(), set.labels()), ([3, 5, 6], Some(&[0, 0, 1][..])));
        assert_eq!(set.class_names(), ["a", "b"]);
        let super::super::Images::U8(pixels) = set.read(0..3).expect("good images").images else { panic!("bytes") };
        // Alpha is dropped; red grows along x, green along y.
        assert_eq!(pixels[..7], [0, 40, 80, 120, 160, 200, 0]);
        assert_eq!(pixels[30..37], [0, 0, 0, 0, 0, 0, 50]);
        assert!((0..3).all(|i| pixels[i * 90..(i + 1) * 90] == pixels[..90]), "the formats are lossless");
        assert!(refusal(dir.path(), &Options { classes: Some(10), ..Options::default() }).contains("2 class folders"));
    }

    #[test]
    fn a_table_numbers_the_folders() {
        let dir = folder(&["n02/1.png", "n01/2.png"]);
        let table = dir.path().join("classes.txt");
        std::fs::write(&table, "n01 4 great white shark\n\nn02 1\n").expect("a small file");
        let set = open_set(dir.path(), &Options { classes: Some(5), ..Options::default() }).expect("two classes");
        assert_eq!(set.labels(), Some(&[4, 1][..]));
        assert_eq!(set.class_names(), ["class 0", "n02", "class 2", "class 3", "great white shark"]);
        let few = Options { classes: Some(4), ..Options::default() };
        assert!(refusal(dir.path(), &few).contains("label 4 of image 0"));
        std::fs::write(&table, "n01 4\n").expect("a small file");
        assert!(refusal(dir.path(), &few).contains("does not number the folder `n02`"));
        std::fs::write(&table, "n01 0\nn02 -1\n").expect("a small file");
        assert!(refusal(dir.path(), &few).contains("line 2"));
    }

    #[test]
    fn images_without_folders_have_no_labels() {
        let dir = folder(&["1.png", "2.jpg"]);
        let set = open_set(dir.path(), &Options { shape: Some([1, 4, 4]), ..Options::default() }).expect("two images");
        assert!(!set.labelled());
        assert_eq!((set.len(), set.shape()), (2, [1, 4, 4]));
        set.read(0..2).expect("resized and grey");
        assert!((0..=255).all(|v| grey(&[v; 3]) == v), "the weights add up to one");
        let odd = Options { shape: Some([2, 4, 4]), ..Options::default() };
        assert!(refusal(dir.path(), &odd).contains("the model takes 2"));
        let small = Options { shape: Some([3, 4, 4]), resize: Some(3), ..Options::default() };
        assert!(refusal(dir.path(), &small).contains("resized to 3"));
    }

    #[test]
    fn broken_images_are_named_by_the_consumer() {
        let dir = folder(&["1.png", "2.png", "3.png"]);
        let broken = dir.path().join("2.png");
        let bytes = std::fs::read(&broken).expect("just written");
        let options = Options { shape: Some([3, 5, 6]), ..Options::default() };
        for bad in [&bytes[..0], &bytes[..20], &bytes[..bytes.len() / 2], b"no image at all"] {
            std::fs::write(&broken, bad).expect("a small file");
            let set = open_set(dir.path(), &options).expect("names alone look good");
            let mut chunks = set.chunks(1);
            assert!(chunks.next().expect("the first image").is_ok());
            let error = chunks.next().expect("the second image").expect_err("broken").to_string();
            assert!(error.contains("2.png"), "{error}");
            assert!(chunks.next().is_none(), "an error ends the iteration");
        }
    }

    #[test]
    fn ambiguous_and_empty_folders_are_refused() {
        let dir = folder(&["1.png", "a/2.png"]);
        assert!(refusal(dir.path(), &Options::default()).contains("both in itself and in the folder `a`"));
        assert!(refusal(&dir.path().join("missing"), &Options::default()).contains("missing"));
        let empty = tempfile::tempdir().expect("a temporary folder");
        assert!(refusal(empty.path(), &Options::default()).contains("no images in"));
    }

    #[test]
    fn without_a_model_all_sizes_must_be_one() {
        let dir = folder(&["1.png"]);
        DynamicImage::new_rgb8(5, 5).save(dir.path().join("2.png")).expect("a small image");
        let set = open_set(dir.path(), &Options::default()).expect("names alone look good");
        assert!(set.read(0..2).expect_err("two sizes").to_string().contains("is 5x5, the first image"));
    }
}
