//! The report as one page, and its figures of trends: what they say, and what they look like.
//!
//! `BITJOULE_UPDATE_GOLDEN=1 cargo test --test page` draws the golden figures again; look at them before
//! they are committed.

mod markup;
mod synthetic;

use std::path::{Path, PathBuf};

use bitjoule::engine::MemoryParts;
use bitjoule::figure::Figure;
use bitjoule::journal::{Case, DomainEnergy, FailureKind, LeftOut, MacCount, Record, Reproduces, TiedLayers};
use bitjoule::report::write_all;
use bitjoule::stats::summarize;
use bitjoule::units::Bytes;
use markup::{check_html, check_svg, svg_size};
use synthetic::{Journal, Visit, case, joules};

/// The files of a journal's report.
struct Report(tempfile::TempDir);

impl Report {
    fn of(journal: &Journal) -> Report {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path(), &journal.records).unwrap();
        Report(dir)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
    }

    fn has(&self, name: &str) -> bool {
        self.0.path().join(name).exists()
    }

    /// What the page says first.
    fn answer(&self) -> String {
        let html = self.text("report.html");
        let answer = html.split("<p class=\"answer").nth(1).unwrap().split("</p>").next().unwrap();
        answer.split_once('>').unwrap().1.replace("<b>", "").replace("</b>", "")
    }
}

/// Two models with `f16` and `i2_s` at one and two threads; `times` are the speedups of the larger one.
fn small(times: &[f64], energy: impl Fn(f64) -> Figure<Vec<DomainEnergy>>) -> Journal {
    let rounds = times.len() as u32;
    let mut cases = Vec::new();
    for (model, threads) in [("125M", 1), ("125M", 2), ("350M", 1), ("350M", 2)] {
        cases.extend(["f16", "i2_s"].map(|kernel| case(model, kernel, "avx2", threads)));
    }
    let mut journal = Journal::new(rounds, cases.clone());
    for (round, times) in (1..).zip(times) {
        journal.bandwidth(round, 1, &[20e9]).bandwidth(round, 2, &[30e9]);
        for case in &cases {
            let (weights, ms) = if case.model == "125M" { (110_000_000, 20.0) } else { (330_000_000, 60.0) };
            let ternary = case.kernel == "i2_s";
            let ms = ms / if ternary { *times } else { 1.0 } / f64::from(case.threads).sqrt();
            let bytes = if ternary { weights / 4 } else { weights * 2 };
            let visit = Visit {
                latencies_ns: vec![(ms * 1e6) as u64; 31],
                bytes_per_token: bytes,
                macs: Some(MacCount { linear: 31 * weights, attention: 31, head: 31 * 25_000_000 }),
                energy: energy(if ternary { 6.2 } else { 31.0 }),
                predicted: Some(MemoryParts {
                    weights: Bytes(bytes),
                    embedding: Bytes(49_000_000),
                    kv_cache: Bytes(9_000_000),
                    scratch: Bytes(12_000_000),
                }),
                ..Visit::default()
            };
            journal.visit(case, round, &visit);
        }
    }
    journal
}

fn none(_: f64) -> Figure<Vec<DomainEnergy>> {
    Figure::unavailable("no powercap tree")
}

fn simulated(j: f64) -> Figure<Vec<DomainEnergy>> {
    match joules(j) {
        Figure::Measured { value, .. } => Figure::Simulated { value, by: "a made-up meter".into() },
        other => other,
    }
}

/// `journal` as of a suite that reproduces `target`.
fn reproducing(target: &str, against: &str, mut journal: Journal) -> Report {
    let Record::Run(header) = &mut journal.records[0] else { panic!("a plan") };
    header.reproduces = Some(Reproduces { target: target.into(), against: against.into() });
    Report::of(&journal)
}

