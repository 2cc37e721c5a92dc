// SPDX-License-Identifier: GPL-2.0

//! Regions that are one coherent buffer each, and those that nobody uses at the moment.
//!
//! To exchange a region is dear, so one that was freed is kept for a while, up to
//! [`CACHED_BYTES`] of them, and the oldest go first.  A shrinker gives them back when memory is
//! short.  What needs sleep (to give back, to obtain more for the pool) is done by a work item.

use super::pool::{
    self,
    Ask,
    Claim,
    Pool,
    Usage, //
};
use crate::counters::{
    Cause,
    Wrong, //
};
use dma_core::{
    Limits,
    Machine,
    Owner, //
};
use kernel::{
    alloc::flags::GFP_ATOMIC,
    page::{
        PAGE_SHIFT,
        PAGE_SIZE, //
    },
    prelude::*,
    rbtree::{
        RBTree,
        RBTreeNode, //
    },
    sync::Arc,
    time::{
        Delta,
        Instant,
        Monotonic, //
    },
    workqueue::{
        self,
        impl_has_work,
        new_work,
        Work,
        WorkItem, //
    },
};
use xen_dma::{
    deferred,
    irq_lock::{
        new_irq_lock,
        IrqLock, //
    },
    p2m::top_of_memory,
    region::Region,
    shrinker::{
        Shrink,
        Shrinker, //
    },
    Node, //
};

/// The most bytes of regions that are kept unused: one of 64 MiB, or several smaller ones.  Low memory
/// is shared with all guests of the host.
const CACHED_BYTES: usize = 64 << 20;

/// After an extent for the pool was refused, none is asked for as long as this.
const PATIENCE: Delta = Delta::from_millis(1000);

/// A region, by its first machine address.
struct Kept {
    /// Whose it is, or was.
    owner: Owner,
    region: Arc<Region>,
    /// When it became unused, in the order of such events.
    since: u64,
}

type Regions = RBTree<u64, Kept>;

struct Books {
    live: Regions,
    idle: Regions,
    /// Of the idle ones.
    idle_bytes: usize,
    /// Regions that became unused.
    events: u64,
    /// Requests that an idle region met.
    reused: u64,
    /// Pages that memory management asked for.
    asked_back: usize,
    /// What the pool is to obtain.
    wish: Option<(Limits, u32, Node)>,
    refused: Option<Instant<Monotonic>>,
}

impl Books {
    fn was_refused(&self) -> bool {
        self.refused.is_some_and(|when| when.elapsed() < PATIENCE)
    }
}

/// What is kept unused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cached {
    pub(crate) regions: usize,
    pub(crate) bytes: usize,
    /// How often one was used again.
    pub(crate) reused: u64,
}

/// Regions in use and not, and the pool.
#[pin_data]
pub(crate) struct Store {
    #[pin]
    books: IrqLock<Books>,
    #[pin]
    pub(crate) pool: Pool,
    /// The host's highest address of memory, as it was at load: who reaches it is taken to reach all.
    top: u64,
    #[pin]
    work: Work<Self>,
}

impl_has_work! {
    impl HasWork<Self> for Store { self.work }
}

impl WorkItem for Store {
    type Pointer = Arc<Self>;

    fn run(this: Arc<Self>) {
        this.give_back();
        this.fulfil();
    }
}

impl Store {
    fn new() -> Result<Arc<Self>> {
        let books = Books {
            live: RBTree::new(),
            idle: RBTree::new(),
            idle_bytes: 0,
            events: 0,
            reused: 0,
            asked_back: 0,
            wish: None,
            refused: None,
        };
        Arc::pin_init(
            try_pin_init!(Self {
                books <- new_irq_lock!(books, "Store::books"),
                pool <- Pool::new(),
                top: top_of_memory().raw(),
                work <- new_work!("Store::work"),
            }),
            GFP_KERNEL,
        )
    }

    #[inline]
    pub(crate) fn top(&self) -> u64 {
        self.top
    }

    /// Has the work item run.  Any context.
    pub(crate) fn hurry(self: &Arc<Self>) {
        let _ = workqueue::system_long().enqueue(self.clone());
    }

