//! Where results go: stdout, stderr, and files that appear whole or not at all.
//! Must not know what is written.

use std::fs::File;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// Writes to stdout. A reader that went away (`petard .. | head`) is no error.
///
/// # Errors
/// [`Error::Io`] where stdout cannot be written, as on a full disk.
pub fn stdout(text: &str) -> Result<()> {
    put("standard output", io::stdout().lock(), text)
}

/// Writes to stderr, as [`stdout`] does.
///
/// # Errors
/// [`Error::Io`] where stderr cannot be written.
pub fn stderr(text: &str) -> Result<()> {
    put("standard error", io::stderr().lock(), text)
}

fn put(name: &str, mut out: impl Write, text: &str) -> Result<()> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|e| Error::io("write to", name, e)),
    }
}

/// Where the report and the JSON object go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Json {
    /// Report on stdout, no JSON.
    None,
    /// JSON on stdout, report on stderr.
    Stdout,
    /// Report on stdout, JSON in a file.
    File(PathBuf),
}

impl Json {
    /// From what was typed: no `--json`, a bare one (or `-`), or one with a file. A file is tried now and written later.
    ///
    /// # Errors
    /// [`Error::Io`] where its folder cannot be written.
    pub fn prepare(typed: Option<&Option<PathBuf>>) -> Result<Self> {
        match typed {
            None => Ok(Json::None),
            Some(None) => Ok(Json::Stdout),
            Some(Some(path)) if path.as_os_str() == "-" => Ok(Json::Stdout),
            Some(Some(path)) => {
                if !special(path) {
                    writable(path)?;
                }
                Ok(Json::File(path.clone()))
            }
        }
    }

    /// Writes the report, and the JSON where it was asked for.
    ///
    /// # Errors
    /// [`Error::Io`] where one of them cannot be written.
    pub fn write(&self, report: &str, json: impl FnOnce() -> String) -> Result<()> {
        match self {
            Json::None => stdout(report),
            Json::Stdout => {
                stderr(report)?;
                stdout(&json())
            }
            Json::File(path) => {
                stdout(report)?;
                write_file(path, &json())
            }
        }
    }
}

/// Whether `path` is there and is neither file nor folder: a device or a pipe, which must not be replaced.
fn special(path: &Path) -> bool {
    path.metadata().is_ok_and(|m| !m.is_file() && !m.is_dir())
}

/// Fails where no file can be made under this name.
///
/// # Errors
/// [`Error::Usage`] for a folder, [`Error::Io`] where its folder cannot be written.
pub fn writable(path: &Path) -> Result<()> {
    if path.is_dir() {
        return Err(Error::usage(format!("`{}` is a folder", path.display())).with_hint("give the name of a file"));
    }
    tempfile::tempfile_in(folder(path)).map(drop).map_err(|e| Error::io("write", path, e))
}

/// Refuses a file that is there already.
///
/// # Errors
/// [`Error::Usage`] naming `option` and the file.
pub fn not_there(option: &str, path: &Path) -> Result<()> {
    if path.exists() && !path.is_dir() {
        return Err(Error::usage(format!("`{option} {}`: this file is there already", path.display()))
            .with_hint("choose another name, or remove the file"));
    }
    Ok(())
}

/// Makes a folder for pictures, which must not hold any yet.
///
/// # Errors
/// [`Error::Usage`] where there are pictures, [`Error::Io`] where the folder cannot be made or written.
pub fn picture_folder(option: &str, path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).map_err(|e| Error::io("create", path, e))?;
    let entries = std::fs::read_dir(path).map_err(|e| Error::io("read", path, e))?;
    if entries.flatten().any(|e| e.path().extension().is_some_and(|x| x == "png")) {
        return Err(Error::usage(format!("`{option} {}`: there are PNG files already", path.display()))
            .with_hint("choose another folder, or remove the files"));
    }
    tempfile::tempfile_in(path).map(drop).map_err(|e| Error::io("write to", path, e))
}

/// Writes beside `path` and renames when complete; into devices and pipes directly.
///
/// # Errors
/// [`Error::Io`] where it cannot be written.
pub fn write_file(path: &Path, text: &str) -> Result<()> {
    let failed = |e| Error::io("write", path, e);
    if special(path) {
        let file = File::options().write(true).open(path).map_err(failed)?;
        return put(&path.display().to_string(), file, text);
    }
    let mut builder = tempfile::Builder::new();
    builder.prefix(".petard-");
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder(path)).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// The folder of a path; of a bare name it is the current one.
fn folder(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
