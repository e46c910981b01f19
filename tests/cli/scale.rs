//! Shards and their merging, journals, radii and targets of one's own, pictures that keep the radius: on the command line.
//! Must not look inside the library, except to read back what was written.

use std::fs;

use libtest_mimic::Trial;
use petard::data::{Dataset, Options};
use serde_json::Value;

use super::fixture::{ATTACK, Fixture};
use super::parse;
use crate::support::trial;

pub fn trials() -> Vec<Trial> {
    vec![
        trial("cli::shards.merge_to_the_same_bytes", merged),
        trial("cli::shards.merge_refuses", refused),
        trial("cli::journal.resumes", resumes),
        trial("cli::given.radii_and_targets", radii_and_targets),
        trial("cli::attack.pictures_keep_the_radius", pictures),
    ]
}

const RUN: &str =
    "attack --model tiny.toml --data file:x.safetensors --steps 3 --restarts 2 --eps 2/255 --alpha 1/255 --batch-size 8";

fn merged() {
    let f = Fixture::new();
    f.unlabelled_of("x.safetensors", 30);
    f.ok(&format!("{RUN} --json whole.json --save whole.safetensors --save-png whole"));
    for part in 0..3 {
        f.ok(&format!("{RUN} --shard {part}/3 --json {part}.json --save {part}.safetensors --save-png p{part}"));
    }
    let said = f.ok("merge 2.json 0.json 1.json --json all.json --save all.safetensors").stdout;
    let read = |name: &str| fs::read(f.path(name)).expect(name);
    assert_eq!(read("whole.safetensors"), read("all.safetensors"), "saved sets");
    let json = |name: &str| parse(&String::from_utf8(read(name)).expect("UTF-8"));
    let (whole, all) = (json("whole.json"), json("all.json"));
    let keys = |v: &Value| v.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&whole), keys(&all));
    for key in keys(&whole).iter().filter(|k| !k.contains("second") && *k != "saved" && *k != "members") {
        assert_eq!(whole[key], all[key], "{key}");
    }
    for (a, b) in whole["members"].as_array().expect("a list").iter().zip(all["members"].as_array().expect("a list")) {
        assert_eq!((&a["broken"], &a["standing"], &a["cost"]), (&b["broken"], &b["standing"], &b["cost"]));
    }
    assert!(said.contains("rounded") && !said.contains("--shard"), "{said}");
}

fn refused() {
    let f = Fixture::new();
    for part in 0..2 {
        f.ok(&format!("{ATTACK} --shard {part}/2 --json {part}.json"));
    }
    f.ok(&format!("{ATTACK} --seed 1 --shard 1/2 --json other.json"));
    f.ok(&format!("{ATTACK} --json whole.json"));
    let says = |line: &str, part: &str| {
        let ran = f.run(line);
        assert!(ran.code == 2 && ran.stderr.contains(part), "petard {line}: {}", ran.stderr);
    };
    says("merge 0.json", "shard 1 of 2 is missing");
    says("merge 0.json 0.json 1.json", "shard 0 is there twice");
    says("merge 0.json other.json", "its `seed` is 1, not 0");
    says("merge 0.json whole.json", "of a whole run");
    says("merge 0.json tiny.toml", "is not JSON");
    says("merge 0.json 1.json --save x.safetensors", "saved no images");
    says(&format!("{ATTACK} --shard 0/13"), "of 12 images is empty");
    says(&format!("{ATTACK} --shard 2/2"), "I from 0 to N - 1");
    assert!(!f.path("x.safetensors").exists());
}

