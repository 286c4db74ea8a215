/* SPDX-License-Identifier: MIT
 *
 * wild: a firmware that misbehaves on demand, to show that nobody else is hurt.
 *
 *   doorbell 0  writes to 0x0000_1000, where the core has nothing
 *   doorbell 1  jumps to 0x0BAD_F00C, where the core has nothing either
 *   doorbell 2  writes beyond the end of every domain's memory, 0x6FFF_F000
 *   doorbell 3  executes an undefined instruction
 *   doorbell 4  jumps into the mailbox, which may not be executed
 *
 * Mailbox word 8 is set to the doorbell's number + 1 before the act and word 9 to the same after
 * it: a driver that ever sees word 9 change has found a hole. Each needs a reset afterwards.
 * Limit: a domain of the full 256 MiB owns 0x6FFF_F000, and doorbell 2 is then harmless.
 */
#include "vcoproc_m4.h"

#define MAILBOX_BEFORE 8u
#define MAILBOX_AFTER 9u
#define NOWHERE 0x00001000u
#define NO_CODE (0x0BADF00Cu | 1u) /* bit 0: Thumb; without it the jump itself is the fault */
#define BEYOND_MEMORY 0x6FFFF000u
#define MAILBOX_CODE (0x40001000u | 1u)
#define VALUE 0x57494C44u

static void jump(uint32_t address) { ((void (*)(void))(uintptr_t)address)(); }

static void before(uint32_t doorbell) { MAILBOX(MAILBOX_BEFORE) = doorbell + 1; }
static void after(uint32_t doorbell) { MAILBOX(MAILBOX_AFTER) = doorbell + 1; }

void Doorbell0_Handler(void)
{
    before(0);
    REG32(NOWHERE) = VALUE;
    after(0);
}

void Doorbell1_Handler(void)
{
    before(1);
    jump(NO_CODE);
    after(1);
}

void Doorbell2_Handler(void)
{
    before(2);
    REG32(BEYOND_MEMORY) = VALUE;
    after(2);
}

void Doorbell3_Handler(void)
{
    before(3);
    __asm volatile("udf #0");
    after(3);
}

void Doorbell4_Handler(void)
{
    before(4);
    jump(MAILBOX_CODE);
    after(4);
}

int main(void)
{
    MAILBOX(MAILBOX_BEFORE) = 0;
    MAILBOX(MAILBOX_AFTER) = 0;
    for (uint32_t doorbell = 0; doorbell <= 4; doorbell++)
        doorbell_enable(doorbell);
    MAILBOX(MAILBOX_STATE) = STATE_READY;
    for (;;)
        wait_for_interrupt();
}
