"""Chapters: from nothing but the vault's name to a machine that is protected, and its end."""

from azure.mgmt.recoveryservices import models as vault_models
from azure.mgmt.recoveryservicessiterecovery import models as m

from session import AZURE, GROUP, HOME, MACHINE, MACHINES, MAPPING, POLICY, RECOVERY, VAULT, eventually, refused


class Inventory:
    def inventory(self):
        """From nothing but the vault's name to a machine that is protected."""
        self.vault_itself()
        self.sites()
        self.policies()
        self.protect()
        self.surroundings()

    def vault_itself(self):
        vaults = self.vaults.vaults
        (vault,) = vaults.list_by_subscription_id()
        assert (vault.name, vault.id) == (VAULT, self.vault_id("").rstrip("/"))
        assert [vault.id for vault in vaults.list_by_resource_group(GROUP)] == [vault.id]
        assert vaults.get(GROUP, VAULT).properties.provisioning_state == "Succeeded"
        wanted = vault_models.Vault(location="local", sku=vault_models.Sku(name="Standard"))
        assert vaults.begin_create_or_update(GROUP, VAULT, wanted).result().id == vault.id
        operations = list(self.client.operations.list(GROUP))
        assert any(operation.name.endswith("/unplannedFailover/action") for operation in operations)

    def sites(self):
        fabrics = self.client.replication_fabrics
        assert [fabric.name for fabric in fabrics.list(*self.vault)] == ["home", "recovery"]
        home = fabrics.get(*self.fabric)
        details = home.properties.custom_details
        assert isinstance(details, m.VMwareDetails), details
        assert [server.id for server in details.process_servers] == ["home-ps", "other-ps"]
        assert [server.id for server in details.master_target_servers] == ["home-mt"]
        assert fabrics.begin_create(*self.fabric, m.FabricCreationInput()).result().id == home.id
        assert fabrics.begin_check_consistency(*self.fabric).result().id == home.id
        assert refused(lambda: fabrics.begin_create(*self.vault, "new", m.FabricCreationInput())) == (
            400,
            "OperationNotSupported",
        )
        containers = self.client.replication_protection_containers
        (container,) = containers.list_by_replication_fabrics(*self.fabric)
        assert self.container == container.name
        assert len(list(containers.list(*self.vault))) == 2
        assert containers.get(*self.where).id == container.id
        assert containers.begin_create(*self.where, m.CreateProtectionContainerInput()).result().id == container.id
        wanted = m.DiscoverProtectableItemRequest(
            properties=m.DiscoverProtectableItemRequestProperties(friendly_name=MACHINE)
        )
        assert containers.begin_discover_protectable_item(*self.where, wanted).result().id == container.id

    def make_policy(self):
        """A policy, and its mapping, which is returned."""
        policies = self.client.replication_policies
        details = m.InMageAzureV2PolicyInput(
            recovery_point_threshold_in_minutes=30,
            recovery_point_history=1440,
            crash_consistent_frequency_in_minutes=5,
            app_consistent_frequency_in_minutes=60,
            multi_vm_sync_status="Enable",
        )
        wanted = m.CreatePolicyInput(properties=m.CreatePolicyInputProperties(provider_specific_input=details))
        policy = policies.begin_create(*self.vault, POLICY, wanted).result()
        assert isinstance(policy.properties.provider_specific_details, m.InMageAzureV2PolicyDetails)
        mappings = self.client.replication_protection_container_mappings
        wanted = m.CreateProtectionContainerMappingInput(
            properties=m.CreateProtectionContainerMappingInputProperties(
                policy_id=policy.id,
                target_protection_container_id=AZURE,
            )
        )
        mapping = mappings.begin_create(*self.where, MAPPING, wanted).result()
        assert mapping.properties.state == "Paired" and mapping.properties.policy_id == policy.id
        return mapping

    def policies(self):
        policies = self.client.replication_policies
        mapping = self.make_policy()
        mappings = self.client.replication_protection_container_mappings
        assert mappings.get(*self.where, MAPPING).id == mapping.id
        names = [mapping.name for mapping in mappings.list_by_replication_protection_containers(*self.where)]
        assert names == [MAPPING, "PG1", "PG1-failback", POLICY + "-failback"], names
        assert len(list(mappings.list(*self.vault))) == 4
        change = m.UpdatePolicyInput(
            properties=m.UpdatePolicyInputProperties(
                replication_provider_settings=m.InMagePolicyInput(
                    recovery_point_history=60, app_consistent_frequency_in_minutes=60, multi_vm_sync_status="Enable"
                )
            )
        )
        changed = policies.begin_update(*self.vault, POLICY + "-failback", change).result()
        assert changed.properties.provider_specific_details.recovery_point_history == 60
        assert policies.get(*self.vault, POLICY).properties.provider_specific_details.recovery_point_history == 1440
        assert len(list(policies.list(*self.vault))) == 4

    def protect(self):
        machines = self.client.replication_protectable_items
        unprotected = "State eq 'Unprotected'"
        (machine,) = machines.list_by_replication_protection_containers(*self.where, filter=unprotected)
        assert machine.properties.custom_details.discovery_type == "vCenter"
        assert machines.get(*self.where, machine.name).id == machine.id
        self.enable()
        shown = self.show()
        assert {"UnplannedFailover", "DisableProtection", "TestFailover"} <= set(shown.allowed_operations)
        details = shown.provider_specific_details
        assert len(details.protected_disks) == 2 and details.rpo_in_seconds is not None
        assert [item.name for item in self.items.list(*self.vault, filter="instanceType eq 'InMageAzureV2'")] == [MACHINE]
        assert [item.name for item in self.items.list_by_replication_protection_containers(*self.where)] == [MACHINE]
        assert list(machines.list_by_replication_protection_containers(*self.where, filter=unprotected)) == []

    def enable(self):
        """All machines are protected, together."""
        machines = self.client.replication_protectable_items.list_by_replication_protection_containers(*self.where)
        ids = {machine.properties.friendly_name: machine.id for machine in machines}
        (process_server, _), (_, master_target) = self.servers_of(HOME), self.servers_of(RECOVERY)

        def begin(machine):
            details = m.InMageAzureV2EnableProtectionInput(
                process_server_id=process_server, master_target_id=master_target, run_as_account_id="1"
            )
            properties = m.EnableProtectionInputProperties(
                policy_id=self.vault_id("replicationPolicies/" + POLICY),
                protectable_item_id=ids[machine],
                provider_specific_details=details,
            )
            return self.items.begin_create(*self.of(machine), m.EnableProtectionInput(properties=properties))

        assert [item.name for item in self.together(begin)] == MACHINES
        self.until("Protected")
        self.expect("Protected", "InMageAzureV2ReplicationDetails", "Primary")

    def surroundings(self):
        """What else a client of the contract looks at."""
        client = self.client
        (network,) = client.replication_networks.list_by_replication_fabrics(*self.fabric)
        assert len(list(client.replication_networks.list(*self.vault))) == 2
        wanted = m.CreateNetworkMappingInput(
            properties=m.CreateNetworkMappingInputProperties(
                recovery_fabric_name="recovery",
                recovery_network_id=self.vault_id("replicationFabrics/recovery/replicationNetworks/lan"),
            )
        )
        mappings = client.replication_network_mappings
        mapping = mappings.begin_create(*self.fabric, network.name, "recovery", wanted).result()
        assert [one.id for one in mappings.list(*self.vault)] == [mapping.id]
        mappings.begin_delete(*self.fabric, network.name, "recovery").result()
        health = client.replication_vault_health.begin_refresh(*self.vault).result()
        assert health.properties.protected_items_health.resource_count == 1
        assert client.replication_vault_health.get(*self.vault).id == health.id
        (setting,) = client.replication_vault_setting.list(*self.vault)
        assert setting.properties.vmware_to_azure_provider_type == "InMageAzureV2"
        (alert,) = client.replication_alert_settings.list(*self.vault)
        assert alert.properties.custom_email_addresses == []
        mail = m.ConfigureAlertRequest(
            properties=m.ConfigureAlertRequestProperties(custom_email_addresses=["admin@example.com"])
        )
        assert refused(lambda: client.replication_alert_settings.create(*self.vault, alert.name, mail))[0] == 400
        systems = client.supported_operating_systems.get(*self.vault, instance_type="InMageAzureV2")
        assert systems.properties.supported_os_list[0].supported_os[0].os_type == "Linux"
        (provider,) = client.replication_recovery_services_providers.list_by_replication_fabrics(*self.fabric)
        assert provider.properties.connection_status == "Connected"
        assert list(client.replicationv_centers.list(*self.vault)) == []
        update = m.UpdateReplicationProtectedItemInput(
            properties=m.UpdateReplicationProtectedItemInputProperties(recovery_azure_vm_size="Standard_B2s")
        )
        assert refused(lambda: self.items.begin_update(*self.item, update))[0] == 400, "the site is not at Azure"
        nothing = m.UpdateReplicationProtectedItemInput(properties=m.UpdateReplicationProtectedItemInputProperties())
        assert self.items.begin_update(*self.item, nothing).result().name == MACHINE
        assert list(client.target_compute_sizes.list_by_replication_protected_items(*self.item)) == []
        for nothing in (
            client.replication_appliances.list,
            client.replication_migration_items.list,
            client.replication_protection_clusters.list,
            client.replication_protection_intents.list,
            client.replication_storage_classifications.list,
            client.replication_storage_classification_mappings.list,
        ):
            assert list(nothing(*self.vault)) == []
        assert list(client.replication_logical_networks.list_by_replication_fabrics(*self.fabric)) == []
        machine = refused(lambda: client.replication_eligibility_results.list(GROUP, MACHINE))
        assert machine == (400, "OperationNotSupported"), machine

    def servers(self):
        """The machine is sent through another process server."""
        wanted = m.FailoverProcessServerRequest(
            properties=m.FailoverProcessServerRequestProperties(
                container_name=self.container,
                source_process_server_id="home-ps",
                target_process_server_id="other-ps",
                vms_to_migrate=[MACHINE],
                update_type="VmLevel",
            )
        )
        self.client.replication_fabrics.begin_reassociate_gateway(*self.fabric, wanted).result()
        eventually(
            lambda: self.show().provider_specific_details.process_server_id == "other-ps",
            lambda: "it is still sent through home-ps",
        )
        self.until("Protected")

    def bad_input(self):
        """What is refused is refused in words, and not by a connection that breaks."""
        details = m.InMageAzureV2EnableProtectionInput()
        properties = m.EnableProtectionInputProperties(policy_id=POLICY, provider_specific_details=details)
        wanted = m.EnableProtectionInput(properties=properties)
        for size in (1_100_000, 2_000_000, 5_000_000) * 4:
            details.run_as_account_id = "1" * size
            # The SDK would try again after a connection that broke.
            seen = refused(lambda: self.items.begin_create(*self.where, "web02", wanted, retry_total=0))
            assert seen == (413, "RequestEntityTooLarge"), seen
        properties.provider_specific_details = m.A2AEnableProtectionInput(fabric_object_id="1")
        assert refused(lambda: self.items.begin_create(*self.where, "web02", wanted))[0] == 400
        stranger = lambda: self.client.replication_fabrics.get(GROUP, "another-vault", HOME)
        assert refused(stranger) == (404, "ResourceNotFound")

    def end(self):
        """The protection and its policy end; mapping, container and fabric are removed, in this order."""
        wanted = m.DisableProtectionInput(
            properties=m.DisableProtectionInputProperties(
                disable_protection_reason="NotSpecified",
            )
        )
        self.items.begin_delete(*self.item, wanted).result()
        assert list(self.items.list(*self.vault)) == []
        assert refused(self.show)[0] == 404
        mappings = self.client.replication_protection_container_mappings
        unmap = m.RemoveProtectionContainerMappingInput(properties=m.RemoveProtectionContainerMappingInputProperties())
        mappings.begin_delete(*self.where, MAPPING, unmap).result()
        self.client.replication_policies.begin_delete(*self.vault, POLICY).result()
        assert len(list(self.client.replication_policies.list(*self.vault))) == 2
        containers, fabrics = self.client.replication_protection_containers, self.client.replication_fabrics
        assert refused(lambda: containers.begin_delete(*self.where)) == (409, "site.in-use"), "PG1 is mapped"
        assert refused(lambda: fabrics.begin_delete(*self.fabric)) == (409, "site.in-use")
        mappings.begin_delete(*self.where, "PG1", unmap).result()
        containers.begin_delete(*self.where).result()
        fabrics.begin_delete(*self.fabric).result()
        assert [fabric.name for fabric in fabrics.list(*self.vault)] == ["recovery"]
        assert refused(lambda: containers.get(*self.where))[0] == 404
