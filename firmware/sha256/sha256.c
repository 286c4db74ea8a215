/* SPDX-License-Identifier: MIT
 *
 * sha256: the hash of one stream, fed in pieces.
 *
 * Theory
 *   FIPS 180-4, Secure Hash Standard (August 2015): functions 4.1.2, constants 4.2.2, padding
 *   5.1.1, initial value 5.3.3, computation 6.2.2. The message schedule is kept as a ring of 16
 *   words. The eight working variables rotate by renaming, eight rounds at a time.
 *
 * Items
 *   op 3 begin: forget what was, start a message.
 *   op 4 update: src_ipa, len: the next bytes, any number and alignment, 0 too.
 *   op 5 final: dst_ipa: 32 bytes of digest; needs a begin before the next message.
 *   result: bytes hashed so far in this message, modulo 2^32.
 *
 * Limits
 *   One stream at a time. State lives in private memory, so it survives a context switch between
 *   and inside items. Update or final without begin is a bad item. The standard's bound of 2^64
 *   bits is not checked: at one byte per instruction it is centuries away.
 */
#include "vcoproc_m4.h"
#include "work_ring.h"

#define BLOCK_BYTES 64u
#define LENGTH_OFFSET 56u /* the message length in bits fills the last 8 bytes of the last block */
#define DIGEST_BYTES 32u

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
};

static struct {
    bool begun;
    uint64_t length_bytes;
    uint32_t hash[8];
    uint8_t block[BLOCK_BYTES]; /* the first length_bytes % 64 bytes wait for the rest */
} stream;

static inline uint32_t rotr(uint32_t value, uint32_t bits)
{
    return value >> bits | value << (32u - bits);
}

static inline uint32_t load_be(const uint8_t *bytes)
{
    uint32_t word;
    __builtin_memcpy(&word, bytes, sizeof word);
    return __builtin_bswap32(word);
}

static inline void store_be(uint8_t *bytes, uint32_t word)
{
    word = __builtin_bswap32(word);
    __builtin_memcpy(bytes, &word, sizeof word);
}

/* 6.2.2 step 1 for the next 16 rounds: w holds W_(t-16) to W_(t-1) and becomes W_t to W_(t+15). */
static inline void schedule(uint32_t w[16])
{
    for (uint32_t t = 0; t < 16; t++) {
        const uint32_t w2 = w[(t + 14) & 15u], w15 = w[(t + 1) & 15u];
        const uint32_t s1 = rotr(w2, 17) ^ rotr(w2, 19) ^ w2 >> 10;
        const uint32_t s0 = rotr(w15, 7) ^ rotr(w15, 18) ^ w15 >> 3;
        w[t] += s1 + w[(t + 9) & 15u] + s0;
    }
}

/* 6.2.2 step 3. Instead of moving all eight variables, the next round is given them renamed. */
#define STEP(a, b, c, d, e, f, g, h, i)                                                            \
    do {                                                                                           \
        h += (rotr(e, 6) ^ rotr(e, 11) ^ rotr(e, 25)) + (g ^ (e & (f ^ g))) + k[i] + w[i];         \
        d += h;                                                                                    \
        h += (rotr(a, 2) ^ rotr(a, 13) ^ rotr(a, 22)) + ((a & b) | (c & (a | b)));                 \
    } while (0)

static void compress(const uint8_t *block)
{
    uint32_t schedule_ring[16];
    uint32_t *hash = stream.hash;
    uint32_t a = hash[0], b = hash[1], c = hash[2], d = hash[3];
    uint32_t e = hash[4], f = hash[5], g = hash[6], h = hash[7];

    for (uint32_t t = 0; t < 16; t++)
        schedule_ring[t] = load_be(block + 4 * t);
    for (uint32_t t = 0; t < 64; t += 8) {
        if (t >= 16 && t % 16 == 0)
            schedule(schedule_ring);
        const uint32_t *k = K + t, *w = schedule_ring + t % 16;
        STEP(a, b, c, d, e, f, g, h, 0);
        STEP(h, a, b, c, d, e, f, g, 1);
        STEP(g, h, a, b, c, d, e, f, 2);
        STEP(f, g, h, a, b, c, d, e, 3);
        STEP(e, f, g, h, a, b, c, d, 4);
        STEP(d, e, f, g, h, a, b, c, 5);
        STEP(c, d, e, f, g, h, a, b, 6);
        STEP(b, c, d, e, f, g, h, a, 7);
    }
    hash[0] += a, hash[1] += b, hash[2] += c, hash[3] += d;
    hash[4] += e, hash[5] += f, hash[6] += g, hash[7] += h;
}

static void begin(void)
{
    static const uint32_t initial[8] = {
        0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
        0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
    };
    __builtin_memcpy(stream.hash, initial, sizeof initial);
    stream.length_bytes = 0;
    stream.begun = true;
}

static void update(const uint8_t *bytes, uint32_t size_bytes)
{
    const uint32_t held = (uint32_t)stream.length_bytes % BLOCK_BYTES;

    stream.length_bytes += size_bytes;
    if (held != 0) {
        const uint32_t room = BLOCK_BYTES - held;
        const uint32_t taken = size_bytes < room ? size_bytes : room;
        __builtin_memcpy(stream.block + held, bytes, taken);
        bytes += taken;
        size_bytes -= taken;
        if (taken < room)
            return;
        compress(stream.block);
    }
    for (; size_bytes >= BLOCK_BYTES; size_bytes -= BLOCK_BYTES, bytes += BLOCK_BYTES)
        compress(bytes);
    __builtin_memcpy(stream.block, bytes, size_bytes);
}

static void final(uint8_t *digest)
{
    const uint64_t length_bits = stream.length_bytes * 8u;
    uint32_t held = (uint32_t)stream.length_bytes % BLOCK_BYTES;

    stream.block[held++] = 0x80;
    if (held > LENGTH_OFFSET) {
        __builtin_memset(stream.block + held, 0, BLOCK_BYTES - held);
        compress(stream.block);
        held = 0;
    }
    __builtin_memset(stream.block + held, 0, LENGTH_OFFSET - held);
    store_be(stream.block + LENGTH_OFFSET, (uint32_t)(length_bits >> 32));
    store_be(stream.block + LENGTH_OFFSET + 4, (uint32_t)length_bits);
    compress(stream.block);
    for (uint32_t i = 0; i < 8; i++)
        store_be(digest + 4 * i, stream.hash[i]);
    stream.begun = false;
}

static bool is_sane(const struct work_item *item)
{
    switch (item->op) {
    case WORK_SHA256_BEGIN:
        return true;
    case WORK_SHA256_UPDATE:
        return stream.begun && (item->len == 0 || work_readable(item->src_ipa, item->len));
    case WORK_SHA256_FINAL:
        return stream.begun && work_writable(item->dst_ipa, DIGEST_BYTES);
    default:
        return false;
    }
}

static enum work_status do_item(const struct work_item *item, uint32_t *result)
{
    if (!is_sane(item))
        return WORK_BAD;
    if (item->op == WORK_SHA256_BEGIN)
        begin();
    else if (item->op == WORK_SHA256_UPDATE)
        update((const uint8_t *)(uintptr_t)item->src_ipa, item->len);
    else
        final((uint8_t *)(uintptr_t)item->dst_ipa);
    *result = (uint32_t)stream.length_bytes;
    return WORK_DONE;
}

int main(void) { work_ring_run(do_item); }
