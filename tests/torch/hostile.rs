//! Files that are broken, of another kind or made to harm: refused in words, without a panic and within bounds of memory.
//! Must not know what sound files hold.

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;

use libtest_mimic::Trial;
use petard::nn::read_state_dict;

use super::build::*;
use crate::support::{Rng, ignored, trial};

pub fn trials() -> Vec<Trial> {
    let bodies: [(&str, fn()); 7] = [
        ("nothing_runs", nothing_runs),
        ("strides", strides),
        ("growth", growth),
        ("shapes_of_pickles", shapes_of_pickles),
        ("deep_and_wide", deep_and_wide),
        ("other_kinds", other_kinds),
        ("compressed", compressed),
    ];
    let mut all: Vec<Trial> = bodies.into_iter().map(|(name, body)| trial(format!("torch::hostile.{name}"), body)).collect();
    all.extend(fuzz());
    all
}

fn view(view: View) -> String {
    value(&dict(&[("w", view.tensor())]))
}

fn value(value: &[u8]) -> String {
    refusal(&zip_form(value, &[("0", &six())]))
}

fn has(text: String, part: &str) {
    assert!(text.contains(part), "no `{part}` in: {text}");
}

fn nothing_runs() {
    let proof = tempfile::tempdir().expect("a temporary folder");
    let made = proof.path().join("made");
    let command = text(&format!("touch {}", made.display()));
    let evil = call(global("posix", "system"), std::slice::from_ref(&command));
    let stacked = [text("posix"), text("system"), b"\x93".to_vec(), tuple(&[command]), b"R".to_vec()].concat();
    let pairs = [("w", SIX.tensor()), ("a", evil), ("b", stacked)];
    let state = read(&zip_form(&dict(&pairs), &[("0", &six())]), None).expect("strangers are passed over");
    assert_eq!(state.skipped, ["a", "b"]);
    assert!(!made.exists(), "a call in the file was executed");
}

fn strides() {
    for (offset, dims, strides) in [
        (1, &[6][..], &[1][..]),
        (0, &[2, 3], &[4, 1]),
        (7, &[0], &[1]),
        (i64::MAX, &[1], &[1]),
        (0, &[2, 2], &[i64::MAX, i64::MAX]),
        (0, &[1 << 40, 1 << 40], &[0, 0]),
        (0, &[1 << 32, 1 << 32, 0], &[0, 0, 0]),
    ] {
        has(view(View { offset, dims, strides, ..SIX }), "leads out of its storage");
    }
    has(view(View { dims: &[-1], strides: &[1], ..SIX }), "no plain numbers");
    has(view(View { dims: &[2], strides: &[-1], ..SIX }), "no plain numbers");
    has(view(View { dims: &[2], strides: &[1, 1], ..SIX }), "no plain numbers");
    has(view(View { dims: &[1; 33], strides: &[1; 33], ..SIX }), "no plain numbers");
    let part = Some(tuple(&[text("1"), int(3), int(3)]));
    let outside = View { elems: 5, part, dims: &[2], strides: &[1], ..SIX };
    has(refusal(&legacy_form(&dict(&[("w", outside.tensor())]), &[("0", 6, &six())])), "lies outside the whole");
    has(view(View { elems: 7, ..SIX }), "shorter than it says");
    has(view(View { elems: i64::MAX, ..SIX }), "shorter than it says");
    has(view(View { key: "9", ..SIX }), "not in the file");
    has(view(View { class: "ComplexFloatStorage", ..SIX }), "ComplexFloatStorage");
}

fn growth() {
    has(view(View { dims: &[1 << 20], strides: &[0], ..SIX }), "more of this file than it can hold");
    // Each of many views is small enough, all together they are not.
    let wide = View { dims: &[50_000], strides: &[0], ..SIX }.tensor();
    let names: Vec<String> = (0..9).map(|i| i.to_string()).collect();
    let pairs: Vec<(&str, Vec<u8>)> = names.iter().map(|n| (n.as_str(), wide.clone())).collect();
    has(value(&dict(&pairs)), "more of this file than it can hold");
    assert_eq!(one(wide, &[("0", &six())]).elems(), 50_000);
}

