/* SPDX-License-Identifier: MIT
 *
 * Work ring: how a driver hands work to a firmware. Little endian words in domain memory.
 *
 *   {magic, entries, head, tail} then items[entries]
 *
 * head and tail count freely (modulo 2^32) and item number n lies in items[n % entries]. Only the
 * driver writes head and the request half of an item; only the firmware writes tail, status and
 * result. The driver fills an item, then adds 1 to head, then rings doorbell 0. The firmware does
 * the items in order, and after each one writes status and result, adds 1 to tail and sets bit 0
 * of IRQ_STATUS.
 */
#ifndef WORK_RING_H
#define WORK_RING_H

#include <stdbool.h>
#include <stdint.h>

#define WORK_RING_MAGIC 0x474E4952u /* "RING" */
#define WORK_RING_ENTRIES_MIN 2u
#define WORK_RING_ENTRIES_MAX 1024u /* and a power of two */
#define WORK_IRQ (1u << 0)

enum work_op {
    WORK_FIR = 1,
    WORK_SOBEL = 2,
    WORK_SHA256_BEGIN = 3,
    WORK_SHA256_UPDATE = 4,
    WORK_SHA256_FINAL = 5,
};

enum work_status {
    WORK_NEW = 0,
    WORK_DONE = 1,
    WORK_BAD = 2, /* nonsense; nothing was read from src nor written to dst */
};

struct work_item {
    uint32_t op;
    uint32_t src_ipa;
    uint32_t dst_ipa;
    uint32_t len; /* bytes */
    uint32_t arg0;
    uint32_t arg1;
    uint32_t status;
    uint32_t result; /* bytes written to dst, unless the firmware says otherwise */
};

struct work_ring {
    uint32_t magic;
    uint32_t entries;
    uint32_t head;
    uint32_t tail;
    struct work_item items[];
};

/* Does one item. `item` is a private copy: the driver cannot change it after it was checked.
 * Returns the status; sets *result only with WORK_DONE. */
typedef enum work_status (*work_function)(const struct work_item *item, uint32_t *result);

/* Serves the ring for ever. */
_Noreturn void work_ring_run(work_function work);

/* True if the bytes can belong to a domain's memory. Whether they do, only stage 2 knows: an
 * address beyond the end of this domain's memory is a translation fault of this vcoproc alone. */
bool work_readable(uint32_t ipa, uint32_t size_bytes);

/* As above, and the bytes are neither this firmware nor its ring. */
bool work_writable(uint32_t ipa, uint32_t size_bytes);

bool work_overlaps(uint32_t a_ipa, uint32_t a_bytes, uint32_t b_ipa, uint32_t b_bytes);

#endif
