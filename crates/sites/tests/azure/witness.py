"""Microsoft's own clients of Resource Manager drive the emulator, and look at what our site has made there.

    witness.py cycle URL AUTHORITY TENANT CLIENT SECRET SUBSCRIPTION GROUP SUBNET BLOB ACCOUNT
    witness.py server URL AUTHORITY TENANT CLIENT SECRET SUBSCRIPTION GROUP SUBNET
    witness.py tell  URL AUTHORITY TENANT CLIENT SECRET SUBSCRIPTION GROUP

`cycle` makes everything that a failover makes from the page blob at BLOB, uses it and removes it; it fails by an exception. `server` does so with a machine of a marketplace image that is given custom data. `tell` prints one line of
facts for each virtual machine, disk and card.
"""

import base64
import sys

from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import ClientSecretCredential
from azure.mgmt.compute import ComputeManagementClient
from azure.mgmt.network import NetworkManagementClient
from azure.mgmt.resource.resources import ResourceManagementClient


def clients(url, authority, tenant, client, secret, subscription):
    credential = ClientSecretCredential(
        tenant, client, secret, authority=url, disable_instance_discovery=True, connection_verify=authority
    )
    options = {
        "base_url": url,
        "credential_scopes": ["https://management.azure.com/.default"],
        "connection_verify": authority,
        "polling_interval": 0.05,
    }
    made = [ComputeManagementClient, NetworkManagementClient, ResourceManagementClient]
    return [one(credential, subscription, **options) for one in made]


def power(view):
    return [status.code for status in view.statuses if status.code.startswith("PowerState/")]


def refused(action, status, code):
    try:
        action()
    except HttpResponseError as error:
        assert (error.status_code, error.error.code) == (status, code), (error.status_code, error.error.code)
        return
    raise AssertionError(f"{code} was expected")


