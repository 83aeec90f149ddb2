//! Energy of NVIDIA GPUs from their driver's library, NVML, which is loaded at run time if it is there.
//!
//! `nvmlDeviceGetTotalEnergyConsumption` counts millijoules since the driver was loaded (Volta and later);
//! of older GPUs `nvmlDeviceGetPowerUsage`, milliwatts, is integrated (NVML API Reference Guide). In a
//! simulated tree the library is `/usr/lib/libnvidia-ml.so.1`.

use std::ffi::{c_int, c_uint, c_void};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libloading::Library;

use super::source::{Domain, DomainKind, Quantity, Raw, Reading, Refusal, Source, read_each};
use crate::units::{Joules, Watts};

const LIBRARY: &str = "libnvidia-ml.so.1";

/// How often the driver renews its values: 20 to 100 ms, by generation of GPU. Nothing states it.
const PERIOD: Duration = Duration::from_millis(100);

/// More GPUs than a machine has.
const MAX_GPUS: c_uint = 64;

type Init = unsafe extern "C" fn() -> c_int;
type Count = unsafe extern "C" fn(*mut c_uint) -> c_int;
type HandleByIndex = unsafe extern "C" fn(c_uint, *mut Handle) -> c_int;
type TotalEnergy = unsafe extern "C" fn(Handle, *mut u64) -> c_int;
type PowerUsage = unsafe extern "C" fn(Handle, *mut c_uint) -> c_int;

/// The library's name of a GPU.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
struct Handle(*mut c_void);

// SAFETY: a handle is a name that only the library looks into, and NVML is thread-safe ("it is safe to make
// simultaneous NVML calls from multiple threads", NVML API Reference Guide).
unsafe impl Send for Handle {}

struct Nvml {
    domains: Vec<Domain>,
    gpus: Vec<Handle>,
    total_energy: Option<TotalEnergy>,
    power_usage: Option<PowerUsage>,
    shutdown: Option<Init>,
    /// Holds the code of the functions above, so it is dropped last.
    _library: Library,
}

pub(super) fn open(root: Option<&Path>) -> Result<Box<dyn Source>, Refusal> {
    let path = match root {
        Some(root) => root.join("usr/lib").join(LIBRARY),
        None => PathBuf::from(LIBRARY),
    };
    // SAFETY: loading runs the initialisers of NVIDIA's library, which asks nothing of its caller.
    let library = unsafe { Library::new(&path) }
        .map_err(|_| Refusal::new(format!("{} cannot be loaded: no NVIDIA driver", path.display())))?;
    let lacking = |name: &str| Refusal::new(format!("{} has no {name}", path.display()));
    /// The function of that name.
    ///
    /// # Safety
    /// It has to be of that type.
    unsafe fn function<F: Copy>(library: &Library, name: &str) -> Option<F> {
        // SAFETY: the caller vouches for the type; the copy is called only while the library is loaded,
        // which `Nvml` sees to.
        unsafe { library.get::<F>(name.as_bytes()) }.ok().map(|symbol| *symbol)
    }
    // SAFETY: these are the signatures of nvml.h, of functions whose names fix their version.
    let (init, count, by_index) = unsafe {
        (
            function::<Init>(&library, "nvmlInit_v2").ok_or_else(|| lacking("nvmlInit_v2"))?,
            function::<Count>(&library, "nvmlDeviceGetCount_v2")
                .ok_or_else(|| lacking("nvmlDeviceGetCount_v2"))?,
            function::<HandleByIndex>(&library, "nvmlDeviceGetHandleByIndex_v2")
                .ok_or_else(|| lacking("nvmlDeviceGetHandleByIndex_v2"))?,
        )
    };
    // SAFETY: as above.
    let (total_energy, power_usage, shutdown) = unsafe {
        (
            function::<TotalEnergy>(&library, "nvmlDeviceGetTotalEnergyConsumption"),
            function::<PowerUsage>(&library, "nvmlDeviceGetPowerUsage"),
            function::<Init>(&library, "nvmlShutdown"),
        )
    };
    // SAFETY: nvmlInit_v2 takes nothing and may be called by anybody.
    done("nvmlInit_v2", unsafe { init() }).map_err(Refusal::new)?;
    let (domains, gpus) = (Vec::new(), Vec::new());
    let mut nvml = Nvml { domains, gpus, total_energy, power_usage, shutdown, _library: library };
    let mut gpus = 0;
    // SAFETY: the library is initialised, and writes one number.
    done("nvmlDeviceGetCount_v2", unsafe { count(&mut gpus) }).map_err(Refusal::new)?;
    for index in 0..gpus.min(MAX_GPUS) {
        let mut handle = Handle(std::ptr::null_mut());
        // SAFETY: the library is initialised, and writes one handle.
        done("nvmlDeviceGetHandleByIndex_v2", unsafe { by_index(index, &mut handle) })
            .map_err(Refusal::new)?;
        let quantity = nvml.quantity(handle).map_err(|why| Refusal::new(format!("gpu-{index}: {why}")))?;
        nvml.domains.push(Domain {
            name: format!("gpu-{index}"),
            kind: DomainKind::Gpu,
            in_total: true,
            quantity,
            update_period: PERIOD,
        });
        nvml.gpus.push(handle);
    }
    if nvml.gpus.is_empty() {
        return Err(Refusal::new("the NVIDIA driver knows no GPU"));
    }
    Ok(Box::new(nvml))
}

