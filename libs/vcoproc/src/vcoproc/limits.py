"""Every bound of the system, with what happens when it is reached.

Relations between bounds are asserted at the end of the file.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB
US: Final = 1_000
"""Nanoseconds in a microsecond. Times are integers of nanoseconds everywhere."""
MS: Final = 1_000_000
S: Final = 1_000_000_000

# --- names and numbers ----------------------------------------------------------------------------
DOMID_FIRST: Final = 0
"""The first domain's: the one that the system tree asks for. No other one gets it."""
DOMID_MIN: Final = 1
"""Of all others."""
DOMID_MAX: Final = 0x7FEF
"""Xen: below DOMID_FIRST_RESERVED, 0x7FF0."""
NAME_BYTES_MAX: Final = 63
"""Domain, coproc and vcoproc names; then InvalidArgument."""
DOMAINS_MAX: Final = 4096
"""Per toolstack; then LimitExceeded."""
VCOPROCS_PER_COPROC_MAX: Final = 256
"""Default of a coproc; the tree may set less. Then LimitExceeded."""
VCOPROCS_PER_DOMAIN_MAX: Final = 32

# --- guest address space --------------------------------------------------------------------------
PAGE_BYTES: Final = 4096
BLOCK_BYTES: Final = 2 * MIB
GUEST_RAM_BASE_IPA: Final = 0x6000_0000
"""Where a domain's memory begins in its own address space. The first address of Armv7-M external
RAM: a Cortex-M can execute there, so one address is good for the domain and for its coprocessor."""
GUEST_MMIO_BASE_IPA: Final = 0x0A00_0000
"""Where the register ranges of vcoprocs are put when the domain file names no address."""
DOMAIN_MEMORY_BYTES_MIN: Final = 64 * KIB
DOMAIN_MEMORY_BYTES_MAX: Final = 1024 * MIB
PRIVATE_MEMORY_BYTES_MAX: Final = 16 * MIB
GUEST_IRQ_MIN: Final = 32
"""SPIs begin at 32 (GIC architecture)."""
GUEST_IRQ_MAX: Final = 1019
GUEST_IRQ_BASE: Final = 64
"""Where guest interrupt numbers are given out when the domain file names none."""
GUEST_IPA_MAX: Final = (1 << 48) - 1
"""The last address of a register range: what stage 2 of Armv8-A translates at most, without large
physical addresses. Coprocs never see these addresses, so it does not matter how wide theirs are."""
DOMAIN_MEMORY_BYTES_DEFAULT: Final = 4 * MIB
PRIVATE_MEMORY_BYTES_DEFAULT: Final = 64 * KIB

# --- configuration files: beyond a bound the file is refused (InvalidConfig) ----------------------
COPROCS_MAX: Final = 256
"""Shared coprocs of one system tree, and of a system with those that were added at run time, each
template once; coprocs that one call adds, and coprocs leased at the same time, each one that a
template makes too. A coproc-sim beyond that gets LimitExceeded, and asks again."""
COPROC_MEMORY_BYTES_MAX: Final = DOMAINS_MAX * DOMAIN_MEMORY_BYTES_MAX
"""Highest memory limit of a coproc: more than all domains have together."""
INSTANCES_MAX: Final = 64
"""Coprocs made from one template of the tree."""
RANGES_PER_COPROC_MAX: Final = 16
RANGE_BYTES_MAX: Final = 16 * MIB
PLATFORM_PARAMS_MAX: Final = 64
"""Properties of one node that are passed on to its platform."""
PLATFORM_PARAM_BYTES_MAX: Final = 256
"""Of the value of one; a longer one is not passed on."""
CLOCK_HZ_MIN: Final = 1_000
CLOCK_HZ_MAX: Final = 10_000_000_000
CLOCK_HZ_DEFAULT: Final = 100_000_000
CONFIG_PROBLEMS_MAX: Final = 100
"""Problems listed for one file; the rest is counted."""
CONFIG_LIST_DEPTH_MAX: Final = 16
"""Lists in lists of a domain file."""
DTS_TOKENS_MAX: Final = 400_000
"""About four times the largest board trees of Linux, with everything they include."""
DTS_FILES_MAX: Final = 256
"""Files that one tree may include, /incbin/ among them, each time counted anew."""
DTS_INCLUDED_BYTES_MAX: Final = 8 * MIB
"""Of all of them together; each has CONFIG_BYTES_MAX at most."""
DTS_INCLUDE_DEPTH_MAX: Final = 16
"""Files in files; the same file within itself is refused before."""
CPP_TIMEOUT_NS: Final = 10 * S
"""The C preprocessor is ended after this."""
DTS_NODES_MAX: Final = 8192
DTS_LABELS_MAX: Final = 8192
DTS_REFERENCES_MAX: Final = 16_384
DTS_DEPTH_MAX: Final = 16
"""Nodes in nodes, and brackets in expressions."""
DTS_NAME_BYTES_MAX: Final = 128
DTS_PROPERTY_TOKENS_MAX: Final = 8192
DTS_PROPERTY_REFERENCES_MAX: Final = 1024