#[test]
fn the_first_screen_says_whether_a_published_table_holds() {
    const TARGET: &str = "speed-2410.16144";
    let of = |times| reproducing(TARGET, "f16", small(&[times], none));
    let answer = |times| of(times).answer();
    // Published for 125M and 350M: 2.37 and 3.05 on the Intel, 1.37 and 1.52 on the Apple.
    assert_eq!(
        answer(2.6),
        "In part. Reached or exceeded here: decode speedup against f16, 1 of 2 tested, of 9 published on Intel \
         i7-13700H (20C 64G) (2.60x here, 2.37-3.05x published); decode speedup against f16, 2 of 2 tested, of 11 \
         published on Apple M2 Ultra (2.60x here, 1.37-1.52x published)."
    );
    let begins = |times: f64, start: &str| assert!(answer(times).starts_with(start), "{}", answer(times));
    begins(
        2.8,
        "Yes, as far as tested. Reached or exceeded here: decode speedup against f16, 2 of 2 tested, of 9",
    );
    begins(1.0, "No. Reached or exceeded here: decode speedup against f16, 0 of 2 tested, of 9");
    let other = reproducing(TARGET, "llama.cpp-f16", small(&[3.0], none));
    assert_eq!(other.answer(), "Not tested. None of 24 published rows can be tested here.");

    let page = of(2.6);
    for name in ["report.html", "report.md"] {
        let text = page.text(name);
        for needle in [
            "Do the published speedups of bitnet.cpp hold on this machine? Suite",
            "arXiv:2410.16144",
            "against f16: absolute speeds belong to machines",
            "the suite does not measure this size",
            "Yes. i2_s decoded 2.60x as fast as f16 on 350M with 2 threads.",
            "of Apple M2 Ultra",
            "350M with i2_s decoded 61.3 ",
            "A token reads 82.5 MB, so 5 tokens",
        ] {
            assert!(text.contains(needle), "{name}: {needle}");
        }
    }
    let svg = page.text("plots/published.svg");
    for needle in
        ["llama.cpp f16", "bitnet.cpp", "published", "here", "people read: 5-7 tokens/s", "not published"]
    {
        assert!(svg.contains(needle), "{needle}");
    }
    check_svg(&svg, "published.svg");
}

#[test]
fn simulated_energy_is_marked_on_every_page_and_figure_of_a_reproduction() {
    let cases = ["f16", "i2_s"].map(|kernel| case("700M", kernel, "avx2", 2));
    let mut journal = Journal::new(1, cases.to_vec());
    for case in &cases {
        let energy = simulated(if case.kernel == "f16" { 31.0 } else { 6.2 });
        journal.visit(case, 1, &Visit { energy, ..Visit::default() });
    }
    let page = reproducing("energy-2410.16144", "f16", journal);
    let answer = page.answer();
    assert!(
        answer.starts_with(
            "Not measured. By figures that are no measurement of this machine, reached or exceeded: energy of the \
             baseline over energy against f16 (simulated), 1 of 1 tested, of 2 published on Intel i7-13700H (20C \
             64G) (5.00x, 80.0 % less here, "
        ),
        "{answer}"
    );
    let html = page.text("report.html");
    assert!(html.contains("Energy on this page is simulated, not measured"));
    for (name, needle) in [
        ("report.md", "Energy on this page is simulated, not measured"),
        ("reproduction.md", "(simulated)"),
        ("reproduction.csv", "simulated: "),
        ("plots/reproduction.svg", "SIMULATED"),
        ("plots/published.svg", "SIMULATED"),
        ("plots/energy.svg", "Energy of a generated token (simulated)"),
        ("plots/reproduction.svg", "Published and here (simulated)"),
        ("plots/published.svg", "Energy of a token, published and here (simulated)"),
    ] {
        assert!(page.text(name).contains(needle), "{name}: {needle}");
    }
    // No bar of it has the colour of a measurement.
    assert!(page.text("plots/published.svg").contains(", simulated"));
}

