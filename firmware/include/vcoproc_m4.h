/* SPDX-License-Identifier: MIT
 *
 * What a core of platform "vcoproc,cortex-m4" sees: addresses, registers and the few helpers that
 * every firmware needs. Addresses of domain memory are the domain's own (IPA): one pointer is good
 * for the driver and for the firmware.
 */
#ifndef VCOPROC_M4_H
#define VCOPROC_M4_H

#include <stdint.h>

#define REG32(address) (*(volatile uint32_t *)(uintptr_t)(address))

/* --- memory ---------------------------------------------------------------------------------- */
#define PRIVATE_BASE 0x20000000u      /* belongs to the context; not cleared by anybody at reset */
#define DOMAIN_MEMORY_BASE 0x60000000u
#define DOMAIN_MEMORY_BYTES_MAX 0x10000000u /* no domain has more than 256 MiB */

/* --- device page: how the core speaks to its domain ------------------------------------------ */
#define IRQ_SET REG32(0x40000004u)      /* wo: ORs into IRQ_STATUS; line `irq` rises if enabled */
#define EVENT REG32(0x40000008u)        /* wo: any write pulses line `event` */
#define YIELD REG32(0x4000000Cu)        /* wo: any write says "a good moment to switch" */
#define IRQ_STATUS REG32(0x40000010u)   /* ro: what the driver has not acknowledged yet */
#define PRIVATE_SIZE REG32(0x40000014u) /* ro: bytes of private memory */

/* --- mailbox page: 1024 words of plain storage, the same bytes as the domain's range `mbox` ---- */
#define MAILBOX(word) REG32(0x40001000u + 4u * (word))

/* Words that all firmware of this folder agree on; words from 8 up are free for each firmware. */
#define MAILBOX_RING_IPA 0u /* driver: where the work ring is */
#define MAILBOX_STATE 4u    /* firmware: one of the values below */
#define STATE_READY 0x59444552u    /* "REDY": it listens */
#define STATE_BAD_RING 0x52444142u /* "BADR": no usable ring; ring doorbell 0 when it is mended */

/* --- PPB: names and fields as in the Armv7-M Architecture Reference Manual, B3 ----------------- */
#define SYST_CSR REG32(0xE000E010u)
#define SYST_RVR REG32(0xE000E014u)
#define SYST_CVR REG32(0xE000E018u)
#define SYST_CSR_ENABLE (1u << 0)
#define SYST_CSR_TICKINT (1u << 1)
#define SYST_CSR_CLKSOURCE (1u << 2) /* core clock; here one tick per instruction */
#define NVIC_ISER0 REG32(0xE000E100u)
#define NVIC_ICER0 REG32(0xE000E180u)
#define NVIC_ISPR0 REG32(0xE000E200u)
#define NVIC_ICPR0 REG32(0xE000E280u)
#define SCB_VTOR REG32(0xE000ED08u)

/* Bit n of the driver's register DOORBELL pends external interrupt n. */
static inline void doorbell_enable(uint32_t doorbell) { NVIC_ISER0 = 1u << doorbell; }

static inline void irq_disable(void) { __asm volatile("cpsid i" ::: "memory"); }

/* The barrier makes a pending interrupt enter here, not some instructions later (B5.2.1). */
static inline void irq_enable(void) { __asm volatile("cpsie i\n\tisb" ::: "memory"); }

/* Wakes on a pending enabled interrupt even while PRIMASK masks it: check, then wait, cannot race. */
static inline void wait_for_interrupt(void) { __asm volatile("dsb\n\twfi" ::: "memory"); }

/* Orders accesses to memory that the driver shares. */
static inline void memory_barrier(void) { __asm volatile("dmb" ::: "memory"); }

/* Each may be defined by the firmware; undefined ones stop the core with a fault. */
void NMI_Handler(void);
void HardFault_Handler(void);
void SVC_Handler(void);
void PendSV_Handler(void);
void SysTick_Handler(void);
void Doorbell0_Handler(void);
void Doorbell1_Handler(void);
void Doorbell2_Handler(void);
void Doorbell3_Handler(void);
void Doorbell4_Handler(void);
void Doorbell5_Handler(void);
void Doorbell6_Handler(void);
void Doorbell7_Handler(void);
void Doorbell8_Handler(void);
void Doorbell9_Handler(void);
void Doorbell10_Handler(void);
void Doorbell11_Handler(void);
void Doorbell12_Handler(void);
void Doorbell13_Handler(void);
void Doorbell14_Handler(void);
void Doorbell15_Handler(void);

int main(void);

#endif
