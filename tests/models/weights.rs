//! Loading and saving weights: names, element types, misfits and broken files.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use libtest_mimic::{Failed, Trial};
use petard::nn::{ModelCard, Weights};
use petard::tensor::{HostData, HostTensor};
use safetensors::tensor::{Dtype, TensorView};

use super::{built, state, tiny};

/// Every trial of this file.
pub fn trials() -> Vec<Trial> {
    vec![
        Trial::test("models::weights::round_trip", round_trip),
        Trial::test("models::weights::element_types", element_types),
        Trial::test("models::weights::prefixes_and_dialects", prefixes_and_dialects),
        Trial::test("models::weights::sub_block1", unused_block_of_wide_networks),
        Trial::test("models::weights::misfits", misfits),
        Trial::test("models::weights::not_finite", not_finite),
        Trial::test("models::weights::broken_files", broken_files),
        Trial::test("models::weights::sha256", wrong_digest),
    ]
}

fn floats(tensor: &HostTensor) -> &[f32] {
    match &tensor.data {
        HostData::F32(values) => values,
        other => panic!("{other:?} are not floats"),
    }
}

/// One tensor of a file to be written by the reference implementation of the format.
struct Raw {
    name: String,
    dtype: Dtype,
    dims: Vec<usize>,
    bytes: Vec<u8>,
}

fn raw(map: &BTreeMap<String, HostTensor>) -> Vec<Raw> {
    let bytes = |t: &HostTensor| floats(t).iter().flat_map(|v| v.to_le_bytes()).collect();
    map.iter().map(|(n, t)| Raw { name: n.clone(), dtype: Dtype::F32, dims: t.dims.clone(), bytes: bytes(t) }).collect()
}

fn file_bytes(tensors: &[Raw]) -> Vec<u8> {
    let view = |t| {
        let Raw { name, dtype, dims, bytes }: &Raw = t;
        (name, TensorView::new(*dtype, dims.clone(), bytes).expect("a good tensor"))
    };
    safetensors::serialize(tensors.iter().map(view), None).expect("the tensors serialise")
}

/// Writes the tensors and loads them for `card`, by default the tiny one.
fn load(tensors: &[Raw], card: &ModelCard) -> petard::error::Result<Weights> {
    load_bytes(&file_bytes(tensors), card)
}

fn load_bytes(bytes: &[u8], card: &ModelCard) -> petard::error::Result<Weights> {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("w.safetensors");
    fs::write(&path, bytes).expect("the temporary folder can be written");
    Weights::load(&path, None, card, &built(card, false).graph)
}

/// The text of the error without the temporary folder, and its hint.
fn complaint(result: petard::error::Result<Weights>) -> (String, String) {
    let error = result.expect_err("these weights are wrong");
    let text = error.to_string();
    let folder = text.find("w.safetensors").and_then(|end| text[..end].rfind('`').map(|start| text[start + 1..end].to_string()));
    (text.replace(&folder.unwrap_or_default(), ""), error.hint().unwrap_or_default())
}

fn round_trip() -> Result<(), Failed> {
    let card = tiny();
    let graph = built(&card, false).graph;
    let want = state(&graph);
    let memory = Weights::from_tensors(want.clone(), &graph).expect("weights that fit");
    assert_eq!(memory.tensors, want);
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("w.safetensors");
    memory.save(&path).expect("a folder that can be written");
    memory.save(&path).expect("a file that can be replaced");
    let loaded = Weights::load(&path, None, &card, &graph).expect("what was just written");
    assert_eq!(loaded, memory, "also the digest is that of the file");
    assert_eq!(fs::read_dir(folder.path())?.count(), 1, "nothing is left beside the file");
    let reference = safetensors::SafeTensors::deserialize(&fs::read(&path)?).map(|s| s.len()).expect("a file for everybody");
    assert_eq!(reference, want.len());
    let nowhere = memory.save(&folder.path().join("no/w.safetensors")).expect_err("no such folder").to_string();
    assert!(nowhere.starts_with("cannot write `"), "{nowhere}");
    Ok(())
}