# --- trap path ------------------------------------------------------------------------------------
FRAME_BYTES_MAX: Final = 256 * KIB
"""A longer frame is a protocol error; the peer is dropped."""
BATCH_OPS_MAX: Final = 1024
"""Accesses in one batch; more is a protocol error (the guest SDK splits)."""
TRAP_CREDIT: Final = 256
"""Messages a domain may have unacknowledged at one coproc-sim. Beyond: protocol error."""
REPLAY_QUEUE_MAX: Final = 256
"""Queued register writes of one switched-out vcoproc; then QueueFull to the driver."""
HOLD_QUEUE_MAX: Final = 16
"""Held accesses of one vcoproc; then QueueFull to the driver."""
HOLD_LIMIT_NS: Final = 1 * S
"""A held access is answered with HoldTimeout after this."""
SAVED_HOLD_LIMIT_NS: Final = 4 * S
"""The same for one that waits, whatever it is, while its vcoproc has been written down to be moved:
the move ends sooner, or its driver is told by then that nothing was done."""
SAVED_HOLD_QUEUE_MAX: Final = HOLD_QUEUE_MAX + TRAP_CREDIT
"""Accesses that wait then: its driver can send no more. Of one that connects again, QueueFull."""
TRAP_TIMEOUT_NS: Final = 5 * S
"""The guest SDK gives up a trap after this: PeerTimeout."""

# --- scheduling -----------------------------------------------------------------------------------
SLICE_NS_MIN: Final = 100 * US
SLICE_NS_MAX: Final = 10 * S
SLICE_NS_DEFAULT: Final = 5 * MS
SWITCH_RETRY_NS_MIN: Final = 1 * US
SWITCH_RETRY_NS_MAX: Final = 100 * MS
REFUSALS_MAX: Final = 1000
"""Refusals of one switch attempt before the coproc-sim forces it (reset of the refuser)."""
SWITCH_DEADLINE_NS: Final = 500 * MS
"""From the first attempt to leave until the refuser is forced off; from the first attempt to take
the next one in until its turn is given up."""
SWITCH_IN_NS_MIN: Final = 1 * MS
"""Hardware that refuses the next one is asked for at least this long before that one's turn is
dropped, however short the bound of a refusal: otherwise the same grant would come again at once."""
REFUSAL_DRAIN_NS_DEFAULT: Final = 10 * MS
"""One that refuses to leave is asked again for so long, and then drains to the end of its job."""
VCOPROCS_KNOWN_MAX: Final = 4096
"""Vcoprocs of one coproc that the scheduler remembers, as many as a Register can list; beyond,
adding one is LimitExceeded, and of those that were never added the oldest is forgotten."""
TURNS_KEPT_MAX: Final = 4096
"""Turns of one coproc that ListTurns can show; the oldest goes first."""
DECISIONS_KEPT_MAX: Final = 4096
"""Decisions of one coproc that can be read; the oldest goes first."""
DECISION_WATCHERS_MAX: Final = 8
"""Open streams of decisions of one scheduler; then LimitExceeded."""
FALLBACK_WATCHERS_MAX: Final = 2
"""The same of fallbacks: the toolstack, and the one that takes its place."""
MIN_RUN_NS_MAX: Final = 500 * MS
"""Longest time that an algorithm can be kept from preempting. Xen's rate limit has the same."""
TICKS_IN_VAIN_MAX: Final = 1000
"""Times in a row that an algorithm may want to be asked again at once, with nothing else happening;
then it has failed. Otherwise it could take a whole processor."""
CONTROL_CREDIT: Final = 1024
"""Unacknowledged messages between a coproc-sim and the scheduler or the irq-router."""

