//! Reading and writing the safetensors container: a stream of bytes on one side, named f32 arrays on the other.
//! Must not know networks. Nothing is allocated that the file's own length does not pay for.
//! Format: <https://github.com/huggingface/safetensors>.

use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use sha2::{Digest, Sha256};

use super::embedded;
use super::torch::f16_to_f32;
use crate::error::{Error, Result};

/// Where bytes come from: a file, or the binary itself.
trait Source: Read + Seek {}
impl<T: Read + Seek> Source for T {}

fn source(path: &Path) -> Result<Box<dyn Source>> {
    match embedded::weights(path) {
        Some(bytes) => Ok(Box::new(Cursor::new(bytes))),
        None => Ok(Box::new(File::open(path).map_err(|e| Error::io("read", path, e))?)),
    }
}

/// Bytes read or converted at once; a multiple of every element size.
const CHUNK: usize = 1 << 20;

/// An open file whose header has been read and checked against the file's length.
pub(super) struct TensorFile {
    path: PathBuf,
    file: Box<dyn Source>,
    /// Where the tensors start.
    start: u64,
    /// Name and place of every tensor, in the order of the file.
    pub entries: Vec<(String, TensorInfo)>,
    /// Digest of the whole file.
    pub sha256: String,
}

impl TensorFile {
    pub fn open(path: &Path) -> Result<TensorFile> {
        let refused = |e| Error::io("read", path, e);
        let mut file = source(path)?;
        let bytes = file.seek(SeekFrom::End(0)).map_err(refused)?;
        file.rewind().map_err(refused)?;
        let mut length = [0; 8];
        if bytes < 8 {
            return Err(broken(path, format!("{bytes} bytes hold no header")));
        }
        file.read_exact(&mut length).map_err(refused)?;
        let header_bytes = u64::from_le_bytes(length);
        if header_bytes > bytes - 8 {
            let why = format!("its header claims {header_bytes} bytes, the file has {}", bytes - 8);
            return Err(broken(path, why));
        }
        let mut header = vec![0; usize::try_from(header_bytes).expect("a file on this machine")];
        file.read_exact(&mut header).map_err(refused)?;
        let info: Metadata = serde_json::from_slice(&header).map_err(|e| broken(path, format!("bad header: {e}")))?;
        let (have, want) = (bytes - 8 - header_bytes, info.data_len() as u64);
        if have != want {
            let why = format!("its header describes {want} bytes of tensors, the file has {have}");
            return Err(broken(path, why));
        }
        let entry = |name: String| {
            let place = info.info(&name).expect("a name that the header listed").clone();
            (name, place)
        };
        let entries = info.offset_keys().into_iter().map(entry).collect();
        let sha256 = hash(&mut file).map_err(refused)?;
        Ok(TensorFile { path: path.to_path_buf(), file, start: 8 + header_bytes, entries, sha256 })
    }

    /// The values of entry `index` as f32; halves and `bfloat16` are widened, doubles rounded to nearest.
    pub fn read(&mut self, index: usize) -> Result<Vec<f32>> {
        let (name, info) = &self.entries[index];
        let (begin, end) = info.data_offsets;
        let convert: fn(&[u8], &mut Vec<f32>) = match info.dtype {
            Dtype::F32 => |b, out| out.extend(b.as_chunks().0.iter().map(|&v| f32::from_le_bytes(v))),
            Dtype::F64 => |b, out| out.extend(b.as_chunks().0.iter().map(|&v| f64::from_le_bytes(v) as f32)),
            Dtype::F16 => |b, out| out.extend(b.as_chunks().0.iter().map(|&v| f16_to_f32(u16::from_le_bytes(v)))),
            Dtype::BF16 => |b, out| out.extend(b.as_chunks().0.iter().map(|&v| bf16_to_f32(u16::from_le_bytes(v)))),
            other => {
                let text = format!("`{}`: `{name}` has elements of type {other}", self.path.display());
                return Err(Error::model(text).with_hint("save the checkpoint in float32, float64, float16 or bfloat16"));
            }
        };
        let refused = |e| Error::io("read", &self.path, e);
        self.file.seek(SeekFrom::Start(self.start + begin as u64)).map_err(refused)?;
        let mut out = Vec::with_capacity(info.shape.iter().product());
        let mut buffer = vec![0; CHUNK.min(end - begin)];
        let mut left = end - begin;
        while left > 0 {
            let part = &mut buffer[..left.min(CHUNK)];
            self.file.read_exact(part).map_err(refused)?;
            convert(part, &mut out);
            left -= part.len();
        }
        Ok(out)
    }
}

fn broken(path: &Path, why: String) -> Error {
    let error = Error::model(format!("`{}` is not a complete safetensors file: {why}", path.display()));
    error.with_hint("was the download or the copy cut short? fetch it again and compare its `sha256sum`")
}

/// Whether a file was written by `torch.save`: a zip archive, or a pickle. A safetensors file has its header's opening
/// brace where a pickle has something else.
pub(super) fn is_checkpoint(path: &Path) -> Result<bool> {
    let refused = |e| Error::io("read", path, e);
    let mut start = Vec::new();
    source(path)?.take(9).read_to_end(&mut start).map_err(refused)?;
    Ok(start.starts_with(b"PK\x03\x04") || (start.first() == Some(&0x80) && start.get(8) != Some(&b'{')))
}

/// SHA-256 of a file.
pub(super) fn file_sha256(path: &Path) -> Result<String> {
    let refused = |e| Error::io("read", path, e);
    hash(&mut source(path)?).map_err(refused)
}

/// The upper half of an f32.
fn bf16_to_f32(bits: u16) -> f32 {
    f32::from_bits(u32::from(bits) << 16)
}

/// Writes f32 arrays in the given order as one safetensors file.
pub(super) fn write<'a>(
    out: &mut impl Write,
    tensors: impl Iterator<Item = (&'a str, &'a [usize], &'a [f32])> + Clone,
) -> io::Result<()> {
    let mut end = 0;
    let mut infos = Vec::new();
    for (name, dims, values) in tensors.clone() {
        let data_offsets = (end, end + values.len() * 4);
        end = data_offsets.1;
        infos.push((name.to_string(), TensorInfo { dtype: Dtype::F32, shape: dims.to_vec(), data_offsets }));
    }
    let info = Metadata::new(None, infos).expect("offsets were laid end to end");
    let mut header = serde_json::to_vec(&info)?;
    // Readers that map the file want aligned tensors.
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    let mut buffer = Vec::with_capacity(CHUNK);
    for (_, _, values) in tensors {
        for part in values.chunks(CHUNK / 4) {
            buffer.clear();
            buffer.extend(part.iter().flat_map(|v| v.to_le_bytes()));
            out.write_all(&buffer)?;
        }
    }
    Ok(())
}

/// A sink that only remembers the SHA-256 of what went in.
#[derive(Default)]
pub(super) struct Hasher(Sha256);

impl Hasher {
    /// 64 hexadecimal digits.
    pub fn finish(self) -> String {
        self.0.finalize().iter().map(|b| format!("{b:02x}")).collect()
    }
}

impl Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn hash(file: &mut (impl Read + Seek + ?Sized)) -> io::Result<String> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; CHUNK];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            n => hasher.write_all(&buffer[..n])?,
        }
    }
}
