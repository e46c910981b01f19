//! Sets of images as a user opens them: real ones where they are at hand, the procedural one always.

use libtest_mimic::{Failed, Trial};
use petard::data::save::{Attacked, Writer};
use petard::data::{Batch, Dataset, Images, Options, Split};
use std::path::PathBuf;

const SIDE: usize = 32;

pub fn trials() -> Vec<Trial> {
    let real = |name: &str, kind: &str, path: Option<PathBuf>, test: fn(PathBuf)| match path {
        Some(path) => Trial::test(name, move || done(|| test(path))),
        None => Trial::test(name, || Ok(())).with_kind(kind).with_ignored_flag(true),
    };
    vec![
        real("data::cifar10_is_read_as_it_lies", "set PETARD_CIFAR10", cifar10(), cifar10_is_read_as_it_lies),
        real("data::imagenet_samples_are_fitted", "set PETARD_SHARED", samples(), imagenet_samples_are_fitted),
        Trial::test("data::chunks_come_in_order", || done(chunks_come_in_order)),
        Trial::test("data::chunks_may_be_dropped_early", || done(chunks_may_be_dropped_early)),
        Trial::test("data::an_error_names_the_way_out", || done(an_error_names_the_way_out)),
        Trial::test("data::an_attacked_set_is_a_set", || done(an_attacked_set_is_a_set)),
        Trial::test("data::pixels_alone_do_not_tell_the_class", || done(pixels_alone_do_not_tell_the_class)),
        Trial::test("data::local_structure_tells_the_class", || done(local_structure_tells_the_class)),
    ]
}

/// A panic is caught by the harness, message and all.
fn done(test: impl FnOnce()) -> Result<(), Failed> {
    test();
    Ok(())
}

fn cifar10() -> Option<PathBuf> {
    let given = std::env::var_os("PETARD_CIFAR10").map(PathBuf::from);
    let path = given.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/target/data/cifar10").into());
    path.is_dir().then_some(path)
}

fn samples() -> Option<PathBuf> {
    let given = std::env::var_os("PETARD_SHARED").map(PathBuf::from);
    let shared = given.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../shared").into());
    Some(shared.join("data/imagenet-samples")).filter(|p| p.is_dir())
}

fn open(spec: &str, options: &Options) -> Dataset {
    Dataset::open(spec, options).unwrap_or_else(|e| panic!("`{spec}`: {e}"))
}

fn bytes(batch: &Batch) -> &[u8] {
    match &batch.images {
        Images::U8(bytes) => bytes,
        Images::F32(_) => panic!("bytes stay bytes"),
    }
}

fn cifar10_is_read_as_it_lies(dir: PathBuf) {
    let file = [dir.join("test_batch.bin"), dir.join("cifar-10-batches-bin/test_batch.bin")];
    let raw = std::fs::read(file.iter().find(|f| f.is_file()).expect("the test file")).expect("readable");
    let set = open(&format!("cifar10:{}", dir.display()), &Options { classes: Some(10), ..Options::default() });
    assert_eq!((set.len(), set.shape()), (10_000, [3, 32, 32]));
    assert_eq!(set.class_names()[..3], ["airplane", "automobile", "bird"]);
    let labels = set.labels().expect("labelled");
    assert!((0..10).all(|class| labels.iter().filter(|&&l| l == class).count() == 1000), "a thousand images a class");
    let mut row = 0;
    for batch in set.chunks(999) {
        let batch = batch.expect("in memory");
        for (i, image) in bytes(&batch).chunks_exact(3072).enumerate() {
            let record = &raw[row * 3073..(row + 1) * 3073];
            assert_eq!(batch.labels.as_ref().expect("labelled")[i], i32::from(record[0]), "label of image {row}");
            assert!(image == &record[1..], "pixels of image {row}");
            assert_eq!(batch.index[i] as usize, row);
            row += 1;
        }
    }
    assert_eq!(row, 10_000);
    let train = open(&format!("cifar10:{}", dir.display()), &Options { split: Split::Train, ..Options::default() });
    assert_eq!(train.len(), 50_000);
}

