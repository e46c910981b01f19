//! Named arrays of `.safetensors` and `.npz` files, read piece by piece.
//! Knows no images. Reads by position rather than through a memory map: a file that shrinks under a running attack
//! is then an error and not a fault.

use super::HELD_BYTES;
use crate::error::{Error, Result};
use npyz::npz::NpzArchive;
use npyz::zip::CompressionMethod;
use safetensors::Dtype;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A longer header than this is not one of a set of images.
const MAX_HEADER: u64 = 16 << 20;

/// Element type of an array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    U8,
    I32,
    I64,
    F32,
    F64,
    /// One that no set of images uses, as the file names it.
    Other(String),
}

impl Kind {
    fn bytes(&self) -> Option<usize> {
        match self {
            Kind::U8 => Some(1),
            Kind::I32 | Kind::F32 => Some(4),
            Kind::I64 | Kind::F64 => Some(8),
            Kind::Other(_) => None,
        }
    }
}

/// An array of which the rows (the first dimension) can be read in any order.
#[derive(Debug)]
pub(super) struct Array {
    pub kind: Kind,
    pub dims: Vec<usize>,
    path: PathBuf,
    store: Store,
}

#[derive(Debug)]
enum Store {
    /// The elements begin at `offset`.
    File {
        file: Arc<Mutex<File>>,
        offset: u64,
    },
    Memory(Vec<u8>),
}

impl Array {
    /// Little-endian bytes of `rows`. Panics where they leave the array or [`Kind::Other`] hides their size.
    pub fn read(&self, rows: Range<usize>) -> Result<Vec<u8>> {
        assert!(rows.end <= self.dims[0], "rows {rows:?} of {:?}", self.dims);
        let size = self.kind.bytes().expect("only arrays of known kinds are read");
        let row: usize = self.dims[1..].iter().product::<usize>() * size;
        match &self.store {
            Store::Memory(bytes) => Ok(bytes[rows.start * row..rows.end * row].to_vec()),
            Store::File { file, offset } => {
                let mut bytes = vec![0; rows.len() * row];
                let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
                file.seek(SeekFrom::Start(offset + (rows.start * row) as u64))
                    .and_then(|_| file.read_exact(&mut bytes))
                    .map_err(|e| Error::io("read", &self.path, e))?;
                Ok(bytes)
            }
        }
    }
}

/// The arrays of `path` that bear one of the names `wanted`, and the names of all.
pub(super) fn open(path: &Path, wanted: &[&str]) -> Result<(BTreeMap<String, Array>, Vec<String>)> {
    match path.extension().and_then(|e| e.to_str()) {
        Some("safetensors") => open_safetensors(path, wanted),
        Some("npz") => open_npz(path, wanted),
        _ => Err(Error::input(format!("`{}` is neither `.safetensors` nor `.npz`", path.display()))
            .with_hint("save the arrays `images` and `label` with numpy's `savez` or safetensors' `save_file`")),
    }
}

/// An error about the content of `path`.
fn broken(path: &Path, what: impl std::fmt::Display) -> Error {
    Error::input(format!("cannot read `{}`: {what}", path.display())).with_hint("is the file complete? write or copy it again")
}

fn open_safetensors(path: &Path, wanted: &[&str]) -> Result<(BTreeMap<String, Array>, Vec<String>)> {
    let failed = |e| Error::io("read", path, e);
    let mut file = File::open(path).map_err(failed)?;
    let total = file.metadata().map_err(failed)?.len();
    if total < 8 {
        return Err(broken(path, format!("{total} bytes are too few for a header")));
    }
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER || length > total - 8 {
        return Err(broken(path, format!("a header of {length} bytes in a file of {total}")));
    }
    let mut header = vec![0; length as usize];
    file.read_exact(&mut header).map_err(failed)?;
    let metadata: safetensors::tensor::Metadata = serde_json::from_slice(&header).map_err(|e| broken(path, e))?;
    let data = total - 8 - length;
    if metadata.data_len() as u64 != data {
        return Err(broken(path, format!("the header describes {} bytes, {data} follow", metadata.data_len())));
    }
    let file = Arc::new(Mutex::new(file));
    let tensors = metadata.tensors();
    let mut names: Vec<String> = tensors.keys().cloned().collect();
    names.sort();
    let arrays = tensors.into_iter().filter(|(name, _)| wanted.contains(&name.as_str())).map(|(name, info)| {
        let kind = match info.dtype {
            Dtype::U8 => Kind::U8,
            Dtype::I32 => Kind::I32,
            Dtype::I64 => Kind::I64,
            Dtype::F32 => Kind::F32,
            Dtype::F64 => Kind::F64,
            other => Kind::Other(format!("{other:?}").to_lowercase()),
        };
        let store = Store::File { file: file.clone(), offset: 8 + length + info.data_offsets.0 as u64 };
        (name, Array { kind, dims: info.shape.clone(), path: path.to_path_buf(), store })
    });
    Ok((arrays.collect(), names))
}

