// SPDX-License-Identifier: GPL-2.0

//! Any sequence of operations of the slot allocator, against its model.

#![no_main]

use dma_core_tests::model::{Ask, Model, Step, BASE, OWNERS};
use fuzz::Input;
use libfuzzer_sys::fuzz_target;

/// The most operations: a longer input says nothing more.
const STEPS: usize = 256;

/// Largest mapping in bytes; more is too large for every extent here.
const LARGEST: u64 = 1 << 22;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let slots = input.one_of(&[128, 256, 512, 1024]);
    let kind = input.below(16) as usize;
    let (processors, reserve) = (1 + kind % 8, kind >= 8);

    let mut model = Model::new(slots, processors, reserve);
    let mut done = Vec::new();
    while !input.is_empty() && done.len() < STEPS {
        let step = step(&mut input);
        done.push(step);
        if let Err(why) = model.step(&step) {
            panic!("{why}\n{slots} slots, kind {kind}, {done:#x?}");
        }
    }
    if let Err(why) = model.finish() {
        panic!("{why}\nin the end; {slots} slots, kind {kind}, {done:#x?}");
    }
});

fn step(input: &mut Input<'_>) -> Step {
    match input.below(18) {
        0..=2 => Step::Map(ask(input)),
        3..=7 => Step::Carry(page(input)),
        8 => Step::Carry(ask(input)),
        9..=12 => Step::Unmap(input.number(1) as usize, input.below(2) == 0),
        13 => Step::Cancel(ask(input)),
        14 => Step::Look((BASE - 1).wrapping_add(input.number(3))),
        16 => Step::List(page(input), input.below(40) as usize),
        17 => Step::UnmapList(input.number(1) as usize, input.below(40) as usize),
        _ => Step::Hint(input.number(1) as usize, input.number(1) as usize),
    }
}

/// A buffer on one page, without conditions.
fn page(input: &mut Input<'_>) -> Ask {
    let who = input.number(1);
    let offset = input.below(4096);
    Ask {
        phys: (input.number(2) << 12) | offset,
        size: 1 + input.below(4096 - offset) as usize,
        boundary: u64::from(u32::MAX),
        min_align: 0,
        cpu: who as usize / 16,
        owner: who as u32 % OWNERS,
    }
}

/// Any buffer, for any device.
fn ask(input: &mut Input<'_>) -> Ask {
    let who = input.number(1);
    let size = match input.below(4) {
        0 => input.below(2048),
        1 | 2 => input.below(1 << 16),
        _ => input.below(LARGEST),
    };
    Ask {
        phys: input.number(5),
        size: 1 + size as usize,
        boundary: input.ones(64),
        min_align: input.ones(24),
        cpu: who as usize / 16,
        owner: who as u32 % OWNERS,
    }
}