fn imagenet_samples_are_fitted(dir: PathBuf) {
    let options = Options { shape: Some([3, 224, 224]), classes: Some(1000), ..Options::default() };
    let set = open(&format!("images:{}", dir.display()), &options);
    assert_eq!(set.len(), 50);
    assert_eq!(set.class_names().len(), 1000);
    // The folders in order begin with the tench; the zebra is class 340.
    let labels = set.labels().expect("labelled");
    assert_eq!(labels[0], 0);
    assert!(labels.contains(&340) && set.class_names()[340] == "zebra");
    let batches: Vec<Batch> = set.chunks(20).map(|b| b.expect("good images")).collect();
    assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [20, 20, 10]);
    for image in batches.iter().flat_map(|b| bytes(b).chunks_exact(3 * 224 * 224)) {
        let (min, max) = (image.iter().min().expect("pixels"), image.iter().max().expect("pixels"));
        assert!(max - min > 60, "a photograph has more than {min} to {max}");
    }
}

fn chunks_come_in_order() {
    let options = Options { offset: 7, limit: Some(50), ..Options::default() };
    let set = open("synthetic:5", &options);
    let whole = set.read(0..50).expect("painted");
    let (mut pixels, mut index) = (Vec::new(), Vec::new());
    for batch in set.chunks(16) {
        let batch = batch.expect("painted");
        pixels.extend_from_slice(bytes(&batch));
        index.extend(batch.index);
    }
    assert!(pixels == bytes(&whole), "chunks are the set");
    assert_eq!(index, (7..57).collect::<Vec<u32>>());
    let limit = Options { offset: 1990, limit: Some(50), ..Options::default() };
    assert_eq!(open("synthetic", &limit).len(), 10, "a limit beyond the end is cut");
}

fn chunks_may_be_dropped_early() {
    let set = open("synthetic", &Options::default());
    for taken in 0..3 {
        let mut chunks = set.chunks(1);
        for _ in 0..taken {
            chunks.next().expect("more images").expect("painted");
        }
        // Returns only when the reading thread has ended.
        drop(chunks);
    }
}

fn an_error_names_the_way_out() {
    let cifar_model = Options { shape: Some([3, 224, 224]), ..Options::default() };
    for (spec, options, say, hint) in [
        ("mnist:data", Options::default(), "unknown data `mnist:data`", "cifar10:DIR"),
        ("cifar10", Options::default(), "names no path", "cifar10:PATH"),
        ("cifar10:no/such/folder", Options::default(), "no `test_batch.bin`", "binary version of CIFAR-10"),
        ("file:no/such/file.npz", Options::default(), "no/such/file.npz", "spelled right"),
        ("synthetic:one", Options::default(), "must be a number", ""),
        ("synthetic", cifar_model, "are 3x32x32, the model takes 3x224x224", "images:DIR"),
        ("synthetic", Options { offset: 2000, ..Options::default() }, "has 2000 images", ""),
        ("synthetic", Options { limit: Some(0), ..Options::default() }, "limit of 0", ""),
        ("synthetic", Options { classes: Some(9), ..Options::default() }, "the model has 9 classes", "trained for"),
    ] {
        let error = Dataset::open(spec, &options).err().unwrap_or_else(|| panic!("`{spec}` opened"));
        assert!(error.to_string().contains(say), "`{spec}`: {error}");
        assert!(error.hint().unwrap_or_default().contains(hint), "`{spec}`: {:?}", error.hint());
    }
}

