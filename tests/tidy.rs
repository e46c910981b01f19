//! The shape of the source, kept by rules that a script can see: layers, unsafe, length, leftovers, the map.
//! Must not judge taste. Each rule comes with a snippet that it has to refuse.

mod kernels;

use std::fs;
use std::path::Path;

use libtest_mimic::Trial;

use crate::support::{root, trial};

/// A text file of the project; `path` is relative to the root with forward slashes.
struct File {
    path: String,
    text: String,
}

/// A fault: line number from 1, what is wrong and what to do.
type Fault = (usize, String);

struct Rule {
    name: &'static str,
    applies: fn(&str) -> bool,
    faults: fn(&File) -> Vec<Fault>,
    /// Path and text that must be refused.
    bad: &'static [(&'static str, &'static str)],
    /// Path and text that must pass.
    good: &'static [(&'static str, &'static str)],
}

const RULES: [Rule; 7] = [
    Rule {
        name: "layers",
        applies: |path| is_source(path) && path != "src/lib.rs",
        faults: layers,
        bad: &[
            ("src/graph/op.rs", "use crate::plan::Plan;\n"),
            ("src/plan/mod.rs", "use crate::nn::Arch;\n"),
            ("src/attack/pgd.rs", "use crate::train::Recipe;\n"),
            ("src/cpu/mod.rs", "use crate::{error::Result, session::Session};\n"),
            ("src/tensor.rs", "fn f() { crate::rng::draw() }\n"),
            ("src/magic.rs", "//! New.\n"),
        ],
        good: &[
            ("src/plan/mod.rs", "use crate::graph::{Graph, Op};\nuse crate::plan::arena;\nuse crate::error::Result;\n"),
            ("src/train/mod.rs", "use crate::attack::Job;\n"),
            ("src/graph/op.rs", "// crate::plan would be wrong here\npub(crate) fn f() {}\n"),
        ],
    },
    Rule {
        name: "first_line",
        applies: is_rust,
        faults: first_line,
        bad: &[("src/rng.rs", "use std::fmt;\n"), ("src/rng.rs", "//!\n")],
        good: &[("src/rng.rs", "//! Random numbers.\n")],
    },
    Rule {
        name: "leftovers",
        applies: |path| is_rust(path) && path != "tests/tidy.rs",
        faults: leftovers,
        bad: &[
            ("src/a.rs", "fn f() { dbg!(1); }\n"),
            ("tests/a.rs", "fn f() { todo!() }\n"),
            ("src/a.rs", "fn f() { unimplemented!() }\n"),
            ("src/a.rs", "// FIXME later\n"),
            ("benches/a.rs", "// XXX\n"),
        ],
        good: &[("src/a.rs", "// nothing left\n")],
    },
    Rule {
        name: "unwrap",
        applies: is_source,
        faults: unwrap,
        bad: &[("src/a.rs", "fn f() { g().unwrap(); }\n")],
        good: &[(
            "src/a.rs",
            "/// Like `unwrap()`.\nfn f() { g().unwrap_or(1); }\n#[cfg(test)]\nmod tests { fn f() { g().unwrap(); } }\n",
        )],
    },
    Rule {
        name: "unsafe",
        applies: |path| is_rust(path) && path != "tests/tidy.rs",
        faults: unsafe_code,
        bad: &[("src/tensor.rs", "    unsafe { go() }\n"), ("tests/plans.rs", "unsafe fn f() {}\n")],
        good: &[("src/cpu/simd.rs", "unsafe fn f() {}\n"), ("src/lib.rs", "#![deny(unsafe_code)]\n// unsafe is rare\n")],
    },
    Rule { name: "length", applies: is_rust, faults: length, bad: &[], good: &[("src/a.rs", "fn f() {\n    1\n}\n")] },
    Rule {
        name: "machine_paths",
        applies: |path| path != "tests/tidy.rs" && path != "Cargo.lock",
        faults: machine_paths,
        bad: &[
            ("README.md", "see /root/main\n"),
            ("src/a.rs", "let p = \"/tmp/x\";\n"),
            ("tests/run.sh", "cd /home/me/petard\n"),
            ("benches/README.md", "from http://localhost:80\n"),
        ],
        good: &[("README.md", "network/root/main and ~/x and ../shared\n")],
    },
];

