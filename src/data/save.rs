//! Writes what a run made: adversarial images or logits as `.safetensors`, `.npz` or a folder of parts, and PNG files.
//! Knows no attack. A file appears whole under its name or not at all, and a failed run leaves an older one alone.

use super::entries;
use crate::error::{Error, Result};
use npyz::npz::NpzWriter;
use npyz::zip::CompressionMethod;
use npyz::zip::write::FileOptions;
use npyz::{AutoSerialize, WriterBuilder};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Images in one part of a folder.
const PART_ROWS: usize = 4096;

/// Adversarial images with what is known of them; every slice is about the same N images.
#[derive(Clone, Copy, Debug)]
pub struct Attacked<'a> {
    /// `[N, C, H, W]` in [0,1].
    pub adversarial: &'a [f32],
    /// True classes.
    pub label: &'a [i64],
    /// Classes that the model sees in `adversarial`.
    pub prediction: &'a [i64],
    /// Positions in the split.
    pub index: &'a [i64],
}

/// Outputs of a model; every slice is about the same N images.
#[derive(Clone, Copy, Debug)]
pub struct Inferred<'a> {
    /// `[N, K]`.
    pub logits: &'a [f32],
    /// True classes.
    pub label: &'a [i64],
    /// Positions in the split.
    pub index: &'a [i64],
}

/// Writes rows to a file or a folder; nothing counts until [`Writer::finish`].
///
/// `PATH.safetensors` and `PATH.npz` become one file. Any other path becomes a folder of `part-NNNNN.safetensors` with
/// 4,096 images each, and a `manifest.json` that is written last. Rows wait in an unnamed file beside the result, so
/// memory does not grow with them and nothing is left of a run that was killed but the whole parts of a folder.
#[derive(Debug)]
pub struct Writer {
    target: Target,
    /// Whether the folder was made here: then it goes again if nothing comes into it.
    made: bool,
    content: Content,
    spool: Spool,
    parts: Vec<Value>,
    notes: Map<String, Value>,
}

#[derive(Debug)]
enum Target {
    Safetensors(PathBuf),
    Npz(PathBuf),
    Folder(PathBuf),
}

/// What a row is: one array of floats and some integers.
#[derive(Clone, Debug)]
struct Content {
    floats: &'static str,
    /// Whether the array holds bytes and not floats.
    bytes: bool,
    dims: Vec<usize>,
    integers: &'static [&'static str],
}

impl Content {
    /// Bytes of an element of the array.
    fn item(&self) -> usize {
        if self.bytes { 1 } else { size_of::<f32>() }
    }
}

impl Writer {
    /// For adversarial images of `shape` `[C, H, W]`: `adversarial` (f32), `label`, `prediction`, `index` (i64).
    ///
    /// Fails now where nothing can be written later: no such folder, no right to it, or parts of another run in it.
    pub fn create(path: &Path, shape: [usize; 3]) -> Result<Self> {
        let integers = &["label", "prediction", "index"];
        Self::open(path, Content { floats: "adversarial", bytes: false, dims: shape.to_vec(), integers })
    }

    /// For outputs of a model with `classes` classes: `logits` (f32), `label`, `index` (i64).
    pub fn create_logits(path: &Path, classes: usize) -> Result<Self> {
        Self::open(path, Content { floats: "logits", bytes: false, dims: vec![classes], integers: &["label", "index"] })
    }

    /// For images of `shape` `[C, H, W]` as bytes: `images` (u8), `label` (where `labelled`) and `index` (i64).
    pub fn create_images(path: &Path, shape: [usize; 3], labelled: bool) -> Result<Self> {
        let integers: &[&str] = if labelled { &["label", "index"] } else { &["index"] };
        Self::open(path, Content { floats: "images", bytes: true, dims: shape.to_vec(), integers })
    }

    /// For images as they are, of `shape` `[C, H, W]`: `images` (f32), `label`, `index` (i64); a set to read again.
    pub fn create_values(path: &Path, shape: [usize; 3]) -> Result<Self> {
        Self::open(path, Content { floats: "images", bytes: false, dims: shape.to_vec(), integers: &["label", "index"] })
    }

