/* SPDX-License-Identifier: MIT
 *
 * fir: a finite impulse response filter of 256 taps over 16-bit audio.
 *
 * Theory
 *   y[n] = sum of h[k] * x[n-k], k = 0..255. h and x are Q15 (int16, value / 32768), the products
 *   Q30. They are summed exactly in 64 bits (256 products need 39), then rounded half up to Q15
 *   and saturated: y = sat16((sum + 0x4000) >> 15).
 *   Armv7E-M has SMLALD: two 16 x 16 products added to a 64-bit sum. To feed it pairs that lie
 *   ascending in memory, the taps are kept in reverse, and four outputs are made in one pass, so
 *   that each word of taps and samples is loaded once and used twice.
 *   The Cortex-M4 loads unaligned words (CCR.UNALIGN_TRP is 0 after reset), which every second
 *   sample needs.
 *
 * Item
 *   op 1; src_ipa: int16 samples, with 255 samples of history below it (src[-255..-1]), zeros at
 *   the start of a stream; dst_ipa: int16 output; len: bytes of output, 2 per sample;
 *   arg0: IPA of 256 int16 taps; arg1: unused; result: bytes written.
 *
 * Limits
 *   All addresses even, len even and not 0. dst may overlap neither the samples nor the history:
 *   an output would overwrite an input still needed. Stateless between items.
 */
#include "vcoproc_m4.h"
#include "work_ring.h"

#define TAPS 256u
#define HISTORY (TAPS - 1u)
#define ROUND 0x4000 /* half of the last place of Q15 in a Q30 sum */

static int16_t reversed[TAPS] __attribute__((aligned(4)));

static inline int32_t load_pair(const int16_t *samples)
{
    int32_t pair;
    __builtin_memcpy(&pair, samples, sizeof pair); /* one LDR, aligned or not */
    return pair;
}

static inline int16_t to_q15(int64_t sum)
{
    return (int16_t)__builtin_arm_ssat((int32_t)((sum + ROUND) >> 15), 16);
}

/* Outputs y[0..3]; `oldest` is the sample that the last tap of y[0] meets. Kept out of line and
 * with walking pointers: four sums, two samples, a pair of taps and three addresses are exactly the
 * registers there are. */
__attribute__((noinline)) static void filter_four(int16_t *y, const int16_t *oldest)
{
    int64_t sum0 = 0, sum1 = 0, sum2 = 0, sum3 = 0;
    int32_t even = load_pair(oldest);
    int32_t odd = load_pair(oldest + 1);
    const int16_t *pair = reversed;
    const int16_t *const end = reversed + TAPS;

    do {
        const int32_t taps = load_pair(pair);
        pair += 2;
        oldest += 2;
        __asm("" : "+r"(pair), "+r"(oldest)); /* or they become one index and two spilled bases */
        sum0 = __builtin_arm_smlald(taps, even, sum0);
        sum1 = __builtin_arm_smlald(taps, odd, sum1);
        even = load_pair(oldest);
        odd = load_pair(oldest + 1);
        sum2 = __builtin_arm_smlald(taps, even, sum2);
        sum3 = __builtin_arm_smlald(taps, odd, sum3);
    } while (pair != end);
    y[0] = to_q15(sum0);
    y[1] = to_q15(sum1);
    y[2] = to_q15(sum2);
    y[3] = to_q15(sum3);
}

static int16_t filter_one(const int16_t *oldest)
{
    int64_t sum = 0;
    for (uint32_t k = 0; k < TAPS; k += 2)
        sum = __builtin_arm_smlald(load_pair(reversed + k), load_pair(oldest + k), sum);
    return to_q15(sum);
}

static bool is_sane(const struct work_item *item)
{
    const uint32_t history_bytes = HISTORY * sizeof(int16_t);
    const uint32_t first_ipa = item->src_ipa - history_bytes;

    return item->op == WORK_FIR && item->len != 0 &&
           ((item->src_ipa | item->dst_ipa | item->arg0 | item->len) & 1u) == 0 &&
           item->len <= DOMAIN_MEMORY_BYTES_MAX && item->src_ipa >= history_bytes &&
           work_readable(first_ipa, history_bytes + item->len) &&
           work_readable(item->arg0, TAPS * sizeof(int16_t)) &&
           work_writable(item->dst_ipa, item->len) &&
           !work_overlaps(item->dst_ipa, item->len, first_ipa, history_bytes + item->len);
}

static enum work_status do_item(const struct work_item *item, uint32_t *result)
{
    if (!is_sane(item))
        return WORK_BAD;
    const int16_t *taps = (const int16_t *)(uintptr_t)item->arg0;
    const int16_t *oldest = (const int16_t *)(uintptr_t)item->src_ipa - HISTORY;
    int16_t *y = (int16_t *)(uintptr_t)item->dst_ipa;
    const uint32_t count = item->len / sizeof(int16_t);
    uint32_t n = 0;

    for (uint32_t k = 0; k < TAPS; k++)
        reversed[k] = taps[HISTORY - k];
    for (; count - n >= 4; n += 4)
        filter_four(y + n, oldest + n);
    for (; n < count; n++)
        y[n] = filter_one(oldest + n);
    *result = item->len;
    return WORK_DONE;
}

int main(void) { work_ring_run(do_item); }