/// Functions that may be long, each with the reason; an entry that is no longer needed is itself a fault.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[
    ("src/graph/grad.rs", "rule", "one match over every derivative, a few lines each"),
    ("src/graph/shape.rs", "infer", "one match over every op, a few lines each"),
    ("src/graph/shape/attacks.rs", "infer", "the rest of that match"),
    ("tests/support/naive/mod.rs", "apply", "one match over every op, a line each"),
];

/// Modules by layer, low to high. A module may use lower layers, and siblings only as `SIBLINGS` says.
const LAYERS: &[&[&str]] = &[
    &["error", "tensor", "threat", "rng"],
    &["graph"],
    &["nn", "plan"],
    &["cpu", "gpu"],
    &["device", "session", "data", "outcome", "spectrum"],
    &["attack", "train", "study"],
    &["report"],
    &["cli", "main"],
];
const SIBLINGS: &[(&str, &str)] = &[
    ("train", "attack"),
    ("study", "attack"),
    ("study", "train"),
    ("session", "device"),
    ("spectrum", "device"),
    ("rng", "threat"),
    ("main", "cli"),
];

fn is_rust(path: &str) -> bool {
    path.ends_with(".rs")
}

fn is_source(path: &str) -> bool {
    is_rust(path) && path.starts_with("src/")
}

/// Lines with their numbers, line comments cut off.
fn code(file: &File) -> impl Iterator<Item = (usize, &str)> {
    file.text.lines().enumerate().map(|(i, line)| (i + 1, line.split("//").next().unwrap_or_default()))
}

/// The code before the file's own tests, which may use what they like.
fn before_tests(file: &File) -> impl Iterator<Item = (usize, &str)> {
    code(file).take_while(|(_, line)| line.trim() != "#[cfg(test)]")
}

/// Whether `word` stands in `line` with no letter, digit or underscore beside it.
fn has_word(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| !line[..at].ends_with(part) && !line[at + word.len()..].starts_with(part))
}

/// The top-level module that a path under `src` belongs to.
fn module(path: &str) -> &str {
    let inner = path.trim_start_matches("src/");
    inner.split('/').next().unwrap_or(inner).trim_end_matches(".rs")
}

fn layer(module: &str) -> Option<usize> {
    LAYERS.iter().position(|l| l.contains(&module))
}

fn layers(file: &File) -> Vec<Fault> {
    let user = module(&file.path);
    let Some(own) = layer(user) else {
        return vec![(
            1,
            format!("module `{user}` has no layer: add it to LAYERS in tests/tidy.rs and to the map in src/lib.rs"),
        )];
    };
    let mut faults = Vec::new();
    for (line, used) in used_modules(file) {
        let allowed =
            used == user || used == "error" || layer(&used).is_some_and(|l| l < own) || SIBLINGS.contains(&(user, used.as_str()));
        if !allowed {
            faults
                .push((line, format!("`{user}` (layer {own}) must not know `{used}`: pass what is needed in, or move the code")));
        }
    }
    faults
}

/// Every `crate::module`, also in braces over several lines.
fn used_modules(file: &File) -> Vec<(usize, String)> {
    let text: String = before_tests(file).map(|(_, line)| format!("{line}\n")).collect();
    let name = |s: &str| s.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut used = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        let (line, rest) = (text[..at].lines().count().max(1), &text[at + "crate::".len()..]);
        let Some(list) = rest.strip_prefix('{') else {
            used.push((line, name(rest)));
            continue;
        };
        let mut depth = 0;
        let mut item = 0;
        for (i, c) in list.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth > 0 => depth -= 1,
                ',' | '}' if depth == 0 => {
                    used.push((line, name(&list[item..i])));
                    item = i + 1;
                    if c == '}' {
                        break;
                    }
                }
                _ => {}
            }
        }
    }
    used.retain(|(_, name)| name.starts_with(char::is_lowercase));
    used
}

