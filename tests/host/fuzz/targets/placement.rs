// SPDX-License-Identifier: GPL-2.0

//! `place()` and `place_page()` for any table, device and buffer, against every single byte.

#![no_main]

use dma_core::p2m::{FOREIGN, IDENTITY, INVALID};
use dma_core::placement::Bounces;
use dma_core_tests::bytes::{judge, Device, Table};
use fuzz::Input;
use libfuzzer_sys::fuzz_target;

/// Most frames in a table.
const FRAMES: u64 = 8;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let device = Device {
        mask: input.ones(64),
        bus: input.ones(64),
        boundary: input.ones(64),
        min_align: input.ones(64),
    };
    let force = input.below(8) == 7;

    let first = input.below(64);
    let mut mfn = input.below(1 << 24);
    let entries = (0..=input.below(FRAMES))
        .map(|_| {
            // Neighbours as a rule, so that something is direct.
            let kind = input.below(32);
            mfn = match kind {
                0 => input.below(1 << 40),
                _ => mfn + 1,
            };
            match kind {
                1 => mfn | FOREIGN,
                2 => mfn | IDENTITY,
                3 => INVALID,
                _ => mfn,
            }
        })
        .collect();
    let table = Table { first, entries };
    let phys = (first + input.below(FRAMES)) * 4096 + input.below(4096);
    let size = input.below(1 << 14) as usize;

    let bounces = Bounces {
        forced: force,
        ..Bounces::AS_NEEDED
    };
    if let Err(why) = judge(&table, phys, size, &device, bounces) {
        panic!("{why}\n{size} bytes at {phys:#x}, forced {force}, {device:#x?}, {table:#x?}");
    }
});