#[test]
fn what_follows_from_geometries_is_no_answer_about_a_machine() {
    let page = reproducing("efficiency-2504.12285", "f16", small(&[3.0], none));
    let answer = page.answer();
    for needle in [
        "Not measured. By figures that are no measurement of this machine, reached or exceeded: ",
        "memory without embedding (modelled), 5 of 5 ",
        "estimated energy (modelled), 5 of 5 ",
    ] {
        assert!(answer.contains(needle), "{answer}");
    }
    let text = page.text("report.md");
    for needle in [
        "Not testable: decode latency, any (arXiv:2504.12285), 2B4T against",
        "a pass over 512 tokens",
        "(modelled) here; ",
        "here: Yes",
    ] {
        assert!(text.contains(needle) == (needle != "here: Yes"), "{needle}");
    }
    // Nothing in this table is divided by f16.
    assert!(!page.text("reproduction.md").contains("against f16"));
}

#[test]
fn thread_scaling_is_that_of_correct_kernels_and_of_the_published_lengths() {
    let journal = |n: u32, difference: f64| {
        let cases =
            [1, 2].map(|threads| Case { n_prompt: n, n_gen: n, ..case("2B4T", "i2_s", "avx2", threads) });
        let mut journal = Journal::new(1, cases.to_vec());
        for case in &cases {
            let latencies_ns = vec![40_000_000 / u64::from(case.threads); n as usize - 1];
            journal.visit(case, 1, &Visit { latencies_ns, ..Visit::default() });
            journal.check(case, difference);
        }
        reproducing("kernels-2026-01", "f16", journal)
    };
    let right = journal(128, 0.0);
    // The published decode gains 1.85, 1.44 and 1.89 times by the second thread.
    assert!(right.answer().contains("thread scaling, "), "{}", right.answer());
    assert!(
        right.text("reproduction.csv").contains("\"2B4T tg128, 2 threads over 1\",thread scaling,tokens/s")
    );
    assert!(!right.text("reproduction.md").contains("against f16"));
    let wrong = journal(128, 1.0);
    assert_eq!(wrong.answer(), "Not tested. None of 22 published rows can be tested here.");
    assert!(wrong.text("reproduction.csv").contains("not testable here: wrong: logits differ"));
    let short = journal(16, 0.0);
    assert_eq!(short.answer(), "Not tested. None of 22 published rows can be tested here.");
    assert!(short.text("reproduction.csv").contains("this run has no tg128 with that many threads"));
}

#[test]
fn names_of_a_journal_stay_text_in_markdown() {
    let mut journal = small(&[3.0], none);
    let Record::Run(header) = &mut journal.records[0] else { panic!("a plan") };
    header.run_id = "`<img src=x>`".into();
    header.suite = "![](http://nowhere.test/x.png) | `a`".into();
    let text = Report::of(&journal).text("report.md");
    assert!(text.contains("run `'<img src=x>'`") && !text.contains("![]("), "{text}");
}

#[test]
fn the_first_sentence_answers_the_claim() {
    let answer = |times: &[f64]| Report::of(&small(times, none)).answer();
    let place = "on 350M with 2 threads.";
    assert_eq!(
        answer(&[4.0, 3.0, 5.0]),
        format!("Yes. i2_s decoded 4.00x (3.00-5.00) as fast as f16 {place}")
    );
    assert_eq!(
        answer(&[0.5, 0.8, 0.4]),
        format!("No. i2_s decoded 0.500x (0.400-0.800) as fast as f16 {place}")
    );
    // One round on the other side of 1 is enough for doubt.
    assert!(answer(&[4.0, 0.9, 5.0]).starts_with("Not clear. "));
    let mut alone = small(&[4.0], none);
    let cases = alone.cases();
    cases.iter().filter(|c| c.kernel == "f16").for_each(|c| {
        alone.check(c, 0.5);
    });
    assert_eq!(Report::of(&alone).answer(), "Not tested. i2_s was measured on 350M, but not beside f16.");
    // A wrong kernel has no speed, and a lossy one is not what the claim is about.
    let mut wrong = small(&[4.0], none);
    cases.iter().filter(|c| c.kernel == "i2_s").for_each(|c| {
        wrong.check(c, 0.5);
    });
    assert!(Report::of(&wrong).answer().starts_with("Not tested. No ternary kernel"));
    let lossy = [case("m", "f16", "avx2", 1), case("m", "tl2-lossy", "avx2", 1)];
    let mut journal = Journal::new(1, lossy.to_vec());
    lossy.iter().for_each(|c| {
        journal.visit(c, 1, &Visit::default());
    });
    assert!(Report::of(&journal).answer().starts_with("Not tested. No ternary kernel"));
}

