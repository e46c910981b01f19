//! The text of the kernels, which lies in the binary, and what each file includes.
//! Must not know constants or compilers.

/// One file of `kernels/`.
#[derive(Clone, Copy, Debug)]
pub struct File {
    /// Path inside `kernels/`.
    pub path: &'static str,
    /// Its text.
    pub text: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

/// A kernel file with everything it includes.
#[derive(Clone, Debug)]
pub struct Source {
    /// The kernel file.
    pub main: File,
    /// Included files, each once, in the order in which they are first met.
    pub headers: Vec<File>,
}

impl Source {
    /// `kernels/<stem>.cu`. Panics where it or an include does not exist: the texts are part of the program.
    pub fn of(stem: &str) -> Self {
        let main = find(&format!("{stem}.cu"));
        let mut headers = Vec::new();
        walk(main, &mut headers);
        Source { main, headers }
    }
    /// Everything a compiled kernel depends on, for a cache key.
    pub fn texts(&self) -> impl Iterator<Item = &File> {
        std::iter::once(&self.main).chain(&self.headers)
    }
}

fn walk(file: File, headers: &mut Vec<File>) {
    for path in includes(file.text) {
        let header = find(path);
        assert!(path.starts_with("lib/"), "`{}` includes `{path}`: kernels include `lib/` only", file.path);
        if !headers.iter().any(|h| h.path == path) {
            headers.push(header);
            walk(header, headers);
        }
    }
}

/// The paths that a text includes; nothing but `#include "lib/..."` is an include here.
pub fn includes(text: &str) -> impl Iterator<Item = &str> {
    text.lines().filter_map(|line| line.trim().strip_prefix("#include \"")?.split_once('"').map(|(path, _)| path))
}

fn find(path: &str) -> File {
    *FILES.iter().find(|f| f.path == path).unwrap_or_else(|| panic!("no file `kernels/{path}`"))
}
