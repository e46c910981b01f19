//! What tidy asks of `kernels/`: headers that say everything, constants that are listed, PTX in one place, twins that exist.
//! Must not know what a kernel computes.

use std::collections::BTreeSet;

use libtest_mimic::Trial;

use super::{Fault, File, Rule, has_word, none, project};
use crate::support::trial;

const FIELDS: [&str; 8] = ["computes", "shapes", "launch", "constants", "limits", "order", "source", "twins"];

pub(super) const RULES: [Rule; 3] = [
    Rule {
        name: "kernel_header",
        applies: is_kernel,
        faults: header,
        bad: &[
            ("kernels/a.cu", "#include \"lib/num.cuh\"\n"),
            ("kernels/a.cu", "// b.cu: other.\n"),
            (
                "kernels/a.cu",
                "// a.cu: text.\n//\n//   computes   x\n//   launch     y\n//   shapes     z\n#include \"lib/num.cuh\"\n",
            ),
        ],
        good: &[(
            "kernels/a.cu",
            "// a.cu: text.\n//\n//   computes   x\n//   shapes     x\n//   launch     x\n//   constants  x\n//   limits     x\n\
             //   order      x\n//   source     x\n//   twins      x\n",
        )],
    },
    Rule {
        name: "kernel_constants",
        applies: is_kernel,
        faults: constants,
        bad: &[
            ("kernels/a.cu", "// a.cu: text.\n//   constants  P_A\n//   limits     none\nconstexpr int B = P_B;\n"),
            ("kernels/a.cu", "// a.cu: text.\n//   constants  P_A, P_B\n//   limits     none\nconstexpr int A = P_A;\n"),
        ],
        good: &[(
            "kernels/a.cu",
            "// a.cu: text.\n//   constants  P_A > 0 channels,\n//              P_B\n//   limits     none\nconstexpr int A = P_A + P_B;\n",
        )],
    },
    Rule {
        name: "kernel_places",
        applies: |path| path.starts_with("kernels/") && (path.ends_with(".cu") || path.ends_with(".cuh")),
        faults: places,
        bad: &[
            ("kernels/a.cu", "asm(\"nop;\");\n"),
            ("kernels/a.cu", "#if __CUDA_ARCH__ >= 800\n"),
            ("kernels/lib/vec.cuh", "#include <cuda_bf16.h>\n"),
            ("kernels/a.cu", "#include \"other.cu\"\n"),
            ("kernels/a.cu", "extern \"C\" __global__ void b_go() {}\n"),
        ],
        good: &[
            ("kernels/lib/ptx.cuh", "asm(\"nop;\");\n"),
            ("kernels/a.cu", "#include \"lib/vec.cuh\"\nextern \"C\" __global__ __launch_bounds__(32)\nvoid a_go(int n) {}\n"),
        ],
    },
];

fn is_kernel(path: &str) -> bool {
    path.starts_with("kernels/") && path.ends_with(".cu")
}

fn stem(path: &str) -> &str {
    path.trim_start_matches("kernels/").trim_end_matches(".cu")
}

/// The comment lines at the top.
fn comment(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(i, l)| (i + 1, l)).take_while(|(_, l)| l.starts_with("//"))
}

/// The label of a header line, such as `shapes`.
fn label(line: &str) -> Option<&'static str> {
    let rest = line.strip_prefix("//   ")?;
    FIELDS.into_iter().find(|f| rest.split(' ').next() == Some(f))
}

fn header(file: &File) -> Vec<Fault> {
    let first = file.text.lines().next().unwrap_or_default();
    if !first.starts_with(&format!("// {}.cu: ", stem(&file.path))) {
        return vec![(1, format!("start with `// {}.cu: ` and what the file is for", stem(&file.path)))];
    }
    let mut found: Vec<&str> = comment(&file.text).filter_map(|(_, l)| label(l)).collect();
    found.dedup();
    // With several entries a field may come again, in the same order.
    let first_of_each: Vec<&str> = FIELDS.into_iter().filter(|f| found.contains(f)).collect();
    let mut seen = BTreeSet::new();
    found.retain(|f| seen.insert(*f));
    if found != FIELDS || first_of_each != FIELDS {
        return vec![(1, format!("the header has {found:?}, it needs {FIELDS:?} in this order"))];
    }
    vec![]
}

/// Words that begin with `P_` in a line.
fn names(line: &str) -> impl Iterator<Item = &str> {
    line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|w| w.starts_with("P_") && w.len() > 2)
}

fn constants(file: &File) -> Vec<Fault> {
    let mut inside = false;
    let mut listed = BTreeSet::new();
    for (_, line) in comment(&file.text) {
        inside = label(line).map_or(inside, |l| l == "constants");
        if inside {
            listed.extend(names(line));
        }
    }
    let skip = comment(&file.text).count();
    let code = file.text.lines().skip(skip).map(|l| l.split("//").next().unwrap_or_default());
    let used: BTreeSet<&str> = code.flat_map(names).collect();
    let fault = |what: &str, names: Vec<&&str>| (!names.is_empty()).then(|| (1, format!("{what}: {names:?}")));
    let missing = fault("used but not in the header's `constants`", used.difference(&listed).collect());
    let unused = fault("in the header's `constants` but not used", listed.difference(&used).collect());
    missing.into_iter().chain(unused).collect()
}

