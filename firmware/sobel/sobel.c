/* SPDX-License-Identifier: MIT
 *
 * sobel: edge strength of an 8-bit grey image.
 *
 * Theory
 *   The Sobel operator (Sobel and Feldman, 1968) correlates the image with
 *
 *            -1  0  1              -1 -2 -1
 *     Gx =   -2  0  2       Gy =    0  0  0
 *            -1  0  1               1  2  1
 *
 *   and takes the gradient's size, here as |gx| + |gy| clamped to 255, the usual integer form.
 *   Both kernels are separable. For each column the smoothed value s = a + 2b + c and the
 *   difference d = c - a of three rows are computed once and used for three pixels:
 *   gx = s[x+1] - s[x-1], gy = d[x-1] + 2 d[x] + d[x+1].
 *
 * Item
 *   op 2; src_ipa: grey bytes, row by row without padding; dst_ipa: as many bytes;
 *   arg0: width, arg1: height, len: width * height; result: bytes written.
 *   The outermost rows and columns, which lack neighbours, become 0.
 *
 * Limits
 *   1 <= width, height <= 16384. dst may not overlap src. Stateless between items.
 */
#include "vcoproc_m4.h"
#include "work_ring.h"

#define SIDE_MAX 16384u /* and then width * height cannot overflow 32 bits */

static inline int32_t magnitude(int32_t value) { return value < 0 ? -value : value; }

static void zero_row(uint8_t *out, uint32_t width)
{
    for (uint32_t x = 0; x < width; x++)
        out[x] = 0;
}

/* One inner row; width >= 3. `above`, `here` and `below` are the first pixels of three rows. */
static void sobel_row(uint8_t *out, const uint8_t *above, uint32_t width)
{
    const uint8_t *here = above + width;
    const uint8_t *below = here + width;
    int32_t s_left = above[0] + 2 * here[0] + below[0];
    int32_t d_left = below[0] - above[0];
    int32_t s_mid = above[1] + 2 * here[1] + below[1];
    int32_t d_mid = below[1] - above[1];

    out[0] = 0;
    for (uint32_t x = 1; x + 1 < width; x++) {
        const int32_t a = above[x + 1], b = here[x + 1], c = below[x + 1];
        const int32_t s_right = a + 2 * b + c;
        const int32_t d_right = c - a;
        const int32_t gx = s_right - s_left;
        const int32_t gy = d_left + 2 * d_mid + d_right;
        const int32_t size = magnitude(gx) + magnitude(gy);
        out[x] = (uint8_t)(size > 255 ? 255 : size);
        s_left = s_mid;
        s_mid = s_right;
        d_left = d_mid;
        d_mid = d_right;
    }
    out[width - 1] = 0;
}

static bool is_sane(const struct work_item *item)
{
    const uint32_t width = item->arg0, height = item->arg1;

    return item->op == WORK_SOBEL && width >= 1 && width <= SIDE_MAX && height >= 1 &&
           height <= SIDE_MAX && item->len == width * height &&
           work_readable(item->src_ipa, item->len) && work_writable(item->dst_ipa, item->len) &&
           !work_overlaps(item->dst_ipa, item->len, item->src_ipa, item->len);
}

static enum work_status do_item(const struct work_item *item, uint32_t *result)
{
    if (!is_sane(item))
        return WORK_BAD;
    const uint8_t *in = (const uint8_t *)(uintptr_t)item->src_ipa;
    uint8_t *out = (uint8_t *)(uintptr_t)item->dst_ipa;
    const uint32_t width = item->arg0, height = item->arg1;

    for (uint32_t y = 0; y < height; y++) {
        if (y == 0 || y == height - 1 || width < 3)
            zero_row(out + y * width, width);
        else
            sobel_row(out + y * width, in + (y - 1) * width, width);
    }
    *result = item->len;
    return WORK_DONE;
}

int main(void) { work_ring_run(do_item); }
