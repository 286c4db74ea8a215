/* SPDX-License-Identifier: MIT
 *
 * spin: a firmware that never idles and never yields, as a greedy neighbour does.
 *
 * Mailbox word 8 counts the turns of an endless loop, word 9 the interrupts of SysTick, one every
 * 10000 ticks of the core clock. With one tick per instruction the two keep a fixed proportion, so
 * a driver can tell that time stood still for the core while it was switched out.
 */
#include "vcoproc_m4.h"

#define MAILBOX_TURNS 8u
#define MAILBOX_TICKS 9u
#define PERIOD_TICKS 10000u

void SysTick_Handler(void) { MAILBOX(MAILBOX_TICKS) = MAILBOX(MAILBOX_TICKS) + 1; }

int main(void)
{
    MAILBOX(MAILBOX_TURNS) = 0;
    MAILBOX(MAILBOX_TICKS) = 0;
    SYST_RVR = PERIOD_TICKS - 1; /* counts N..0: N + 1 ticks (B3.3.1) */
    SYST_CVR = 0;
    SYST_CSR = SYST_CSR_ENABLE | SYST_CSR_TICKINT | SYST_CSR_CLKSOURCE;
    MAILBOX(MAILBOX_STATE) = STATE_READY;
    for (uint32_t turns = 1;; turns++)
        MAILBOX(MAILBOX_TURNS) = turns;
}
