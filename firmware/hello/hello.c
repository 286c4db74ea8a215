/* SPDX-License-Identifier: MIT
 *
 * hello: the smallest firmware that a driver can talk to.
 *
 * The driver rings doorbell 0; the firmware counts the ring in mailbox word 8 and raises the
 * interrupt. Mailbox word 4 becomes "REDY" when the firmware listens: a doorbell before that is
 * not lost, it stays pending until the interrupt is enabled.
 *
 * Limit: rings that come faster than they are served merge, as interrupts do.
 */
#include "vcoproc_m4.h"

#define MAILBOX_COUNT 8u

void Doorbell0_Handler(void)
{
    MAILBOX(MAILBOX_COUNT) = MAILBOX(MAILBOX_COUNT) + 1;
    IRQ_SET = 1;
}

int main(void)
{
    MAILBOX(MAILBOX_COUNT) = 0;
    MAILBOX(MAILBOX_STATE) = STATE_READY;
    doorbell_enable(0);
    for (;;)
        wait_for_interrupt();
}
