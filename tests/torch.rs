//! Checkpoints of PyTorch: read as torch itself reads them, and refused without harm where they are broken or hostile.
//! Must not know networks. Files are built here byte by byte; those that torch writes need `PETARD_PYTHON`, a Python with it.

mod build;
mod hostile;

use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use libtest_mimic::Trial;
use petard::nn::{StateDict, read_state_dict};
use petard::tensor::{HostData, HostTensor};
use safetensors::{SafeTensors, tensor::Dtype};

use crate::support::{ignored, root, trial};
use build::*;

pub fn trials() -> Vec<Trial> {
    let mut all = forms();
    all.extend(choices());
    all.extend(hostile::trials());
    all.push(files_of_torch());
    all
}

/// What sound files hold, in every form.
fn forms() -> Vec<Trial> {
    let want = || HostTensor::f32(&[2, 3], vec![1., 2., 3., 4., 5., 6.]);
    vec![
        trial("torch::form.zip", move || assert_eq!(one(SIX.tensor(), &[("0", &six())]), want())),
        trial("torch::form.zip64", move || {
            let pickle = whole(&dict(&[("w", SIX.tensor())]));
            let entries: [(&str, &[u8]); 2] = [("a/data.pkl", &pickle), ("a/data/0", &six())];
            assert_eq!(read(&archive(&entries, true), None).expect("sound").tensors["w"], want());
        }),
        trial("torch::form.zip64_over_4_gb", over_4_gb),
        trial("torch::form.legacy", move || {
            let value = dict(&[("w", SIX.tensor()), ("n", View { class: "LongStorage", key: "x", ..SIX }.tensor())]);
            let longs: Vec<u8> = (0..6i64).flat_map(|i| (i - 3).to_le_bytes()).collect();
            let state = read(&legacy_form(&value, &[("x", 6, &longs), ("0", 6, &six())]), None).expect("sound");
            assert_eq!(state.tensors["w"], want());
            assert_eq!(state.tensors["n"], HostTensor::i64(&[2, 3], vec![-3, -2, -1, 0, 1, 2]));
        }),
        trial("torch::form.legacy_part_of_storage", || {
            let part = Some(tuple(&[text("1"), int(2), int(3)]));
            let value = dict(&[("w", View { part, offset: 1, dims: &[2], strides: &[1], ..SIX }.tensor())]);
            let state = read(&legacy_form(&value, &[("0", 6, &six())]), None).expect("sound");
            assert_eq!(state.tensors["w"], HostTensor::f32(&[2], vec![4., 5.]));
        }),
        trial("torch::form.python_2", move || {
            // Short strings of bytes, and an ordered dict that is handed a list of pairs.
            let pair = list(&[b"U\x01w".to_vec(), SIX.tensor()]);
            let value = call(global("collections", "OrderedDict"), &[list(&[pair])]);
            assert_eq!(read(&legacy_form(&value, &[("0", 6, &six())]), None).expect("sound").tensors["w"], want());
        }),
        trial("torch::form.big_endian", move || {
            let big: Vec<u8> = (1..=6).flat_map(|i| (i as f32).to_be_bytes()).collect();
            let pickle = whole(&dict(&[("w", SIX.tensor())]));
            let entries: [(&str, &[u8]); 3] = [("a/data.pkl", &pickle), ("a/byteorder", b"big"), ("a/data/0", &big)];
            assert_eq!(read(&archive(&entries, false), None).expect("sound").tensors["w"], want());
        }),
        trial("torch::form.views", || {
            let view = |offset, dims, strides| one(View { offset, dims, strides, ..SIX }.tensor(), &[("0", &six())]);
            assert_eq!(view(0, &[3, 2], &[1, 3]), HostTensor::f32(&[3, 2], vec![1., 4., 2., 5., 3., 6.]));
            assert_eq!(view(1, &[2, 2], &[3, 1]), HostTensor::f32(&[2, 2], vec![2., 3., 5., 6.]));
            assert_eq!(view(4, &[2, 3], &[1, 0]), HostTensor::f32(&[2, 3], vec![5., 5., 5., 6., 6., 6.]));
            assert_eq!(view(0, &[3, 3], &[1, 1]), HostTensor::f32(&[3, 3], vec![1., 2., 3., 2., 3., 4., 3., 4., 5.]));
            assert_eq!(view(5, &[], &[]), HostTensor::f32(&[], vec![6.]));
            assert_eq!(view(6, &[0, 9], &[9, 1]), HostTensor::f32(&[0, 9], vec![]));
            assert_eq!(view(5, &[1, 1], &[i64::MAX, i64::MAX]), HostTensor::f32(&[1, 1], vec![6.]));
        }),
        trial("torch::form.elements", elements),
        trial("torch::form.parameters", move || {
            let plain = call(global("torch._utils", "_rebuild_parameter"), &[SIX.tensor(), b"\x88".to_vec(), dict(&[])]);
            assert_eq!(one(plain, &[("0", &six())]), want());
            let View { offset, dims, strides, .. } = SIX;
            let storage = [text("storage"), global("torch", "FloatStorage"), text("0"), text("cuda:0"), int(6)];
            let args = [[tuple(&storage), b"Q".to_vec()].concat(), int(offset), ints(dims), ints(strides)];
            let make = global("torch._utils", "_rebuild_tensor");
            let class = [make, global("my.own", "Tensor"), tuple(&args), dict(&[])];
            assert_eq!(one(call(global("torch._tensor", "_rebuild_from_type_v2"), &class), &[("0", &six())]), want());
        }),
    ]
}