fn element_types() -> Result<(), Failed> {
    // Exact in every type: a small integer over a power of two; then the smallest subnormal half and a large one.
    let value = |i: usize| [(i % 61) as f32 / 32.0 - 1.0, 2f32.powi(-24), 65504.0, -0.0][3usize.saturating_sub(i)];
    let halves = [0x8000, 0x7bff, 0x0001];
    let card = tiny();
    let mut map = state(&built(&card, false).graph);
    map.values_mut().for_each(|t| t.data = HostData::F32((0..t.elems()).map(value).collect()));
    for dtype in [Dtype::F64, Dtype::F16, Dtype::BF16] {
        let mut tensors = raw(&map);
        let mut want = map.clone();
        for t in &mut tensors {
            let values = floats(&map[&t.name]);
            t.dtype = dtype;
            t.bytes = match dtype {
                Dtype::F64 => values.iter().flat_map(|&v| f64::from(v).to_le_bytes()).collect(),
                Dtype::BF16 => values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect(),
                _ => {
                    (0..values.len()).flat_map(|i| if i < 3 { halves[i] } else { small_half(values[i]) }.to_le_bytes()).collect()
                }
            };
        }
        if dtype == Dtype::BF16 {
            let cut = |v: &f32| f32::from_bits(v.to_bits() >> 16 << 16);
            want.values_mut().for_each(|t| t.data = HostData::F32(floats(t).iter().map(cut).collect()));
        }
        let loaded = load(&tensors, &card).unwrap_or_else(|e| panic!("{dtype}: {e}"));
        let bits =
            |m: &BTreeMap<String, HostTensor>| m.values().flat_map(|t| floats(t).iter().map(|v| v.to_bits())).collect::<Vec<_>>();
        assert_eq!(bits(&loaded.tensors), bits(&want), "{dtype}");
    }
    let mut tensors = raw(&map);
    tensors[0].dtype = Dtype::I32;
    let (text, hint) = complaint(load(&tensors, &card));
    assert_eq!(text, "`w.safetensors`: `bn1.bias` has elements of type I32");
    assert!(hint.contains("float32"), "{hint}");
    Ok(())
}

/// The half of a multiple of 1/32 below 2 in size.
fn small_half(v: f32) -> u16 {
    let bits = v.to_bits();
    let exponent = (bits >> 23 & 255) as i32 - 127 + 15;
    let rest = if v == 0.0 { 0 } else { (exponent as u16) << 10 | (bits >> 13 & 1023) as u16 };
    (bits >> 31 << 15) as u16 | rest
}

fn prefixes_and_dialects() -> Result<(), Failed> {
    let card = tiny();
    let map = state(&built(&card, false).graph);
    let rename = |edit: &dyn Fn(&str) -> String| {
        let mut tensors = raw(&map);
        tensors.iter_mut().for_each(|t| t.name = edit(&t.name));
        let counter = Raw { name: edit("bn1.num_batches_tracked"), dtype: Dtype::I64, dims: vec![], bytes: vec![7; 8] };
        tensors.push(counter);
        load(&tensors, &card)
    };
    for prefix in ["", "module.", "model.", "_orig_mod.", "module._orig_mod.model."] {
        let weights = rename(&|n| format!("{prefix}{n}")).unwrap_or_else(|e| panic!("`{prefix}`: {e}"));
        assert_eq!(weights.tensors, map, "{prefix}");
    }
    let other = rename(&|n| format!("module.{}", n.replace("downsample", "shortcut").replace("fc", "linear")));
    assert_eq!(other.expect("the other dialect").tensors, map);
    let mut twice = raw(&map);
    twice.push(Raw { name: "module.fc.bias".into(), dtype: Dtype::F32, dims: vec![3], bytes: vec![0; 12] });
    let (text, _) = complaint(load(&twice, &card));
    assert_eq!(text.lines().skip(1).collect::<Vec<_>>(), ["  given twice  fc.bias and module.fc.bias"], "{text}");
    Ok(())
}

fn unused_block_of_wide_networks() -> Result<(), Failed> {
    let text = "arch = 'wide_resnet'\ninput = [3, 32, 32]\nclasses = 10\ndepth = 10\nwiden = 1";
    let wide = ModelCard::parse(text, "wide", Path::new("")).expect("a good card");
    let spare = |name: &str| Raw { name: name.into(), dtype: Dtype::F32, dims: vec![1], bytes: vec![0; 4] };
    let mut tensors = raw(&state(&built(&wide, false).graph));
    tensors.push(spare("module.sub_block1.layer.0.conv1.weight"));
    assert_eq!(load(&tensors, &wide).expect("weights that fit").unused, ["module.sub_block1.layer.0.conv1.weight"]);
    let mut tensors = raw(&state(&built(&tiny(), false).graph));
    tensors.push(spare("sub_block1.layer.0.conv1.weight"));
    let (text, _) = complaint(load(&tensors, &tiny()));
    assert!(text.ends_with("left over    sub_block1.layer.0.conv1.weight [1]"), "{text}");
    Ok(())
}

