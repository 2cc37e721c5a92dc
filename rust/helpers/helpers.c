// SPDX-License-Identifier: GPL-2.0
/*
 * C inline functions and macros made callable from Rust.  One-line bodies, sorted, no
 * logic.  The prefix rust_helper_xen_dma_ is dropped on the Rust side.
 */
#include <linux/device.h>
#include <linux/dma-map-ops.h>
#include <linux/dma-mapping.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/irqflags.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/nodemask.h>
#include <linux/percpu.h>
#include <linux/preempt.h>
#include <linux/scatterlist.h>
#include <linux/spinlock.h>
#include <linux/vmalloc.h>
#include <xen/interface/xen.h>
#include <xen/interface/memory.h>
#include <xen/xen.h>
#include <xen/xen-ops.h>
#include <asm/xen/hypercall.h>
#include <asm/xen/page.h>

#ifndef __rust_helper
#define __rust_helper
#endif

__rust_helper struct page *
rust_helper_xen_dma_alloc_pages_node(int node, gfp_t gfp, unsigned int order)
{
	return alloc_pages_node(node, gfp, order);
}

__rust_helper u64 __percpu *rust_helper_xen_dma_alloc_percpu_words(size_t count)
{
	return __alloc_percpu(count * sizeof(u64), L1_CACHE_BYTES);
}

__rust_helper unsigned long rust_helper_xen_dma_bfn_to_local_pfn(unsigned long mfn)
{
	return bfn_to_local_pfn(mfn);
}

__rust_helper bool rust_helper_xen_dma_dev_dma_skip_sync(struct device *dev)
{
	return dev_dma_skip_sync(dev);
}

__rust_helper int rust_helper_xen_dma_dev_to_node(struct device *dev)
{
	return dev_to_node(dev);
}

__rust_helper void rust_helper_xen_dma_device_lock(struct device *dev)
{
	device_lock(dev);
}

__rust_helper void rust_helper_xen_dma_device_unlock(struct device *dev)
{
	device_unlock(dev);
}

__rust_helper int rust_helper_xen_dma_dma_mapping_error(struct device *dev, dma_addr_t addr)
{
	return dma_mapping_error(dev, addr);
}

__rust_helper void rust_helper_xen_dma_dma_reset_need_sync(struct device *dev)
{
	dma_reset_need_sync(dev);
}

__rust_helper void
rust_helper_xen_dma_dma_sync_sg_for_cpu(struct device *dev, struct scatterlist *sg, int nents,
					enum dma_data_direction dir)
{
	dma_sync_sg_for_cpu(dev, sg, nents, dir);
}

__rust_helper void
rust_helper_xen_dma_dma_sync_sg_for_device(struct device *dev, struct scatterlist *sg, int nents,
					   enum dma_data_direction dir)
{
	dma_sync_sg_for_device(dev, sg, nents, dir);
}

__rust_helper void
rust_helper_xen_dma_dma_sync_single_for_cpu(struct device *dev, dma_addr_t addr, size_t size,
					    enum dma_data_direction dir)
{
	dma_sync_single_for_cpu(dev, addr, size, dir);
}

__rust_helper void
rust_helper_xen_dma_dma_sync_single_for_device(struct device *dev, dma_addr_t addr, size_t size,
					       enum dma_data_direction dir)
{
	dma_sync_single_for_device(dev, addr, size, dir);
}

__rust_helper void rust_helper_xen_dma_free_percpu_words(u64 __percpu *words)
{
	free_percpu(words);
}

__rust_helper void rust_helper_xen_dma_local_irq_restore(unsigned long flags)
{
	local_irq_restore(flags);
}

__rust_helper unsigned long rust_helper_xen_dma_local_irq_save(void)
{
	unsigned long flags;

	local_irq_save(flags);
	return flags;
}

__rust_helper int rust_helper_xen_dma_memory_op(unsigned int cmd, void *arg)
{
	return HYPERVISOR_memory_op(cmd, arg);
}

__rust_helper pteval_t rust_helper_xen_dma_mfn_pte(unsigned long mfn)
{
	return mfn_pte(mfn, PAGE_KERNEL).pte;
}

__rust_helper int rust_helper_xen_dma_mmu_update(struct mmu_update *req, int count, int *success)
{
	return HYPERVISOR_mmu_update(req, count, success, DOMID_SELF);
}

__rust_helper int rust_helper_xen_dma_mmuext_op(struct mmuext_op *op, int count, int *success)
{
	return HYPERVISOR_mmuext_op(op, count, success, DOMID_SELF);
}

__rust_helper int rust_helper_xen_dma_multicall(struct multicall_entry *calls, int count)
{
	return HYPERVISOR_multicall(calls, count);
}

__rust_helper bool rust_helper_xen_dma_node_online(int node)
{
	return node >= 0 && node < MAX_NUMNODES && node_online(node);
}

__rust_helper pgprot_t rust_helper_xen_dma_page_kernel(void)
{
	return PAGE_KERNEL;
}

__rust_helper unsigned long rust_helper_xen_dma_page_to_pfn(struct page *page)
{
	return page_to_pfn(page);
}

__rust_helper u64 *rust_helper_xen_dma_per_cpu_word(u64 __percpu *word, unsigned int cpu)
{
	return cpu_possible(cpu) ? per_cpu_ptr(word, cpu) : NULL;
}

__rust_helper void *rust_helper_xen_dma_phys_to_virt(phys_addr_t phys)
{
	return phys_to_virt(phys);
}

__rust_helper void rust_helper_xen_dma_preempt_disable(void)
{
	preempt_disable();
}

__rust_helper void rust_helper_xen_dma_preempt_enable(void)
{
	preempt_enable();
}

__rust_helper bool rust_helper_xen_dma_pv_domain(void)
{
	return xen_pv_domain();
}

__rust_helper bool rust_helper_xen_dma_domain(void)
{
	return xen_domain();
}

__rust_helper dma_addr_t rust_helper_xen_dma_sg_dma_address(struct scatterlist *sg)
{
	return sg_dma_address(sg);
}

__rust_helper unsigned int rust_helper_xen_dma_sg_dma_len(struct scatterlist *sg)
{
	return sg_dma_len(sg);
}

__rust_helper struct scatterlist *rust_helper_xen_dma_sg_next(struct scatterlist *sg)
{
	return sg_next(sg);
}

__rust_helper void
rust_helper_xen_dma_sg_set_page(struct scatterlist *sg, struct page *page, unsigned int length,
				unsigned int offset)
{
	sg_set_page(sg, page, length, offset);
}

__rust_helper void
rust_helper_xen_dma_spin_lock_init(spinlock_t *lock, const char *name,
				   struct lock_class_key *key)
{
#ifdef CONFIG_DEBUG_SPINLOCK
	__raw_spin_lock_init(spinlock_check(lock), name, key, LD_WAIT_CONFIG);
#else
	spin_lock_init(lock);
#endif
}

__rust_helper void rust_helper_xen_dma_spin_assert_is_held(spinlock_t *lock)
{
	lockdep_assert_held(lock);
}

__rust_helper bool rust_helper_xen_dma_spin_trylock_irqsave(spinlock_t *lock, unsigned long *flags)
{
	return spin_trylock_irqsave(lock, *flags);
}

__rust_helper unsigned long rust_helper_xen_dma_spin_lock_irqsave(spinlock_t *lock)
{
	unsigned long flags;

	spin_lock_irqsave(lock, flags);
	return flags;
}

__rust_helper void rust_helper_xen_dma_spin_unlock_irqrestore(spinlock_t *lock, unsigned long flags)
{
	spin_unlock_irqrestore(lock, flags);
}
