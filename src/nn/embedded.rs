//! What lies in `models/`, as the binary carries it.
//! Must not know what a card or a tensor is.

use std::path::Path;

include!(concat!(env!("OUT_DIR"), "/models.rs"));

/// The folder in which embedded files pretend to lie. No file system has it, so no file can stand in for one of them.
pub(super) const FOLDER: &str = "embedded:";

/// The bytes of embedded weights, where `path` names some.
pub(super) fn weights(path: &Path) -> Option<&'static [u8]> {
    let file = path.strip_prefix(FOLDER).ok()?.to_str()?;
    let name = file.strip_suffix(".safetensors")?;
    WEIGHTS.iter().find(|(n, _)| *n == name).map(|(_, bytes)| *bytes)
}