    /// Has the pool grow soon.  Any context.
    pub(crate) fn wish(self: &Arc<Self>, limits: &Limits, bits: u32, node: Node) {
        let mut books = self.books.lock();
        if books.was_refused() || books.wish.is_some() {
            return;
        }
        books.wish = Some((*limits, bits, node));
        drop(books);
        self.hurry();
    }

    fn fulfil(&self) {
        let wish = self.books.lock().wish;
        if let Some((limits, bits, node)) = wish {
            // If it fails, whoever needs the memory will say so.
            let _ = self.patiently(|| self.pool.replenish(&limits, bits, node));
            self.books.lock().wish = None;
        }
    }

    /// Claims a run of an extent that the pool obtains for it.  May sleep.
    pub(crate) fn grow(&self, ask: &Ask<'_>, bits: u32, node: Node) -> Result<Claim> {
        self.patiently(|| self.pool.claim_new(ask, bits, node))
    }

    /// Has the pool grow, unless that failed a moment ago.
    fn patiently<R>(&self, grow: impl FnOnce() -> Result<R>) -> Result<R> {
        if self.books.lock().was_refused() {
            return Err(ENOMEM);
        }
        grow().inspect_err(|_| self.books.lock().refused = Some(Instant::now()))
    }

    /// Keeps a region.  The memory for its entry is obtained before the lock.
    pub(crate) fn keep(&self, region: Arc<Region>, owner: Owner) -> Result<(), Cause> {
        let key = region.base().raw();
        let kept = Kept {
            owner,
            region,
            since: 0,
        };
        let node = RBTreeNode::new(key, kept, GFP_ATOMIC).map_err(|_| Cause::NoMemory)?;
        let twin = self.books.lock().live.insert(node);
        // Two live regions cannot have one address; if they had, the older one ends here.
        drop(twin);
        Ok(())
    }

    /// Takes an idle region into use; its bytes are what they were.  Any context.
    pub(crate) fn reuse(
        &self,
        order: u32,
        neighbours: bool,
        limits: &Limits,
        owner: Owner,
    ) -> Option<Arc<Region>> {
        let mut books = self.books.lock();
        let fits = |region: &Region| {
            region.size() == PAGE_SIZE << order
                && region.last().raw() <= limits.reach()
                && (!neighbours || region.first_page().is_some())
        };
        // The highest one, so that narrow devices find the others.
        let key = books
            .idle
            .iter()
            .filter_map(|(key, kept)| fits(&kept.region).then_some(*key))
            .last()?;
        let node = books.idle.remove_node(&key)?;
        let twin = books.live.insert(node);
        books.idle_bytes -= PAGE_SIZE << order;
        books.reused += 1;
        let region = books.live.get_mut(&key).map(|kept| {
            kept.owner = owner;
            kept.region.clone()
        });
        drop(books);
        drop(twin);
        region
    }

    pub(crate) fn get(&self, at: Machine, owner: Owner) -> Option<Arc<Region>> {
        let books = self.books.lock();
        let kept = books.live.get(&at.raw())?;
        (kept.owner == owner).then(|| kept.region.clone())
    }

    /// Ends a buffer.  Its region goes at once, if it is ordinary memory; else it is kept for a
    /// while.  Any context.
    pub(crate) fn end(
        self: &Arc<Self>,
        at: Machine,
        size: usize,
        owner: Owner,
    ) -> Result<(), Wrong> {
        let mut books = self.books.lock();
        let (now, bytes) = match books.live.get(&at.raw()) {
            None => return Err(Wrong::NotMapped),
            Some(kept) if kept.owner != owner => return Err(Wrong::NotOwner),
            Some(kept) if size > kept.region.size() => return Err(Wrong::Size),
            Some(kept) => (kept.region.ends_atomically(), kept.region.size()),
        };
        let node = books.live.remove_node(&at.raw());
        if now {
            drop(books);
            drop(node);
            return Ok(());
        }
        let since = books.events;
        books.events += 1;
        books.idle_bytes += bytes;
        // The node moves as it is: this cannot fail, and drops nothing.
        let twin = node.and_then(|node| books.idle.insert(node));
        if let Some(kept) = books.idle.get_mut(&at.raw()) {
            kept.since = since;
        }
        let full = books.idle_bytes > CACHED_BYTES;
        drop(books);
        drop(twin);
        if full {
            self.hurry();
        }
        Ok(())
    }