#[test]
fn the_page_says_what_was_measured_by_what() {
    let mut journal = small(&[4.0, 3.0, 5.0], none);
    let failing = journal.cases()[0].id.clone();
    journal.header().suite = "quick & <dirty>".into();
    journal.failure("bandwidth/t2", 2, FailureKind::Crashed, "signal 9");
    journal.header().cases.push(case("700M", "i2_s", "avx2", 2));
    let id = journal.cases().pop().unwrap().id;
    journal.failure(&id, 1, FailureKind::Skipped, "needs 14.2 GB, 8 GB are free");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("journal.jsonl"), "the journal").unwrap();
    write_all(dir.path(), &journal.records).unwrap();
    let [html, markdown] =
        ["report.html", "report.md"].map(|f| std::fs::read_to_string(dir.path().join(f)).unwrap());
    check_html(&html, "page");
    let hash = blake3::hash(b"the journal").to_string();
    for page in [&html, &markdown] {
        for text in [
            "no powercap tree",
            "bandwidth/t2, round 2: signal 9",
            "needs 14.2 GB, 8 GB are free",
            "host.json is not in this directory",
            "3 rounds",
            "seed 1",
            "0123456789abcdef",
            "bitjoule run suite.toml",
            &hash,
            "faster than f16 in every round in 4",
        ] {
            let escaped = text.replace('/', "&#x2f;");
            assert!(page.contains(text) || page.contains(&escaped), "{text} is not in {page}");
        }
        assert!(!page.contains("<dirty>") && !page.contains("simulated, not measured"));
    }
    assert!(html.contains(&failing.split('/').nth(2).unwrap().replace('/', "&#x2f;")));
    for figure in
        ["decode_tok_s", "speedup", "size", "speedup_size", "latency", "rooflines", "scaling", "memory"]
    {
        assert!(html.contains(&format!("<figure id=\"{figure}\">")), "{figure}");
        assert!(markdown.contains(&format!("](plots/{figure}.svg)")), "{figure}");
    }
    // Numbers behind a figure are those of its file.
    let scaling = html.split("<figure id=\"scaling\">").nth(1).unwrap();
    assert!(scaling.contains("<td class=\"n\">1.414</td>") && scaling.contains("<td class=\"n\">1.5</td>"));
    // No machine, no page without it.
    assert!(!html.contains("<figure id=\"pareto\">") && !html.contains("<figure id=\"rss\">"));
}

#[test]
fn what_is_simulated_is_called_so_everywhere() {
    let report = Report::of(&small(&[4.0, 3.0], simulated));
    let html = report.text("report.html");
    check_html(&html, "simulated");
    assert!(html.contains("Energy on this page is simulated, not measured</strong> (a made-up meter)"));
    assert!(
        report
            .text("report.md")
            .contains("**Energy on this page is simulated, not measured** (a made-up meter)")
    );
    assert!(html.contains("80.0 % less (simulated)"));
    assert!(html.contains("80.0 % less energy a token than f16 (simulated: a made-up meter)"));
    assert!(report.text("plots/pareto.svg").contains("Energy against speed (simulated)"));
    assert!(report.text("plots/pareto.svg").contains("White inside:"));
    let measured = Report::of(&small(&[4.0, 3.0], joules));
    assert!(!measured.text("report.html").contains("simulated"));
    assert!(!measured.text("plots/pareto.svg").contains("simulated"));
    assert!(!Report::of(&small(&[4.0], none)).has("plots/pareto.svg"));
}

