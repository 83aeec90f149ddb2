//! From figures to what a person opens: CSV files, Markdown, plots and the lines on the terminal.

mod plots;
mod reproduction;
mod tables;
mod text;

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::journal::Record;
use crate::stats::{self, Summary};

pub use reproduction::{markdown as reproduction_markdown, sentences};
pub use text::{host_states, overhead, terminal_profile, terminal_summary, verdict};

/// Writes everything that follows from a journal into the directory of its run, and returns the
/// files in the order they were written: `samples.csv`, `latencies.csv`, `summary.csv`,
/// `memory.csv`, `energy.csv`, `overhead.csv`, `counters.csv`, `speedup.csv`, `speedup.md`, `tied.csv` if the run
/// has tied and full models of one size, `reproduction.csv` and `.md` if the suite reproduces a published table,
/// `profile.csv` if the run has a profile, and in `plots/` each figure as SVG and PNG. Each file is written beside
/// its name and renamed, so
/// that a reader never sees half of one.
///
/// # Errors
/// [`Error::Input`] if the journal contradicts itself (see [`stats::summarize`]); otherwise the
/// failure to write a file, with its path.
pub fn write_all(run_dir: &Path, records: &[Record]) -> Result<Vec<PathBuf>> {
    let summary = stats::summarize(records)?;
    let mut written = Vec::new();
    let mut write = |name: &str, contents: &[u8]| {
        let path = run_dir.join(name);
        atomically(&path, |temporary| {
            fs::write(temporary, contents).map_err(|e| Error::io("write", &path, &e))
        })?;
        written.push(path);
        Ok::<(), Error>(())
    };
    write("samples.csv", &tables::samples_csv(records)?)?;
    write("latencies.csv", &tables::latencies_csv(records)?)?;
    write("summary.csv", &tables::summary_csv(&summary)?)?;
    write("memory.csv", &tables::memory_csv(&summary)?)?;
    write("energy.csv", &tables::energy_csv(&summary)?)?;
    write("overhead.csv", &tables::overhead_csv(&summary)?)?;
    write("counters.csv", &tables::counters_csv(records)?)?;
    write("speedup.csv", &tables::speedup_csv(&summary)?)?;
    write("speedup.md", tables::speedup_markdown(&summary).as_bytes())?;
    if let Some(tied) = tables::tied_csv(&summary)? {
        write("tied.csv", &tied)?;
    }
    if let Some(reproduction) = &summary.reproduction {
        write("reproduction.csv", &reproduction::table(reproduction)?)?;
        write("reproduction.md", reproduction::markdown(reproduction).as_bytes())?;
    }
    if let Some(profile) = tables::profile_csv(records)? {
        write("profile.csv", &profile)?;
    }
    written.extend(write_plots(run_dir, &summary)?);
    Ok(written)
}

fn write_plots(run_dir: &Path, summary: &Summary) -> Result<Vec<PathBuf>> {
    let directory = run_dir.join("plots");
    fs::create_dir_all(&directory).map_err(|e| Error::io("create", &directory, &e))?;
    let mut written = Vec::new();
    for (name, scene) in plots::figures(summary)? {
        let svg = directory.join(format!("{name}.svg"));
        let text = scene.svg().map_err(|e| e.at(svg.display()))?;
        atomically(&svg, |temporary| fs::write(temporary, &text).map_err(|e| Error::io("write", &svg, &e)))?;
        let png = directory.join(format!("{name}.png"));
        atomically(&png, |temporary| scene.write_png(temporary).map_err(|e| e.at(png.display())))?;
        written.extend([svg, png]);
    }
    Ok(written)
}

/// Lets `write` fill a temporary file beside `path`, makes it durable and gives it its name. The
/// extension stays at the end: the encoder of images goes by it.
fn atomically(path: &Path, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{}-{name}", std::process::id()));
    let result = write(&temporary).and_then(|()| {
        File::open(&temporary).and_then(|f| f.sync_all()).map_err(|e| Error::io("sync", path, &e))?;
        fs::rename(&temporary, path).map_err(|e| Error::io("replace", path, &e))
    });
    if result.is_err() {
        // Best effort: the error that matters is the one returned.
        let _ = fs::remove_file(&temporary);
    }
    result
}
