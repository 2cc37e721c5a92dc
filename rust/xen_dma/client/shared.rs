// SPDX-License-Identifier: GPL-2.0

//! Coherent memory as a driver holds it, and as it hands it on to user space.
//!
//! The view is a mapping of the process that runs the test, made the way a driver's `mmap`
//! makes it, and its bytes are reached through that process's own page tables.
//!
//! C: `dma_mmap_attrs()` in [`include/linux/dma-mapping.h`](srctree/include/linux/dma-mapping.h),
//! `vm_mmap()` in [`include/linux/mm.h`](srctree/include/linux/mm.h).

use super::{
    alloc,
    free, //
};
use crate::{
    bindings,
    device::raw,
    ops::{
        Attrs,
        Coherent, //
    },
    pages::Context,
};
use core::{
    cell::Cell,
    ptr::NonNull, //
};
use dma_core::{
    Machine,
    PAGE_SHIFT, //
};
use kernel::{
    current,
    device::{
        Bound,
        Device, //
    },
    error::from_err_ptr,
    ffi::{
        c_int,
        c_ulong, //
    },
    page::PAGE_SIZE,
    prelude::*,
    types::NotThreadSafe,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

/// Coherent memory of a device.
pub struct Shared<'a> {
    dev: &'a Device<Bound>,
    memory: Coherent,
    size: usize,
    views: Cell<usize>,
}

impl<'a> Shared<'a> {
    /// Allocates `size` bytes.  Sleeps only in a context that may.
    pub fn new(dev: &'a Device<Bound>, size: usize, context: Context) -> Result<Self> {
        let memory = alloc(dev, size, context, Attrs::NONE)?;
        let views = Cell::new(0);
        Ok(Self {
            dev,
            memory,
            size,
            views,
        })
    }

    /// Where the device sees it.
    pub fn machine(&self) -> Machine {
        self.memory.dma
    }

    /// The CPU writes `byte(i)` to each byte `i` of `size` from `offset` on; stops at the end.
    pub fn fill(&self, offset: usize, size: usize, byte: impl Fn(usize) -> u8) {
        for index in offset..offset.saturating_add(size).min(self.size) {
            // SAFETY: Within the memory.  A device and a user may touch it too, so each byte is
            // written as such.
            unsafe {
                self.memory
                    .cpu
                    .as_ptr()
                    .add(index)
                    .write_volatile(byte(index - offset))
            };
        }
    }

    /// The byte that the CPU sees at `offset`; 0 past the end.
    pub fn byte(&self, offset: usize) -> u8 {
        if offset >= self.size {
            return 0;
        }
        // SAFETY: As in `fill`.
        unsafe { self.memory.cpu.as_ptr().add(offset).read_volatile() }
    }

    /// Maps `length` bytes from page `first` on into the current process, shared and writable.
    /// The errors are those of C, [`ENODEV`] in a kernel thread.  Sleeps.
    pub fn to_user(&self, first: usize, length: usize) -> Result<View<'_, 'a>> {
        View::new(self, first, length, bindings::MAP_SHARED as c_ulong)
    }

    /// As [`Shared::to_user`], all of it; what the user writes is a copy of its own.
    /// [`EINVAL`] if the pages are not neighbours in pfn.
    pub fn to_user_privately(&self) -> Result<View<'_, 'a>> {
        /// C: [`include/uapi/linux/mman.h`](srctree/include/uapi/linux/mman.h).
        const MAP_PRIVATE: c_ulong = 2;

        View::new(self, 0, self.size, MAP_PRIVATE)
    }

    /// Whether the CPU sees it where all memory is mapped, so that its pages are neighbours in pfn.
    pub fn is_linear(&self) -> bool {
        // SAFETY: Looks at the address alone.
        !unsafe { bindings::is_vmalloc_addr(self.memory.cpu.as_ptr().cast()) }
    }
}

impl Drop for Shared<'_> {
    fn drop(&mut self) {
        // What a user sees still is not freed.
        if self.views.get() == 0 {
            free(self.dev, self.size, self.memory, Attrs::NONE);
        }
    }
}