/// What an attack on the middle of a set wrote can be attacked again, and still says which images it is about.
fn an_attacked_set_is_a_set() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let set = open("synthetic:3", &Options { offset: 100, limit: Some(30), ..Options::default() });
    let batch = set.read(0..30).expect("painted");
    let mut pixels = vec![0.0; 30 * 3072];
    for (i, image) in pixels.chunks_exact_mut(3072).enumerate() {
        batch.pixels_f32(i, image);
    }
    let label: Vec<i64> = set.labels().expect("labelled").iter().map(|&l| i64::from(l)).collect();
    let index: Vec<i64> = batch.index.iter().map(|&i| i64::from(i)).collect();
    for name in ["a.safetensors", "a.npz", "parts"] {
        let path = dir.path().join(name);
        let mut writer = Writer::create(&path, set.shape()).expect("a fresh path");
        writer.append(&Attacked { adversarial: &pixels, label: &label, prediction: &label, index: &index }).expect("room");
        writer.finish().expect("room");
        let again = open(&format!("file:{}", path.display()), &Options { offset: 10, ..Options::default() });
        let rest = again.read(0..20).expect("whole");
        assert!(rest.images == Images::F32(pixels[10 * 3072..].to_vec()), "{name}");
        assert_eq!(rest.labels.as_deref(), Some(&set.labels().expect("labelled")[10..]));
        assert_eq!(rest.index, (110..130).collect::<Vec<u32>>());
    }
}

/// Images of the procedural set, with their classes.
fn figures(split: Split, count: usize) -> (Vec<u8>, Vec<usize>) {
    let set = open("synthetic", &Options { split, limit: Some(count), ..Options::default() });
    let batch = set.read(0..count).expect("painted");
    let labels = set.labels().expect("labelled").iter().map(|&l| l as usize).collect();
    (bytes(&batch).to_vec(), labels)
}

/// Softmax regression on all pixels: a tenth is guessing, and 60 % would make the set too easy to show anything.
fn pixels_alone_do_not_tell_the_class() {
    let (train, labels) = figures(Split::Train, 6000);
    let (test, truth) = figures(Split::Test, 2000);
    let mut weights = vec![[0.0_f32; 10]; 3073];
    let epochs = 10;
    for epoch in 0..epochs {
        let rate = 0.003 * (1.0 - epoch as f32 / epochs as f32);
        for k in 0..labels.len() {
            // A stride without a common factor visits every image once, in an order that mixes the classes.
            let i = k * 2741 % labels.len();
            let image = &train[i * 3072..(i + 1) * 3072];
            let mut slope = scores(&weights, image);
            let top = slope.iter().fold(f32::NEG_INFINITY, |a, &b| a.max(b));
            slope.iter_mut().for_each(|s| *s = (*s - top).exp());
            let sum: f32 = slope.iter().sum();
            slope.iter_mut().for_each(|s| *s /= sum);
            slope[labels[i]] -= 1.0;
            for (row, x) in weights.iter_mut().zip(values(image)) {
                for (w, s) in row.iter_mut().zip(slope) {
                    *w -= rate * x * s;
                }
            }
        }
    }
    let accuracy = |images: &[u8], labels: &[usize]| {
        let right = |(image, label): &(&[u8], &usize)| best(&scores(&weights, image)) == **label;
        images.chunks_exact(3072).zip(labels).filter(right).count() as f64 / labels.len() as f64
    };
    let (seen, unseen) = (accuracy(&train, &labels), accuracy(&test, &truth));
    println!("linear: {seen:.3} of the training images, {unseen:.3} of the test images");
    assert!(seen > 0.25, "the regression has not learned: {seen}");
    assert!(unseen < 0.40, "pixels alone give {unseen}");
}

/// Pixels around 0, and a one for the bias.
fn values(image: &[u8]) -> impl Iterator<Item = f32> {
    image.iter().map(|&b| f32::from(b) / 255.0 - 0.5).chain([1.0])
}

fn scores(weights: &[[f32; 10]], image: &[u8]) -> [f32; 10] {
    weights.iter().zip(values(image)).fold([0.0; 10], |sum, (row, x)| std::array::from_fn(|k| sum[k] + x * row[k]))
}