fn first_line(file: &File) -> Vec<Fault> {
    let first = file.text.lines().next().unwrap_or_default();
    if first.starts_with("//! ") { vec![] } else { vec![(1, "start with `//! ` and what the file is for".into())] }
}

fn leftovers(file: &File) -> Vec<Fault> {
    let words = ["dbg!", "todo!", "unimplemented!", "FIXME", "XXX"];
    let find = |line: &str| words.into_iter().find(|w| has_word(line, w));
    let numbered = file.text.lines().enumerate();
    numbered.filter_map(|(i, l)| find(l).map(|w| (i + 1, format!("`{w}`: finish it or take it out")))).collect()
}

fn unwrap(file: &File) -> Vec<Fault> {
    let bad = before_tests(file).filter(|(_, line)| line.contains(".unwrap()"));
    bad.map(|(n, _)| (n, "`unwrap()`: return an error, or `expect` why this cannot happen".into())).collect()
}

fn unsafe_code(file: &File) -> Vec<Fault> {
    let places = ["src/cpu/simd.rs", "src/cpu/epilogue.rs", "src/cpu/conv.rs", "src/gpu/cuda.rs", "src/gpu/nvrtc.rs"];
    let folders = ["src/cpu/conv/", "src/gpu/cuda/", "tests/emulated/"];
    if places.contains(&file.path.as_str()) || folders.iter().any(|f| file.path.starts_with(f)) {
        return vec![];
    }
    let bad = code(file).filter(|(_, line)| has_word(line, "unsafe"));
    bad.map(|(n, _)| (n, "`unsafe` belongs into cpu/{simd,epilogue,conv} and gpu/{cuda,nvrtc} only: use what they offer".into()))
        .collect()
}

fn length(file: &File) -> Vec<Fault> {
    let lines: Vec<&str> = file.text.lines().collect();
    let mut faults = Vec::new();
    if lines.len() > 500 {
        faults.push((500, format!("{} lines, 500 at most: split the file by what it is about", lines.len())));
    }
    for (first, name, count) in functions(&lines) {
        let excused = LONG_FUNCTIONS.iter().any(|(path, long, _)| *path == file.path && *long == name);
        if count > 90 && !excused {
            faults.push((first, format!("`{name}` has {count} lines, 90 at most: name its parts")));
        }
    }
    faults
}

/// First line, name and number of lines of every function. Relies on rustfmt: the end is a `}` at the same depth.
fn functions<'a>(lines: &[&'a str]) -> Vec<(usize, &'a str, usize)> {
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let Some(at) = trimmed.find("fn ") else { continue };
        let only_keywords = trimmed[..at]
            .split_whitespace()
            .all(|w| ["pub", "pub(crate)", "pub(super)", "const", "unsafe", "extern", "\"C\""].contains(&w));
        let complete = trimmed.ends_with(';') || trimmed.ends_with('}');
        if !only_keywords || complete {
            continue;
        }
        let name = trimmed[at + 3..].split(['(', '<']).next().unwrap_or_default();
        let end = format!("{}}}", &line[..line.len() - trimmed.len()]);
        let count = lines[i..].iter().position(|l| *l == end).map_or(1, |n| n + 1);
        found.push((i + 1, name, count));
    }
    found
}

fn machine_paths(file: &File) -> Vec<Fault> {
    const PLACES: [&str; 7] =
        [concat!("/wo", "rk/"), "/tmp/", "/home/", "/root/", "/Users/", concat!("127.", "0.0.1"), concat!("local", "host")];
    let starts = |line: &str, place: &str| {
        line.match_indices(place).any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || ".~_-$}".contains(c)))
    };
    let find = |line: &str| PLACES.into_iter().find(|p| starts(line, p));
    let numbered = file.text.lines().enumerate();
    let fault = |(i, place)| (i, format!("`{place}` is a place on one machine: use a path relative to the project"));
    numbered.filter_map(|(i, l)| find(l).map(|p| (i + 1, p))).map(fault).collect()
}

