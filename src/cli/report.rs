//! `bitjoule report`

use std::path::PathBuf;

use crate::error::Result;
use crate::journal::file;
use crate::{report, stats};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Run directory
    dir: PathBuf,
}

impl Args {
    pub(super) fn run(self) -> Result<u8> {
        let contents = file::read(&self.dir)?;
        if contents.torn_bytes > 0 {
            eprintln!(
                "the last {} bytes of the journal are not a whole record and are left out",
                contents.torn_bytes
            );
        }
        let (summary, written) = report::write_all(&self.dir, &contents.records)?;
        let mut text = report::terminal_summary(&summary, terminal_width());
        text += &format!("\n{}", report::terminal_profile(&summary, terminal_width()));
        text += &format!("{}\n", verdict(&summary));
        for path in written {
            text += &format!("{}\n", path.display());
        }
        super::print(&text);
        // The process ends: to free a long journal record by record would take half a second.
        std::mem::forget(contents);
        Ok(0)
    }
}

/// What won, what the host was like meanwhile, and what measuring cost; each in a paragraph.
pub(super) fn verdict(summary: &stats::Summary) -> String {
    let paragraphs =
        [report::verdict(summary), report::host_states(summary), report::overhead(&summary.overhead)];
    paragraphs.iter().filter(|p| !p.is_empty()).map(|p| format!("{p}\n")).collect()
}

/// Columns of the terminal, or a width that fits most pages where there is none.
pub(super) fn terminal_width() -> usize {
    match console_columns() {
        Some(columns) if columns >= 40 => columns,
        _ => 160,
    }
}

fn console_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(size.ws_col.into())
}
