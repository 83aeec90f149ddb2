//! Sizes beyond the machine: how many layers of a synthetic model are stored, when it computes more.
//!
//! Decided once, before anything is made or measured, and written into the run's suite and cases: see
//! METHODOLOGY.md, Tied layers.

use bitjoule_kernels::{Isa, Kernel};

use crate::backend::check;
use crate::backend::native::options_of;
use crate::error::{Error, Result};
use crate::figure::Figure;
use crate::journal::{Case, LeftOut};
use crate::model::{Config, EmbeddingType, Geometry, linear_bytes};
use crate::suite::{Model, ModelSource, Suite, UniqueLayers};
use crate::units::Bytes;

use super::plan;

/// How many times the last-level cache the stored layers have to exceed: what caches keep of a cycle that long
/// makes it about a hundredth faster. At four times it was a twentieth (METHODOLOGY.md, Tied layers).
const CACHES: u64 = 12;

/// `suite` with every `unique_layers` decided: a number below the model's layers, or none; and the models that
/// are left out of it, because too few layers fit or what has to be known of the machine is not. `progress`
/// is told of models that do not fit.
///
/// # Errors
/// [`Error::Input`] if the number that the suite names is so small that the layers would stay in the
/// cache; [`Error::Environment`] if every model would be left out.
pub(super) fn decide(
    mut suite: Suite,
    all_threads: u32,
    available: &Figure<Bytes>,
    llc: Option<Bytes>,
    mut progress: impl FnMut(&str),
) -> Result<(Suite, Vec<LeftOut>)> {
    let mut left_out = Vec::new();
    if suite.models.iter().all(|model| model.unique_layers.is_none()) {
        return Ok((suite, left_out));
    }
    let cases = plan::cases(&suite, all_threads)?;
    let mut kept = Vec::new();
    for mut model in std::mem::take(&mut suite.models) {
        if let (ModelSource::Synth(size), Some(asked)) = (&model.source, model.unique_layers) {
            let tying = Tying::new(&model, Geometry::by_name(size)?, &cases)?;
            match (tying.decide(asked, available, llc, &mut progress), asked) {
                (Ok(stored), _) => model.unique_layers = stored.map(UniqueLayers::Count),
                (Err(Error::Environment(why)), UniqueLayers::Auto) => {
                    progress(&format!("{} is left out: {why}", tying.label));
                    left_out.push(LeftOut { model: tying.label, why });
                    continue;
                }
                (Err(e), _) => {
                    return Err(e.at(format_args!("model '{}', key 'unique_layers'", tying.label)));
                }
            }
        }
        kept.push(model);
    }
    suite.models = kept;
    match left_out.first() {
        Some(LeftOut { model, why }) if suite.models.is_empty() => {
            Err(Error::environment(format!("model '{model}', key 'unique_layers': {why}")))
        }
        _ => Ok((suite, left_out)),
    }
}

/// A model whose layers may be tied, and what is to be run with it.
struct Tying<'a> {
    label: String,
    geometry: &'static Geometry,
    embedding: Option<EmbeddingType>,
    /// Kernels of the cases, and instruction sets that this CPU has.
    cases: Vec<(&'a Case, Kernel, Isa)>,
}

impl<'a> Tying<'a> {
    fn new(model: &Model, geometry: &'static Geometry, cases: &'a [Case]) -> Result<Self> {
        let label = model.label();
        let able =
            |case: &'a Case| Some((case, Kernel::by_name(&case.kernel)?, Isa::by_name(&case.isa).ok()?));
        Ok(Tying {
            geometry,
            embedding: model.embedding.as_deref().map(EmbeddingType::by_name).transpose()?,
            cases: cases.iter().filter(|case| case.model == label).filter_map(able).collect(),
            label,
        })
    }

    /// How many layers to store; none: all.
    fn decide(
        &self,
        asked: UniqueLayers,
        available: &Figure<Bytes>,
        llc: Option<Bytes>,
        progress: &mut impl FnMut(&str),
    ) -> Result<Option<u32>> {
        let layers = self.geometry.layers;
        let stored = match asked {
            UniqueLayers::Count(count) if count >= layers => return Ok(None),
            UniqueLayers::Count(count) => count,
            UniqueLayers::Auto => {
                let available = match available {
                    Figure::Unavailable { why } => {
                        return Err(Error::environment(format!(
                            "the memory available is not known ({why}); give a number of layers"
                        )));
                    }
                    known => known.value().copied().unwrap_or_default(),
                };
                let (needed, _) = self.most(None)?;
                if needed <= available {
                    return Ok(None);
                }
                let stored = self.largest_within(available)?;
                progress(&format!(
                    "{} needs {needed} of memory, {available} are available: {stored} of {layers} layers are stored, \
                     all are computed",
                    self.label
                ));
                stored
            }
        };
        self.exceeds_cache(asked, stored, llc)?;
        Ok(Some(stored))
    }

