//! Energy from RAPL's registers by `/dev/cpu/N/msr`, for kernels that offer them in no other way.
//!
//! Intel: SDM volume 4, MSR_RAPL_POWER_UNIT and the registers below; a counter has 32 bits, in units of
//! 2^-ESU J, of Silvermont's and Airmont's Atoms of 2^ESU uJ (SDM volume 4, "MSRs in Processors Based on
//! Silvermont Microarchitecture"). AMD: the Processor Programming Reference of family 17h and later. On Intel's servers since
//! Haswell the memory counts in units of 2^-16 J (15.3 uJ) whatever the unit register says ("Intel Xeon
//! Processor E5-1600 and E5-2600 v3 Product Families, Volume 2", 330784-001), and since Sapphire Rapids the
//! platform in units of 1 J (arch/x86/events/rapl.c of Linux).
//!
//! The device has a register of eight bytes at each offset, which a file cannot have: in a simulated tree
//! register N begins at byte 8 N.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::powercap::RAPL_PERIOD;
use super::source::{
    Domain, DomainKind, NONE_IN_A_VM, Quantity, Raw, Reading, Refusal, Source, below, read_each, unreadable,
    virtual_machine,
};
use super::topology::{Place, places, socket};
use crate::units::Joules;

/// A counter's width.
const TURN: u64 = 1 << 32;

const INTEL_UNIT: u64 = 0x606;
const INTEL: [(u64, DomainKind, &str); 5] = [
    (0x611, DomainKind::Package, "package"),
    (0x639, DomainKind::Core, "core"),
    (0x641, DomainKind::Uncore, "uncore"),
    (0x619, DomainKind::Dram, "dram"),
    (0x64D, DomainKind::Psys, "psys"),
];

/// Models of family 6 whose memory counts in units of 2^-16 J: Haswell, Broadwell, Skylake and Ice Lake
/// servers, Xeon Phi.
const FIXED_DRAM_UNIT: [u32; 8] = [0x3F, 0x4F, 0x56, 0x55, 0x6A, 0x6C, 0x57, 0x85];

/// Models of family 6 whose platform counts in units of 1 J: Sapphire and Emerald Rapids.
const FIXED_PSYS_UNIT: [u32; 2] = [0x8F, 0xCF];

/// Models of family 6 whose unit register tells units of 2^ESU uJ: the Atoms Silvermont and Airmont.
const MICROJOULE_UNIT: [u32; 5] = [0x37, 0x4A, 0x4C, 0x5A, 0x5D];

const AMD_UNIT: u64 = 0xC001_0299;
const AMD_CORE: u64 = 0xC001_029A;
const AMD_PACKAGE: u64 = 0xC001_029B;

struct Msr {
    domains: Vec<Domain>,
    registers: Vec<Register>,
}

struct Register {
    file: File,
    path: PathBuf,
    number: u64,
    offset: u64,
}

/// What /proc/cpuinfo says of the first CPU.
struct Cpu {
    vendor: String,
    family: u32,
    model: u32,
}

pub(super) fn open(root: Option<&Path>) -> Result<Box<dyn Source>, Refusal> {
    let cpu =
        cpu(root).ok_or_else(|| Refusal::new("/proc/cpuinfo names no x86 CPU, and others have no MSRs"))?;
    let places = places(root);
    if places.is_empty() {
        return Err(Refusal::new("/sys/devices/system/cpu does not say where the CPUs are"));
    }
    let mut msr = Msr { domains: Vec::new(), registers: Vec::new() };
    match (cpu.vendor.as_str(), cpu.family) {
        ("GenuineIntel", 6) => msr.open_intel(root, &cpu, &places)?,
        ("AuthenticAMD" | "HygonGenuine", 0x17..) => msr.open_amd(root, &places)?,
        (vendor, family) => {
            return Err(Refusal::new(format!("no energy registers are known of {vendor} family {family}")));
        }
    }
    Ok(Box::new(msr))
}

fn cpu(root: Option<&Path>) -> Option<Cpu> {
    let cpuinfo = std::fs::read_to_string(below(root, "/proc/cpuinfo")).ok()?;
    let field = |key: &str| {
        cpuinfo.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            (name.trim() == key).then(|| value.trim().to_owned())
        })
    };
    Some(Cpu {
        vendor: field("vendor_id")?,
        family: field("cpu family")?.parse().ok()?,
        model: field("model")?.parse().ok()?,
    })
}

