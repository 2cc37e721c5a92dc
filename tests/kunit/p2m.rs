// SPDX-License-Identifier: GPL-2.0

//! The domain's own p2m.

use crate::check::check;
use dma_core::{
    place,
    Bounces,
    Frame,
    Limits,
    Mfn,
    P2m,
    Pfn,
    Placement,
    Reason, //
};
use kernel::{
    page::PAGE_SIZE,
    prelude::*, //
};
use xen_dma::{
    client::Buffer,
    p2m::{
        top_of_memory,
        Domain,
        LinearP2m, //
    },
};

/// The registers of the local interrupt controllers: never memory.
const LOCAL_APIC: u64 = 0xfee00;

/// The frames behind a buffer, each the domain's own.
fn frames(p2m: &LinearP2m, buffer: &Buffer) -> Result<KVVec<Mfn>> {
    let first = buffer.phys().pfn().raw();
    let mut frames = KVVec::new();
    for pfn in first..first + (buffer.size() / PAGE_SIZE) as u64 {
        match p2m.frame(Pfn::new(pfn)) {
            Frame::Local(mfn) => frames.push(mfn, GFP_KERNEL)?,
            other => check!(false, "{pfn:#x}: {other:?}"),
        }
    }
    Ok(frames)
}

#[kunit_tests(xen_dma_p2m)]
mod tests {
    use super::*;

    #[test]
    fn the_table_exists_in_a_pv_domain_only() -> Result {
        let pv = Domain::current() == Domain::Pv;
        check!(LinearP2m::get().is_some() == pv);
        pr_info!("running as {:?}\n", Domain::current());
        Ok(())
    }

    #[test]
    fn own_pages_have_frames_of_their_own() -> Result {
        let Some(p2m) = LinearP2m::get() else {
            return Ok(());
        };
        let top = top_of_memory().mfn();
        for order in [0, 1, 4, 9] {
            let buffer = Buffer::new(order)?;
            check!(buffer.phys().pfn().raw() < p2m.end());
            let mut frames = frames(&p2m, &buffer)?;
            check!(frames.iter().all(|mfn| *mfn <= top));
            frames.sort_unstable();
            check!(
                frames.windows(2).all(|pair| pair[0] < pair[1]),
                "order {order}"
            );
        }
        Ok(())
    }

    #[test]
    fn place_agrees_with_reading_every_entry() -> Result {
        let Some(p2m) = LinearP2m::get() else {
            return Ok(());
        };
        let limits = Limits::new(u64::MAX, 0, u64::MAX, 0);
        for order in [0, 3, 6, 9] {
            let buffer = Buffer::new(order)?;
            let frames = frames(&p2m, &buffer)?;
            for pages in [1, 2, frames.len() / 2, frames.len()] {
                if pages == 0 || pages > frames.len() {
                    continue;
                }
                let neighbours = frames[..pages].windows(2);
                let whole = neighbours
                    .into_iter()
                    .all(|pair| pair[0].checked_add(1) == Some(pair[1]));
                let expected = if whole {
                    Placement::Direct(frames[0].start())
                } else {
                    Placement::Bounce(Reason::Discontiguous)
                };
                let placement = place(
                    &p2m,
                    buffer.phys(),
                    pages * PAGE_SIZE,
                    &limits,
                    Bounces::AS_NEEDED,
                );
                check!(
                    placement == expected,
                    "order {order}, {pages} pages: {placement:?}"
                );
            }
        }
        Ok(())
    }

    #[test]
    fn every_pfn_can_be_asked_about() -> Result {
        let Some(p2m) = LinearP2m::get() else {
            return Ok(());
        };
        let end = p2m.end();
        // All that a physical address of 64 bits can lie in.
        for pfn in [
            end,
            end + 1,
            end * 2,
            1 << 32,
            (1 << 40) - 1,
            1 << 40,
            (1 << 52) - 1,
        ] {
            let frame = p2m.frame(Pfn::new(pfn));
            let own = matches!(frame, Frame::Local(_) | Frame::Foreign(_));
            check!(!own, "{pfn:#x}: {frame:?}");
            // Xen's own code takes what it does not know for device memory.
            check!(
                frame.mfn().is_none_or(|mfn| mfn.raw() == pfn),
                "{pfn:#x}: {frame:?}"
            );
        }
        // The last entries of the table itself.
        for pfn in end.saturating_sub(1024)..end {
            let frame = p2m.frame(Pfn::new(pfn));
            check!(!matches!(frame, Frame::Foreign(_)), "{pfn:#x}: {frame:?}");
        }
        Ok(())
    }

    #[test]
    fn device_memory_is_itself() -> Result {
        let Some(p2m) = LinearP2m::get() else {
            return Ok(());
        };
        let frame = p2m.frame(Pfn::new(LOCAL_APIC));
        check!(frame == Frame::Identity(Mfn::new(LOCAL_APIC)), "{frame:?}");
        Ok(())
    }

    #[test]
    fn the_host_has_memory() -> Result {
        if Domain::current() == Domain::Pv {
            check!(top_of_memory().raw() > 1 << 20);
        }
        Ok(())
    }
}