#[test]
fn scaling_is_within_rounds_and_from_the_fewest_threads() {
    let summary = summarize(&small(&[4.0, 3.0], none).records).unwrap();
    assert_eq!(summary.scaling.len(), 8);
    let two = summary.scaling.iter().find(|s| s.case.threads == 2).unwrap();
    assert!((two.decode.unwrap().median - 2f64.sqrt()).abs() < 1e-6);
    assert_eq!((two.base_threads, two.bandwidth.unwrap().median, two.status.as_str()), (1, 1.5, "ok"));
    let cases = [case("m", "f16", "avx2", 2), case("m", "f16", "avx2", 4), case("m", "i2_s", "avx2", 4)];
    let mut journal = Journal::new(2, cases.to_vec());
    journal.visit(&cases[0], 1, &Visit::default()).visit(&cases[1], 2, &Visit::default());
    let summary = summarize(&journal.records).unwrap();
    let status: Vec<&str> = summary.scaling.iter().map(|s| s.status.as_str()).collect();
    assert_eq!(status, ["ok", "no round in common with 2 threads"]);
    assert_eq!(summary.rows[0].parameters, None);
}

/// 12 sizes with 5 kernels on 1 to 64 threads: speeds over six orders of magnitude, long names, cases that
/// failed, energy that some lack.
fn crowded() -> Journal {
    let kernels = ["fp32-naive", "f16", "i2_s", "tl1", "tl2"];
    let cases: Vec<_> = (0..12)
        .flat_map(|m| {
            let long = "organisation/a-rather-long-name-".repeat(3);
            let model = if m % 3 == 0 { format!("{long}{m}") } else { format!("m{m}") };
            kernels.into_iter().flat_map(move |kernel| {
                [1, 2, 64].map(|threads| case(&model, kernel, "avx512-vnni", threads))
            })
        })
        .collect();
    let mut journal = Journal::new(1, cases.clone());
    journal.bandwidth(1, 1, &[10e9]).bandwidth(1, 2, &[19e9]).bandwidth(1, 64, &[300e9]);
    for (i, case) in cases.iter().enumerate() {
        let model = i as u32 / 15;
        if i % 7 == 3 {
            journal.failure(&case.id, 1, FailureKind::Skipped, "needs 14.2 GB of memory, 8.1 GB are free");
            continue;
        }
        // Two sizes are nearly the same.
        let weights = 30_000_000 * 2u64.pow(model.min(10)) + u64::from(model);
        let ns = 3u64.pow(model) * 2000 * (1 + i as u64 % 5 * 8) / u64::from(case.threads);
        let energy = if i % 4 == 0 { none(0.0) } else { joules(ns as f64 / 1e6) };
        let macs = Some(MacCount { linear: 31 * weights, attention: 0, head: 31 });
        let predicted = Some(MemoryParts {
            weights: Bytes(weights / 5),
            embedding: Bytes(1000),
            kv_cache: Bytes(weights / 100),
            scratch: Bytes(0),
        });
        journal.visit(
            case,
            1,
            &Visit { latencies_ns: vec![ns; 31], macs, energy, predicted, ..Visit::default() },
        );
    }
    journal
}

#[test]
fn crowded_figures_have_no_text_over_another() {
    let one = [case("m", "i2_s", "avx2", 2)];
    let mut single = Journal::new(1, one.to_vec());
    let macs = Some(MacCount { linear: 31, attention: 0, head: 31 });
    single.visit(&one[0], 1, &Visit { macs, energy: joules(1.0), ..Visit::default() });
    for (name, journal) in [("crowded", crowded()), ("one case", single)] {
        let report = Report::of(&journal);
        check_html(&report.text("report.html"), name);
        for figure in ["size", "speedup_size", "scaling", "memory", "pareto", "speedup", "decode_tok_s"] {
            let path = format!("plots/{figure}.svg");
            if name == "crowded" || report.has(&path) {
                check_svg(&report.text(&path), &format!("{name}: {figure}"));
            }
        }
        let (_, texts) = svg_size(&report.text("plots/size.svg"));
        // Every model is named, however near its neighbour.
        for model in summarize(&journal.records).unwrap().rows.iter().map(|r| &r.case.model) {
            let named =
                |t: &str| t == model || (t.contains('…') && model.ends_with(t.split('…').nth(1).unwrap()));
            assert!(texts.iter().any(|t| named(&t.4)), "{name}: {model}");
        }
    }
}