/// Every top-level module that the map, the `//!` lines of `src/lib.rs`, does not name.
fn unmapped(lib: &str, paths: &[String]) -> Vec<String> {
    let map: String = lib.lines().filter(|l| l.starts_with("//!")).map(|l| format!("{l}\n")).collect();
    let mut modules: Vec<&str> = paths.iter().filter(|p| is_source(p)).map(|p| module(p)).collect();
    modules.retain(|m| !["lib", "main"].contains(m) && !has_word(&map, m));
    modules.dedup();
    modules.iter().map(|m| format!("src/lib.rs:1: map: `{m}` is not named: add a line on what it is for")).collect()
}

/// Every text file of the project outside `target` and hidden folders.
fn project() -> Vec<File> {
    let mut files = Vec::new();
    collect(&root(), "", &mut files);
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

fn collect(folder: &Path, prefix: &str, files: &mut Vec<File>) {
    let entries = fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{prefix}{name}");
        if entry.path().is_dir() {
            if !["target", ".git", "__pycache__"].contains(&name.as_str()) {
                collect(&entry.path(), &format!("{path}/"), files);
            }
        } else if let Ok(text) = fs::read_to_string(entry.path()) {
            files.push(File { path, text });
        }
    }
}

fn report(rule: &Rule, files: &[File]) -> Vec<String> {
    let of = |file: &File| -> Vec<String> {
        (rule.faults)(file).into_iter().map(|(line, what)| format!("{}:{line}: {}: {what}", file.path, rule.name)).collect()
    };
    files.iter().filter(|f| (rule.applies)(&f.path)).flat_map(of).collect()
}

fn none(faults: &[String]) -> Result<(), String> {
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n")) }
}

pub fn trials() -> Vec<Trial> {
    let all = || RULES.iter().chain(&kernels::RULES);
    let rules = all().map(|rule| trial(format!("tidy::{}", rule.name), || none(&report(rule, &project()))));
    let snippets = all().map(|rule| trial(format!("tidy::{}.snippets", rule.name), || try_snippets(rule)));
    let others = vec![
        trial("tidy::map", || {
            let files = project();
            let lib = files.iter().find(|f| f.path == "src/lib.rs").expect("a library has a lib.rs");
            none(&unmapped(&lib.text, &files.iter().map(|f| f.path.clone()).collect::<Vec<_>>()))
        }),
        trial("tidy::map.snippets", || {
            let paths = ["src/lib.rs", "src/graph/mod.rs", "src/graph/op.rs"].map(String::from);
            assert!(unmapped("//! | 1 | [`graph`] | nodes |\n", &paths).is_empty());
            assert_eq!(unmapped("//! graphics\nmod graph;\n", &paths).len(), 1);
        }),
        trial("tidy::length.long_snippets", || {
            let of = |text: String| length(&File { path: "src/a.rs".into(), text });
            assert!(of("//! a\n".repeat(500)).is_empty() && of("//! a\n".repeat(501)).len() == 1);
            let body = |lines: usize| format!("    pub fn f(\n    ) {{\n{}    }}\n", "        g();\n".repeat(lines));
            assert!(of(body(87)).is_empty() && of(body(88)).len() == 1, "signature and brace count");
        }),
        trial("tidy::excuses_are_needed", || {
            let files = project();
            for (path, name, why) in LONG_FUNCTIONS {
                let file = files.iter().find(|f| f.path == *path).unwrap_or_else(|| panic!("{path} is gone: drop its excuse"));
                let lines: Vec<&str> = file.text.lines().collect();
                let long = functions(&lines).iter().any(|(_, n, count)| n == name && *count > 90);
                assert!(long, "{path}: `{name}` no longer needs its excuse ({why})");
            }
        }),
    ];
    rules.chain(snippets).chain(others).chain(kernels::trials()).collect()
}

fn try_snippets(rule: &'static Rule) {
    let judge = |&(path, text): &(&str, &str)| {
        assert!((rule.applies)(path), "{}: the snippet at {path} is not looked at", rule.name);
        report(rule, &[File { path: path.into(), text: text.into() }])
    };
    for snippet in rule.bad {
        assert!(!judge(snippet).is_empty(), "{} lets this pass:\n{}", rule.name, snippet.1);
    }
    for snippet in rule.good {
        assert_eq!(judge(snippet), Vec::<String>::new(), "{} refuses this:\n{}", rule.name, snippet.1);
    }
}
