// SPDX-License-Identifier: GPL-2.0

//! One operation in an extent with any of its slots in use, under any condition.

#![no_main]

use dma_core::{
    addr::{Machine, Phys},
    limits::Limits,
    record::{Owner, Run},
    request::{ClaimError, Request, CHUNK_SLOTS, SLOT_SIZE},
};
use dma_core_tests::{extent, model::BASE, Extent};
use fuzz::Input;
use libfuzzer_sys::fuzz_target;

/// Extents: small, as all of one is looked at. The largest has more chunks than a word has bits.
const EXTENTS: [usize; 4] = [128, 256, 512, 8192];

/// The most runs that are there before.
const RUNS: u64 = 48;

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input::new(bytes);
    let mut scene = Scene::new(&mut input);

    match input.below(4) {
        0 => scene.any_mapping(&mut input),
        1 => scene.carry(&mut input),
        _ => scene.any_condition(&mut input),
    }
    scene.end();
});

struct Scene {
    extent: Extent,
    used: Vec<bool>,
    runs: Vec<Run>,
}

impl Scene {
    /// Claims runs, and gives some of them back.
    fn new(input: &mut Input<'_>) -> Self {
        let slots = input.one_of(&EXTENTS);
        let extent = extent(BASE, slots, 1 + input.below(4) as usize);
        let mut scene = Self {
            extent,
            used: vec![false; slots],
            runs: Vec::new(),
        };
        for _ in 0..input.below(RUNS) {
            let size = 1 + input.below(100) as usize;
            let run = scene
                .extent
                .claim(&Request::new(size).unwrap(), input.number(1) as usize);
            if let Ok(run) = run {
                scene.note(run);
            }
        }
        let back = input.number(6);
        for number in (0..scene.runs.len()).rev() {
            if (back >> number) & 1 != 0 {
                let run = scene.runs.swap_remove(number);
                let first = slot(run.start());
                scene.used[first..first + run.slots()].fill(false);
                assert_eq!(scene.extent.cancel(run), 0);
            }
        }
        scene
    }

    fn note(&mut self, run: Run) {
        let first = slot(run.start());
        let range = &mut self.used[first..first + run.slots()];
        assert!(!range.contains(&true), "{run:?} overlaps");
        range.fill(true);
        self.runs.push(run);
    }

    /// A run that no mapping asks for: any alignment, remainder and window.
    fn any_condition(&mut self, input: &mut Input<'_>) {
        let size = 1 + input.below(300) as usize;
        let align = 1 << input.below(14);
        let offset = input.number(2) as usize % align;
        let window = 1 << input.below(16);
        let near = input.number(1) as usize;
        let request = Request::new(size)
            .and_then(|request| request.aligned(align, offset))
            .and_then(|request| request.within(window))
            .unwrap();

        let slots = self.used.len();
        let small = size <= CHUNK_SLOTS;
        let obeys = |first: &usize| {
            let inside = if small {
                first % CHUNK_SLOTS + size <= CHUNK_SLOTS
            } else {
                first % CHUNK_SLOTS == 0
            };
            inside
                && first % align == offset
                && first / window == (first + size - 1) / window
                && first + size <= slots
        };
        match self.extent.claim(&request, near) {
            Ok(run) => {
                assert_eq!(run.slots(), size);
                assert!(obeys(&slot(run.start())), "{run:?} for {request:?}");
                self.note(run);
            }
            Err(ClaimError::TooLarge) => assert!(size > slots, "{request:?}"),
            Err(ClaimError::Impossible) => assert!(!(0..slots).any(|n| obeys(&n)), "{request:?}"),
            Err(ClaimError::Full) => {
                let needs = if small {
                    size
                } else {
                    size.next_multiple_of(CHUNK_SLOTS)
                };
                let fits = |first: &usize| !self.used[*first..first + needs].contains(&true);
                let place = (0..slots).filter(obeys).find(fits);
                assert_eq!(place, None, "{request:?}");
            }
        }
    }

    /// A mapping of any buffer for a device with any limits.
    fn any_mapping(&mut self, input: &mut Input<'_>) {
        let limits = Limits::new(!0, 0, input.ones(64) ^ input.number(1), input.number(8));
        let (phys, size) = (Phys::new(input.number(8)), input.number(4) as usize);
        let Ok(request) = self.extent.request(phys, size, &limits) else {
            return;
        };
        let Ok(run) = self.extent.claim(&request, input.number(1) as usize) else {
            return;
        };
        let start = Machine::new(run.start().raw() + request.offset(phys));
        let end = run.start().raw() + run.slots() as u64 * SLOT_SIZE;
        assert!(start.raw() + size as u64 <= end, "{run:?}");
        assert!(!limits.crosses_boundary(start, size as u64), "{start:?}");
        assert!(!limits.misaligns(start, phys), "{start:?}");
        self.note(run);
    }

    /// A plain mapping, in any chunk.
    fn carry(&mut self, input: &mut Input<'_>) {
        let (phys, size) = (Phys::new(input.number(8)), 1 + input.below(4096) as usize);
        let (owner, near) = (Owner::new(input.number(3) as u32), input.number(2) as usize);
        let owner = owner.unwrap();

        let Some(at) = self.extent.carry(phys, size, owner, near) else {
            return;
        };
        let slots = size.div_ceil(SLOT_SIZE as usize);
        let first = slot(at);
        assert_eq!(first / CHUNK_SLOTS, near % (self.used.len() / CHUNK_SLOTS));
        assert!(!self.used[first..first + slots].contains(&true), "{at:?}");
        assert_eq!(self.extent.find(at, owner).unwrap().phys(), phys);
        let held = self.extent.retire_plain(at, size, owner).unwrap();
        assert_eq!((held.phys(), held.slots()), (phys, slots));
        assert_eq!(held.free(), 0);
    }

    /// Everything can be given back, and then the extent is as it was.
    fn end(self) {
        let used = self.used.iter().filter(|used| **used).count();
        assert_eq!(self.extent.used(), used);
        for run in self.runs {
            assert_eq!(self.extent.cancel(run), 0);
        }
        assert!(self.extent.is_idle());
        assert!(self.extent.seize().is_some());
    }
}

/// The slot that an address lies in.
fn slot(at: Machine) -> usize {
    ((at.raw() - BASE) / SLOT_SIZE) as usize
}