/// The published sizes with 5 kernels, the larger ones on tied layers; some failed, speeds over five orders of
/// magnitude.
fn published_sizes(energy: fn(f64) -> Figure<Vec<DomainEnergy>>) -> Journal {
    let sizes = ["125M", "350M", "700M", "1B", "1.5B", "2.7B", "3.8B", "7B", "13B", "30B", "70B", "100B"];
    let kernels = ["f16", "i2_s", "tl1", "tl2", "native"];
    let cases: Vec<Case> = sizes
        .iter()
        .enumerate()
        .flat_map(|(i, size)| {
            let tied =
                (i > 7).then(|| TiedLayers { unique_layers: 8, layers: 72, full_model: (*size).to_owned() });
            kernels.map(|kernel| Case { tied: tied.clone(), ..case(size, kernel, "avx512-vnni", 2) })
        })
        .collect();
    let mut journal = Journal::new(1, cases.clone());
    for (i, case) in cases.iter().enumerate() {
        if i % 11 == 3 {
            journal.failure(&case.id, 1, FailureKind::Skipped, "needs 14.2 GB of memory, 8.1 GB are free");
            continue;
        }
        let (size, kernel) = (i as u32 / 5, i as u64 % 5);
        let ns = 3u64.pow(size) * 500_000 / (1 + 2 * kernel);
        let macs = Some(MacCount { linear: 31 << (size + 20), attention: 0, head: 31 });
        let energy = energy(ns as f64 / 1e6);
        journal.visit(case, 1, &Visit { latencies_ns: vec![ns; 31], macs, energy, ..Visit::default() });
    }
    journal
}

#[test]
fn published_tables_of_every_size_have_no_text_over_another() {
    for (name, target, energy) in [
        ("speed", "speed-2410.16144", none as fn(f64) -> Figure<Vec<DomainEnergy>>),
        ("energy", "energy-2410.16144", simulated),
        ("no energy", "energy-2410.16144", none),
    ] {
        let report = reproducing(target, "f16", published_sizes(energy));
        check_html(&report.text("report.html"), name);
        for figure in ["reproduction", "published", "size", "speedup_size"] {
            let path = format!("plots/{figure}.svg");
            if figure != "published" || name != "no energy" || report.has(&path) {
                check_svg(&report.text(&path), &format!("{name}: {figure}"));
            }
        }
        let csv = report.text("reproduction.csv");
        assert!(csv.contains("tied 8 of 72"), "{name}");
        // The table behind a figure says what its numbers are.
        let html = report.text("report.html");
        assert!(html.contains("tied 8 of 72"), "{name}");
    }
}

#[test]
fn a_model_left_out_and_a_table_that_is_not_known_are_told() {
    let mut journal = small(&[3.0], none);
    journal.header().left_out =
        vec![LeftOut { model: "70B".into(), why: "even with one layer stored 9 GB are needed".into() }];
    let report = reproducing("speed-2410.16144", "f16", journal);
    for name in ["report.html", "report.md", "reproduction.csv"] {
        assert!(report.text(name).contains("even with one layer stored"), "{name}");
    }
    let report = reproducing("speed-2999.99999", "f16", small(&[3.0], none));
    assert!(report.text("report.md").contains("the published table 'speed-2999.99999'"));
}

#[test]
fn new_figures_look_as_they_did() {
    let report = Report::of(&small(&[4.0, 3.0, 5.0], simulated));
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden-svg");
    let update = std::env::var_os("BITJOULE_UPDATE_GOLDEN").is_some();
    for name in ["size", "speedup_size", "scaling", "memory", "pareto"] {
        let drawn = report.text(&format!("plots/{name}.svg"));
        let golden: &Path = &folder.join(format!("{name}.svg"));
        if update {
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(golden, &drawn).unwrap();
        }
        let kept = std::fs::read_to_string(golden).unwrap_or_else(|e| panic!("{}: {e}", golden.display()));
        assert!(
            kept == drawn,
            "{name} is drawn otherwise; look at it, and if it is right: BITJOULE_UPDATE_GOLDEN=1 cargo test --test page"
        );
    }
}
