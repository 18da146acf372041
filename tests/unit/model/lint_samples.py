"""Images to be judged by the catalogue: twenty sound ones as clouds have them, and twenty with one mistake planted in each."""

from typing import NamedTuple

ID = "6d1f3f35-1a71-4a4e-9d3b-5f5b1c0f7c11"

SOUND: list[dict[str, str]] = [
    {},
    {"os_distro": "debian", "os_version": "12", "architecture": "x86_64"},
    {"hw_disk_bus": "virtio", "hw_vif_model": "virtio", "hw_qemu_guest_agent": "yes", "os_require_quiesce": "yes"},
    {"hw_qemu_guest_agent": "True", "hw_vif_multiqueue_enabled": "TRUE", "hw_pmu": "off", "img_hide_hypervisor_id": "false"},
    {"hw_scsi_model": "virtio-scsi", "hw_disk_bus": "scsi", "hw_cdrom_bus": "sata", "hw_machine_type": "q35"},
    {"hw_firmware_type": "uefi", "os_secure_boot": "required", "hw_firmware_stateless": "True", "hw_tpm_model": "tpm-crb", "hw_tpm_version": "2.0"},
    {"hw_cpu_sockets": "2", "hw_cpu_cores": "4", "hw_cpu_max_threads": "1", "hw_cpu_policy": "dedicated", "hw_cpu_thread_policy": "isolate"},
    {"hw_gpu_cores": "4", "hw_numa_nodes": "2", "hw_numa_cpus.0": "0,1", "hw_numa_mem.0": "2048", "hw_mem_page_size": "2MB"},
    {"hw_mem_page_size": "any", "hw_watchdog_action": "reset", "hw_serial_port_count": "0", "os_shutdown_timeout": "0"},
    {"hypervisor_type": "vmware", "vmware_ostype": "ubuntu64Guest", "vmware_disktype": "streamOptimized", "hw_vif_model": "VirtualVmxnet3"},
    {"vmware_ostype": "windows2019srv_64Guest", "vmware_adaptertype": "paraVirtual", "img_linked_clone": "yes"},
    {"hypervisor_type": "ironic", "img_type": "whole-disk", "kernel_id": ID, "ramdisk_id": ID},
    {"cinder_img_volume_type": "fast", "cinder_encryption_key_id": ID, "cinder_encryption_key_deletion_policy": "on_image_deletion"},
    {"img_signature": "c2lnbmVk", "img_signature_hash_method": "SHA-256", "img_signature_key_type": "RSA-PSS", "img_signature_certificate_uuid": ID},
    {"image_type": "snapshot", "base_image_ref": ID, "instance_uuid": ID, "boot_roles": "member,reader", "owner_user_name": "someone", "user_id": ID, "image_location": "snapshot"},
    {"owner_specified.openstack.md5": "", "owner_specified.openstack.sha256": "", "owner_specified.openstack.object": "images/debian"},
    {"trait:COMPUTE_SECURITY_TPM_2_0": "required", "trait:HW_CPU_X86_AVX2": "required", "trait:CUSTOM_TPM": "forbidden"},
    {"CIM_PASD_InstructionSet": "<or> x86:i386 <or> x86:64", "CIM_PASD_InstructionSetExtensionName": "x86:SSE2, x86:SSE3", "CIM_PASD_ProcessorArchitecture": "x86"},
    {"sw_database_mysql_listen_port": "3306", "sw_database_mysql_admin": "root", "sw_runtime_rust_version": "1.90", "sw_webserver_nginx_https_port": "65535"},
    {"build": "2026-11-01", "team": "blue", "max_disk": "80", "min_cpu": "2", "vm_node": "a7", "hw_vid_model": "x", "os_family": "bsd", "Größe": "groß", "license": "GPL", "release_notes": "x" * 5000},
]  # fmt: skip


class Planted(NamedTuple):
    """properties: the image's. named, kind: what is wrong. remedied: properties once the proposals are carried out, None where there is none.

    said: what the remedy must hold.
    """

    properties: dict[str, str]
    named: str
    kind: str
    said: str
    remedied: dict[str, str] | None = None


PLANTED: list[Planted] = [
    Planted({"hw_disk_buss": "virtio"}, "hw_disk_buss", "unknown", "hw_disk_bus", {"hw_disk_bus": "virtio"}),
    Planted({"hw_dsik_bus": "virtio"}, "hw_dsik_bus", "unknown", "hw_disk_bus", {"hw_disk_bus": "virtio"}),
    Planted({"hw-firmware-type": "uefi"}, "hw-firmware-type", "unknown", "hw_firmware_type", {"hw_firmware_type": "uefi"}),
    Planted({"HW_VIF_MODEL": "virtio"}, "HW_VIF_MODEL", "unknown", "hw_vif_model", {"hw_vif_model": "virtio"}),
    Planted({"hw:cpu_policy": "dedicated"}, "hw:cpu_policy", "unknown", "hw_cpu_policy", {"hw_cpu_policy": "dedicated"}),
    Planted({"watchdog_action": "reset"}, "watchdog_action", "unknown", "hw_watchdog_action", {"hw_watchdog_action": "reset"}),
    Planted({"architecure": "x86_64"}, "architecure", "unknown", "architecture", {"architecture": "x86_64"}),
    Planted({"os_admn_usr": "root"}, "os_admn_usr", "unknown", "os_admin_user", {"os_admin_user": "root"}),
    Planted({"visibilty": "public"}, "visibilty", "unknown", "the image's own attribute visibility"),
    Planted({"os_distro": "debian", "os_ditsro": "debian"}, "os_ditsro", "unknown", "remove", {"os_distro": "debian"}),
    Planted({"hw_disk_bus": "Virtio"}, "hw_disk_bus", "value", "virtio", {"hw_disk_bus": "virtio"}),
    Planted({"hw_video_model": "qlx"}, "hw_video_model", "value", "qxl", {"hw_video_model": "qxl"}),
    Planted({"hw_vif_model": "rtl"}, "hw_vif_model", "value", "allowed: e1000, "),
    Planted({"hw_cpu_cores": "four"}, "hw_cpu_cores", "type", "a whole number, 1 or more"),
    Planted({"hw_cpu_sockets": "2.0"}, "hw_cpu_sockets", "type", "a whole number", {"hw_cpu_sockets": "2"}),
    Planted({"img_linked_clone": "ture"}, "img_linked_clone", "type", "true", {"img_linked_clone": "true"}),
    Planted({"sw_database_mysql_listen_port": "70000"}, "sw_database_mysql_listen_port", "value", "1 to 65535"),
    Planted({"os_shutdown_timeout": "-5"}, "os_shutdown_timeout", "value", "0 or more"),
    Planted({"hw_mem_page_size": "huge"}, "hw_mem_page_size", "value", "of the form"),
    Planted({"CIM_PASD_InstructionSet": "<or> x86:64 <or> x86:65"}, "CIM_PASD_InstructionSet", "value", "x86:64"),
]  # fmt: skip
