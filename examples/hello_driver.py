"""The smallest driver: loads firmware/hello, rings its doorbell three times, reads the count.

Usage: python examples/hello_driver.py DOMAIN
"""

from __future__ import annotations

import sys
from pathlib import Path

from vcoproc.errors import VcoprocError
from vcoproc.guest import Domain, Remoteproc
from vcoproc.guest.work_ring import MAILBOX_READY_WORD

FIRMWARE = Path(__file__).resolve().parents[1] / "firmware" / "hello" / "hello.elf"
COUNT_WORD = 8


def main() -> None:
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/hello_driver.py DOMAIN")
    try:
        drive(sys.argv[1])
    except VcoprocError as error:
        sys.exit(f"error: {error} [{error.reason}]")


def drive(name: str) -> None:
    with Domain(name) as domain:
        core = domain.vcoproc(domain.vcoprocs[0])
        mailbox = core.mapped("mbox").cast("I")
        mailbox[MAILBOX_READY_WORD] = 0
        rproc = Remoteproc(domain, core)
        rproc.load(FIRMWARE)
        rproc.start()
        for _ in range(3):
            core.write32("DOORBELL", 1)
            interrupt = domain.wait_irq()
            if interrupt is None:
                sys.exit("no interrupt came")
            core.write32("IRQ_STATUS", 0xFFFF_FFFF)
            domain.eoi(interrupt)
            print(f"interrupt {interrupt.irq}; the firmware has counted {mailbox[COUNT_WORD]}")
        rproc.stop()
        mailbox.release()


if __name__ == "__main__":
    main()
