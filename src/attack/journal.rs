//! What a run has found so far, on disk after every round: an interrupted run goes on where it was, to the same bytes.
//! Must not know how an attack works.
//!
//! A folder of two files that only grow. `journal.jsonl`: a line that says what the run is, then a line for each image after
//! each round that it went through. `images.f32`: the best points, one after the other, as little-endian floats. Images are on
//! disk before the lines that name them; a line that a crash cut short is dropped.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Candidate, Case};
use crate::error::{Error, Result};
use crate::outcome::Cost;

/// The journal of one run.
#[derive(Debug)]
pub struct Journal {
    dir: PathBuf,
    lines: File,
    images: File,
    /// Points in `images`.
    points: u64,
    known: HashMap<u32, Line>,
}

/// What is known of an image after a round.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Line {
    index: u32,
    rounds: usize,
    broken: bool,
    by: Option<usize>,
    costs: Vec<Cost>,
    met: u16,
    claims: [u32; 2],
    /// Where its best point lies, counted in points, with the model's class for it and its loss as bits.
    best: Option<(u64, i32, u32)>,
}

impl Journal {
    /// Opens the journal in `dir`. `what` says everything on which results depend; a run goes on (`resume`) only where it is
    /// the same. Without a journal in `dir` one begins.
    ///
    /// # Errors
    /// [`Error::Usage`] where there is a journal and the run is not to go on, or it is that of another run, naming what
    /// differs; [`Error::Input`] where it is broken; [`Error::Io`] where the files cannot be read or written.
    pub fn open(dir: &Path, what: &Value, resume: bool) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|e| Error::io("create", dir, e))?;
        let path = dir.join("journal.jsonl");
        let there = path.exists();
        if there && !resume {
            return Err(Error::usage(format!("`{}` is the journal of an earlier run", path.display()))
                .with_hint("go on with it by `--resume`, or choose another folder"));
        }
        let open = |path: &Path| {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).open(path).map_err(|e| Error::io("open", path, e))
        };
        let (lines, images) = (open(&path)?, open(&dir.join("images.f32"))?);
        let mut journal = Journal { dir: dir.to_path_buf(), lines, images, points: 0, known: HashMap::new() };
        if there && journal.read_back(what)? {
            return Ok(journal);
        }
        journal.begin(what)?;
        Ok(journal)
    }

    /// Images of which something is known.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    fn path(&self) -> PathBuf {
        self.dir.join("journal.jsonl")
    }

    fn begin(&mut self, what: &Value) -> Result<()> {
        let text = format!("{what}\n");
        let put =
            self.lines.set_len(0).and_then(|()| self.lines.write_all(text.as_bytes())).and_then(|()| self.lines.sync_data());
        put.map_err(|e| Error::io("write", self.path(), e))
    }

    /// Reads what an earlier run left; false where it left not even its first line.
    fn read_back(&mut self, what: &Value) -> Result<bool> {
        let path = self.path();
        let failed = |e| Error::io("read", &path, e);
        let mut reader = BufReader::new(&self.lines);
        let (mut text, mut whole) = (String::new(), 0);
        let mut first = true;
        loop {
            text.clear();
            let read = reader.read_line(&mut text).map_err(failed)?;
            if read == 0 || !text.ends_with('\n') {
                break;
            }
            if first {
                same_run(&path, &text, what)?;
                first = false;
            } else {
                let line: Line = serde_json::from_str(&text)
                    .map_err(|e| Error::input(format!("`{}` is broken after byte {whole}: {e}", path.display())))?;
                self.points = self.points.max(line.best.map_or(0, |(at, ..)| at + 1));
                self.known.insert(line.index, line);
            }
            whole += read as u64;
        }
        self.lines.set_len(whole).and_then(|()| self.lines.seek(SeekFrom::End(0))).map_err(|e| Error::io("write", &path, e))?;
        Ok(!first)
    }

    /// Puts back what is known of an image; whether anything is.
    ///
    /// # Errors
    /// [`Error::Io`] where its point cannot be read.
    pub(super) fn restore(&mut self, case: &mut Case) -> Result<bool> {
        let Some(line) = self.known.get(&case.index) else { return Ok(false) };
        (case.rounds, case.broken, case.by) = (line.rounds, line.broken, line.by);
        (case.met, case.claims) = (case.met | line.met, line.claims);
        case.costs.clone_from(&line.costs);
        if let Some((at, prediction, loss)) = line.best {
            let mut x = vec![0f32; case.x0.len()];
            let offset = at * size_of_val(x.as_slice()) as u64;
            let read =
                self.images.seek(SeekFrom::Start(offset)).and_then(|_| self.images.read_exact(bytemuck::cast_slice_mut(&mut x)));
            read.map_err(|e| Error::io("read", self.dir.join("images.f32"), e))?;
            case.best = Some(Candidate { x, prediction, loss: f32::from_bits(loss) });
        }
        Ok(true)
    }

    /// Writes down what is known of `cases` after a round; on disk when it returns.
    ///
    /// # Errors
    /// [`Error::Io`] where that fails, as on a full disk; what was written before stays good.
    pub(super) fn append<'c>(&mut self, cases: impl Iterator<Item = &'c Case>) -> Result<()> {
        let image_path = self.dir.join("images.f32");
        let mut text = String::new();
        let mut at = self.points;
        {
            let failed = |e| Error::io("write", &image_path, e);
            let mut out = BufWriter::with_capacity(1 << 20, &mut self.images);
            for (i, case) in cases.enumerate() {
                let image: &[u8] = bytemuck::cast_slice(case.best.as_ref().map_or(&[][..], |b| &b.x));
                if i == 0 {
                    out.seek(SeekFrom::Start(at * size_of_val(case.x0.as_slice()) as u64)).map_err(failed)?;
                }
                out.write_all(image).map_err(failed)?;
                let best = case.best.as_ref().map(|b| (at, b.prediction, b.loss.to_bits()));
                at += u64::from(best.is_some());
                let line = Line {
                    index: case.index,
                    rounds: case.rounds,
                    broken: case.broken,
                    by: case.by,
                    costs: case.costs.clone(),
                    met: case.met,
                    claims: case.claims,
                    best,
                };
                text += &serde_json::to_string(&line).expect("numbers and lists are JSON");
                text.push('\n');
            }
            out.flush().map_err(failed)?;
        }
        self.images.sync_data().map_err(|e| Error::io("write", &image_path, e))?;
        let put = self.lines.write_all(text.as_bytes()).and_then(|()| self.lines.sync_data());
        put.map_err(|e| Error::io("write", self.path(), e))?;
        self.points = at;
        Ok(())
    }
}

/// Refuses to go on with another run.
fn same_run(path: &Path, text: &str, what: &Value) -> Result<()> {
    let of = path.display();
    let then: Value = serde_json::from_str(text).map_err(|e| Error::input(format!("`{of}` is no journal: {e}")))?;
    if then == *what {
        return Ok(());
    }
    let keys = what.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let differs = keys.into_iter().find(|key| then[key] != what[key]).unwrap_or("version");
    Err(Error::usage(format!("`{of}` belongs to another run: its {differs} is {}, not {}", then[differs], what[differs]))
        .with_hint("go on with the same options, or choose another folder for the journal"))
}