fn elements() {
    let get = |class, bytes: &[u8]| {
        let elems = 2;
        one(View { class, elems, dims: &[2], strides: &[1], ..SIX }.tensor(), &[("0", bytes)]).data
    };
    let f = |a, b| HostData::F32(vec![a, b]);
    let i = |a, b| HostData::I64(vec![a, b]);
    assert_eq!(get("DoubleStorage", &[0.1f64, 1e300].map(f64::to_le_bytes).concat()), f(0.1, f32::INFINITY));
    assert_eq!(get("HalfStorage", &[0x3555u16, 0x8001].map(u16::to_le_bytes).concat()), f(0.333_251_95, -2.0f32.powi(-24)));
    assert_eq!(get("HalfStorage", &[0x7bffu16, 0xfc00].map(u16::to_le_bytes).concat()), f(65504.0, f32::NEG_INFINITY));
    assert_eq!(get("BFloat16Storage", &[0x3f80u16, 0xc049].map(u16::to_le_bytes).concat()), f(1.0, -3.140_625));
    assert_eq!(get("IntStorage", &[-7i32, i32::MAX].map(i32::to_le_bytes).concat()), i(-7, i64::from(i32::MAX)));
    assert_eq!(get("ShortStorage", &[-7i16, 9].map(i16::to_le_bytes).concat()), i(-7, 9));
    assert_eq!(get("CharStorage", &[0xff, 1]), i(-1, 1));
    assert_eq!(get("ByteStorage", &[0xff, 1]), i(255, 1));
    assert_eq!(get("BoolStorage", &[0, 1]), i(0, 1));
}

/// A file with a hole of 5 GB in its storage; the hole takes no room on most file systems.
fn over_4_gb() {
    let bytes = 5 << 30;
    let view = View { elems: bytes / 4, offset: bytes / 4 - 3, dims: &[3], strides: &[1], ..SIX };
    let pickle = whole(&dict(&[("w", view.tensor())]));
    let mut head = archive(&[("a/data.pkl", &pickle)], true);
    head.truncate(30 + 10 + 5 + pickle.len());
    let start = head.len() as u64;
    head.extend([b"PK\x03\x04", &[0; 22][..], &8u16.to_le_bytes(), &[0; 2], b"a/data/0"].concat());
    let end = head.len() as u64 + bytes as u64;
    let mut tail: Vec<u8> = [7f32, 8., 9.].into_iter().flat_map(f32::to_le_bytes).collect();
    let directory =
        [directory_entry("a/data.pkl", pickle.len() as u64, 0, false), directory_entry("a/data/0", bytes as u64, start, true)];
    let size = directory.concat().len() as u64;
    tail.extend(directory.concat());
    tail.extend(end_of_archive([size, end], end + size, 2, true));
    let named = written(&head);
    let mut file = named.as_file();
    file.seek(SeekFrom::Start(end - 12)).and_then(|_| file.write_all(&tail)).expect("room for the end behind the hole");
    let state = read_state_dict(named.path(), None).expect("sound");
    assert_eq!(state.tensors["w"], HostTensor::f32(&[3], vec![7., 8., 9.]));
}

