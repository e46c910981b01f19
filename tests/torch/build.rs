//! Checkpoints built byte by byte: pickled values of protocol 2, and the two containers around them.
//! Must not know the reader that is tested, but for the few lines that call it.

use std::io::Write;

use petard::error::{Error, Result};
use petard::nn::{StateDict, read_state_dict};
use petard::tensor::HostTensor;

pub fn text(s: &str) -> Vec<u8> {
    [b"X", &(s.len() as u32).to_le_bytes()[..], s.as_bytes()].concat()
}
pub fn int(n: i64) -> Vec<u8> {
    [b"\x8a\x08", &n.to_le_bytes()[..]].concat()
}
pub fn ints(all: &[i64]) -> Vec<u8> {
    tuple(&all.iter().map(|&n| int(n)).collect::<Vec<_>>())
}
pub fn tuple(items: &[Vec<u8>]) -> Vec<u8> {
    [b"(", &items.concat()[..], b"t"].concat()
}
pub fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [b"](", &items.concat()[..], b"e"].concat()
}
pub fn dict(pairs: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let items: Vec<u8> = pairs.iter().flat_map(|(k, v)| [text(k), v.clone()].concat()).collect();
    [b"}(", &items[..], b"u"].concat()
}
pub fn global(module: &str, name: &str) -> Vec<u8> {
    format!("c{module}\n{name}\n").into_bytes()
}
pub fn call(function: Vec<u8>, args: &[Vec<u8>]) -> Vec<u8> {
    [function, tuple(args), b"R".to_vec()].concat()
}
pub fn whole(value: &[u8]) -> Vec<u8> {
    [b"\x80\x02", value, b"."].concat()
}

/// A view of a storage, as torch pickles it.
#[derive(Clone)]
pub struct View<'a> {
    pub class: &'a str,
    pub key: &'a str,
    pub elems: i64,
    /// What stands behind the number of elements in old files: a part of the storage.
    pub part: Option<Vec<u8>>,
    pub offset: i64,
    pub dims: &'a [i64],
    pub strides: &'a [i64],
}

/// Six floats of storage `0`.
pub const SIX: View = View { class: "FloatStorage", key: "0", elems: 6, part: None, offset: 0, dims: &[2, 3], strides: &[3, 1] };

impl View<'_> {
    pub fn tensor(&self) -> Vec<u8> {
        let mut storage = vec![text("storage"), global("torch", self.class), text(self.key), text("cpu"), int(self.elems)];
        storage.extend(self.part.clone());
        let storage = [tuple(&storage), b"Q".to_vec()].concat();
        let hooks = call(global("collections", "OrderedDict"), &[]);
        let args = [storage, int(self.offset), ints(self.dims), ints(self.strides), b"\x89".to_vec(), hooks];
        call(global("torch._utils", "_rebuild_tensor_v2"), &args)
    }
}

/// The content of that storage.
pub fn six() -> Vec<u8> {
    (1..=6).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

/// An archive of stored entries. `wide` writes all numbers of the directory in their 64-bit form.
pub fn archive(entries: &[(&str, &[u8])], wide: bool) -> Vec<u8> {
    let (mut out, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in entries {
        let start = out.len() as u64;
        out.extend(b"PK\x03\x04");
        out.extend([0; 22]);
        out.extend([name.len() as u16, 5].map(u16::to_le_bytes).concat());
        out.extend(name.as_bytes());
        out.extend(b"FB\x01\x00Z");
        out.extend(*content);
        directory.extend(directory_entry(name, content.len() as u64, start, wide));
    }
    let place = [directory.len() as u64, out.len() as u64];
    let count = entries.len() as u16;
    out.extend(directory);
    out.extend(end_of_archive(place, out.len() as u64, count, wide));
    out
}

/// One line of an archive's directory.
pub fn directory_entry(name: &str, bytes: u64, start: u64, wide: bool) -> Vec<u8> {
    let number = |n: u64| if wide { u32::MAX } else { n as u32 }.to_le_bytes();
    let extra = if wide { [&[1, 0, 24, 0][..], &[bytes, bytes, start].map(u64::to_le_bytes).concat()].concat() } else { vec![] };
    let lengths = [name.len() as u16, extra.len() as u16, 0, 0, 0].map(u16::to_le_bytes).concat();
    let head = [b"PK\x01\x02", &[0; 16][..], &number(bytes), &number(bytes), &lengths, &[0; 4], &number(start)].concat();
    [head, name.as_bytes().to_vec(), extra].concat()
}

/// What ends an archive: size and place of the directory, where this stands, how many entries.
pub fn end_of_archive([size, start]: [u64; 2], at: u64, count: u16, wide: bool) -> Vec<u8> {
    let number = |n: u64| if wide { u32::MAX } else { n as u32 }.to_le_bytes();
    let mut out = Vec::new();
    if wide {
        out.extend([b"PK\x06\x06", &44u64.to_le_bytes()[..], &[0; 28], &size.to_le_bytes(), &start.to_le_bytes()].concat());
        out.extend([b"PK\x06\x07", &[0; 4][..], &at.to_le_bytes(), &[1, 0, 0, 0]].concat());
    }
    let counts = [0, 0, count, count].map(u16::to_le_bytes).concat();
    out.extend([b"PK\x05\x06", &counts[..], &number(size), &number(start), &[0; 2]].concat());
    out
}

/// A checkpoint of the form since PyTorch 1.6; `storages`: key and content.
pub fn zip_form(value: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    let pickle = whole(value);
    let names: Vec<String> = storages.iter().map(|(key, _)| format!("net/data/{key}")).collect();
    let mut entries = vec![("net/data.pkl", pickle.as_slice()), ("net/byteorder", b"little")];
    entries.extend(names.iter().zip(storages).map(|(name, (_, content))| (name.as_str(), *content)));
    archive(&entries, false)
}

/// A checkpoint of the form before it; `storages`: key, number of elements, content.
pub fn legacy_form(value: &[u8], storages: &[(&str, u64, &[u8])]) -> Vec<u8> {
    let magic = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
    let keys: Vec<Vec<u8>> = storages.iter().map(|(key, ..)| text(key)).collect();
    let mut out = [whole(magic), whole(b"M\xe9\x03"), whole(&dict(&[])), whole(value), whole(&list(&keys))].concat();
    for (_, count, content) in storages {
        out.extend([&count.to_le_bytes()[..], content].concat());
    }
    out
}

pub fn read(bytes: &[u8], entry: Option<&str>) -> Result<StateDict> {
    let file = written(bytes);
    read_state_dict(file.path(), entry)
}

pub fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().expect("the folder for temporary files takes one more");
    file.write_all(bytes).expect("a temporary file can be written");
    file
}

pub fn refusal(bytes: &[u8]) -> String {
    let error = read(bytes, None).expect_err("this file must be refused");
    assert!(matches!(error, Error::Model { .. }), "{error:?}");
    format!("{error}\n{}", error.hint().expect("every refusal says the way out"))
}

pub fn one(value: Vec<u8>, storages: &[(&str, &[u8])]) -> HostTensor {
    let mut state = read(&zip_form(&dict(&[("w", value)]), storages), None).expect("a sound file");
    state.tensors.remove("w").expect("it was put in")
}