    fn open(path: &Path, content: Content) -> Result<Self> {
        assert!(content.dims.iter().all(|&d| d > 0), "rows of {:?}", content.dims);
        let target = match path.extension().and_then(|e| e.to_str()) {
            Some("safetensors") => Target::Safetensors(path.to_path_buf()),
            Some("npz") => Target::Npz(path.to_path_buf()),
            _ => Target::Folder(path.to_path_buf()),
        };
        let mut made = false;
        if let Target::Folder(dir) = &target {
            made = !dir.exists();
            claim(dir)?;
        } else if path.is_dir() {
            return Err(Error::usage(format!("`{}` is a folder", path.display())).with_hint("choose another name for the file"));
        }
        let spool = Spool::new(target.dir(), &content)?;
        Ok(Writer { target, made, content, spool, parts: Vec::new(), notes: Map::new() })
    }

    /// Notes a fact about the run (model, attack, seed, ..) in the manifest or in the header of a `.safetensors` file;
    /// `.npz` has no room for it.
    pub fn note(&mut self, key: &str, value: Value) {
        self.notes.insert(key.to_owned(), value);
    }

    /// Adds images. Panics for a writer of logits, or where the slices do not fit each other.
    pub fn append(&mut self, rows: &Attacked) -> Result<()> {
        assert_eq!(self.content.floats, "adversarial", "this writer takes logits");
        self.push(bytemuck::cast_slice(rows.adversarial), &[rows.label, rows.prediction, rows.index])
    }

    /// Adds outputs. Panics for a writer of images, or where the slices do not fit each other.
    pub fn append_logits(&mut self, rows: &Inferred) -> Result<()> {
        assert_eq!(self.content.floats, "logits", "this writer takes images");
        self.push(bytemuck::cast_slice(rows.logits), &[rows.label, rows.index])
    }

    /// Adds images as they are. Panics for another writer, or where the slices do not fit each other.
    pub fn append_values(&mut self, pixels: &[f32], label: &[i64], index: &[i64]) -> Result<()> {
        assert_eq!(self.content.floats, "images", "this writer takes something else");
        self.push(bytemuck::cast_slice(pixels), &[label, index])
    }

    /// Adds images `[N, C, H, W]` of bytes with their labels, where the set has them, and their positions in the split. Panics for
    /// a writer of something else, or where the slices do not fit each other.
    pub fn append_images(&mut self, images: &[u8], label: Option<&[i32]>, index: &[u32]) -> Result<()> {
        assert_eq!(self.content.floats, "images", "this writer takes something else");
        assert_eq!(self.content.integers.len(), 1 + usize::from(label.is_some()), "labels for all images or for none");
        let index: Vec<i64> = index.iter().map(|&i| i.into()).collect();
        match label {
            Some(label) => self.push(images, &[&label.iter().map(|&l| l.into()).collect::<Vec<i64>>(), &index]),
            None => self.push(images, &[&index]),
        }
    }

    fn push(&mut self, floats: &[u8], integers: &[&[i64]]) -> Result<()> {
        let (rows, size) = (integers[0].len(), self.content.dims.iter().product::<usize>() * self.content.item());
        assert_eq!(floats.len(), rows * size, "{rows} rows of {:?}", self.content.dims);
        assert!(integers.iter().all(|i| i.len() == rows), "columns of different lengths");
        let room = if matches!(self.target, Target::Folder(_)) { PART_ROWS } else { usize::MAX };
        let mut start = 0;
        while start < rows {
            let end = rows.min(start.saturating_add(room - self.spool.rows()));
            let columns: Vec<&[i64]> = integers.iter().map(|i| &i[start..end]).collect();
            let appended = self.spool.append(&floats[start * size..end * size], &columns);
            appended.map_err(|e| Error::io("write", self.target.path(), e))?;
            start = end;
            if self.spool.rows() == room {
                self.flush_part()?;
            }
        }
        Ok(())
    }

    /// Makes the file, or the last part and the manifest, appear under its name.
    pub fn finish(mut self) -> Result<()> {
        match &self.target {
            Target::Safetensors(path) => put(path, |file| self.spool.safetensors(&self.content, &self.notes, file)),
            Target::Npz(path) => put(path, |file| self.spool.npz(&self.content, file)),
            Target::Folder(dir) => {
                let path = dir.join("manifest.json");
                if self.spool.rows() > 0 {
                    self.flush_part()?;
                }
                let images: u64 = self.parts.iter().filter_map(|p| p["rows"].as_u64()).sum();
                let manifest = json!({
                    "schema": "petard.set/1", "content": self.content.floats, "images": images,
                    "shape": self.content.dims, "parts": self.parts, "metadata": self.notes,
                });
                put(&path, |file| writeln!(file, "{manifest:#}"))
            }
        }
    }