fn shapes_of_pickles() {
    for (bytes, part) in [
        (b"".to_vec(), "empty stack"),
        (b"t".to_vec(), "never begun"),
        (b"K\x01(0".repeat(2), "no tensors"),
        (b"K\x01(a".to_vec(), "empty stack"),
        (b"h\x07".to_vec(), "never stored"),
        (b"}(K\x01u".to_vec(), "without a value"),
        (b"K\x01K\x01a".to_vec(), "no list"),
        (b"K\x01K\x01K\x01s".to_vec(), "no dict"),
        (b"\x80\x09".to_vec(), "protocol 9"),
        (b"\xff".to_vec(), "0xff"),
        (b"K\x01K\x01\x93".to_vec(), "name is no text"),
        (b"cos\nsys".to_vec(), "does not end"),
        (b"X\xff\xff\xff\xff".to_vec(), "too early"),
        (b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(), "too early"),
        (b"\x8b\xff\xff\xff\xff".to_vec(), "too early"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\x7f".to_vec(), "too early"),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\xffN".to_vec(), "no tensors"),
    ] {
        has(value(&bytes), part);
    }
}

fn deep_and_wide() {
    let deep = [&b"]".repeat(300_000)[..], &b"a".repeat(299_999)].concat();
    has(value(&deep), "no tensors");
    has(value(&[b"N", &b"\x85".repeat(300_000)[..]].concat()), "no tensors");
    let laughs = [b"]\x94", &b"(h\x00h\x00h\x00t\x94".repeat(100_000)[..]].concat();
    has(value(&laughs), "no tensors");
    // Long names that are put together again and again, and more values than anybody has.
    let names = [text(&"m".repeat(4000)), text(&"n".repeat(90))].concat();
    let recalled = b"h\x00h\x01\x930".repeat(200_000);
    has(value(&[&names[..], b"q\x010q\x00", &recalled].concat()), "no tensors");
    has(value(&b")".repeat(1 << 22)), "more than 4194304 values");
    has(value(&b"N\x94".repeat((1 << 22) + 1)), "more than 4194304 values");
    // A dict that contains itself, and one whose key is named a thousand times.
    has(value(b"}q\x00X\x01\x00\x00\x00ah\x00s"), "no tensors");
    let key = [text(&"k".repeat(100_000)), b"q\x00".to_vec()].concat();
    let same = [b"}(", &key[..], b"N", &b"h\x00N".repeat(100_000), &text("w"), &SIX.tensor(), b"u"].concat();
    let state = read(&zip_form(&same, &[("0", &six())]), None).expect("odd but sound");
    assert_eq!((state.tensors.len(), state.skipped.len()), (1, 1));
    let wraps = (0..9).fold(SIX.tensor(), |t, _| call(global("torch._utils", "_rebuild_parameter"), &[t]));
    has(value(&dict(&[("w", wraps)])), "too many wrappers");
}

fn other_kinds() {
    has(refusal(b""), "not a PyTorch checkpoint");
    has(refusal(&[b"\x10\0\0\0\0\0\0\0{", &[b' '; 40][..]].concat()), "not a PyTorch checkpoint");
    has(refusal(&whole(&dict(&[("w", int(1))]))), "not one that `torch.save` wrote");
    has(refusal(&archive(&[("a/data.pkl", b""), ("a/constants.pkl", b""), ("a/code/net.py", b"")], false)), "torch.jit.load");
    has(refusal(&archive(&[("readme", b"")], false)), "not a PyTorch checkpoint");
    let script = zip_form(&dict(&[("w", SIX.tensor())]), &[]);
    has(refusal(&script), "not in the file");
    let state = dict(&[("training", b"\x88".to_vec()), ("_parameters", dict(&[])), ("_modules", dict(&[]))]);
    let module = [global("models.resnet", "ResNet"), b")\x81".to_vec(), state, b"b".to_vec()].concat();
    let text = value(&dict(&[("net", module)]));
    assert!(text.contains("class `models.resnet.ResNet`") && text.contains("weights_only=False)[\"net\"]"), "{text}");
    let unknown = call(global("torch._utils", "_rebuild_qtensor"), &[int(1)]);
    has(value(&dict(&[("w", unknown)])), "`w` cannot be rebuilt: it is made by `torch._utils._rebuild_qtensor`");
}

fn compressed() {
    let mut bytes = zip_form(&dict(&[("w", SIX.tensor())]), &[("0", &six())]);
    let at = bytes.windows(4).rposition(|w| w == b"PK\x01\x02").expect("a directory");
    bytes[at + 10] = 8;
    has(refusal(&bytes), "packed again since PyTorch wrote it: its entry `net/data/0` is compressed");
}

