//! A progress bar on stderr, where stderr is a terminal.
//! Must not know what is counted.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A bar over `total` images; without a terminal it shows nothing.
pub fn bar(total: usize) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let form = "{elapsed:>4} {bar:32} {human_pos}/{human_len} images{msg}";
    let style = ProgressStyle::with_template(form).expect("the form of the bar is well-formed");
    let bar = ProgressBar::new(total as u64).with_style(style.progress_chars("=> "));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}
