"""The keys of xl.cfg(5) that mean nothing here: as of Xen 4.17, and those of later releases.

They tell a key of Xen, which is kept and named, from a typing mistake, which is warned of.
"""

from __future__ import annotations

from typing import Final

_TEXT: Final = """
acpi acpi_firmware acpi_laptop_slate acpi_s3 acpi_s4 altp2m altp2m_count altp2mhvm apic
assisted_x2apic assisted_xapic bios bios_path_override boot bootloader bootloader_args builder cap
channel cmdline cpu_weight cpuid cpus cpus_soft device_model_args device_model_args_hvm
device_model_args_pv device_model_machine device_model_override device_model_stubdomain_override
device_model_stubdomain_seclabel device_model_user device_model_version device_tree disk
dm_restrict driver_domain dtdev e820_host extra firmware gfx_passthru gic_version hap hdtype hpet
init_seclabel iomem ioports irqs kernel keymap llc_colors localtime max_event_channels
max_grant_frames max_grant_version max_maptrack_frames maxmem maxvcpus mca_caps mmio_hole
ms_vm_genid msr_relaxed nestedhvm nographic nomigrate nx on_soft_reset on_watchdog oos opengl p9
pae passthrough pci pci_msitranslate pci_permissive pci_power_mgmt pci_seize pool pvcalls pvshim
pvshim_cmdline pvshim_extra pvshim_path ramdisk rdm rdm_mem_boundary root rtc_timeoffset sdl
seclabel serial shadow_memory smbios_firmware soundhw spice spice_clipboard_sharing
spice_image_compression spice_streaming_video spiceagent_mouse spicedisable_ticketing spicehost
spicepasswd spiceport spicetls_port spiceusbredirection spicevdagent static_shm stdvga
stubdomain_cmdline stubdomain_kernel stubdomain_memory stubdomain_ramdisk sve tee timer_mode
trap_unmapped_accesses tsc_mode type usb usbctrl usbdev usbdevice usbversion uuid vcpus vdispl
vendor_device vfb vga vgsx videoram vif viridian virtio vkb vkb_device vmtrace_buf_kb vnc
vncdisplay vnclisten vncpasswd vncunused vnuma vpci vpmu vpt_align vscsi vsnd vtpm vuart
xen_platform_pci xend_suspend_evtchn_compat
"""
XL_KEYS: Final = frozenset(_TEXT.split())
