//! Texts kept under `tests/snapshots`: a change shows as a diff of lines, `BLESS=1` accepts it.
//! Knows nothing about what the texts mean.

use std::fs;
use std::path::PathBuf;

use libtest_mimic::Trial;

use super::trial;

/// A stored text by name.
pub struct Snapshot {
    path: PathBuf,
    bless: bool,
}

impl Snapshot {
    /// The text stored in `tests/snapshots/<name>.txt`.
    pub fn new(name: &str) -> Self {
        let path = super::root().join("tests/snapshots").join(format!("{name}.txt"));
        Snapshot { path, bless: std::env::var_os("BLESS").is_some_and(|v| v == "1") }
    }

    /// Fails with a diff where `got` is not the stored text. With `BLESS=1` stores it instead.
    pub fn check(&self, got: &str) -> Result<(), String> {
        let name = self.path.display();
        if self.bless {
            fs::create_dir_all(self.path.parent().expect("a snapshot lies in a folder")).map_err(|e| format!("{name}: {e}"))?;
            return fs::write(&self.path, got).map_err(|e| format!("{name}: {e}"));
        }
        let want = fs::read_to_string(&self.path).map_err(|e| format!("{name}: {e}\n\nhint: BLESS=1 stores the text:\n{got}"))?;
        if want == got {
            return Ok(());
        }
        Err(format!(
            "{name} differs (- stored, + now):\n{}\nhint: if the change is meant, run again with BLESS=1",
            diff(&want, got)
        ))
    }
}

/// A line diff: the longest common subsequence stays, two lines of context around each change.
fn diff(want: &str, got: &str) -> String {
    let (a, b): (Vec<&str>, Vec<&str>) = (want.lines().collect(), got.lines().collect());
    let mut common = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i][j] = if a[i] == b[j] { common[i + 1][j + 1] + 1 } else { common[i + 1][j].max(common[i][j + 1]) };
        }
    }
    let (mut i, mut j, mut lines) = (0, 0, Vec::new());
    while i < a.len() || j < b.len() {
        if i < a.len() && j < b.len() && a[i] == b[j] {
            lines.push((' ', a[i]));
            (i, j) = (i + 1, j + 1);
        } else if j == b.len() || (i < a.len() && common[i + 1][j] >= common[i][j + 1]) {
            lines.push(('-', a[i]));
            i += 1;
        } else {
            lines.push(('+', b[j]));
            j += 1;
        }
    }
    let near = |at: usize| lines[at.saturating_sub(2)..lines.len().min(at + 3)].iter().any(|(mark, _)| *mark != ' ');
    let shown =
        (0..lines.len()).filter(|&at| near(at)).map(|at| format!("{} {}\n", lines[at].0, lines[at].1)).collect::<String>();
    if shown.is_empty() { "(only line endings differ)\n".into() } else { shown }
}

pub fn trials() -> Vec<Trial> {
    vec![
        trial("support::snapshot.diff_shows_the_line", || {
            let text = diff("a\nb\nc\nd\ne\nf\n", "a\nb\nc\nd\nE\nf\n");
            assert_eq!(text, "  c\n  d\n- e\n+ E\n  f\n");
        }),
        trial("support::snapshot.round_trip", || -> Result<(), String> {
            let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
            let path = folder.path().join("new/x.txt");
            let at = |bless| Snapshot { path: path.clone(), bless };
            assert!(at(false).check("one\n").is_err_and(|e| e.contains("BLESS=1")), "a missing snapshot must fail");
            at(true).check("one\n")?;
            at(false).check("one\n")?;
            assert!(at(false).check("two\n").is_err_and(|e| e.contains("- one\n+ two")), "a changed text must fail");
            assert!(at(false).check("one").is_err(), "a lost line end must fail");
            Ok(())
        }),
    ]
}
