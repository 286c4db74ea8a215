/* SPDX-License-Identifier: MIT
 *
 * Vector table and reset. The loader puts the image into domain memory and nothing anywhere else:
 * private memory holds whatever the last user of the context left, so .bss is cleared here.
 */
#include "vcoproc_m4.h"

extern uint32_t __stack_top[];
extern uint32_t __bss_start[];
extern uint32_t __bss_end[];

void Reset_Handler(void);

/* An exception that nobody claimed is a bug of the firmware. An undefined instruction inside an
 * exception stops the core, and the driver sees it in FAULT_STATUS; a silent loop would not show. */
__attribute__((noreturn)) void Default_Handler(void);
void Default_Handler(void) { __builtin_trap(); }

#define UNCLAIMED __attribute__((weak, alias("Default_Handler")))
UNCLAIMED void NMI_Handler(void);
UNCLAIMED void HardFault_Handler(void);
UNCLAIMED void MemManage_Handler(void);
UNCLAIMED void BusFault_Handler(void);
UNCLAIMED void UsageFault_Handler(void);
UNCLAIMED void SVC_Handler(void);
UNCLAIMED void DebugMon_Handler(void);
UNCLAIMED void PendSV_Handler(void);
UNCLAIMED void SysTick_Handler(void);
UNCLAIMED void Doorbell0_Handler(void);
UNCLAIMED void Doorbell1_Handler(void);
UNCLAIMED void Doorbell2_Handler(void);
UNCLAIMED void Doorbell3_Handler(void);
UNCLAIMED void Doorbell4_Handler(void);
UNCLAIMED void Doorbell5_Handler(void);
UNCLAIMED void Doorbell6_Handler(void);
UNCLAIMED void Doorbell7_Handler(void);
UNCLAIMED void Doorbell8_Handler(void);
UNCLAIMED void Doorbell9_Handler(void);
UNCLAIMED void Doorbell10_Handler(void);
UNCLAIMED void Doorbell11_Handler(void);
UNCLAIMED void Doorbell12_Handler(void);
UNCLAIMED void Doorbell13_Handler(void);
UNCLAIMED void Doorbell14_Handler(void);
UNCLAIMED void Doorbell15_Handler(void);

typedef void (*vector)(void);

/* 16 of the architecture and 16 external ones: 32 words, hence VECTOR_BASE is 128-byte aligned. */
__attribute__((section(".vectors"), used)) const vector __vectors[32] = {
    (vector)__stack_top,
    Reset_Handler,
    NMI_Handler,
    HardFault_Handler,
    MemManage_Handler,
    BusFault_Handler,
    UsageFault_Handler,
    0,
    0,
    0,
    0,
    SVC_Handler,
    DebugMon_Handler,
    0,
    PendSV_Handler,
    SysTick_Handler,
    Doorbell0_Handler,
    Doorbell1_Handler,
    Doorbell2_Handler,
    Doorbell3_Handler,
    Doorbell4_Handler,
    Doorbell5_Handler,
    Doorbell6_Handler,
    Doorbell7_Handler,
    Doorbell8_Handler,
    Doorbell9_Handler,
    Doorbell10_Handler,
    Doorbell11_Handler,
    Doorbell12_Handler,
    Doorbell13_Handler,
    Doorbell14_Handler,
    Doorbell15_Handler,
};

__attribute__((noreturn)) void Reset_Handler(void)
{
    for (uint32_t *word = __bss_start; word < __bss_end; word++)
        *word = 0;
    SCB_VTOR = (uint32_t)(uintptr_t)__vectors;
    main();
    __builtin_trap(); /* main of a firmware does not return */
}
