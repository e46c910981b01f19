//! What every group of tests needs: trials, seeded numbers, places of outside data, snapshots.
//! Knows no single test.

pub mod close;
pub mod engine;
pub mod naive;
pub mod rng;
pub mod snapshot;

use std::fmt::Display;
use std::path::PathBuf;

use libtest_mimic::Trial;

pub use rng::Rng;
pub use snapshot::Snapshot;

/// Tests of the helpers themselves: an oracle that cannot fail proves nothing.
pub fn trials() -> Vec<Trial> {
    [close::trials(), rng::trials(), snapshot::trials()].into_iter().flatten().collect()
}

/// What the body of a trial may return: nothing (it asserts), or a result whose error is the failure.
pub trait Verdict {
    /// The text of the failure, if it is one.
    fn failure(self) -> Option<String>;
}

impl Verdict for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: Display> Verdict for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|e| e.to_string())
    }
}

/// A test called `name`, such as `group::case`. It fails by panicking or by returning an error.
pub fn trial<V: Verdict>(name: impl Into<String>, body: impl FnOnce() -> V + Send + 'static) -> Trial {
    Trial::test(name, move || body().failure().map_or(Ok(()), |text| Err(text.into())))
}

/// A test that cannot run here: shown as ignored, `reason` (a few words) in brackets.
pub fn ignored(name: impl Into<String>, reason: &str) -> Trial {
    Trial::test(name, || Ok(())).with_kind(reason).with_ignored_flag(true)
}

/// Why a test that takes long is left out.
pub const LONG: &str = "PETARD_FULL=1 asks for it";

/// Whether everything is asked for, however long it takes.
pub fn full() -> bool {
    std::env::var_os("PETARD_FULL").is_some_and(|v| v == "1")
}

/// The folder of reference material beside the project, where it is there: `PETARD_SHARED`, else `../shared`.
pub fn shared() -> Option<PathBuf> {
    let place = std::env::var_os("PETARD_SHARED").map_or_else(|| root().join("../shared"), PathBuf::from);
    place.is_dir().then_some(place)
}

/// A test that reads `part` (a relative path) of the reference material: ignored where that is missing.
pub fn skip_unless_shared<V: Verdict>(
    name: impl Into<String>,
    part: &str,
    body: impl FnOnce(PathBuf) -> V + Send + 'static,
) -> Trial {
    match shared().map(|s| s.join(part)).filter(|p| p.exists()) {
        Some(path) => trial(name, move || body(path)),
        None => ignored(name, &format!("no shared/{part}")),
    }
}

/// The folder that holds `cifar-10-batches-bin`: `PETARD_CIFAR10`, else where `tests/run.sh` unpacks it.
pub fn cifar10() -> Option<PathBuf> {
    let place = std::env::var_os("PETARD_CIFAR10").map_or_else(|| root().join("target/data/cifar10"), PathBuf::from);
    place.join("cifar-10-batches-bin/test_batch.bin").is_file().then_some(place)
}

/// The root of the project.
pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}