/// A small checkpoint with a little of everything, in both forms.
fn samples() -> [Vec<u8>; 2] {
    let halves = View { class: "HalfStorage", key: "1", elems: 8, dims: &[2, 2], strides: &[1, 3], offset: 2, part: None };
    let steps = View { class: "LongStorage", key: "2", elems: 1, dims: &[], strides: &[], offset: 0, part: None };
    let weights =
        [b"\x95\x10\0\0\0\0\0\0\0".to_vec(), dict(&[("a", SIX.tensor()), ("b", halves.tensor()), ("n", steps.tensor())])];
    let namespace =
        [global("argparse", "Namespace"), b")\x81".to_vec(), dict(&[("lr", b"G?\xf0\0\0\0\0\0\0".to_vec())]), b"b".to_vec()];
    let odd = [
        text("m"),
        b"\x94".to_vec(),
        text("n"),
        b"\x93)\x81C\x02hi\x86".to_vec(),
        list(&[int(-1), b"N\x85".to_vec()]),
        b"\x86".to_vec(),
    ];
    let value = dict(&[("state_dict", weights.concat()), ("args", namespace.concat()), ("odd", odd.concat())]);
    let (b, n) = ([0x3c; 16], 7i64.to_le_bytes());
    [
        zip_form(&value, &[("0", &six()), ("1", &b), ("2", &n)]),
        legacy_form(&value, &[("0", 6, &six()), ("1", 8, &b), ("2", 1, &n)]),
    ]
}

/// Reads what may be anything: an error or a sane amount of tensors, never a panic.
fn survive(path: &Path, bytes: &[u8], what: &dyn Fn() -> String) -> bool {
    fs::write(path, bytes).expect("a temporary file can be written");
    let result = catch_unwind(AssertUnwindSafe(|| read_state_dict(path, None)));
    let Ok(result) = result else { panic!("{} panicked", what()) };
    let made: usize = result.iter().flat_map(|s| s.tensors.values()).map(|t| t.elems() * 4).sum();
    assert!(made <= bytes.len() * 16 + (1 << 20), "{} made {made} bytes of {}", what(), bytes.len());
    result.is_ok()
}

fn fuzz() -> Vec<Trial> {
    let sample = |name: &'static str, form: usize| {
        trial(format!("torch::fuzz.{name}"), move || {
            let sound = samples()[form].clone();
            let folder = tempfile::tempdir().expect("a temporary folder");
            let path = folder.path().join("net.pt");
            assert!(survive(&path, &sound, &|| "the sound file".into()), "{:?}", read(&sound, None));
            let mut rng = Rng::named(name);
            for at in 0..sound.len() {
                assert!(!survive(&path, &sound[..at], &|| format!("cut at {at}")), "a file cut at {at} must be refused");
                for value in [sound[at] ^ 1 << rng.below(8), b"()]}.0R\x81\x94QhucX\x85"[rng.below(15)]] {
                    let mut bytes = sound.clone();
                    bytes[at] = value;
                    survive(&path, &bytes, &|| format!("byte {at} set to {value}"));
                    let other = rng.below(sound.len());
                    bytes[other] = rng.bits() as u8;
                    survive(&path, &bytes, &|| format!("byte {at} set to {value}, byte {other} to {}", bytes[other]));
                }
            }
        })
    };
    let opcodes = trial("torch::fuzz.opcodes", || {
        let parts = [
            b"(".to_vec(),
            b"K\x02".to_vec(),
            b"h\0".to_vec(),
            b"q\0".to_vec(),
            text("w"),
            SIX.tensor(),
            global("a", "b"),
            int(1 << 40),
        ];
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut rng = Rng::named("opcodes");
        for case in 0..4000 {
            let mut value = Vec::new();
            for _ in 0..rng.below(60) {
                match rng.below(2) {
                    0 => value.extend(&parts[rng.below(parts.len())]),
                    _ => value.push(b"()]}0129aestub RQ\x81\x85\x86\x87\x8f\x90\x91\x92\x93\x94N"[rng.below(27)]),
                }
            }
            survive(&folder.path().join("net.pt"), &zip_form(&value, &[("0", &six())]), &|| format!("case {case}: {value:02x?}"));
        }
    });
    vec![sample("zip", 0), sample("legacy", 1), opcodes, memory_bounded()]
}

/// The trials above once more, in a process that is not given more than 256 MB of addresses.
fn memory_bounded() -> Trial {
    if !cfg!(target_os = "linux") {
        return ignored("torch::memory_bounded", "not Linux");
    }
    trial("torch::memory_bounded", || {
        let this = std::env::current_exe().expect("a running test has a file");
        for filter in ["torch::fuzz", "torch::hostile"] {
            let limit = "ulimit -v 262144 && exec \"$0\" \"$@\"";
            let mut run = Command::new("sh");
            run.args(["-c", limit]).arg(&this).args([filter, "--test-threads", "1"]);
            // The compiler for cards, which has no part in this, would take most of them.
            let run = run.env("PETARD_NVRTC", "none").output().expect("a shell");
            let text = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
            assert!(run.status.success() && !text.contains(" 0 passed"), "{filter} in 256 MB: {}\n{text}", run.status);
        }
    })
}
