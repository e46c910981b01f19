//! Embeds the model cards as a table of (name, text). Runs no compiler.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() {
    let root = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets the package folder"));
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets the output folder"));
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=models");
    fs::write(out.join("cards.rs"), cards(&root.join("models"))).expect("the output folder can be written");
}

/// The source of a static table of every `*.toml` in `folder`, sorted by name.
fn cards(folder: &Path) -> String {
    let entries = fs::read_dir(folder).expect("the folder `models` can be read");
    let mut paths: Vec<PathBuf> = entries.map(|e| e.expect("the folder `models` can be read").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    paths.sort();
    let mut text = String::from("/// Every card of `models/`: (name, text).\npub(super) static CARDS: &[(&str, &str)] = &[\n");
    for path in &paths {
        let name = path.file_stem().expect("a file name").to_str().expect("cards have UTF-8 names");
        writeln!(text, "    ({name:?}, include_str!({:?})),", path.to_str().expect("a UTF-8 path"))
            .expect("a String takes any text");
    }
    text + "];\n"
}
