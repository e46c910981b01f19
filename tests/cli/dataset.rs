//! `petard dataset longtail`: the numbers it says are those of the set that it writes, and that set is trained on.

use libtest_mimic::Trial;
use petard::data::longtail;
use petard::data::{Dataset, Options};

use super::fixture::Fixture;
use crate::support::trial;

pub fn trials() -> Vec<Trial> {
    vec![trial("cli::dataset.longtail", long_tail), trial("cli::dataset.refused", refused)]
}

fn long_tail() -> petard::Result<()> {
    let f = Fixture::new();
    let ran = f.ok("dataset longtail --data synthetic --limit 400 --profile step --ratio 0.25 --out lt.safetensors");
    assert_eq!(ran.stdout, "250 images of 10 classes: 40 40 40 40 40 10 10 10 10 10\n");
    let set = Dataset::open(&format!("file:{}", f.path("lt.safetensors").display()), &Options::default())?;
    let want = [[40; 5], [10; 5]].concat();
    assert_eq!(longtail::count(set.labels().expect("labels"), 10), want);
    let all = Dataset::open("synthetic", &Options { split: petard::data::Split::Train, limit: Some(400), ..Options::default() })?;
    let (got, index) = (set.read(17..18)?, set.read(17..18)?.index[0] as usize);
    let from = all.read(index..index + 1)?;
    let pixels = |batch: &petard::data::Batch| {
        let mut out = vec![0.0; 3072];
        batch.pixels_f32(0, &mut out);
        out
    };
    assert!(got.labels == from.labels && pixels(&got) == pixels(&from), "image, label and index stay together");
    f.ok("dataset longtail --data synthetic --limit 400 --ratio 0.1 --out again.npz");
    Ok(())
}

fn refused() {
    let f = Fixture::new();
    for (line, words) in [
        ("dataset longtail --data synthetic --ratio 0 --out a.npz", "`--ratio 0` must be above 0 and at most 1"),
        ("dataset longtail --data nonsense --ratio 0.5 --out a.npz", "unknown data `nonsense`"),
    ] {
        let ran = f.run(line);
        assert!(ran.code == 2 && ran.stderr.contains(words), "{}", ran.stderr);
    }
}