fn open_npz(path: &Path, wanted: &[&str]) -> Result<(BTreeMap<String, Array>, Vec<String>)> {
    let file = File::open(path).map_err(|e| Error::io("read", path, e))?;
    let mut archive = NpzArchive::new(std::io::BufReader::new(file)).map_err(|e| broken(path, e))?;
    let mut names: Vec<String> = archive.array_names().map(str::to_owned).collect();
    names.sort();
    let mut arrays = BTreeMap::new();
    for &name in wanted.iter().filter(|w| names.iter().any(|n| n == *w)) {
        arrays.insert(name.to_owned(), open_npy(path, &mut archive, name)?);
    }
    Ok((arrays, names))
}

/// One array of an archive: held in memory, where the checksum of the archive guards it, or read by position where it
/// is large and not compressed.
fn open_npy(path: &Path, archive: &mut NpzArchive<std::io::BufReader<File>>, name: &str) -> Result<Array> {
    let broken = |what: String| broken(path, format!("array `{name}`: {what}"));
    let mut entry = archive.zip_archive().by_name(&format!("{name}.npy")).map_err(|e| broken(e.to_string()))?;
    let (header_bytes, header) = npy_header(&mut entry).map_err(|e| broken(e.to_string()))?;
    let NpyHeader { kind, dims, fortran } = npy_fields(&header).map_err(&broken)?;
    if fortran {
        return Err(Error::input(format!("array `{name}` of `{}` is in Fortran order", path.display()))
            .with_hint(format!("save `numpy.ascontiguousarray({name})`")));
    }
    let Some(size) = kind.bytes() else {
        return Ok(Array { kind, dims, path: path.to_path_buf(), store: Store::Memory(Vec::new()) });
    };
    let bytes = dims.iter().try_fold(size, |a, &d| a.checked_mul(d)).ok_or_else(|| broken(format!("shape {dims:?}")))?;
    let described = header_bytes.checked_add(bytes as u64);
    if described != Some(entry.size()) {
        return Err(broken(format!("shape {dims:?} does not fill its {} bytes", entry.size())));
    }
    let store = if bytes <= HELD_BYTES {
        let mut held = Vec::new();
        // One byte more than there should be makes the reader reach the end, where it compares the checksum.
        entry.take(bytes as u64 + 1).read_to_end(&mut held).map_err(|e| broken(e.to_string()))?;
        if held.len() != bytes {
            return Err(broken(format!("{} bytes of {bytes}", held.len())));
        }
        Store::Memory(held)
    } else if entry.compression() == CompressionMethod::Stored {
        let offset = entry.data_start() + header_bytes;
        Store::File { file: Arc::new(Mutex::new(File::open(path).map_err(|e| Error::io("read", path, e))?)), offset }
    } else {
        return Err(Error::input(format!("`{}` is too large to be held unpacked ({bytes} bytes)", path.display()))
            .with_hint("save it with `numpy.savez` instead of `savez_compressed`, or as `.safetensors`"));
    };
    Ok(Array { kind, dims, path: path.to_path_buf(), store })
}