# --- interrupts -----------------------------------------------------------------------------------
LINES_PER_VCOPROC_MAX: Final = 32
IRQ_CREDIT: Final = 256
"""Unacknowledged interrupts to one domain; more stay pending in the router, none is lost."""
FENCE_TIMEOUT_NS: Final = 1 * S
"""Until the irq-router must have taken what a vcoproc has said; then that one is not written down:
PeerTimeout."""
UNMAPPED_VCOPROCS_MAX: Final = 256
"""Vcoprocs of one coproc whose interrupts came before the toolstack said whose they are; then the
oldest is forgotten and counted."""
UNMAPPED_COPROCS_MAX: Final = 256
"""Coprocs with such vcoprocs; then the message is refused and counted."""

# --- vcoprocs written down ------------------------------------------------------------------------
IMAGE_CHUNK_BYTES: Final = 1 * MIB
"""One message of a vcoproc that is written down; a longer one is InvalidArgument."""

# --- files and processes --------------------------------------------------------------------------
SOCKET_PATH_BYTES_MAX: Final = 107
"""sun_path of Linux less the closing zero; a longer run directory is refused by name."""
CONFIG_BYTES_MAX: Final = 1 * MIB
ELF_BYTES_MAX: Final = 64 * MIB
START_TIMEOUT_NS: Final = 20 * S
"""Of all processes of a cluster together, for each START_TOGETHER of them; then StartFailed."""
START_TOGETHER: Final = 8
STOP_TIMEOUT_NS: Final = 5 * S
EVENTS_KEPT_MAX: Final = 10_000
"""Events that a late watcher can still read; an older revision gets OUT_OF_RANGE."""
RESTART_DELAY_NS_MIN: Final = 100 * MS
"""Before a process that died is started again; doubled each time it dies young."""
RESTART_DELAY_NS_MAX: Final = 5 * S
RESTART_FORGIVEN_NS: Final = 10 * S
"""A process that lived this long gets the shortest delay again."""

# --- clients of gRPC servers ---------------------------------------------------------------------
REQUEST_WAIT_NS: Final = 10 * S
"""A call whose request, or its next part, has not come whole after this is ended."""
REQUESTS_AWAITED_MAX: Final = 64
"""Calls of one server whose requests are still coming; then the oldest of them is ended."""
ANSWER_WAIT_NS: Final = 10 * S
"""A stream whose client has not taken an answer after this is ended: ABORTED."""
OTHER_STREAMS_MAX: Final = 16
"""Open streams of health and reflection; then LimitExceeded."""
CONNECTIONS_MAX: Final = 256
"""Connections to the public API; more are closed at once."""
CALLS_PER_CONNECTION_MAX: Final = 128
"""Calls at the same time; a client holds more of them back."""
PING_INTERVAL_NS: Final = 20 * S
PING_TIMEOUT_NS: Final = 10 * S
"""A client of the public API that does not answer a ping, or does not complete the handshake of its
connection, loses the connection after this."""

