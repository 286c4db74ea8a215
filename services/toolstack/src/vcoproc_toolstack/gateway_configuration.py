"""Calls of the public API that show configuration: what is in force, and a domain's device tree."""

from __future__ import annotations

from collections.abc import Mapping

import grpc

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.config import CoprocConfig
from vcoproc.config.dts_writer import write_source
from vcoproc.config.fdt import write_blob
from vcoproc.config.guest_tree import GuestLine, GuestRange, GuestVcoproc, guest_tree
from vcoproc.config.settings import coproc_settings, domain_settings, is_of_schedule
from vcoproc.config.trees import DtsNode
from vcoproc_toolstack import translate
from vcoproc_toolstack.queries import Queries
from vcoproc_toolstack.records import DomainRecord, VcoprocRecord
from vcoproc_toolstack.translate_configuration import setting_message


class ConfigurationCalls:
    """A part of the gateway, which has the queries."""

    _queries: Queries

    def GetDomainDeviceTree(
        self, request: api.GetDomainDeviceTreeRequest, _context: grpc.ServicerContext
    ) -> api.GetDomainDeviceTreeResponse:
        [name] = translate.parse_name("name", request.name, "domains")
        root = device_tree(*self._queries.guest(name))
        return api.GetDomainDeviceTreeResponse(source=write_source(root), blob=write_blob(root))

    def GetConfiguration(
        self, request: api.GetConfigurationRequest, _context: grpc.ServicerContext
    ) -> api.Configuration:
        name = ""
        if request.coproc:
            [name] = translate.parse_name("coproc", request.coproc, "coprocs")
        system, coprocs = self._queries.configuration(name)
        settings = [
            setting_message(
                f"coprocs/{coproc.name}", setting, changed=overridden and is_of_schedule(setting)
            )
            for coproc, overridden in coprocs
            for setting in coproc_settings(coproc)
        ]
        first = system.first_domain
        if first is not None and not name:
            settings += [
                setting_message(f"domains/{first.name}", each) for each in domain_settings(first)
            ]
        return api.Configuration(file_name=system.file_name, settings=settings)


def device_tree(domain: DomainRecord, coprocs: Mapping[str, CoprocConfig]) -> DtsNode:
    """The fragment for a domain's drivers.

    Args:
        coprocs: by identifier; what is not known of one that is gone is left out.
    """
    return guest_tree(
        [_guest(vcoproc, coprocs.get(vcoproc.coproc)) for vcoproc in domain.vcoprocs],
        [(limits.GUEST_RAM_BASE_IPA, domain.memory_bytes)],
    )


def _guest(vcoproc: VcoprocRecord, coproc: CoprocConfig | None) -> GuestVcoproc:
    return GuestVcoproc(
        name=vcoproc.name,
        coproc=vcoproc.coproc,
        # Of one that wraps another, the driver must see what it drives: the one inside.
        compatible=coproc.described_by if coproc is not None else vcoproc.compatible,
        ranges=tuple(
            GuestRange(place.name, place.ipa, place.size_bytes, place.mapped)
            for place in vcoproc.ranges
        ),
        lines=tuple(GuestLine(line.name, line.irq, line.level) for line in vcoproc.lines),
        clock_hz=coproc.clock_hz if coproc is not None else None,
        private_bytes=coproc.private_bytes if coproc is not None else None,
    )
