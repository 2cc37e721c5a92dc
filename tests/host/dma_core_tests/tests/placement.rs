// SPDX-License-Identifier: GPL-2.0

//! `place()` against a model that looks at every single byte.

#![cfg(not(loom))]

use dma_core::{
    addr::{Machine, Mfn, Pfn, Phys},
    limits::Limits,
    p2m::{Frame, P2m, FOREIGN, IDENTITY, INVALID},
    placement::{place, Bounces, Placement, Reason, Refusal},
};
use dma_core_tests::{
    bytes::{judge, Device, Table},
    config,
};
use proptest::prelude::*;

fn ones(bits: std::ops::RangeInclusive<u32>) -> impl Strategy<Value = u64> {
    bits.prop_map(|bits| u64::MAX.checked_shr(64 - bits).unwrap_or(0))
}

fn devices() -> impl Strategy<Value = Device> {
    let any = ones(0..=64);
    let bus = prop_oneof![3 => Just(0), 1 => ones(13..=36)];
    let boundary = prop_oneof![2 => Just(u64::MAX), 2 => ones(9..=20), 1 => any];
    let min_align = prop_oneof![2 => Just(0), 1 => Just(4095), 2 => ones(0..=20)];

    (ones(13..=64), bus, boundary, min_align).prop_map(|(mask, bus, boundary, min_align)| Device {
        mask,
        bus,
        boundary,
        min_align,
    })
}

/// Mostly neighbours, so that something is direct; sometimes a jump, a hole or another kind.
fn tables() -> impl Strategy<Value = Table> {
    let step = prop_oneof![
        16 => Just((1i64, 0u64)),
        1 => (-3i64..8).prop_map(|by| (by, 0)),
        1 => Just((1, FOREIGN)),
        1 => Just((1, IDENTITY)),
        1 => Just((1, INVALID)),
    ];
    let start = prop_oneof![100u64..200, 0xffff8u64..0x100008, 15u64..18];

    (0u64..40, start, prop::collection::vec(step, 1..7)).prop_map(|(first, start, steps)| {
        let mut mfn = start as i64;
        let entries = steps
            .into_iter()
            .map(|(by, kind)| {
                mfn += by;
                mfn as u64 | kind
            })
            .collect();
        Table { first, entries }
    })
}

fn buffers(table: &Table) -> impl Strategy<Value = (u64, usize)> {
    let (first, pages) = (table.first, table.entries.len() as u64);
    let offset = prop_oneof![Just(0u64), Just(4095), Just(2048), 0u64..4096];
    let size = prop_oneof![
        Just(0usize),
        Just(1),
        Just(4096),
        1usize..9000,
        1usize..24000
    ];

    // Now and then the buffer runs out of the table.
    (first..first + pages, offset, size).prop_map(|(pfn, offset, size)| (pfn * 4096 + offset, size))
}

proptest! {
    #![proptest_config(config(4000))]

    #[test]
    fn is_what_every_byte_says(
        (table, (phys, size)) in tables().prop_flat_map(|t| (Just(t.clone()), buffers(&t))),
        device in devices(),
        forced in prop::bool::weighted(0.1),
        most in prop_oneof![Just(usize::MAX), 1usize..20000],
    ) {
        let bounces = Bounces { most, forced };
        judge(&table, phys, size, &device, bounces).map_err(TestCaseError::fail)?;
    }

    /// Whatever is thrown at it: no panic, no overflow, and a direct address is within the limits.
    #[test]
    fn is_total(
        phys in any::<u64>(),
        size in prop_oneof![0usize..20000, (usize::MAX - 20000)..=usize::MAX],
        masks in any::<(u64, u64, u64, u64)>(),
        entry in any::<u64>(),
    ) {
        struct Everywhere(u64);
        impl P2m for Everywhere {
            fn frame(&self, pfn: Pfn) -> Frame {
                if pfn.raw() & 7 == 7 {
                    Frame::Hole
                } else {
                    Frame::Local(Mfn::new(self.0.wrapping_add(pfn.raw())))
                }
            }
        }
        let limits = Limits::new(masks.0, masks.1, masks.2, masks.3);
        for entry in [entry, entry >> 24, 0] {
            if let Placement::Direct(start) = place(&Everywhere(entry), Phys::new(phys), size, &limits, Bounces::AS_NEEDED) {
                prop_assert!(limits.reaches(start, size as u64));
                prop_assert!(!limits.crosses_boundary(start, size as u64));
                prop_assert_eq!((start.raw() ^ phys) & masks.3, 0);
            }
        }
    }

    #[test]
    fn reads_every_entry(entry in any::<u64>()) {
        let mfn = entry & !(FOREIGN | IDENTITY);
        let want = match (mfn >> 40 == 0, entry & FOREIGN != 0, entry & IDENTITY != 0) {
            (false, _, _) => Frame::Hole,
            (true, true, _) => Frame::Foreign(Mfn::new(mfn)),
            (true, false, true) => Frame::Identity(Mfn::new(mfn)),
            (true, false, false) => Frame::Local(Mfn::new(mfn)),
        };
        prop_assert_eq!(Frame::decode(entry), want);
    }
}

#[test]
fn odd_masks_become_stricter() {
    assert_eq!(Limits::new(!0, 0, 0xfffe, 0).boundary(), 0x7fff);
    assert_eq!(Limits::new(!0, 0, 0, 0).boundary(), 0);
    assert_eq!(Limits::new(!0, 0, !0, 0xf00).min_align(), 0xfff);
    assert_eq!(Limits::new(!0, 0, !0, !0).min_align(), !0);
    assert_eq!(Limits::new(0xffff_ffff, 0xfff, !0, 0).reach(), 0xfff);
    assert_eq!(Limits::new(0xfff, 0xffff_ffff, !0, 0).reach(), 0xfff);
}

#[test]
fn the_ends_of_the_address_space() {
    struct One(u64);
    impl P2m for One {
        fn frame(&self, _: Pfn) -> Frame {
            Frame::Local(Mfn::new(self.0))
        }
    }
    let none = Limits::new(!0, 0, !0, 0);
    let top = Phys::new((1 << 52) - 1);
    let wraps = Placement::Refuse(Refusal::Wraps);

    assert_eq!(
        place(&One(1), top, 1, &none, Bounces::AS_NEEDED),
        Placement::Direct(Machine::new(0x1fff))
    );
    assert_eq!(place(&One(1), top, 2, &none, Bounces::AS_NEEDED), wraps);
    assert_eq!(
        place(&One(1), Phys::new(!0), 1, &none, Bounces::AS_NEEDED),
        wraps
    );
    assert_eq!(
        place(
            &One(1),
            Phys::new(!0),
            usize::MAX,
            &none,
            Bounces::AS_NEEDED
        ),
        wraps
    );
    // No machine has such a frame.
    let hole = Placement::Refuse(Refusal::Hole);
    assert_eq!(
        place(&One(1 << 40), Phys::new(0), 1, &none, Bounces::FORCED),
        hole
    );
}

#[test]
fn reasons_have_places_and_names() {
    for (index, reason) in Reason::ALL.into_iter().enumerate() {
        assert_eq!(reason.index(), index);
        assert_eq!(
            Reason::ALL
                .iter()
                .filter(|other| other.name() == reason.name())
                .count(),
            1
        );
    }
    assert_eq!(Reason::COUNT, 5);
}