# --- toolstack ------------------------------------------------------------------------------------
CALL_TIMEOUT_NS: Final = 2 * S
"""One call of the toolstack to another service; then it counts as not answering."""
ACCOUNTS_TIMEOUT_NS: Final = 300 * MS
"""Wait for the accounting that a list shows; then the list goes without it."""
REPAIR_DELAY_NS_MIN: Final = 100 * MS
"""Before the toolstack asks a service again that did not answer; doubled up to the maximum."""
REPAIR_DELAY_NS_MAX: Final = 2 * S
LEASE_WAIT_NS: Final = 2 * S
"""A new vcoproc waits this long for a coproc that is offline: one that restarts is back by then."""
PAGE_SIZE_MAX: Final = 1000
"""Resources in one page of a list; more is InvalidArgument."""
FILTER_BYTES_MAX: Final = 1024
"""Of a filter of a list or a watch; a longer one is InvalidArgument."""
REQUEST_ID_BYTES_MAX: Final = 63
REQUESTS_KEPT_MAX: Final = 10_000
"""Answers kept for repeated request ids; the oldest are forgotten."""
STORE_TIMEOUT_NS: Final = 5 * S
"""One transaction of a PostgreSQL server, or a connection to it; then it counts as lost."""
STORE_LOCK_WAIT_NS: Final = 2 * S
"""Wait for the toolstack before, whose end the server has not noticed yet; then InvalidArgument."""
NOTES_WAITING_MAX: Final = 1024
"""Events of what has happened that wait for the database; then the oldest are lost and counted."""
WATCHERS_MAX: Final = 64
"""Open streams of the public API; then LimitExceeded."""
EVENTS_RECENT_MAX: Final = 512
"""Newest events that all watchers share; one that is further back reads them from the store."""
EVENTS_TAKEN_MAX: Final = 32
"""Events that a watcher takes at a time."""
WATCHER_BLOCKED_NS_MAX: Final = 1 * S
"""A watcher whose client left one event unread for longer, and who has fallen behind the shared
events meanwhile, gets WatcherTooSlow."""
LINE_INTERVAL_NS_MIN: Final = 10 * MS
LINE_INTERVAL_NS_MAX: Final = 60 * S
"""Between two samples of a watch of interrupt lines; out of this range is InvalidArgument."""
LINE_INTERVAL_NS_DEFAULT: Final = 1 * S
PICTURES_MAX: Final = 3
"""Attempts to see the whole cluster at one revision; then the answer says that it moved."""
CHANGES_WAITING_MAX: Final = 32
"""Changes under way or waiting for their turn; then LimitExceeded."""
SHUTDOWNS_MAX: Final = 32
"""Domains that shut down at the same time; then LimitExceeded."""
SHUTDOWN_NS_MAX: Final = 60 * S
"""How long one may be waited for; more is InvalidArgument. Then it is ended all the same."""
SHUTDOWN_LOOK_NS: Final = 20 * MS
"""Between two looks whether a domain that shuts down has come to rest."""
WHY_BYTES_MAX: Final = 1024
"""Of a reason that people give; more is InvalidArgument."""
FILE_NAME_BYTES_MAX: Final = 512
"""Of a domain's file, which is said in each problem that is found in it."""
SPEC_BYTES_MAX: Final = 4096
"""Text that describes one vcoproc."""
ACCESS_FILE_BYTES_MAX: Final = 1 * MIB
"""File that says who has which role; a longer one is refused."""
CALLERS_MAX: Final = 10_000
"""Names in it."""
AUDIT_KEPT_MAX: Final = 100_000
"""Entries of the audit log; the oldest are forgotten."""
AUDIT_TEXT_BYTES_MAX: Final = 64 * KIB
"""Of each text of an entry; a longer one is cut."""
REGISTERS_PER_PLATFORM_MAX: Final = 4096
PLATFORMS_PER_LEASE_MAX: Final = 64
"""Types that one coproc-sim may offer to simulate; more is InvalidArgument."""

