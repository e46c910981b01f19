//! Ctrl-C and SIGTERM: the first asks the run to end between two steps, the second ends the program at once.
//! Must not know what is running.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::error::{Error, Result};

/// Whether the user wants the run to end.
#[derive(Clone, Debug)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// Listens from here on. Called once a program.
    ///
    /// # Errors
    /// [`Error::Device`] where the system refuses a signal handler.
    pub fn listen() -> Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        let handler = Arc::clone(&asked);
        ctrlc::set_handler(move || {
            // Nothing half-written can be left behind: files appear whole, under their names, at the end.
            if handler.swap(true, Ordering::Relaxed) {
                std::process::exit(130);
            }
        })
        .map_err(|e| Error::device(format!("cannot listen for Ctrl-C: {e}")))?;
        Ok(Stop(asked))
    }

    /// Whether the run should end.
    pub fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
