//! What can go wrong, in words a user can act on.
//! Knows no other module: every value an error needs is handed to it.

#![allow(missing_docs)] // a variant's own text names its fields

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// The result of everything that a user, a file or a device can make fail.
pub type Result<T> = std::result::Result<T, Error>;

/// An error: what happened, to which thing, and (where there is one) the way out.
///
/// `Display` prints the first paragraph without a prefix; [`Error::hint`] is the way out. Texts are lower
/// case, literals in backticks, no full stop at the end.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// An argument, or a combination of arguments, that makes no sense.
    Usage { message: String, hint: Option<String> },
    /// Data that cannot be used: images, labels, archives.
    Input { message: String, hint: Option<String> },
    /// A model card or its weights.
    Model { message: String, hint: Option<String> },
    /// A device that is missing or failed.
    Device { message: String, hint: Option<String>, out_of_memory: bool },
    /// A graph that cannot be planned, or a plan that was used wrongly.
    Plan { message: String },
    /// The operating system refused: `action` is a verb phrase such as "read" or "write".
    Io { action: &'static str, path: PathBuf, source: io::Error },
    /// Stopped by the user. Whatever was complete has been kept.
    Interrupted { message: String },
}

impl Error {
    /// An argument that makes no sense.
    pub fn usage(message: impl Into<String>) -> Self {
        Error::Usage { message: message.into(), hint: None }
    }
    /// Data that cannot be used.
    pub fn input(message: impl Into<String>) -> Self {
        Error::Input { message: message.into(), hint: None }
    }
    /// A model card or weights that cannot be used.
    pub fn model(message: impl Into<String>) -> Self {
        Error::Model { message: message.into(), hint: None }
    }
    /// A device that is missing or failed.
    pub fn device(message: impl Into<String>) -> Self {
        Error::Device { message: message.into(), hint: None, out_of_memory: false }
    }
    /// A device whose memory does not suffice.
    pub fn out_of_memory(message: impl Into<String>) -> Self {
        Error::Device { message: message.into(), hint: None, out_of_memory: true }
    }
    /// Whether less at once, such as a smaller batch, might succeed on the same device.
    pub fn is_out_of_memory(&self) -> bool {
        matches!(self, Error::Device { out_of_memory: true, .. })
    }
    /// A graph or plan that was put together wrongly.
    pub fn plan(message: impl Into<String>) -> Self {
        Error::Plan { message: message.into() }
    }
    /// A refusal of the operating system.
    pub fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Error::Io { action, path: path.as_ref().to_path_buf(), source }
    }
    /// The same error with a way out, kept only where the variant carries one.
    #[must_use]
    pub fn with_hint(mut self, text: impl Into<String>) -> Self {
        match &mut self {
            Error::Usage { hint, .. } | Error::Input { hint, .. } | Error::Model { hint, .. } | Error::Device { hint, .. } => {
                *hint = Some(text.into());
            }
            Error::Plan { .. } | Error::Io { .. } | Error::Interrupted { .. } => {}
        }
        self
    }
    /// The way out, a sentence or a command that can be pasted.
    pub fn hint(&self) -> Option<String> {
        match self {
            Error::Usage { hint, .. } | Error::Input { hint, .. } | Error::Model { hint, .. } | Error::Device { hint, .. } => {
                hint.clone()
            }
            Error::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull => {
                Some("free some space or choose another folder; nothing half-written was left behind".into())
            }
            Error::Io { source, path, .. } if source.kind() == io::ErrorKind::NotFound => {
                Some(format!("is `{}` spelled right? relative paths start at the current folder", path.display()))
            }
            Error::Plan { .. } | Error::Io { .. } | Error::Interrupted { .. } => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Usage { message, .. }
            | Error::Input { message, .. }
            | Error::Model { message, .. }
            | Error::Device { message, .. }
            | Error::Plan { message }
            | Error::Interrupted { message } => f.write_str(message),
            Error::Io { action, path, source } => {
                // The words of the system without its number: the number says nothing to a reader.
                let text = source.to_string();
                let text = text.split(" (os error").next().unwrap_or(&text).to_lowercase();
                write!(f, "cannot {action} `{}`: {text}", path.display())
            }
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