# --- snapshots: beyond a bound one is refused (BadSnapshot), or not made (LimitExceeded) ----------
CONTEXT_BYTES_MAX: Final = 64 * MIB
"""Of one vcoproc that was written down."""
CONTEXT_TIMEOUT_NS: Final = 10 * S
"""Writing one down, or loading it; then its coproc-sim counts as not answering."""
MEMORY_PIECE_BYTES: Final = MIB
"""Of a domain's memory, in one member of a snapshot. Pieces of zeros are left out."""
SNAPSHOT_MEMBERS_MAX: Final = DOMAIN_MEMORY_BYTES_MAX // MEMORY_PIECE_BYTES + 64
SNAPSHOT_DIRECTORY_BYTES_MAX: Final = MIB
"""Of the list of members at the end of a snapshot."""
MANIFEST_BYTES_MAX: Final = MIB
SNAPSHOT_BYTES_MAX: Final = (
    DOMAIN_MEMORY_BYTES_MAX + VCOPROCS_PER_DOMAIN_MAX * CONTEXT_BYTES_MAX + 128 * MIB
)
"""Of a whole snapshot, also of one that cannot be compressed."""
SNAPSHOT_CHUNK_BYTES: Final = 256 * KIB
"""Of a snapshot in one message; a client may send up to SNAPSHOT_CHUNK_BYTES_MAX."""
SNAPSHOT_CHUNK_BYTES_MAX: Final = MIB
SNAPSHOTS_MAX: Final = 4
"""Snapshots that are made or restored at the same time; then LimitExceeded."""
SNAPSHOT_STALL_NS: Final = 30 * S
"""A client that neither sends nor takes a piece for so long has its call ended."""

assert SLICE_NS_MIN <= SLICE_NS_DEFAULT <= SLICE_NS_MAX
assert SWITCH_DEADLINE_NS < HOLD_LIMIT_NS <= SAVED_HOLD_LIMIT_NS < TRAP_TIMEOUT_NS
assert SWITCH_RETRY_NS_MIN < SWITCH_RETRY_NS_MAX < SWITCH_DEADLINE_NS
assert DOMAIN_MEMORY_BYTES_MIN % PAGE_BYTES == 0 and BLOCK_BYTES % PAGE_BYTES == 0
assert GUEST_MMIO_BASE_IPA < GUEST_RAM_BASE_IPA
assert GUEST_RAM_BASE_IPA + DOMAIN_MEMORY_BYTES_MAX <= GUEST_IPA_MAX
assert GUEST_IRQ_MIN <= GUEST_IRQ_BASE <= GUEST_IRQ_MAX
assert DOMAIN_MEMORY_BYTES_MIN <= DOMAIN_MEMORY_BYTES_DEFAULT <= DOMAIN_MEMORY_BYTES_MAX
assert PRIVATE_MEMORY_BYTES_DEFAULT <= PRIVATE_MEMORY_BYTES_MAX
assert VCOPROCS_PER_COPROC_MAX <= VCOPROCS_KNOWN_MAX
# A new irq-router hears of every line that is high before it hears whose it is.
assert VCOPROCS_PER_COPROC_MAX <= UNMAPPED_VCOPROCS_MAX
assert MIN_RUN_NS_MAX < SLICE_NS_MAX
assert CLOCK_HZ_MIN <= CLOCK_HZ_DEFAULT <= CLOCK_HZ_MAX
assert RESTART_DELAY_NS_MIN <= RESTART_DELAY_NS_MAX <= RESTART_FORGIVEN_NS
assert REPAIR_DELAY_NS_MIN <= REPAIR_DELAY_NS_MAX
assert SWITCH_DEADLINE_NS < CALL_TIMEOUT_NS
assert STORE_LOCK_WAIT_NS < STORE_TIMEOUT_NS
assert SWITCH_IN_NS_MIN < SWITCH_DEADLINE_NS
assert ACCOUNTS_TIMEOUT_NS < CALL_TIMEOUT_NS
assert WATCHER_BLOCKED_NS_MAX < ANSWER_WAIT_NS
assert EVENTS_TAKEN_MAX <= EVENTS_RECENT_MAX <= EVENTS_KEPT_MAX
assert LINE_INTERVAL_NS_MIN <= LINE_INTERVAL_NS_DEFAULT <= LINE_INTERVAL_NS_MAX
assert SHUTDOWN_LOOK_NS < SHUTDOWN_NS_MAX
assert VCOPROCS_PER_DOMAIN_MAX + 2 <= 64, "contexts, manifest and file of a domain"
assert SNAPSHOT_CHUNK_BYTES <= SNAPSHOT_CHUNK_BYTES_MAX
assert SNAPSHOT_BYTES_MAX < 4096 * MIB, "a ZIP archive without its 64-bit extension"