    fn config(&self, stored: Option<u32>) -> Result<Config> {
        self.geometry.config(stored)
    }

    /// The most memory that a case needs with so many layers stored, and the most that the kernels need
    /// which their logits are checked against.
    fn most(&self, stored: Option<u32>) -> Result<(Bytes, Bytes)> {
        let config = self.config(stored)?;
        let (mut cases, mut references) = (Bytes(0), Bytes(0));
        for (case, kernel, isa) in &self.cases {
            let options = options_of(case)?;
            let needs =
                |kernel, isa| options.memory_of_synthetic(&config, kernel, isa, self.embedding).total();
            let (reference, scalar) = check::reference_of(*kernel);
            cases = cases.max(needs(*kernel, *isa));
            references = references.max(needs(reference, scalar));
        }
        Ok((cases, references))
    }

    /// The largest number of layers, below all, with which every case fits into half of `available` and
    /// every reference, which is not measured, into three quarters.
    fn largest_within(&self, available: Bytes) -> Result<u32> {
        let (half, three_quarters) = (Bytes(available.0 / 2), Bytes(available.0 / 4 * 3));
        for stored in (1..self.geometry.layers).rev() {
            let (cases, references) = self.most(Some(stored))?;
            if cases <= half && references <= three_quarters {
                return Ok(stored);
            }
        }
        let (cases, references) = self.most(Some(1))?;
        Err(Error::environment(format!(
            "even with one layer stored {cases} are needed, and {references} to check the logits; half and three \
             quarters of the memory available are {half} and {three_quarters}; take smaller kernels, or shorter \
             workloads"
        )))
    }