    /// Writes the spooled rows of a folder as its next part.
    fn flush_part(&mut self) -> Result<()> {
        let name = format!("part-{:05}.safetensors", self.parts.len());
        let path = self.target.path().join(&name);
        let mut digest = Sha256::new();
        put(&path, |file| self.spool.safetensors(&self.content, &Map::new(), &mut Hashed { inner: file, digest: &mut digest }))?;
        let sha256: String = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
        self.parts.push(json!({ "file": name, "rows": self.spool.rows(), "sha256": sha256 }));
        self.spool = Spool::new(self.target.dir(), &self.content)?;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let (Target::Folder(dir), true) = (&self.target, self.made) {
            // Fails, as it should, where there is something in it.
            let _ = std::fs::remove_dir(dir);
        }
    }
}

impl Target {
    fn path(&self) -> &Path {
        match self {
            Target::Safetensors(path) | Target::Npz(path) | Target::Folder(path) => path,
        }
    }
    /// The folder that temporary files share with the result.
    fn dir(&self) -> &Path {
        match self {
            Target::Folder(dir) => dir,
            Target::Safetensors(path) | Target::Npz(path) => parent(path),
        }
    }
}

/// Makes sure that `dir` exists and holds no other set.
fn claim(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
    let taken = entries(dir)?.into_iter().find(|p| {
        let name = p.file_name().unwrap_or_default().to_string_lossy();
        name == "manifest.json" || (name.starts_with("part-") && name.ends_with(".safetensors"))
    });
    match taken {
        Some(path) => Err(Error::usage(format!("`{}` is there already, from another run", path.display()))
            .with_hint(format!("choose another folder, or remove `{}`", dir.display()))),
        None => Ok(()),
    }
}

/// Rows that wait to be written: how many there are is known only at the end, and the formats say it first.
#[derive(Debug)]
struct Spool {
    floats: BufWriter<File>,
    /// One column a name.
    integers: Vec<Vec<i64>>,
}

impl Spool {
    fn new(dir: &Path, content: &Content) -> Result<Self> {
        // Unnamed: the system takes it away even when the process is killed.
        let file = tempfile::tempfile_in(dir).map_err(|e| Error::io("write to", dir, e))?;
        Ok(Spool { floats: BufWriter::with_capacity(1 << 20, file), integers: vec![Vec::new(); content.integers.len()] })
    }

    fn rows(&self) -> usize {
        self.integers[0].len()
    }

    fn append(&mut self, floats: &[u8], integers: &[&[i64]]) -> io::Result<()> {
        self.floats.write_all(floats)?;
        for (column, new) in self.integers.iter_mut().zip(integers) {
            column.extend_from_slice(new);
        }
        Ok(())
    }

    /// Copies all floats to `out`, once every row is appended.
    fn copy_floats(&mut self, out: &mut impl Write) -> io::Result<u64> {
        self.floats.flush()?;
        self.floats.get_mut().seek(SeekFrom::Start(0))?;
        io::copy(self.floats.get_mut(), out)
    }

    /// `[rows, dims..]`.
    fn shape(&self, content: &Content) -> Vec<usize> {
        [&[self.rows()][..], &content.dims].concat()
    }

    /// The integers come first: eight bytes wide, they stay aligned whatever the number of floats.
    fn safetensors(&mut self, content: &Content, notes: &Map<String, Value>, out: &mut impl Write) -> io::Result<()> {
        let mut header = Map::new();
        if !notes.is_empty() {
            // The format allows only texts here.
            let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
            header.insert("__metadata__".into(), notes.iter().map(|(k, v)| (k.clone(), Value::from(text(v)))).collect());
        }
        let mut end = 0;
        let mut describe = |name: &str, dtype: &str, shape: Vec<usize>, size: usize| {
            let start = end;
            end += shape.iter().product::<usize>() * size;
            header.insert(name.into(), json!({ "dtype": dtype, "shape": shape, "data_offsets": [start, end] }));
        };
        for name in content.integers {
            describe(name, "I64", vec![self.rows()], size_of::<i64>());
        }
        describe(content.floats, if content.bytes { "U8" } else { "F32" }, self.shape(content), content.item());
        let mut header = Value::Object(header).to_string();
        header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
        out.write_all(&(header.len() as u64).to_le_bytes())?;
        out.write_all(header.as_bytes())?;
        for column in &self.integers {
            out.write_all(bytemuck::cast_slice(column))?;
        }
        self.copy_floats(out)?;
        out.flush()
    }

