//! Embeds the model cards, the weights beside them and the kernels' texts as tables. Runs no compiler.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets the package folder"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets the output folder"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=models");
    println!("cargo::rerun-if-changed=kernels");
    let models = root.join("models");
    let cards = table(&models, "toml", "/// Every card of `models/`: (name, text).", "CARDS: &[(&str, &str)]", "include_str");
    let weights = table(
        &models,
        "safetensors",
        "/// All weights in `models/`: (name, bytes).",
        "WEIGHTS: &[(&str, &[u8])]",
        "include_bytes",
    );
    fs::write(out.join("models.rs"), cards + &weights).expect("the output folder can be written");
    fs::write(out.join("kernels.rs"), kernels(&root.join("kernels"))).expect("the output folder can be written");
}

/// The source of a static table of every kernel file and header, by path.
fn kernels(folder: &Path) -> String {
    let mut paths = Vec::new();
    for (part, extension) in [("", "cu"), ("lib", "cuh")] {
        let entries = fs::read_dir(folder.join(part)).expect("the folder `kernels` can be read");
        let found = entries.map(|e| e.expect("the folder `kernels` can be read").path());
        paths.extend(found.filter(|p| p.extension().is_some_and(|e| e == extension)));
    }
    paths.sort();
    let mut text = String::from("/// Every file of `kernels/`.\npub static FILES: &[File] = &[\n");
    for path in &paths {
        let name = path.strip_prefix(folder).expect("it was found there").to_str().expect("kernels have UTF-8 names");
        writeln!(text, "    File {{ path: {name:?}, text: include_str!({:?}) }},", path.to_str().expect("a UTF-8 path"))
            .expect("a String takes any text");
    }
    text + "];\n"
}

/// The source of a static table of every file in `folder` with this extension, by name.
fn table(folder: &Path, extension: &str, doc: &str, declared: &str, include: &str) -> String {
    let entries = fs::read_dir(folder).expect("the folder `models` can be read");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("the folder `models` can be read").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == extension));
    paths.sort();
    let mut text = format!("{doc}\npub(super) static {declared} = &[\n");
    for path in &paths {
        let name = path.file_stem().expect("a file name").to_str().expect("models have UTF-8 names");
        writeln!(text, "    ({name:?}, {include}!({:?})),", path.to_str().expect("a UTF-8 path"))
            .expect("a String takes any text");
    }
    text + "];\n"
}
