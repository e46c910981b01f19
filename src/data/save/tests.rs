//! What is written is what is read back, and what is not finished leaves nothing.

use super::*;
use crate::data::{Dataset, Images, Options};

/// Appends `rows` images of 1 x 1 x 3, in uneven pieces, and finishes. Returns all pixels.
fn fill(mut writer: Writer, rows: usize) -> Vec<f32> {
    let pixels: Vec<f32> = (0..rows * 3).map(|v| (v as f32 * 0.37).fract()).collect();
    let label: Vec<i64> = (0..rows as i64).map(|r| r % 7).collect();
    let index: Vec<i64> = (0..rows as i64).map(|r| r + 5).collect();
    writer.note("seed", 7.into());
    for start in (0..rows).step_by(1000) {
        let end = rows.min(start + 1000);
        let rows = Attacked {
            adversarial: &pixels[start * 3..end * 3],
            label: &label[start..end],
            prediction: &index[start..end],
            index: &index[start..end],
        };
        writer.append(&rows).expect("room on the disk");
    }
    writer.finish().expect("room on the disk");
    pixels
}

fn names(dir: &Path) -> Vec<String> {
    let mut all: Vec<String> = std::fs::read_dir(dir)
        .expect("a folder")
        .map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned())
        .collect();
    all.sort();
    all
}

#[test]
fn what_is_written_is_read_bit_for_bit() {
    for name in ["a.safetensors", "a.npz", "a"] {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(name);
        let rows = 2 * PART_ROWS + 9;
        let pixels = fill(Writer::create(&path, [1, 1, 3]).expect("a fresh path"), rows);
        assert_eq!(names(dir.path()), [name], "nothing else is left");
        let set = Dataset::open(&format!("file:{}", path.display()), &Options::default()).expect("just written");
        let batch = set.read(0..rows).expect("in range");
        assert_eq!(batch.images, Images::F32(pixels), "{name}");
        assert_eq!(batch.labels.map(|l| l[rows - 1]), Some(((rows - 1) % 7) as i32));
        assert_eq!(batch.index[rows - 1] as usize, rows + 4);
    }
}

#[test]
fn a_manifest_lists_whole_parts() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("set");
    fill(Writer::create(&path, [1, 1, 3]).expect("a fresh path"), PART_ROWS + 1);
    assert_eq!(names(&path), ["manifest.json", "part-00000.safetensors", "part-00001.safetensors"]);
    let manifest: Value = serde_json::from_slice(&std::fs::read(path.join("manifest.json")).expect("a file")).expect("an object");
    assert_eq!((manifest["images"].as_u64(), manifest["metadata"]["seed"].as_u64()), (Some(4097), Some(7)));
    for part in manifest["parts"].as_array().expect("a list") {
        let bytes = std::fs::read(path.join(part["file"].as_str().expect("a name"))).expect("a part");
        let sha256: String = Sha256::digest(&bytes).iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(part["sha256"], sha256.as_str());
    }
    let error = Writer::create(&path, [1, 1, 3]).expect_err("another run's parts");
    assert!(error.hint().expect("a way out").contains("choose another folder"));
}

#[test]
fn an_unfinished_run_leaves_the_old_file_alone() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("a.safetensors");
    fill(Writer::create(&path, [1, 1, 3]).expect("a fresh path"), 3);
    let good = std::fs::read(&path).expect("just written");
    let mut writer = Writer::create_logits(&path, 2).expect("a file may be replaced");
    writer.append_logits(&Inferred { logits: &[0.5, 1.5], label: &[1], index: &[0] }).expect("room on the disk");
    drop(writer);
    assert_eq!(std::fs::read(&path).expect("still there"), good);
    assert_eq!(names(dir.path()), ["a.safetensors"]);

    let mut writer = Writer::create_logits(&path, 2).expect("a file may be replaced");
    writer.append_logits(&Inferred { logits: &[0.5, 1.5], label: &[1], index: &[0] }).expect("room on the disk");
    writer.finish().expect("room on the disk");
    let bytes = std::fs::read(&path).expect("replaced");
    let tensors = safetensors::SafeTensors::deserialize(&bytes).expect("a valid file");
    assert_eq!(tensors.tensor("logits").expect("there").shape(), [1, 2]);
    assert_eq!(tensors.tensor("logits").expect("there").data(), bytemuck::cast_slice::<f32, u8>(&[0.5, 1.5]));
}

#[test]
fn a_folder_made_for_nothing_goes_again() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("set");
    drop(Writer::create(&path, [1, 1, 3]).expect("a fresh path"));
    assert!(!path.exists(), "an empty folder is left");
    std::fs::create_dir(&path).expect("a fresh folder");
    drop(Writer::create(&path, [1, 1, 3]).expect("an empty folder"));
    assert!(path.is_dir(), "the user's folder is gone");
    std::fs::remove_dir(&path).expect("an empty folder");
    fill(Writer::create(&path, [1, 1, 3]).expect("a fresh path"), 1);
    assert_eq!(names(&path), ["manifest.json", "part-00000.safetensors"]);
}

#[test]
fn impossible_places_are_refused_at_once() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let error = Writer::create(&dir.path().join("missing/a.npz"), [1, 1, 3]).expect_err("no such folder");
    assert!(error.to_string().contains("missing"), "{error}");
    std::fs::create_dir(dir.path().join("a.npz")).expect("a fresh folder");
    assert!(Writer::create(&dir.path().join("a.npz"), [1, 1, 3]).is_err(), "a folder of that name");
    std::fs::write(dir.path().join("b"), "a file").expect("a small file");
    assert!(Writer::create(&dir.path().join("b"), [1, 1, 3]).is_err(), "a file where a folder should be");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let content = Content { floats: "logits", bytes: false, dims: vec![4], integers: &["label"] };
    let mut spool = Spool::new(dir.path(), &content).expect("a temporary folder");
    spool.append(&[0; 1600], &[&[0; 100]]).expect("room on the disk");
    let full = File::options().write(true).open("/dev/full").expect("a Linux machine");
    let error = spool.safetensors(&content, &Map::new(), &mut BufWriter::new(full)).expect_err("no room");
    let error = Error::io("write", "a.safetensors", error);
    assert!(error.hint().expect("a way out").contains("free some space"), "{error}");

    let path = dir.path().join("old");
    std::fs::write(&path, "good").expect("a small file");
    put(&path, |file| file.write_all(b"half").and(Err(io::ErrorKind::StorageFull.into()))).expect_err("no room");
    assert_eq!(std::fs::read(&path).expect("still there"), b"good");
    assert_eq!(names(dir.path()), ["old"]);
}

#[test]
fn a_png_is_rounded_to_the_nearest_level() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let pixels = [0.0, 1.0, 0.4 / 255.0, 0.6 / 255.0, 100.0 / 255.0, 254.6 / 255.0];
    save_png(dir.path(), 42, [3, 1, 2], &pixels).expect("room on the disk");
    assert_eq!(names(dir.path()), ["000042.png"]);
    let image = image::open(dir.path().join("000042.png")).expect("a PNG").into_rgb8();
    assert_eq!(image.into_raw(), [0, 0, 100, 255, 1, 255]);
    assert!(save_png(dir.path(), 0, [2, 1, 1], &[0.0; 2]).is_err());
}