/// Coherent memory in the address space of the process that made the view.
///
/// # Invariants
///
/// `file` holds a reference; what it refers to is `memory`.  `start` is where it is mapped.
pub struct View<'a, 'b> {
    memory: &'a Shared<'b>,
    file: NonNull<bindings::file>,
    start: usize,
    length: usize,
    /// Another thread may have another address space.
    _here: NotThreadSafe,
}

/// The file that is mapped: a driver's, with nothing but `mmap`.
const FILE: bindings::file_operations = bindings::file_operations {
    mmap: Some(mmap),
    ..pin_init::zeroed()
};

/// # Safety
///
/// Called by `vm_mmap()` with a file that [`View::new`] made.
unsafe extern "C" fn mmap(file: *mut bindings::file, vma: *mut bindings::vm_area_struct) -> c_int {
    // SAFETY: By this function's contract.
    let private = unsafe { (*file).private_data };
    // SAFETY: As above; the memory outlives the call.
    let memory = unsafe { &*private.cast::<Shared<'_>>() };
    let (cpu, dma) = (memory.memory.cpu.as_ptr().cast(), memory.memory.dma.raw());
    // SAFETY: A live device, a mapping being set up, and memory of that device.
    unsafe { bindings::dma_mmap_attrs(raw(memory.dev), vma, cpu, dma, memory.size, 0) }
}

impl<'a, 'b> View<'a, 'b> {
    fn new(memory: &'a Shared<'b>, first: usize, length: usize, how: c_ulong) -> Result<Self> {
        const PROTECTION: c_ulong = (bindings::PROT_READ | bindings::PROT_WRITE) as c_ulong;

        if current!().mm().is_none() {
            return Err(ENODEV);
        }
        let private = core::ptr::from_ref(memory).cast_mut().cast();
        // SAFETY: Operations that live for ever; the data outlives the file's only mapping.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_getfile(
                c"xen_dma_shared".as_char_ptr(),
                &FILE,
                private,
                bindings::O_RDWR as c_int,
            )
        })?;
        // SAFETY: A file of ours, and a process to map it into.
        let start =
            unsafe { bindings::vm_mmap(file, 0, length, PROTECTION, how, first << PAGE_SHIFT) };
        // CAST: C's convention: the last page of addresses are errors.
        if start > -(bindings::MAX_ERRNO as isize) as usize {
            // SAFETY: The only reference.
            unsafe { bindings::__fput_sync(file) };
            return Err(Error::from_errno(start as c_int));
        }
        let file = NonNull::new(file).ok_or(EINVAL)?;
        memory.views.set(memory.views.get() + 1);
        // INVARIANT: Made above.
        Ok(Self {
            memory,
            file,
            start,
            length,
            _here: NotThreadSafe,
        })
    }

    fn slice(&self, offset: usize, size: usize) -> Result<UserSlice> {
        if offset.checked_add(size).is_none_or(|end| end > self.length) {
            return Err(EINVAL);
        }
        Ok(UserSlice::new(
            UserPtr::from_addr(self.start + offset),
            size,
        ))
    }

    /// The user reads.  Sleeps.
    pub fn read(&self, offset: usize, to: &mut [u8]) -> Result {
        self.slice(offset, to.len())?.reader().read_slice(to)
    }

    /// The user writes.  Sleeps.
    pub fn write(&self, offset: usize, from: &[u8]) -> Result {
        self.slice(offset, from.len())?.writer().write_slice(from)
    }
}

impl Drop for View<'_, '_> {
    fn drop(&mut self) {
        let whole = self.length.next_multiple_of(PAGE_SIZE);
        // SAFETY: Mapped by `new`, into this process.
        if unsafe { bindings::vm_munmap(self.start, whole) } != 0 {
            // The mapping refers to the file, and the memory to the mapping: both stay.
            return;
        }
        // SAFETY: By the invariant, and the mapping's reference is gone: this is the last one.
        unsafe { bindings::__fput_sync(self.file.as_ptr()) };
        self.memory.views.set(self.memory.views.get() - 1);
    }
}