fn resumes() {
    let f = Fixture::new();
    f.unlabelled_of("x.safetensors", 30);
    let whole = parse(&f.ok(&format!("{RUN} --json")).stdout);
    let robust = whole["robust_accuracy"].as_f64().expect("a share");
    assert!(robust > 0.0 && robust < 1.0, "{robust}: the attack tells nothing apart");
    let first = parse(&f.ok(&format!("{RUN} --journal found --json")).stdout);
    let again = f.run(&format!("{RUN} --journal found"));
    assert!(again.code == 2 && again.stderr.contains("--resume"), "{}", again.stderr);
    let second = parse(&f.ok(&format!("{RUN} --journal found --resume --json")).stdout);
    for key in ["robust_accuracy", "per_image", "doubts", "forwards"] {
        assert_eq!(whole[key], first[key], "{key}");
        assert_eq!(whole[key], second[key], "{key}");
    }
    assert!(second["resumed"].as_u64() > Some(0));
    let other = f.run(&format!("{RUN} --journal found --resume --seed 3"));
    assert!(other.code == 2 && other.stderr.contains("its seed is 0, not 3"), "{}", other.stderr);
}

fn radii_and_targets() {
    let f = Fixture::new();
    f.unlabelled("x.safetensors");
    let radii: Vec<String> = (0..12).map(|i| format!("{}/255", 1 + i % 4)).collect();
    fs::write(f.path("radii.txt"), format!("# one an image\n{}\n", radii.join("\n"))).expect("a file");
    let classes: Vec<String> = (0..12).map(|i| (i % 10).to_string()).collect();
    fs::write(f.path("classes.txt"), classes.join("\n")).expect("a file");
    let json = parse(
        &f.ok(&format!(
            "{ATTACK} --data file:x.safetensors --eps-file radii.txt --target given --targets-file classes.txt --json"
        ))
        .stdout,
    );
    for i in 0..12 {
        let (linf, target) = (&json["per_image"]["linf"][i], &json["per_image"]["target"][i]);
        assert!(linf.as_f64().expect("a number") <= (1 + i % 4) as f64 / 255.0 + 1e-7, "image {i}: {linf}");
        assert_eq!(target.as_u64(), Some(i as u64 % 10));
    }
    let largest = json["max_distance"].as_f64().expect("a number");
    assert!(largest > 3.5 / 255.0, "radii were not used: {largest}");
    let says = |line: &str, part: &str| {
        let ran = f.run(line);
        assert!(ran.code == 2 && ran.stderr.contains(part), "petard {line}: {}", ran.stderr);
    };
    says("attack --model tiny.toml --limit 11 --eps-file radii.txt", "12 radii for 11 images");
    says(&format!("{ATTACK} --target given"), "one for each image");
    says(&format!("{ATTACK} --targets-file classes.txt"), "target `given`");
    says(&format!("{ATTACK} --eps-file tiny.toml"), "line 1");
}

fn pictures() {
    let f = Fixture::new();
    f.unlabelled("x.safetensors");
    let json = parse(&f.ok(&format!("{ATTACK} --data file:x.safetensors --eps 2.5/255 --save-png out --json")).stdout);
    assert_eq!(json["rounded"]["images"], 12);
    assert_eq!(json["rounded"]["outside"], 0);
    let options = Options { shape: Some([3, 32, 32]), limit: Some(12), ..Options::default() };
    let clean = Dataset::open(&format!("file:{}", f.path("x.safetensors").display()), &options)
        .expect("images")
        .read(0..12)
        .expect("pixels");
    let (mut moved, mut most) = (0, 0.0f32);
    for i in 0..12 {
        let picture = image::open(f.path("out").join(format!("{i:06}.png"))).expect("a picture").to_rgb8();
        let mut x0 = vec![0.0; 3072];
        clean.pixels_f32(i, &mut x0);
        for (x, y, pixel) in picture.enumerate_pixels() {
            for c in 0..3 {
                let change = (f32::from(pixel[c]) / 255.0 - x0[c * 1024 + y as usize * 32 + x as usize]).abs();
                most = most.max(change);
                moved += usize::from(change > 0.0);
            }
        }
    }
    assert!(moved > 1000 && most <= 2.0001 / 255.0, "{moved} values moved, by {most} at most");
}