def cycle(compute, network, resource, group, subnet, blob, account):
    region = "westeurope"
    assert resource.resource_groups.get(group).location == region
    other = resource.resource_groups.create_or_update("Witness", {"location": region, "tags": {"a": "b"}})
    assert other.properties.provisioning_state == "Succeeded" and other.tags == {"a": "b"}
    assert {"Recovery", "Witness"} <= {one.name for one in resource.resource_groups.list()}
    assert resource.providers.get("Microsoft.Compute").registration_state == "Registered"

    networks = list(network.virtual_networks.list(group))
    assert [one.name for one in networks] == ["recovery-net"], networks
    assert network.subnets.get(group, "recovery-net", "production").address_prefix == "10.20.1.0/24"
    assert len(list(network.subnets.list(group, "recovery-net"))) == 2

    card = network.network_interfaces.begin_create_or_update(
        group,
        "witness-nic",
        {
            "location": region,
            "properties": {
                "ipConfigurations": [
                    {
                        "name": "primary",
                        "properties": {
                            "subnet": {"id": subnet},
                            "privateIPAllocationMethod": "Static",
                            "privateIPAddress": "10.20.1.9",
                        },
                    }
                ]
            },
        },
    ).result()
    assert card.ip_configurations[0].private_ip_address == "10.20.1.9" and card.mac_address is None
    answer = network.virtual_networks.check_ip_address_availability(group, "recovery-net", ip_address="10.20.1.9")
    assert answer.available is False and "10.20.1.10" in answer.available_ip_addresses

    def disk(name, source):
        data = {"createOption": "Import", "sourceUri": source, "storageAccountId": account}
        properties = {"creationData": data, "osType": "Linux", "hyperVGeneration": "V1"}
        body = {"location": region, "properties": properties}
        return compute.disks.begin_create_or_update(group, name, body).result()

    imported = disk("witness-disk", blob)
    assert imported.provisioning_state == "Succeeded" and imported.disk_size_bytes == 1 << 20, imported
    copy = {"location": region, "properties": {"creationData": {"createOption": "Copy", "sourceResourceId": imported.id}}}
    copied = compute.disks.begin_create_or_update(group, "witness-copy", copy).result()
    assert copied.disk_size_bytes == 1 << 20
    refused(lambda: disk("witness-absent", blob + "x"), 200, "ImportSourceBlobNotFound")
    compute.disks.begin_delete(group, "witness-absent").result()

    body = {
        "location": region,
        "properties": {
            "hardwareProfile": {"vmSize": "Standard_B2s"},
            "storageProfile": {
                "osDisk": {"osType": "Linux", "createOption": "Attach", "managedDisk": {"id": imported.id}},
                "dataDisks": [{"lun": 0, "createOption": "Attach", "managedDisk": {"id": copied.id}}],
            },
            "networkProfile": {"networkInterfaces": [{"id": card.id, "properties": {"primary": True}}]},
            "diagnosticsProfile": {"bootDiagnostics": {"enabled": True}},
        },
    }
    made = compute.virtual_machines.begin_create_or_update(group, "witness-vm", body).result()
    assert made.provisioning_state == "Succeeded" and len(made.vm_id) == 36
    assert network.network_interfaces.get(group, "WITNESS-NIC").mac_address.startswith("00-0D-3A-")
    assert "witness-vm" in [one.name for one in compute.virtual_machines.list(group)]
    view = compute.virtual_machines.get(group, "witness-vm", expand="instanceView").instance_view
    assert power(view) == ["PowerState/running"], power(view)
    second = dict(body, properties=dict(body["properties"], networkProfile={"networkInterfaces": []}))
    refused(
        lambda: compute.virtual_machines.begin_create_or_update(group, "witness-second", second).result(),
        409,
        "ConflictingUserInput",
    )
    refused(lambda: compute.disks.begin_delete(group, "witness-disk").result(), 409, "OperationNotAllowed")
    refused(lambda: network.network_interfaces.begin_delete(group, "witness-nic").result(), 400, "NicInUse")
    log = compute.virtual_machines.retrieve_boot_diagnostics_data(group, "witness-vm")
    assert log.serial_console_log_blob_uri.startswith("https://")

    compute.virtual_machines.begin_power_off(group, "witness-vm", skip_shutdown=True).result()
    assert power(compute.virtual_machines.instance_view(group, "witness-vm")) == ["PowerState/stopped"]
    compute.virtual_machines.begin_start(group, "witness-vm").result()
    assert power(compute.virtual_machines.instance_view(group, "witness-vm")) == ["PowerState/running"]
    cores = [usage for usage in compute.usage.list(region) if usage.name.value == "cores"][0]
    compute.virtual_machines.begin_deallocate(group, "witness-vm").result()
    assert power(compute.virtual_machines.instance_view(group, "witness-vm")) == ["PowerState/deallocated"]
    freed = [usage for usage in compute.usage.list(region) if usage.name.value == "cores"][0]
    assert cores.current_value - freed.current_value == 2
    assert "Standard_B2s" in [size.name for size in compute.virtual_machine_sizes.list(region)]

    compute.virtual_machines.begin_delete(group, "witness-vm").result()
    try:
        compute.virtual_machines.get(group, "witness-vm")
        raise AssertionError("it is still there")
    except ResourceNotFoundError:
        pass
    network.network_interfaces.begin_delete(group, "witness-nic").result()
    for name in ["witness-disk", "witness-copy"]:
        compute.disks.begin_delete(group, name).result()
    assert [one.name for one in compute.disks.list_by_resource_group(group)] == []
    resource.resource_groups.begin_delete("Witness").result()
    assert not resource.resource_groups.check_existence("Witness")
    print("done")


def text(value):
    """A known value of theirs, or a text."""
    return getattr(value, "value", value)


