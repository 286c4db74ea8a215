"""Calls of the public API that show configuration: what is in force, and a domain's device tree."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import grpc

from vcoproc import limits
from vcoproc.api.v1 import toolstack_pb2 as api
from vcoproc.config import CoprocConfig, DomainConfig, SystemConfig, VcoprocConfig
from vcoproc.config.dts_writer import write_source
from vcoproc.config.fdt import write_blob
from vcoproc.config.guest_tree import GuestLine, GuestRange, GuestVcoproc, guest_tree
from vcoproc.config.settings import (
    coproc_settings,
    domain_settings,
    is_of_schedule,
    vcoproc_setting,
)
from vcoproc.config.trees import DtsNode
from vcoproc.errors import NotFound
from vcoproc_toolstack import translate
from vcoproc_toolstack.placing import as_wish
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
            settings += first_settings(first, self._queries.first_domain(), system)
        return api.Configuration(file_name=system.file_name, settings=settings)


def first_settings(
    asked: DomainConfig, domain: DomainRecord | None, system: SystemConfig
) -> list[api.Setting]:
    """The settings of the first domain.

    Args:
        asked: what the tree asks for.
        domain: what there is; None while it is not made.
    """
    resource = f"domains/{asked.name}"
    if domain is None:
        return [setting_message(resource, each) for each in domain_settings(asked)]
    head = domain_settings(replace(asked, vcoprocs=()))
    settings = [setting_message(resource, each) for each in head]
    wishes = {wish.name: wish for wish in asked.vcoprocs}
    for vcoproc in domain.vcoprocs:
        wish = wishes.get(vcoproc.name)
        same = wish is not None and _is_as_asked(wish, vcoproc, system)
        now = wish if wish is not None and same else as_wish(vcoproc)
        setting = vcoproc_setting(now, asked.file_name)
        settings.append(setting_message(resource, setting, changed=not same))
    return settings


def _is_as_asked(wish: VcoprocConfig, vcoproc: VcoprocRecord, system: SystemConfig) -> bool:
    try:
        coproc = system.find(wish.coproc).name
    except NotFound:  # it was removed, and the vcoproc is elsewhere
        return False
    return (coproc, wish.params) == (vcoproc.coproc, vcoproc.params)


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