fn best(scores: &[f32; 10]) -> usize {
    (0..10).max_by(|&a, &b| scores[a].total_cmp(&scores[b])).expect("ten classes")
}

/// One layer of a convolutional network, with 64 patches of images as its filters, pooled over the whole image, is
/// enough for the nearest neighbours to find the class; so a small ResNet has all that it needs.
fn local_structure_tells_the_class() {
    let (train, labels) = figures(Split::Train, 3000);
    let (test, truth) = figures(Split::Test, 500);
    let filters = filters(&train);
    let known: Vec<Vec<f32>> = train.chunks_exact(3072).map(|image| features(image, &filters)).collect();
    let mut right = 0;
    for (image, &label) in test.chunks_exact(3072).zip(&truth) {
        let asked = features(image, &filters);
        let distance = |f: &Vec<f32>| f.iter().zip(&asked).map(|(a, b)| (a - b) * (a - b)).sum::<f32>();
        let mut near: Vec<(f32, usize)> = known.iter().zip(&labels).map(|(f, &l)| (distance(f), l)).collect();
        near.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut votes = [0.0; 10];
        near[..5].iter().for_each(|&(_, l)| votes[l] += 1.0);
        right += usize::from(best(&votes) == label);
    }
    let accuracy = right as f64 / truth.len() as f64;
    println!("five nearest neighbours on local features: {accuracy:.3}");
    assert!(accuracy > 0.90, "local structure gives {accuracy}");
}

const PATCH: usize = 7;

/// Grey patches of 7 x 7 pixels, two pixels apart, each with its mean taken away.
fn patches(image: &[u8]) -> Vec<[f32; PATCH * PATCH]> {
    let plane = SIDE * SIDE;
    let grey = |p: usize| (0..3).map(|c| f32::from(image[c * plane + p])).sum::<f32>() / 765.0;
    let at = (0..=SIDE - PATCH).step_by(2);
    let corners = at.clone().flat_map(|y| at.clone().map(move |x| y * SIDE + x));
    corners
        .map(|corner| {
            let patch: [f32; PATCH * PATCH] = std::array::from_fn(|i| grey(corner + i / PATCH * SIDE + i % PATCH));
            let mean = patch.iter().sum::<f32>() / patch.len() as f32;
            patch.map(|v| v - mean)
        })
        .collect()
}

fn norm(patch: &[f32]) -> f32 {
    patch.iter().map(|v| v * v).sum::<f32>().sqrt()
}

/// 64 patches with strong contrast, of length 1, from all classes.
fn filters(images: &[u8]) -> Vec<[f32; PATCH * PATCH]> {
    let strongest = |image| patches(image).into_iter().max_by(|a, b| norm(a).total_cmp(&norm(b))).expect("169 patches");
    images.chunks_exact(3072).take(64).map(strongest).map(|patch| patch.map(|v| v / norm(&patch))).collect()
}

/// Mean, root mean square and maximum of each filter's response, whichever its sign, in units of the image's contrast.
fn features(image: &[u8], filters: &[[f32; PATCH * PATCH]]) -> Vec<f32> {
    let patches = patches(image);
    let count = patches.len() as f32;
    let contrast = (patches.iter().map(|p| norm(p).powi(2)).sum::<f32>() / count).sqrt();
    let mut features = Vec::with_capacity(3 * filters.len());
    for filter in filters {
        let (mut sum, mut squares, mut max) = (0.0, 0.0, 0.0_f32);
        for patch in &patches {
            let response = patch.iter().zip(filter).map(|(a, b)| a * b).sum::<f32>().abs() / contrast;
            sum += response;
            squares += response * response;
            max = max.max(response);
        }
        // The maximum varies more than the other two and would drown them.
        features.extend([sum / count, (squares / count).sqrt(), 0.3 * max]);
    }
    features
}