def server(compute, network, group, subnet):
    region = "westeurope"
    address = {"subnet": {"id": subnet}, "privateIPAllocationMethod": "Static", "privateIPAddress": "10.20.1.9"}
    card_body = {"location": region, "properties": {"ipConfigurations": [{"name": "primary", "properties": address}]}}
    card = network.network_interfaces.begin_create_or_update(group, "witness-nic", card_body).result()
    key = {"path": "/home/anna/.ssh/authorized_keys", "keyData": "ssh-ed25519 AAAA anna@example"}
    linux = {"disablePasswordAuthentication": True, "ssh": {"publicKeys": [key]}}
    secret = base64.b64encode(b"#!/bin/sh\necho hello\n").decode()

    def body(sku="12-gen2", profile=None):
        image = {"publisher": "Debian", "offer": "debian-12", "sku": sku, "version": "latest"}
        disk = {
            "name": "witness-os",
            "osType": "Linux",
            "createOption": "FromImage",
            "deleteOption": "Delete",
            "diskSizeGB": 64,
            "managedDisk": {"storageAccountType": "StandardSSD_LRS"},
        }
        own = {"computerName": "witness", "adminUsername": "anna", "customData": secret, "linuxConfiguration": linux}
        properties = {
            "hardwareProfile": {"vmSize": "Standard_B2s"},
            "storageProfile": {"imageReference": image, "osDisk": disk},
            "osProfile": own if profile is None else profile,
            "networkProfile": {"networkInterfaces": [{"id": card.id, "properties": {"primary": True}}]},
        }
        return {"location": region, "properties": properties}

    def make(wanted):
        return compute.virtual_machines.begin_create_or_update(group, "witness-vm", wanted).result()

    refused(lambda: make(body(sku="13-absent")), 404, "PlatformImageNotFound")
    refused(lambda: make(body(profile={"computerName": "witness", "adminUsername": "anna"})), 400, "InvalidParameter")
    made = make(body())
    assert made.provisioning_state == "Succeeded" and made.os_profile.computer_name == "witness"
    assert made.os_profile.custom_data is None and made.os_profile.linux_configuration.disable_password_authentication
    disk = compute.disks.get(group, "witness-os")
    assert (disk.disk_size_gb, disk.hyper_v_generation, disk.managed_by) == (64, "V2", made.id), disk
    assert compute.virtual_machines.get(group, "witness-vm").storage_profile.os_disk.managed_disk.id == disk.id
    compute.virtual_machines.begin_delete(group, "witness-vm").result()
    assert [one.name for one in compute.disks.list_by_resource_group(group)] == []
    network.network_interfaces.begin_delete(group, "witness-nic").result()
    print("done")


def tell(compute, network, group):
    for vm in compute.virtual_machines.list(group):
        view = compute.virtual_machines.instance_view(group, vm.name)
        disks = [vm.storage_profile.os_disk, *vm.storage_profile.data_disks]
        names = [disk.managed_disk.id.split("/")[-1] for disk in disks]
        generation = text(compute.disks.get(group, names[0]).hyper_v_generation)
        tags = ",".join(f"{name}={value}" for name, value in sorted(vm.tags.items()) if name != "switchback-container")
        size = vm.hardware_profile.vm_size
        print(f"vm|{vm.name}|{vm.vm_id}|{size}|{','.join(power(view))}|{','.join(names)}|{generation}|{tags}")
    for disk in compute.disks.list_by_resource_group(group):
        owner = (disk.managed_by or "").split("/")[-1]
        option, kind = text(disk.creation_data.create_option), text(disk.sku.name)
        print(f"disk|{disk.name}|{option}|{disk.creation_data.source_uri}|{kind}|{owner}")
    for card in network.network_interfaces.list(group):
        first = card.ip_configurations[0]
        subnet, mac = first.subnet.id.split("/")[-1], card.mac_address.replace("-", ":").lower()
        print(f"nic|{card.name}|{mac}|{subnet}|{text(first.private_ip_allocation_method)}")


def main():
    what, *connection = sys.argv[1:8]
    group, *rest = sys.argv[8:]
    compute, network, resource = clients(*connection)
    if what == "cycle":
        cycle(compute, network, resource, group, *rest)
    elif what == "server":
        server(compute, network, group, *rest)
    else:
        tell(compute, network, group)


main()