    /// Gives the oldest idle region back, if more bytes are idle than are to be kept.  May sleep.
    fn drop_oldest(&self, kept_bytes: usize) -> Option<usize> {
        let mut books = self.books.lock();
        if books.idle_bytes <= kept_bytes {
            return None;
        }
        let oldest = books.idle.iter().min_by_key(|(_, kept)| kept.since);
        let key = oldest.map(|(key, _)| *key)?;
        let node = books.idle.remove_node(&key)?;
        let (_, kept) = node.to_key_value();
        let bytes = kept.region.size();
        books.idle_bytes -= bytes;
        drop(books);
        // Here its frames go back, unless somebody still maps it for a user.
        drop(kept);
        Some(bytes >> PAGE_SHIFT)
    }

    /// Gives back what is too much, and what was asked back.  May sleep.
    fn give_back(&self) {
        while self.drop_oldest(CACHED_BYTES).is_some() {}
        self.pool.trim();
        let mut asked = core::mem::take(&mut self.books.lock().asked_back);
        while asked > 0 {
            let given = match self.drop_oldest(0) {
                Some(pages) => pages,
                None if self.pool.shrink(0) => 1 << pool::ORDER,
                None => break,
            };
            asked = asked.saturating_sub(given);
        }
    }

    /// Gives all back that nobody uses; tells whether that was anything.  May sleep.
    pub(crate) fn give_all_back(&self) -> bool {
        let mut any = false;
        while self.drop_oldest(0).is_some() || self.pool.shrink(0) {
            any = true;
        }
        any
    }

    /// Waits for the work item.  May sleep.
    pub(crate) fn settle(&self) {
        deferred::finish(&self.work);
    }

    /// Waits for the work item, and gives all back.  May sleep.
    pub(crate) fn finish(&self) {
        self.settle();
        self.give_all_back();
    }

    /// Number and bytes of the regions in use.
    pub(crate) fn usage(&self) -> (usize, usize) {
        let books = self.books.lock();
        books.live.values().fold((0, 0), |(n, bytes), kept| {
            (n + 1, bytes + kept.region.size())
        })
    }

    pub(crate) fn pooled(&self) -> Usage {
        self.pool.usage()
    }

    pub(crate) fn cached(&self) -> Cached {
        let books = self.books.lock();
        Cached {
            regions: books.idle.iter().count(),
            bytes: books.idle_bytes,
            reused: books.reused,
        }
    }
}

/// What memory management speaks to.
///
/// Frames go back to Xen by an exchange, which needs memory and takes locks.  Reclaim may stand
/// in the way of both, so the work item does it, soon.
pub(crate) struct Keeper(Arc<Store>);

impl Shrink for Keeper {
    fn count(&self) -> usize {
        let idle = self.0.books.lock().idle_bytes >> PAGE_SHIFT;
        idle + self.0.pool.idle_pages()
    }

    fn scan(&self, pages: usize) -> usize {
        let most = self.count();
        let mut books = self.0.books.lock();
        let before = books.asked_back;
        books.asked_back = (before + pages).min(most);
        let more = books.asked_back.saturating_sub(before);
        drop(books);
        self.0.hurry();
        more
    }
}

/// The store, while the driver is loaded: its owner.  At the end nothing of it is left to run.
pub(crate) struct Holder {
    store: Arc<Store>,
    shrinker: Option<Shrinker<Keeper>>,
}

impl Holder {
    pub(crate) fn new() -> Result<Self> {
        let store = Store::new()?;
        let keeper = Arc::new(Keeper(store.clone()), GFP_KERNEL)?;
        Ok(Self {
            store,
            shrinker: Some(Shrinker::new(c"xen_swiotlb_rs", keeper)?),
        })
    }
}

impl Holder {
    /// As memory management does when memory is short; returns how many pages will go.
    #[cfg(CONFIG_XEN_SWIOTLB_RS_KUNIT_TEST)]
    pub(crate) fn press(&self, pages: usize) -> usize {
        Keeper(self.store.clone()).scan(pages)
    }
}

impl core::ops::Deref for Holder {
    type Target = Arc<Store>;

    fn deref(&self) -> &Arc<Store> {
        &self.store
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // First nobody may ask for more work.
        self.shrinker = None;
        self.store.finish();
    }
}