fn misfits() -> Result<(), Failed> {
    let card = tiny();
    let map = state(&built(&card, false).graph);
    let changed = |edit: &dyn Fn(&mut BTreeMap<String, HostTensor>)| {
        let mut map = map.clone();
        edit(&mut map);
        complaint(load(&raw(&map), &card))
    };
    let zeros = |dims: &[usize]| HostTensor::f32(dims, vec![0.0; dims.iter().product()]);
    let (text, hint) = changed(&|m| {
        m.remove("bn1.bias");
        m.insert("aux.weight".into(), zeros(&[2, 5]));
        m.insert("conv1.weight".into(), zeros(&[2, 3, 3, 3]));
    });
    let want = "`w.safetensors` does not fit card `tiny`\n  missing      bn1.bias [2]\n  left over    aux.weight [2,5]\n  \
                other shape  conv1.weight [2,3,3,3], the network has [2,1,3,3]";
    assert_eq!(text, want);
    assert!(hint.starts_with("is this the card of that file?"), "{hint}");
    let (text, hint) = changed(&|m| {
        m.insert("fc.weight".into(), zeros(&[1000, 4]));
        m.insert("fc.bias".into(), zeros(&[1000]));
    });
    assert!(text.ends_with("fc.weight [1000,4], the network has [3,4]"), "{text}");
    assert_eq!(hint, "this head has 1000 classes: set `classes = 1000` in the card");
    let (_, hint) = changed(&|m| m.retain(|n, _| !n.contains("downsample")));
    assert!(hint.contains("shortcut = \"pad\""), "{hint}");
    let (text, _) = changed(&|m| m.retain(|n, _| n.starts_with("fc")));
    assert!(text.contains("and 22 more") && text.lines().count() == 10, "{text}");
    let error = Weights::from_tensors(BTreeMap::new(), &built(&card, false).graph).expect_err("nothing fits nothing");
    assert!(
        error.to_string().starts_with("`weights from memory` does not fit the network\n  missing      bn1.bias [2]"),
        "{error}"
    );
    Ok(())
}

fn not_finite() -> Result<(), Failed> {
    let card = tiny();
    let mut map = state(&built(&card, false).graph);
    map.insert("fc.bias".into(), HostTensor::f32(&[3], vec![f32::NAN, f32::INFINITY, f32::NAN]));
    let (text, hint) = complaint(load(&raw(&map), &card));
    assert_eq!(text, "`w.safetensors`: `fc.bias` holds 2 NaN and 1 infinite of 3 values");
    assert!(hint.contains("earlier checkpoint"), "{hint}");
    Ok(())
}

fn broken_files() -> Result<(), Failed> {
    let card = tiny();
    let good = file_bytes(&raw(&state(&built(&card, false).graph)));
    let header = u64::from_le_bytes(good[..8].try_into().expect("8 bytes")) as usize;
    for end in [0, 7, 8, 20, header + 7, header + 8, good.len() - 1] {
        let (text, hint) = complaint(load_bytes(&good[..end], &card));
        assert!(text.starts_with("`w.safetensors` is not a complete safetensors file: "), "{end}: {text}");
        assert!(hint.contains("cut short"), "{hint}");
    }
    let longer = [good.as_slice(), &[0]].concat();
    assert!(complaint(load_bytes(&longer, &card)).0.contains("is not a complete safetensors file"));
    let huge = [&u64::MAX.to_le_bytes()[..], &[b'{'; 100]].concat();
    let (text, _) = complaint(load_bytes(&huge, &card));
    assert!(text.ends_with("its header claims 18446744073709551615 bytes, the file has 100"), "{text}");
    let overflow = br#"{"a":{"dtype":"F32","shape":[4611686018427387904,16],"data_offsets":[0,0]}}"#;
    let overflow = [&(overflow.len() as u64).to_le_bytes()[..], overflow].concat();
    assert!(complaint(load_bytes(&overflow, &card)).0.contains("bad header"));
    // A zip archive is read as a PyTorch checkpoint, whatever the file is called.
    let (text, _) = complaint(load_bytes(b"PK\x03\x04\x00\x00\x00\x00 a zip archive", &card));
    assert!(text.starts_with("`w.safetensors`") && !text.contains("safetensors file"), "{text}");
    for i in (0..good.len()).step_by(13) {
        let mut garbled = good.clone();
        garbled[i] ^= 0x24;
        let _ = load_bytes(&garbled, &card).map_err(|e| e.to_string()); // any answer but a panic
    }
    Ok(())
}

fn wrong_digest() -> Result<(), Failed> {
    let mut card = tiny();
    let tensors = raw(&state(&built(&card, false).graph));
    let right = load(&tensors, &card).expect("weights that fit").sha256;
    card.sha256 = Some(right.clone());
    load(&tensors, &card).expect("the digest is right");
    card.sha256 = Some("0".repeat(64));
    let (text, hint) = complaint(load(&tensors, &card));
    assert_eq!(text, format!("`w.safetensors` has sha256 `{right}`, card `tiny` expects `{}`", "0".repeat(64)));
    assert!(hint.contains("`sha256` in the card"), "{hint}");
    Ok(())
}
