//! `petard kernel`: what it prints, what it refuses, and that processes share a folder of kernels.
//! Must not look inside the library.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use libtest_mimic::Trial;

use super::fixture::Fixture;
use crate::resources::{NO_NVRTC, nvrtc};
use crate::support::{ignored, trial};

const KERNEL: &str = "kernel pgd_linf P_THREADS=256 P_VEC=4 --arch sm_90a";

/// A test that is given the place of the compiler.
type Body = fn(&Path);

pub fn trials() -> Vec<Trial> {
    let compiled: [(&str, Body); 3] = [("prints_what_it_takes", prints), ("two_processes_share", share), ("no_room", no_room)];
    let compiled = compiled.map(|(name, body)| {
        let name = format!("cli::kernel.{name}");
        match nvrtc() {
            Ok(found) => trial(name, move || body(found.path())),
            Err(_) => ignored(name, NO_NVRTC),
        }
    });
    let own = [
        trial("cli::kernel.lists", || {
            let text = Fixture::new().ok("kernel").stdout;
            assert!(text.contains("pgd.cu: P_THREADS P_VEC\n") && text.contains("\n  pgd_linf\n"), "{text}");
        }),
        trial("cli::kernel.refuses", refuses),
        trial("cli::kernel.without_a_compiler", || {
            let f = Fixture::new();
            fs::create_dir(f.path("none")).expect("a folder");
            let out = f.command(KERNEL).env("PETARD_NVRTC", "none").output().expect("the program starts");
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert_eq!(out.status.code(), Some(2));
            assert!(said.starts_with("error: no libnvrtc in `none`, which PETARD_NVRTC names\n\nhint: "), "{said}");
        }),
    ];
    own.into_iter().chain(compiled).collect()
}

/// A mistake is answered by the names that would have been right.
fn refuses() {
    let f = Fixture::new();
    for (line, message, hint) in [
        ("kernel pgd_lin", "there is no kernel `pgd_lin`", "`pgd_linf`"),
        ("kernel pgd_linf", "`pgd_linf` needs `P_THREADS`, `P_VEC`", "`kernels/pgd.cu`: P_THREADS P_VEC"),
        ("kernel pgd_linf P_ELEM=1", "`pgd_linf` has no constant `P_ELEM`", "`kernels/pgd.cu`: P_THREADS P_VEC"),
        ("kernel pgd_linf P_VEC=3e3", "`3e3` in `P_VEC=3e3` is no whole number", "bits"),
        ("kernel pgd_linf 3072", "`3072` is no constant", "P_NAME=VALUE"),
        ("kernel pgd_linf P_VEC=1 P_VEC=1", "`P_VEC` is given twice", ""),
    ] {
        let ran = f.run(line);
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{line}");
        assert!(ran.stderr.starts_with(&format!("error: {message}\n")) && ran.stderr.contains(hint), "{}", ran.stderr);
    }
}

/// The program with a compiler and a folder for kernels.
fn command(f: &Fixture, line: &str, nvrtc: &Path) -> Command {
    let mut command = f.command(line);
    command.env("PETARD_NVRTC", nvrtc).env("PETARD_CACHE", f.path("kernels"));
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Exit code, stdout, stderr.
fn finish(child: Child) -> (Option<i32>, String, String) {
    let out = child.wait_with_output().expect("its output");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("UTF-8");
    (out.status.code(), text(out.stdout), text(out.stderr))
}

fn run(mut command: Command) -> (Option<i32>, String, String) {
    finish(command.spawn().expect("the program starts"))
}

fn prints(nvrtc: &Path) {
    let f = Fixture::new();
    let (code, first, said) = run(command(&f, KERNEL, nvrtc));
    assert_eq!((code, said.as_str()), (Some(0), ""));
    for part in
        ["pgd_linf P_THREADS=256 P_VEC=4\ntarget     sm_90a, NVRTC ", "\nregisters ", "\nshared ", "\nspills     0 bytes stored"]
    {
        assert!(first.contains(part), "no `{part}` in\n{first}");
    }
    assert!(first.contains(", compiled in "), "{first}");
    let place = first.lines().find_map(|l| l.strip_prefix("cubin")).expect("a line on the cubin");
    let path = place.split(", ").nth(1).expect("its place");
    assert_eq!(fs::read(path).expect("the cubin")[..4], *b"\x7fELF");
    let (_, second, _) = run(command(&f, KERNEL, nvrtc));
    assert!(second.contains("kernel.cubin, kept from an earlier run\n"), "{second}");
    let (code, _, said) = run(command(&f, "kernel pgd_linf P_THREADS=256 P_VEC=0", nvrtc));
    assert_eq!(code, Some(2));
    assert!(said.contains("cannot be compiled for sm_80") && said.contains("pgd: elements one by one"), "{said}");
    let (_, _, said) = run(command(&f, "kernel pgd_linf P_THREADS=256 P_VEC=1 --arch sm_20", nvrtc));
    assert!(said.contains("does not know `sm_20`\n\nhint: it knows ") && said.contains("sm_90a"), "{said}");
}

/// Several at once write the same kernel into an empty folder: one entry, whole, and nothing else.
fn share(nvrtc: &Path) {
    let f = Fixture::new();
    let children: Vec<Child> = (0..4).map(|_| command(&f, KERNEL, nvrtc).spawn().expect("the program starts")).collect();
    for (code, _, said) in children.into_iter().map(finish) {
        assert_eq!((code, said.as_str()), (Some(0), ""));
    }
    assert_eq!(fs::read_dir(f.path("kernels")).expect("the folder").count(), 1);
    assert!(run(command(&f, KERNEL, nvrtc)).1.contains("kept from an earlier run"));
}

/// A limit on the size of files stands in for a full disk: one warning, and the kernel all the same.
fn no_room(nvrtc: &Path) {
    let f = Fixture::new();
    let program = command(&f, "", nvrtc);
    let mut shell = Command::new("sh");
    shell.args(["-c", &format!("trap '' XFSZ; ulimit -f 1; exec \"$0\" {KERNEL}")]).arg(program.get_program());
    shell.env("PETARD_NVRTC", nvrtc).env("PETARD_CACHE", f.path("kernels"));
    let (code, text, said) = run({
        shell.stdout(Stdio::piped()).stderr(Stdio::piped());
        shell
    });
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.starts_with("warning: cannot keep compiled kernels in `")
            && said.contains(": file too large: ")
            && said.lines().count() == 1,
        "{said}"
    );
    assert!(text.contains("registers") && text.contains("not kept, compiled in"), "{text}");
    assert_eq!(fs::read_dir(f.path("kernels")).expect("the folder").count(), 0, "parts were left behind");
}
