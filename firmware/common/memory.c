/* SPDX-License-Identifier: MIT
 *
 * What the compiler calls on its own to copy or clear: the helpers of the "Run-time ABI for the
 * Arm Architecture", 5.3.4 (note the order of the arguments of memset there). Built with
 * -fno-builtin, or the compiler would turn each loop into a call of the very function.
 */
#include <stddef.h>
#include <stdint.h>

void __aeabi_memcpy(void *restrict to, const void *restrict from, size_t size_bytes);
void __aeabi_memset(void *to, size_t size_bytes, int value);
void __aeabi_memclr(void *to, size_t size_bytes);

void __aeabi_memcpy(void *restrict to, const void *restrict from, size_t size_bytes)
{
    uint8_t *out = to;
    const uint8_t *in = from;

    /* Whole words where both ends allow it: four times fewer turns of the loop. */
    if ((((uintptr_t)out | (uintptr_t)in) & 3u) == 0)
        for (; size_bytes >= 4; size_bytes -= 4, out += 4, in += 4)
            *(uint32_t *)(void *)out = *(const uint32_t *)(const void *)in;
    while (size_bytes-- > 0)
        *out++ = *in++;
}

void __aeabi_memset(void *to, size_t size_bytes, int value)
{
    uint8_t *out = to;
    const uint32_t word = (uint8_t)value * 0x01010101u;

    if (((uintptr_t)out & 3u) == 0)
        for (; size_bytes >= 4; size_bytes -= 4, out += 4)
            *(uint32_t *)(void *)out = word;
    while (size_bytes-- > 0)
        *out++ = (uint8_t)value;
}

void __aeabi_memclr(void *to, size_t size_bytes) { __aeabi_memset(to, size_bytes, 0); }

/* The variants for aligned arguments may assume more, but need not do less. */
#define SAME_AS(name) __attribute__((alias(#name)))
void __aeabi_memcpy4(void *, const void *, size_t) SAME_AS(__aeabi_memcpy);
void __aeabi_memcpy8(void *, const void *, size_t) SAME_AS(__aeabi_memcpy);
void __aeabi_memset4(void *, size_t, int) SAME_AS(__aeabi_memset);
void __aeabi_memset8(void *, size_t, int) SAME_AS(__aeabi_memset);
void __aeabi_memclr4(void *, size_t) SAME_AS(__aeabi_memclr);
void __aeabi_memclr8(void *, size_t) SAME_AS(__aeabi_memclr);