fn done(name: &str, code: c_int) -> Result<(), String> {
    if code == 0 { Ok(()) } else { Err(format!("{name} failed with NVML error {code}")) }
}

impl Nvml {
    /// What a GPU can tell.
    fn quantity(&self, gpu: Handle) -> Result<Quantity, String> {
        if self.energy_mj(gpu).is_ok() {
            return Ok(Quantity::Counter { unit: Joules(1e-3), turn: None, step: Joules(1e-3) });
        }
        self.power_mw(gpu).map(|_| Quantity::Power { step: Watts(1e-3) })
    }

    fn energy_mj(&self, gpu: Handle) -> Result<u64, String> {
        let total_energy = self.total_energy.ok_or("NVML has no nvmlDeviceGetTotalEnergyConsumption")?;
        let mut mj = 0;
        // SAFETY: the handle is of this library, which is initialised until `self` is dropped and writes one
        // number.
        done("nvmlDeviceGetTotalEnergyConsumption", unsafe { total_energy(gpu, &mut mj) }).map(|()| mj)
    }

    fn power_mw(&self, gpu: Handle) -> Result<u32, String> {
        let power_usage = self.power_usage.ok_or("NVML has no nvmlDeviceGetPowerUsage")?;
        let mut mw = 0;
        // SAFETY: as in `energy_mj`.
        done("nvmlDeviceGetPowerUsage", unsafe { power_usage(gpu, &mut mw) }).map(|()| mw)
    }
}

impl Drop for Nvml {
    fn drop(&mut self) {
        if let Some(shutdown) = self.shutdown {
            // SAFETY: it ends what nvmlInit_v2 began; the library counts both.
            unsafe { shutdown() };
        }
    }
}

impl Source for Nvml {
    fn name(&self) -> &str {
        "nvml"
    }

    fn domains(&self) -> &[Domain] {
        &self.domains
    }

    fn read(&mut self, _: Duration, only: Option<usize>, readings: &mut Vec<Reading>) {
        read_each(self.gpus.iter().zip(&self.domains), only, readings, |(&gpu, domain)| {
            match domain.quantity {
                Quantity::Counter { .. } => self.energy_mj(gpu).map(Raw::Counts),
                Quantity::Power { .. } => self.power_mw(gpu).map(|mw| Raw::Power(Watts(f64::from(mw) / 1e3))),
            }
        });
    }
}
