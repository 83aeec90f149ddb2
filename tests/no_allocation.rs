//! Decoding does not allocate, on any thread. A binary of its own, for its allocator.

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use bitjoule::engine::{Engine, EngineOptions, KvType};
use bitjoule::gguf::I2sLayout;
use bitjoule::model::Plan;
use bitjoule_kernels::{Isa, Kernel};

/// The system's allocator, counting what is asked of it.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn decoding_does_not_allocate() {
    const TOKENS: u32 = 32;
    let gguf = common::fixture("tiny-bitnet-b1.58.i2_s");
    // The count works: making a vector is seen.
    let before = ALLOCATIONS.load(Ordering::SeqCst);
    drop(std::hint::black_box(vec![1u8; 100]));
    assert!(ALLOCATIONS.load(Ordering::SeqCst) > before);

    for kernel in Kernel::ALL {
        for isa in Isa::available() {
            for (threads, kv) in [(1, KvType::F16), (1, KvType::F32), (2, KvType::F16), (2, KvType::F32)] {
                if kernel == Kernel::Fp32Naive && isa != Isa::SCALAR {
                    continue;
                }
                let model = Plan::new(&gguf, kernel, I2sLayout::X86_64).unwrap().load(isa).unwrap();
                let options = EngineOptions { threads, kv, context: TOKENS as usize + 4, batch: 4 };
                let mut engine = Engine::new(model, options).unwrap();
                engine.prefill(&[1, 2, 3, 4]).unwrap();
                let before = ALLOCATIONS.load(Ordering::SeqCst);
                let mut finite = true;
                for token in 0..TOKENS {
                    finite &= engine.decode(token).unwrap()[0].is_finite();
                }
                let made = ALLOCATIONS.load(Ordering::SeqCst) - before;
                assert!(finite);
                assert_eq!(made, 0, "{kernel} {isa}, {threads} threads, KV {}", kv.name());
            }
        }
    }
}