    /// Refuses so few layers that they would be read from the cache.
    fn exceeds_cache(&self, asked: UniqueLayers, stored: u32, llc: Option<Bytes>) -> Result<()> {
        let llc = llc.ok_or_else(|| {
            Error::environment(
                "the size of the last-level cache is not known, so neither is whether tied layers exceed it; \
                 leave the key out",
            )
        })?;
        // The kernel whose weights are smallest decides.
        let Some(kernel) = self
            .cases
            .iter()
            .map(|c| c.1)
            .min_by_key(|kernel| self.config(Some(1)).map_or(0, |c| linear_bytes(&c, *kernel).0))
        else {
            return Ok(());
        };
        let bytes = |stored| Ok::<_, Error>(linear_bytes(&self.config(Some(stored))?, kernel));
        let bound = Bytes(llc.0.saturating_mul(CACHES));
        let held = bytes(stored)?;
        if held >= bound {
            return Ok(());
        }
        let layers = self.geometry.layers;
        let mut enough = None;
        for more in stored..layers {
            if bytes(more)? >= bound {
                enough = Some(more);
                break;
            }
        }
        let remedy = match (asked, enough) {
            (UniqueLayers::Auto, _) => "no more fit into half of the memory available; free memory, or take \
                                        kernels that need less of it"
                .to_owned(),
            (UniqueLayers::Count(_), Some(enough)) => {
                format!("store {enough} or more of the {layers} layers")
            }
            (UniqueLayers::Count(_), None) => format!("store all {layers} layers: leave the key out"),
        };
        let message = format!(
            "{stored} stored layers are {held} with kernel {kernel}, less than {CACHES} times the last-level cache \
             of {llc}, from which they would be read: the speed would not be that of the full model; {remedy}"
        );
        Err(match asked {
            UniqueLayers::Auto => Error::Environment(message),
            UniqueLayers::Count(_) => Error::Input(message),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LLC: Option<Bytes> = Some(Bytes(32 << 20));

    fn suite(size: &str, unique_layers: &str, kernels: &str) -> Suite {
        let text = format!(
            "name = \"x\"\nkernels = [{kernels}]\nthreads = [2]\n[[models]]\nsynth = \"{size}\"\n\
             unique_layers = {unique_layers}\n[[workloads]]\nn_prompt = 16\nn_gen = 17\n"
        );
        Suite::parse(&text, "x", Path::new("")).unwrap()
    }

    fn decided(suite: Suite, available: u64, llc: Option<Bytes>) -> Result<Option<UniqueLayers>> {
        let available = Figure::measured(Bytes(available), "test");
        decide(suite, 2, &available, llc, |_| {}).map(|(suite, _)| suite.models[0].unique_layers)
    }

    #[track_caller]
    fn refused(suite: Suite, available: u64, llc: Option<Bytes>, exit_code: u8) -> String {
        let error = decided(suite, available, llc).expect_err("must be refused");
        assert_eq!(error.exit_code(), exit_code, "{error}");
        error.to_string()
    }

    #[test]
    fn auto_takes_all_layers_where_they_fit_and_else_what_fits_into_half() {
        let decide = |gb: u64| decided(suite("7B", "\"auto\"", "\"i2_s\", \"f16\""), gb * 1_000_000_000, LLC);
        // 32 layers of 215 million weights, 2 bytes each, and 262 MB of embedding.
        assert_eq!(decide(15).unwrap(), None);
        // The float kernel that f16 is checked against takes 861 MB a layer and 524 MB of embedding, and may
        // take three quarters.
        assert_eq!(decide(13).unwrap(), Some(UniqueLayers::Count(10)));
        // Without f16 the reference is as small as the kernel.
        let small = Some(Bytes(8 << 20));
        let ternary = |gb: u64| decided(suite("7B", "\"auto\"", "\"i2_s\""), gb * 1_000_000_000, small);
        assert_eq!(ternary(3).unwrap(), None);
        assert_eq!(ternary(1).unwrap(), Some(UniqueLayers::Count(4)));
    }

    #[test]
    fn the_largest_sizes_are_planned_without_overflow() {
        let decide = |size| decided(suite(size, "\"auto\"", "\"i2_s\", \"f16\""), 24_000_000_000, LLC);
        assert_eq!(decide("70B").unwrap(), Some(UniqueLayers::Count(4)));
        assert_eq!(decide("100B").unwrap(), Some(UniqueLayers::Count(3)));
        let suite = suite("100B", "\"auto\"", "\"f16\"");
        let cases = plan::cases(&suite, 2).unwrap();
        let tying = Tying::new(&suite.models[0], Geometry::by_name("100B").unwrap(), &cases).unwrap();
        // 72 layers of 4 x 8192^2 + 3 x 8192 x 45568 weights of 2 bytes; embedding, cache and scratch are
        // less than a hundredth of them.
        let weights = 72.0 * (4.0 * 8192.0 * 8192.0 + 3.0 * 8192.0 * 45568.0) * 2.0;
        let needed = tying.most(None).unwrap().0.0 as f64;
        assert!(needed > weights && needed < 1.01 * weights, "{needed} for {weights}");
    }

    #[test]
    fn layers_that_the_cache_would_hold_are_refused_with_the_number_that_would_do() {
        // A layer of 3B is 31.0 MB in 2 bits, twelve times the cache are 403 MB.
        let why = refused(suite("3B", "7", "\"f16\", \"i2_s\""), 1 << 40, LLC, 2);
        for needle in
            ["model '3B', key 'unique_layers'", "kernel i2_s", "33.6 MB", "store 13 or more of the 26 layers"]
        {
            assert!(why.contains(needle), "{needle}: {why}");
        }
        assert_eq!(
            decided(suite("3B", "13", "\"i2_s\""), 1 << 40, LLC).unwrap(),
            Some(UniqueLayers::Count(13))
        );
        // f16 alone needs fewer; the kernel with the fewest bytes decides.
        assert!(decided(suite("1B", "6", "\"f16\""), 1 << 40, LLC).is_ok());
        // All layers are the full model, however small.
        assert_eq!(decided(suite("125M", "11", "\"i2_s\""), 1 << 40, LLC).unwrap(), None);
        let why = refused(suite("125M", "10", "\"i2_s\""), 1 << 40, LLC, 2);
        assert!(why.contains("store all 11 layers"), "{why}");
    }

    #[test]
    fn auto_says_what_the_machine_lacks() {
        let auto = || suite("70B", "\"auto\"", "\"i2_s\"");
        let why = refused(auto(), 1_000_000_000, LLC, 3);
        assert!(why.contains("even with one layer stored") && why.contains("500.0 MB and 750.0 MB"), "{why}");
        let why = refused(auto(), 3_000_000_000, Some(Bytes(1 << 30)), 3);
        assert!(
            why.contains("less than 12 times the last-level cache") && why.contains("free memory"),
            "{why}"
        );
        let why = refused(auto(), 3_000_000_000, None, 3);
        assert!(why.contains("last-level cache is not known"), "{why}");
        let unknown = Figure::unavailable("no /proc");
        let why = decide(auto(), 2, &unknown, LLC, |_| {}).unwrap_err();
        assert!(why.exit_code() == 3 && why.to_string().contains("no /proc"), "{why}");
    }

    #[test]
    fn one_of_several_models_is_left_out_with_its_reason() {
        let both = |unique_layers: &str| {
            let mut suite = suite("70B", unique_layers, "\"i2_s\"");
            suite.models.push(self::suite("125M", "11", "\"i2_s\"").models.remove(0));
            suite
        };
        let available = Figure::measured(Bytes(1_000_000_000), "test");
        let (suite, left_out) = decide(both("\"auto\""), 2, &available, LLC, |_| {}).unwrap();
        assert_eq!(suite.models.iter().map(Model::label).collect::<Vec<_>>(), ["125M"]);
        assert_eq!(left_out[0].model, "70B");
        assert!(left_out[0].why.contains("even with one layer stored"), "{left_out:?}");
        // A number that somebody chose is a mistake to be told of.
        assert_eq!(
            decide(both("1"), 2, &available, Some(Bytes(1 << 40)), |_| {}).unwrap_err().exit_code(),
            2
        );
    }
}
