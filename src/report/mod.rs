//! From figures to what a person opens: CSV files, plots, the page and the lines on the terminal.

mod claim;
mod page;
mod plots;
mod reproduction;
mod tables;
mod text;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::journal::Record;
use crate::stats::{self, Summary};
use plots::Plot;

/// Formats a table, if the run has what it shows.
type Formatter<'a> = &'a (dyn Fn() -> Result<Option<Vec<u8>>> + Sync);

pub use reproduction::markdown as reproduction_markdown;
pub use text::{host_states, overhead, terminal_profile, terminal_summary, verdict};

/// Writes everything that follows from a journal into the directory of its run, and returns the figures and
/// the files in the order they were written: `samples.csv`, `latencies.csv`, `summary.csv`,
/// `memory.csv`, `energy.csv`, `overhead.csv`, `counters.csv`, `speedup.csv`, `scaling.csv`, `tied.csv` if the run
/// has tied and full models of one size, `reproduction.csv` and `.md` if the suite reproduces a published table,
/// `profile.csv` if the run has a profile, `speedup.md`, in `plots/` each figure as SVG and PNG, and the report as
/// one page: `report.html` and `report.md`. Each file is written beside its name and renamed, so that a reader
/// never sees half of one.
///
/// # Errors
/// [`Error::Input`] if the journal contradicts itself (see [`stats::summarize`]); otherwise the
/// failure to write a file, with its path.
pub fn write_all(run_dir: &Path, records: &[Record]) -> Result<(Summary, Vec<PathBuf>)> {
    let summary = stats::summarize(records)?;
    let reproduction = summary.reproduction.as_ref();
    let formatters: [(&'static str, Formatter); 12] = [
        ("samples.csv", &|| tables::samples_csv(records).map(Some)),
        ("latencies.csv", &|| tables::latencies_csv(records).map(Some)),
        ("summary.csv", &|| tables::summary_csv(&summary).map(Some)),
        ("memory.csv", &|| tables::memory_csv(&summary).map(Some)),
        ("energy.csv", &|| tables::energy_csv(&summary).map(Some)),
        ("overhead.csv", &|| tables::overhead_csv(&summary).map(Some)),
        ("counters.csv", &|| tables::counters_csv(records).map(Some)),
        ("speedup.csv", &|| tables::speedup_csv(&summary).map(Some)),
        ("scaling.csv", &|| tables::scaling_csv(&summary).map(Some)),
        ("tied.csv", &|| tables::tied_csv(&summary)),
        ("reproduction.csv", &|| reproduction.map(reproduction::table).transpose()),
        ("profile.csv", &|| tables::profile_csv(records)),
    ];
    // Side by side: those of a long journal take seconds each, half of them waiting for the disk.
    let made: Vec<Result<Option<Vec<u8>>>> = formatters
        .par_iter()
        .with_max_len(1)
        .map(|(name, table)| {
            let table = table()?;
            table.as_ref().map_or(Ok(()), |table| atomically(&run_dir.join(name), table))?;
            Ok(table)
        })
        .collect();
    let mut written = Vec::new();
    let mut tables = BTreeMap::new();
    for ((name, _), table) in formatters.iter().zip(made) {
        if let Some(table) = table? {
            written.push(run_dir.join(name));
            tables.insert(*name, table);
        }
    }
    let mut write = |name: &str, contents: &[u8]| {
        let path = run_dir.join(name);
        atomically(&path, contents)?;
        written.push(path);
        Ok::<(), Error>(())
    };
    if let Some(reproduction) = reproduction {
        write("reproduction.md", reproduction::markdown(reproduction).as_bytes())?;
    }
    write("speedup.md", tables::speedup_markdown(&summary).as_bytes())?;
    let plots = plots::figures(&summary)?;
    let (pages, drawn) = rayon::join(
        || page::pages(run_dir, records, &summary, &plots, &tables),
        || write_plots(run_dir, &plots),
    );
    let pages = pages?;
    write("report.html", pages.html.as_bytes())?;
    write("report.md", pages.markdown.as_bytes())?;
    written.extend(drawn?);
    Ok((summary, written))
}

fn write_plots(run_dir: &Path, plots: &[Plot]) -> Result<Vec<PathBuf>> {
    let directory = run_dir.join("plots");
    fs::create_dir_all(&directory).map_err(|e| Error::io("create", &directory, &e))?;
    let write = |Plot { name, scene, .. }: &Plot| {
        let svg = directory.join(format!("{name}.svg"));
        let text = scene.svg().map_err(|e| e.at(svg.display()))?;
        atomically(&svg, text.as_bytes())?;
        let png = directory.join(format!("{name}.png"));
        atomically(&png, &scene.png().map_err(|e| e.at(png.display()))?)?;
        Ok([svg, png])
    };
    let written: Vec<Result<[PathBuf; 2]>> = plots.par_iter().map(write).collect();
    Ok(written.into_iter().collect::<Result<Vec<_>>>()?.concat())
}

/// Writes a temporary file beside `path`, makes it durable and gives it its name.
fn atomically(path: &Path, contents: &[u8]) -> Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{}-{name}", std::process::id()));
    let write = || -> Result<()> {
        fs::write(&temporary, contents).map_err(|e| Error::io("write", path, &e))?;
        File::open(&temporary).and_then(|f| f.sync_all()).map_err(|e| Error::io("sync", path, &e))?;
        fs::rename(&temporary, path).map_err(|e| Error::io("replace", path, &e))
    };
    let result = write();
    if result.is_err() {
        // Best effort: the error that matters is the one returned.
        let _ = fs::remove_file(&temporary);
    }
    result
}