fn places(file: &File) -> Vec<Fault> {
    let ptx = file.path == "kernels/lib/ptx.cuh";
    let mut faults = Vec::new();
    for (i, line) in file.text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if !ptx && (has_word(code, "asm") || has_word(code, "__CUDA_ARCH__")) {
            faults.push((i + 1, "PTX and `__CUDA_ARCH__` belong into lib/ptx.cuh: wrap it there".into()));
        }
        if code.trim_start().starts_with("#include") && !code.contains("\"lib/") {
            faults.push((i + 1, "kernels include `lib/` only".into()));
        }
    }
    // `conv_mma.cu` belongs to `conv`: entries begin with the first word.
    let prefix = format!("{}_", stem(&file.path).split('_').next().unwrap_or_default());
    let strange = entries(&file.text).into_iter().filter(|e| is_kernel(&file.path) && !e.starts_with(&prefix));
    faults.extend(strange.map(|e| (1, format!("entry `{e}` does not begin with `{prefix}`"))));
    faults
}

/// Names of the `extern "C"` kernels of a file.
fn entries(text: &str) -> Vec<&str> {
    let after = text.split("extern \"C\" __global__").skip(1);
    let name = |rest: &'_ str| -> Option<usize> { rest.find("void ").map(|at| at + 5) };
    after.filter_map(|rest| name(rest).map(|at| rest[at..].split('(').next().unwrap_or_default().trim())).collect()
}

/// The paths on the `twins` line.
fn twins(text: &str) -> Vec<&str> {
    let mut inside = false;
    let lines = comment(text).filter(|(_, l)| {
        inside = label(l).map_or(inside, |l| l == "twins");
        inside
    });
    lines.flat_map(|(_, l)| l.split_whitespace().filter(|w| w.contains('/') && w.contains('.'))).collect()
}

/// Names of the functions that a header of PTX defines.
fn wrappers(text: &str) -> BTreeSet<&str> {
    let lines = text.lines().filter(|l| !l.trim_start().starts_with("//") && !l.starts_with(' ') && l.contains('('));
    let name = |l: &'_ str| -> Option<(usize, usize)> {
        let end = l.find('(')?;
        let start = l[..end].rfind([' ', '*', '&'])? + 1;
        Some((start, end))
    };
    lines.filter(|l| l.contains("DEV ") || l.contains("__device__")).filter_map(|l| name(l).map(|(a, b)| &l[a..b])).collect()
}

pub(super) fn trials() -> Vec<Trial> {
    vec![
        trial("tidy::kernel_twins", || {
            let files = project();
            let exists = |path: &str| files.iter().any(|f| f.path == path);
            let mut faults = Vec::new();
            for f in files.iter().filter(|f| is_kernel(&f.path)) {
                let twins = twins(&f.text);
                if twins.len() < 3 {
                    faults.push(format!("{}: names {} twins, it has a lowering, a CPU kernel and tests", f.path, twins.len()));
                }
                faults.extend(twins.iter().filter(|t| !exists(t)).map(|t| format!("{}: its twin `{t}` does not exist", f.path)));
            }
            none(&faults)
        }),
        trial("tidy::kernel_entries_are_unique", || {
            let files = project();
            let mut all: Vec<&str> = files.iter().filter(|f| is_kernel(&f.path)).flat_map(|f| entries(&f.text)).collect();
            all.sort_unstable();
            assert!(all.len() > 10, "found {all:?} only");
            let twice = all.windows(2).find(|w| w[0] == w[1]);
            assert!(twice.is_none(), "two entries are called {twice:?}");
        }),
        trial("tidy::ptx_is_twinned", || {
            let files = project();
            let text = |path: &str| &files.iter().find(|f| f.path == path).unwrap_or_else(|| panic!("no {path}")).text;
            let wrappers = wrappers(text("kernels/lib/ptx.cuh"));
            assert!(wrappers.len() > 5, "found {wrappers:?} only");
            let host = text("tests/emulated/shim/ptx.hpp");
            let missing: Vec<_> =
                wrappers.iter().filter(|w| !has_word(host, w)).map(|w| format!("`{w}` has no twin in the shim")).collect();
            none(&missing)
        }),
        trial("tidy::kernel_snippets", || {
            assert_eq!(entries("extern \"C\" __global__ __launch_bounds__(32)\nvoid a_b(int n) {\n"), ["a_b"]);
            assert_eq!(twins("// a\n//   twins      src/a.rs\n//              b/c.rs\nint x;\n"), ["src/a.rs", "b/c.rs"]);
            assert_eq!(wrappers("DEV u16 f(float v) {\n    g(1);\n// h(2)\n").into_iter().collect::<Vec<_>>(), ["f"]);
        }),
    ]
}
