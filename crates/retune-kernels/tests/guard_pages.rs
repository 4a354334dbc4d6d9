//! Every kernel with every allocation ending at a page that may not be touched: a read or a write beyond the end of
//! any slice or scratch buffer ends the process.
#![cfg(all(unix, not(miri)))]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use retune_kernels::*;

struct Guarded;

/// Off until the test harness has set itself up.
static GUARDING: AtomicBool = AtomicBool::new(false);
const PAGE: usize = 4096;

fn guarded(layout: Layout) -> bool {
    layout.align() <= 64 && layout.align() >= 4 && layout.size().is_multiple_of(layout.align())
}

// SAFETY: memory comes from a fresh mapping (or the system), is large and aligned enough, and goes back where it came
// from: every block starts with a header page that says so.
unsafe impl GlobalAlloc for Guarded {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let pages = layout.size().div_ceil(PAGE);
        if !GUARDING.load(Ordering::Relaxed) || !guarded(layout) || layout.size() == 0 {
            // SAFETY: handed on.
            return unsafe { System.alloc(layout) };
        }
        // SAFETY: a new private mapping; its last page is then closed.
        unsafe {
            let protection = libc::PROT_READ | libc::PROT_WRITE;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
            let start = libc::mmap(std::ptr::null_mut(), (pages + 1) * PAGE, protection, flags, -1, 0);
            if start == libc::MAP_FAILED {
                return std::ptr::null_mut();
            }
            let guard = start.cast::<u8>().add(pages * PAGE);
            libc::mprotect(guard.cast(), PAGE, libc::PROT_NONE);
            guard.sub(layout.size())
        }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // A block that ends at a page's end and was asked for while guarding is a mapping. Others are the system's; a
        // system block that looks alike is left allocated, which a test can afford.
        let ends_at_page = (pointer as usize + layout.size()).is_multiple_of(PAGE);
        if GUARDING.load(Ordering::Relaxed) && guarded(layout) && ends_at_page {
            return; // Stays mapped: a use after free would be read as data, but never as another's data.
        }
        if !ends_at_page {
            // SAFETY: mappings always end at a page, so this is the system's.
            unsafe { System.dealloc(pointer, layout) }
        }
    }
}

#[global_allocator]
static ALLOCATOR: Guarded = Guarded;

#[test]
fn no_kernel_reads_or_writes_beyond_the_end_of_a_slice() {
    for isa in paths() {
        GUARDING.store(true, Ordering::Relaxed);
        for size in sizes() {
            let cpu = Cpu::new(threads(), isa).unwrap();
            every_kernel(&cpu, &size);
        }
        GUARDING.store(false, Ordering::Relaxed);
    }
}