impl Msr {
    /// Of each die one of everything, and one platform.
    fn open_intel(&mut self, root: Option<&Path>, cpu: &Cpu, places: &[Place]) -> Result<(), Refusal> {
        let mut dies: Vec<Place> = places.to_vec();
        dies.dedup_by_key(|place| (place.package, place.die));
        for (i, die) in dies.iter().enumerate() {
            let esu = energy_status_unit(root, die.cpu, INTEL_UNIT)?;
            let unit = if MICROJOULE_UNIT.contains(&cpu.model) {
                Joules(1e-6 * 2_f64.powi(esu))
            } else {
                Joules(0.5_f64.powi(esu))
            };
            for (number, kind, prefix) in INTEL {
                let unit = match kind {
                    DomainKind::Dram if FIXED_DRAM_UNIT.contains(&cpu.model) => Joules(1.0 / 65_536.0),
                    DomainKind::Psys if FIXED_PSYS_UNIT.contains(&cpu.model) => Joules(1.0),
                    _ => unit,
                };
                let name = match kind {
                    DomainKind::Psys if i > 0 => continue,
                    DomainKind::Psys => prefix.to_owned(),
                    _ => format!("{prefix}-{}", socket(*die, places)),
                };
                self.add(root, die.cpu, number, unit, name, kind)?;
            }
        }
        Ok(())
    }

    /// Of each socket the package, and every core.
    fn open_amd(&mut self, root: Option<&Path>, places: &[Place]) -> Result<(), Refusal> {
        let mut packages: Vec<Place> = places.to_vec();
        packages.dedup_by_key(|place| place.package);
        for package in &packages {
            let unit = Joules(0.5_f64.powi(energy_status_unit(root, package.cpu, AMD_UNIT)?));
            let name = format!("package-{}", package.package);
            self.add(root, package.cpu, AMD_PACKAGE, unit, name, DomainKind::Package)?;
            let mut cores: Vec<&Place> = places.iter().filter(|p| p.package == package.package).collect();
            cores.dedup_by_key(|place| (place.die, place.core));
            for (i, core) in cores.iter().enumerate() {
                let name = format!("core-{}-{i}", package.package);
                self.add(root, core.cpu, AMD_CORE, unit, name, DomainKind::Core)?;
            }
        }
        Ok(())
    }

    /// Adds a register; one of a part that this CPU does not have, or that counts nothing, is left out.
    fn add(
        &mut self,
        root: Option<&Path>,
        cpu: u32,
        number: u64,
        unit: Joules,
        name: String,
        kind: DomainKind,
    ) -> Result<(), Refusal> {
        let register = Register::open(root, cpu, number)?;
        match register.read() {
            Ok(counts) if counts > 0 => {}
            Err(why) if kind == DomainKind::Package => return Err(Refusal::new(why)),
            // A hypervisor that knows the register but not the energy says 0.
            Ok(_) if kind == DomainKind::Package => {
                let why = format!("register {number:#x} of {} reads 0", register.path.display());
                return Err(Refusal::with(why, NONE_IN_A_VM));
            }
            _ => return Ok(()),
        }
        self.domains.push(Domain {
            name,
            kind,
            in_total: matches!(kind, DomainKind::Package | DomainKind::Dram),
            quantity: Quantity::Counter { unit, turn: Some(TURN), step: unit },
            update_period: RAPL_PERIOD,
        });
        self.registers.push(register);
        Ok(())
    }
}

/// ESU: bits 12 to 8 of the unit register.
fn energy_status_unit(root: Option<&Path>, cpu: u32, number: u64) -> Result<i32, Refusal> {
    let register = Register::open(root, cpu, number)?;
    match register.read_whole().map_err(Refusal::new)? {
        0 => {
            let why =
                format!("register {number:#x} of {} reads 0, which is no unit", register.path.display());
            Err(Refusal::with(why, NONE_IN_A_VM))
        }
        bits => Ok((bits >> 8 & 0x1F) as i32),
    }
}

impl Register {
    fn open(root: Option<&Path>, cpu: u32, number: u64) -> Result<Register, Refusal> {
        let path = below(root, &format!("/dev/cpu/{cpu}/msr"));
        match File::open(&path) {
            Ok(file) => {
                let offset = if root.is_some() { number * 8 } else { number };
                Ok(Register { file, path, number, offset })
            }
            Err(e) => {
                let why = unreadable(&path, &e);
                Err(match e.kind() {
                    std::io::ErrorKind::NotFound if virtual_machine(root) => Refusal::with(why, NONE_IN_A_VM),
                    std::io::ErrorKind::NotFound => {
                        Refusal::with(why, "load the module").command("sudo modprobe msr")
                    }
                    std::io::ErrorKind::PermissionDenied => Refusal::with(why, "run as root"),
                    _ => Refusal::new(why),
                })
            }
        }
    }

    fn read_whole(&self) -> Result<u64, String> {
        let mut bytes = [0; 8];
        self.file.read_exact_at(&mut bytes, self.offset).map_err(|e| {
            format!("cannot read register {:#x} of {}: {e}", self.number, self.path.display())
        })?;
        Ok(u64::from_le_bytes(bytes))
    }

    /// A counter is the low half; the high half is reserved.
    fn read(&self) -> Result<u64, String> {
        self.read_whole().map(|bits| bits % TURN)
    }
}

impl Source for Msr {
    fn name(&self) -> &str {
        "msr"
    }

    fn domains(&self) -> &[Domain] {
        &self.domains
    }

    fn read(&mut self, _: Duration, only: Option<usize>, readings: &mut Vec<Reading>) {
        read_each(&self.registers, only, readings, |register| register.read().map(Raw::Counts));
    }
}
