/* SPDX-License-Identifier: MIT
 *
 * The firmware's end of the work ring (see work_ring.h).
 *
 * The driver is not trusted to be right: the ring is checked before it is used, its geometry is
 * remembered privately, and an item is copied before it is looked at. A ring that makes no sense
 * is refused by STATE_BAD_RING and one interrupt, and looked at again at the next doorbell.
 */
#include "vcoproc_m4.h"
#include "work_ring.h"

extern uint8_t __image_start[];
extern uint8_t __image_end[];

#define DOMAIN_MEMORY_END (DOMAIN_MEMORY_BASE + DOMAIN_MEMORY_BYTES_MAX)

static volatile struct work_ring *ring;
static uint32_t ring_bytes;
static uint32_t entries;
static uint32_t tail; /* ours alone: what stands in the ring is only a copy for the driver */

static uint32_t image_ipa(void) { return (uint32_t)(uintptr_t)__image_start; }
static uint32_t image_bytes(void) { return (uint32_t)(__image_end - __image_start); }

bool work_readable(uint32_t ipa, uint32_t size_bytes)
{
    return ipa >= DOMAIN_MEMORY_BASE && ipa <= DOMAIN_MEMORY_END &&
           size_bytes <= DOMAIN_MEMORY_END - ipa;
}

bool work_overlaps(uint32_t a_ipa, uint32_t a_bytes, uint32_t b_ipa, uint32_t b_bytes)
{
    return a_ipa < b_ipa + b_bytes && b_ipa < a_ipa + a_bytes;
}

bool work_writable(uint32_t ipa, uint32_t size_bytes)
{
    return work_readable(ipa, size_bytes) &&
           !work_overlaps(ipa, size_bytes, image_ipa(), image_bytes()) &&
           !work_overlaps(ipa, size_bytes, (uint32_t)(uintptr_t)ring, ring_bytes);
}

/* Called at a doorbell: nothing to do but to be awake. */
void Doorbell0_Handler(void) {}

static bool ring_attach(void)
{
    const uint32_t ipa = MAILBOX(MAILBOX_RING_IPA);
    if ((ipa & 3u) != 0 || !work_readable(ipa, sizeof(struct work_ring)))
        return false;
    volatile struct work_ring *found = (volatile struct work_ring *)(uintptr_t)ipa;
    const uint32_t count = found->entries;
    if (found->magic != WORK_RING_MAGIC || count < WORK_RING_ENTRIES_MIN ||
        count > WORK_RING_ENTRIES_MAX || (count & (count - 1u)) != 0)
        return false;
    const uint32_t size_bytes = sizeof(struct work_ring) + count * sizeof(struct work_item);
    if (!work_readable(ipa, size_bytes) ||
        work_overlaps(ipa, size_bytes, image_ipa(), image_bytes()))
        return false;
    ring = found;
    ring_bytes = size_bytes;
    entries = count;
    tail = found->tail;
    return true;
}

static void ring_step(work_function work)
{
    volatile struct work_item *slot = &ring->items[tail & (entries - 1u)];
    const struct work_item item = *slot;
    uint32_t result = 0;

    const enum work_status status = work(&item, &result);
    slot->result = status == WORK_DONE ? result : 0;
    slot->status = status;
    memory_barrier(); /* the driver must not see the new tail before the item and its data */
    tail++;
    ring->tail = tail;
    memory_barrier();
    IRQ_SET = WORK_IRQ;
}

/* Both waits look once more with interrupts masked: a doorbell that rang just before the look stays
 * pending and ends the WFI at once; unmasked, its handler could have consumed it already. */

/* Sleeps until the driver rings, unless it has moved head beyond `seen_head` by now. */
static void sleep_at(uint32_t seen_head)
{
    irq_disable();
    if (ring->head == seen_head)
        wait_for_interrupt();
    irq_enable();
}

static void wait_for_ring(void)
{
    for (;;) {
        irq_disable();
        const bool attached = ring_attach();
        if (!attached) {
            MAILBOX(MAILBOX_STATE) = STATE_BAD_RING;
            IRQ_SET = WORK_IRQ;
            wait_for_interrupt();
        }
        irq_enable();
        if (attached)
            break;
    }
    MAILBOX(MAILBOX_STATE) = STATE_READY;
}

_Noreturn void work_ring_run(work_function work)
{
    doorbell_enable(0);
    wait_for_ring();
    for (;;) {
        const uint32_t head = ring->head;
        memory_barrier(); /* items are read after the head that announces them */
        if (head == tail) {
            sleep_at(head);
        } else if (head - tail <= entries) {
            ring_step(work);
        } else { /* more items than the ring holds: head is not a count of ours */
            MAILBOX(MAILBOX_STATE) = STATE_BAD_RING;
            IRQ_SET = WORK_IRQ;
            sleep_at(head);
            wait_for_ring();
        }
    }
}