/// Which of several weights are taken.
fn choices() -> Vec<Trial> {
    let weights = |number: i64| dict(&[("w", View { offset: number, dims: &[1], strides: &[1], ..SIX }.tensor())]);
    let state = move |pairs: &[(&str, Vec<u8>)], entry| read(&zip_form(&dict(pairs), &[("0", &six())]), entry);
    let first = |state: &StateDict| match &state.tensors["w"].data {
        HostData::F32(values) => values[0],
        other => panic!("{other:?}"),
    };
    vec![
        trial("torch::choice.plain_before_averaged", move || {
            let pairs = [("ema", weights(1)), ("epoch", int(3)), ("state_dict", weights(2))];
            let got = state(&pairs, None).expect("sound");
            assert_eq!((first(&got), got.entry.as_str(), got.others), (3., "state_dict", vec!["ema".to_string()]));
            assert_eq!(first(&state(&pairs, Some("ema")).expect("sound")), 2.);
            let error = state(&pairs, Some("best")).expect_err("there is none");
            assert!(error.to_string().contains("no weights under `best`"), "{error}");
            assert_eq!(error.hint().expect("names"), "it has them under `ema`, `state_dict`");
        }),
        trial("torch::choice.only_averaged", move || {
            let got = state(&[("model_ema", weights(1))], None).expect("sound");
            assert_eq!((first(&got), got.entry.as_str(), got.others.len()), (2., "model_ema", 0));
        }),
        trial("torch::choice.nested", move || {
            let inner = dict(&[("net", weights(3)), ("ema", weights(1))]);
            let got = state(&[("model", inner)], None).expect("sound");
            assert_eq!((first(&got), got.entry.as_str(), got.others), (4., "model.net", vec!["model.ema".to_string()]));
        }),
        trial("torch::choice.bare", move || {
            let got =
                state(&[("w", View { dims: &[6], strides: &[1], ..SIX }.tensor()), ("note", text("hi"))], None).expect("sound");
            assert_eq!((got.entry.as_str(), got.skipped), ("", vec!["note".to_string()]));
        }),
        trial("torch::choice.scalars_are_no_weights", move || {
            let best = View { dims: &[], strides: &[], ..SIX }.tensor();
            let got = state(&[("best", best), ("generator", weights(1))], None).expect("sound");
            assert_eq!((got.entry.as_str(), got.others.len()), ("generator", 0));
        }),
        trial("torch::choice.unclear", move || {
            let error = state(&[("student", weights(1)), ("teacher", weights(2))], None).expect_err("which?");
            assert!(error.to_string().contains("tensors under `student`, `teacher`"), "{error}");
        }),
        trial("torch::choice.later_key_counts", move || {
            let pairs = [("w", View { dims: &[6], strides: &[1], ..SIX }.tensor()), ("w", SIX.tensor())];
            assert_eq!(state(&pairs, None).expect("sound").tensors["w"].dims, [2, 3]);
        }),
        trial("torch::choice.strangers_are_passed_over", move || {
            let made = call(global("numpy.core.multiarray", "scalar"), &[text("f8"), b"U\x02ab".to_vec()]);
            let built = [global("argparse", "Namespace"), b")\x81".to_vec(), dict(&[("lr", int(1))]), b"b".to_vec()].concat();
            let queue = [call(global("collections", "deque"), &[]), b"(".to_vec(), int(1), int(2), b"e".to_vec()].concat();
            let pairs = [("state_dict", weights(0)), ("args", built), ("loss", made), ("last", queue)];
            assert_eq!(first(&state(&pairs, None).expect("sound")), 1.);
        }),
    ]
}

/// Everything that `torch/files.py` makes torch write, tensor by tensor and bit by bit.
fn files_of_torch() -> Trial {
    let name = "torch::files_of_torch";
    let Some(python) = std::env::var_os("PETARD_PYTHON").map(PathBuf::from) else { return ignored(name, "no PETARD_PYTHON") };
    let find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)";
    if !Command::new(&python).args(["-c", find]).status().is_ok_and(|status| status.success()) {
        return ignored(name, "PETARD_PYTHON has no torch");
    }
    trial(name, move || {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let run = Command::new(&python).arg(root().join("tests/torch/files.py")).arg(folder.path()).output();
        let run = run.expect("a Python that was found a moment ago");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        let mut paths: Vec<PathBuf> =
            fs::read_dir(folder.path()).expect("its folder").map(|e| e.expect("an entry").path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == "pt"));
        let (mut tensors, mut refused) = (0, 0);
        for path in &paths {
            if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("refuse-")) {
                let error = read_state_dict(path, None).expect_err("this file must be refused");
                println!("{error}\n  {}", error.hint().expect("every refusal says the way out"));
                refused += 1;
            } else {
                tensors += same_as_torch(path);
            }
        }
        println!("{} files, {tensors} tensors equal, {refused} files refused", paths.len());
        assert_eq!((paths.len(), tensors, refused), (88, 2690, 23), "some files were not looked at");
    })
}

/// Compares a file with what torch read from it; the number of tensors.
fn same_as_torch(path: &Path) -> usize {
    let name = path.display();
    let got = read_state_dict(path, None).unwrap_or_else(|e| panic!("{name}: {e}"));
    let bytes = fs::read(path.with_extension("safetensors")).expect("written beside it");
    let want = SafeTensors::deserialize(&bytes).expect("a sound file");
    let entry = fs::read_to_string(path.with_extension("entry")).unwrap_or_default();
    assert_eq!(got.entry, entry, "{name}");
    assert_eq!(got.tensors.len(), want.len(), "{name}: {:?}", got.tensors.keys());
    for (key, want) in want.iter() {
        let got = got.tensors.get(key).unwrap_or_else(|| panic!("{name} has no {key}"));
        assert_eq!(got.dims, want.shape(), "{name}: {key}");
        let (dtype, bytes): (_, Vec<u8>) = match &got.data {
            HostData::F32(values) => (Dtype::F32, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            HostData::I64(values) => (Dtype::I64, values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            HostData::U8(_) => panic!("{name}: {key} holds bytes"),
        };
        assert_eq!(dtype, want.dtype(), "{name}: {key}");
        assert!(bytes == want.data(), "{name}: {key} differs");
    }
    want.len()
}