    fn npz(&mut self, content: &Content, out: &mut (impl Write + Seek)) -> io::Result<()> {
        let mut archive = NpzWriter::new(out);
        let shape: Vec<u64> = self.shape(content).iter().map(|&d| d as u64).collect();
        let bytes = shape.iter().product::<u64>() * content.item() as u64;
        if content.bytes {
            self.copy_floats(&mut begin::<u8, _>(&mut archive, content.floats, &shape, bytes)?)?;
        } else {
            self.copy_floats(&mut begin::<f32, _>(&mut archive, content.floats, &shape, bytes)?)?;
        }
        for (name, column) in content.integers.iter().zip(&self.integers) {
            let bytes = size_of_val(column.as_slice()) as u64;
            let mut entry = begin::<i64, _>(&mut archive, name, &shape[..1], bytes)?;
            entry.write_all(bytemuck::cast_slice(column))?;
        }
        archive.zip_writer().finish()?.flush()
    }
}

/// Starts an uncompressed array of an archive; its bytes are written to what is returned.
fn begin<'a, T: AutoSerialize, W: Write + Seek>(
    archive: &'a mut NpzWriter<W>,
    name: &str,
    shape: &[u64],
    bytes: u64,
) -> io::Result<impl Write + use<'a, T, W>> {
    // Room for the header of the array below the limit of the old zip format.
    let large = bytes >= u64::from(u32::MAX) - 65_536;
    let options = FileOptions::default().compression_method(CompressionMethod::Stored).large_file(large);
    archive.array::<T>(name, options)?.default_dtype().shape(shape).write_header_only()
}

/// Hashes what passes through.
struct Hashed<'a, W> {
    inner: W,
    digest: &'a mut Sha256,
}

impl<W: Write> Write for Hashed<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.digest.update(&bytes[..written]);
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Writes one image `[C, H, W]` in [0,1] as `dir/NNNNNN.png`, rounded to the nearest of 256 levels.
pub fn save_png(dir: &Path, index: usize, shape: [usize; 3], pixels: &[f32]) -> Result<()> {
    let [c, h, w] = shape;
    assert_eq!(pixels.len(), c * h * w, "an image of {shape:?}");
    let colour = match c {
        1 => image::ExtendedColorType::L8,
        3 => image::ExtendedColorType::Rgb8,
        _ => {
            return Err(Error::usage(format!("a PNG has 1 or 3 channels, not {c}"))
                .with_hint("save the images as `.safetensors` or `.npz`"));
        }
    };
    let bytes: Vec<u8> = pixels.iter().map(|&p| (p * 255.0).round() as u8).collect();
    let mut hwc = vec![0; bytes.len()];
    crate::tensor::chw_to_hwc(&bytes, (h, w, c), &mut hwc);
    put(&dir.join(format!("{index:06}.png")), |file| {
        image::write_buffer_with_format(file, &hwc, w as u32, h as u32, colour, image::ImageFormat::Png).map_err(|e| match e {
            image::ImageError::IoError(e) => e,
            e => io::Error::other(e),
        })
    })
}

/// Writes a file beside `path` and renames it when it is complete.
fn put(path: &Path, write: impl FnOnce(&mut BufWriter<&mut File>) -> io::Result<()>) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    let mut file = beside(parent(path)).map_err(failed)?;
    let mut buffered = BufWriter::with_capacity(1 << 20, file.as_file_mut());
    write(&mut buffered).and_then(|()| buffered.flush()).map_err(failed)?;
    drop(buffered);
    // Without this a crash of the machine could leave the new name on an empty file.
    file.as_file().sync_all().map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// A temporary file that others may read once it has its name.
fn beside(dir: &Path) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".petard-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(dir)
}

/// The folder of a path; of a bare name it is the current one.
fn parent(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests;