/// The header text of a `.npy` stream and the bytes up to its end.
fn npy_header(stream: &mut impl Read) -> std::io::Result<(u64, String)> {
    let wrong = |what: &str| std::io::Error::new(std::io::ErrorKind::InvalidData, what.to_owned());
    let mut magic = [0; 8];
    stream.read_exact(&mut magic)?;
    if &magic[..6] != b"\x93NUMPY" {
        return Err(wrong("not a numpy array"));
    }
    let width = if magic[6] == 1 { 2 } else { 4 };
    let mut length = [0; 4];
    stream.read_exact(&mut length[..width])?;
    let length = u64::from(u32::from_le_bytes(length));
    if length > MAX_HEADER {
        return Err(wrong("its header is too long"));
    }
    let mut text = String::new();
    stream.take(length).read_to_string(&mut text)?;
    Ok((8 + width as u64 + length, text))
}

struct NpyHeader {
    kind: Kind,
    dims: Vec<usize>,
    /// The first dimension varies fastest.
    fortran: bool,
}

/// Reads `{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }`.
fn npy_fields(text: &str) -> std::result::Result<NpyHeader, String> {
    let field = |key: &str| {
        let after = text.split_once(&format!("'{key}':")).map(|(_, after)| after.trim_start());
        after.ok_or_else(|| format!("its header has no `{key}`"))
    };
    let fortran = !field("fortran_order")?.starts_with("False");
    let descr = field("descr")?;
    let kind = match descr.strip_prefix('\'').and_then(|d| d.split_once('\'')).map(|(d, _)| d) {
        Some("|u1") => Kind::U8,
        Some("<i4") => Kind::I32,
        Some("<i8") => Kind::I64,
        Some("<f4") => Kind::F32,
        Some("<f8") => Kind::F64,
        Some(other) => Kind::Other(other.to_owned()),
        None => Kind::Other("a structure".into()),
    };
    let shape = field("shape")?.strip_prefix('(').and_then(|s| s.split_once(')')).map(|(s, _)| s);
    let dims = shape.ok_or("its header has no shape")?.split(',').map(str::trim).filter(|d| !d.is_empty());
    let dims = dims.map(|d| d.parse::<usize>().map_err(|_| format!("dimension `{d}`"))).collect::<std::result::Result<_, _>>()?;
    Ok(NpyHeader { kind, dims, fortran })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_of(name: &str, bytes: &[u8]) -> String {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).expect("a small file");
        open(&path, &["images"]).expect_err("broken").to_string()
    }

    fn safetensors(length: u64, header: &str, data: usize) -> Vec<u8> {
        [&length.to_le_bytes()[..], header.as_bytes(), &vec![0; data]].concat()
    }

    #[test]
    fn lying_safetensors_headers_are_refused() {
        let one = r#"{"images":{"dtype":"U8","shape":[2,3,4,4],"data_offsets":[0,96]}}"#;
        for (length, header, data, say) in [
            (u64::MAX, one, 96, "a header of 18446744073709551615 bytes"),
            (1 << 40, one, 96, "a header of"),
            (90_000_000, one, 96, "a header of"),
            (5000, one, 96, "a header of 5000 bytes"),
            (one.len() as u64, one, 95, "the header describes 96 bytes, 95 follow"),
            (one.len() as u64 - 1, one, 96, "cannot read"),
            (2, "[]", 0, "cannot read"),
        ] {
            let text = error_of("x.safetensors", &safetensors(length, header, data));
            assert!(text.contains(say), "{text}");
        }
        let huge = r#"{"images":{"dtype":"U8","shape":[9223372036854775807,9223372036854775807],"data_offsets":[0,96]}}"#;
        error_of("x.safetensors", &safetensors(huge.len() as u64, huge, 96));
        error_of("x.safetensors", b"short");
        error_of("x.txt", b"");
    }

    #[test]
    fn broken_archives_are_refused() {
        error_of("x.npz", b"");
        error_of("x.npz", b"PK\x03\x04 and then nothing of the kind");
        let huge = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 99999999999999999999)}";
        for header in ["", "{}", "{'descr': '<f4', 'fortran_order': False, 'shape': 2}", huge] {
            assert!(npy_fields(header).is_err(), "{header}");
        }
        let fields = npy_fields("{'descr': '<f4', 'fortran_order': True, 'shape': (2,), }").expect("well formed");
        assert_eq!((fields.kind, fields.dims, fields.fortran), (Kind::F32, vec![2], true));
        let endless = [&b"\x93NUMPY\x02\x00\xff\xff\xff\xff"[..], &[b' '; 64]].concat();
        assert!(npy_header(&mut endless.as_slice()).is_err());
    }
}
