"""Microsoft's SDK for Azure Site Recovery, unmodified, against a configuration server.

client.py URL API-VERSION CA-FILE DIRECTORY CHAPTER...        the token is in the file SWITCHBACK_TOKEN_FILE

Every exchange is recorded below DIRECTORY by a policy in the client's pipeline: see recorder.py.
"""

import os
import sys
import time

from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.mgmt.recoveryservices import RecoveryServicesClient
from azure.mgmt.recoveryservices import models as vault_models
from azure.mgmt.recoveryservicessiterecovery import SiteRecoveryManagementClient
from azure.mgmt.recoveryservicessiterecovery import models as m

from recorder import Recorder

SUBSCRIPTION, GROUP, VAULT = "00000000-0000-0000-0000-000000000000", "switchback", "switchback"
AZURE = "Microsoft Azure"
HOME, MACHINE = "home", "web01"
POLICY, MAPPING, PLAN = "PG2", "home-to-azure", "RP1"
# Seconds for anything that the simulated sites do by themselves.
PATIENCE = 60


class Token:
    """The server's own bearer token, as the SDK wants a credential."""

    def get_token(self, *_scopes, **_kwargs):
        with open(os.environ["SWITCHBACK_TOKEN_FILE"]) as file:
            return AccessToken(file.read(), int(time.time()) + 3600)


class Run:
    def __init__(self, url, api_version, authority, directory):
        recorder = Recorder(directory)
        common = {
            "base_url": url,
            "credential_scopes": [url + "/.default"],
            "connection_verify": authority,
            "polling_interval": 1,
            "per_retry_policies": [recorder],
        }
        self.vaults = RecoveryServicesClient(Token(), SUBSCRIPTION, **common)
        self.client = SiteRecoveryManagementClient(Token(), SUBSCRIPTION, api_version=api_version, **common)
        # Found when it is first needed.
        self.known_container = None
        self.items = self.client.replication_protected_items
        self.plans = self.client.replication_recovery_plans

    # What all calls begin with.
    @property
    def vault(self):
        return GROUP, VAULT

    @property
    def fabric(self):
        return *self.vault, HOME

    @property
    def where(self):
        return *self.fabric, self.container

    @property
    def container(self):
        if self.known_container is None:
            containers = self.client.replication_protection_containers
            (container,) = containers.list_by_replication_fabrics(*self.fabric)
            self.known_container = container.name
        return self.known_container

    @property
    def item(self):
        return *self.where, MACHINE

    def vault_id(self, rest):
        return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.RecoveryServices/vaults/{VAULT}/{rest}"

    def show(self):
        return self.items.get(*self.item).properties

    def expect(self, state, provider, location):
        shown = self.show()
        seen = (shown.protection_state, type(shown.provider_specific_details).__name__, shown.active_location)
        assert seen == (state, provider, location), seen
        return shown

    def until(self, state):
        """Waits for what a job does not wait for: the end of an initial replication."""
        deadline = time.monotonic() + PATIENCE
        while (seen := self.show().protection_state) != state:
            assert time.monotonic() < deadline, f"it stays {seen}, and does not become {state}"
            time.sleep(0.5)

    # Chapters.

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

    def policies(self):
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
        (machine,) = machines.list_by_replication_protection_containers(*self.where, filter="State eq 'Unprotected'")
        assert machine.properties.custom_details.discovery_type == "vCenter"
        assert machines.get(*self.where, machine.name).id == machine.id
        wanted = m.EnableProtectionInput(
            properties=m.EnableProtectionInputProperties(
                policy_id=self.vault_id("replicationPolicies/" + POLICY),
                protectable_item_id=machine.id,
                provider_specific_details=m.InMageAzureV2EnableProtectionInput(
                    process_server_id="home-ps", master_target_id="recovery-mt", run_as_account_id="1"
                ),
            )
        )
        item = self.items.begin_create(*self.item, wanted).result()
        assert item.name == MACHINE
        self.until("Protected")
        shown = self.expect("Protected", "InMageAzureV2ReplicationDetails", "Primary")
        assert {"UnplannedFailover", "DisableProtection", "TestFailover"} <= set(shown.allowed_operations)
        details = shown.provider_specific_details
        assert len(details.protected_disks) == 2 and details.rpo_in_seconds is not None
        assert [item.name for item in self.items.list(*self.vault, filter="instanceType eq 'InMageAzureV2'")] == [MACHINE]
        assert [item.name for item in self.items.list_by_replication_protection_containers(*self.where)] == [MACHINE]
        assert list(machines.list_by_replication_protection_containers(*self.where, filter="State eq 'Unprotected'")) == []

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

    def points(self):
        deadline = time.monotonic() + PATIENCE
        # More than a page of the server, which has five: so the SDK follows nextLink.
        while len(points := list(self.client.recovery_points.list_by_replication_protected_items(*self.item))) <= 5:
            assert time.monotonic() < deadline, f"{len(points)} recovery points"
            time.sleep(0.5)
        assert self.client.recovery_points.get(*self.item, points[0].name).id == points[0].id
        return points

    def failover(self, details, shut_down="Required"):
        wanted = m.UnplannedFailoverInput(
            properties=m.UnplannedFailoverInputProperties(
                failover_direction="PrimaryToRecovery",
                source_site_operations=shut_down,
                provider_specific_details=details,
            )
        )
        return self.items.begin_unplanned_failover(*self.item, wanted).result().properties

    def commit(self):
        return self.items.begin_failover_commit(*self.item).result().properties

    def reprotect(self, details):
        wanted = m.ReverseReplicationInput(
            properties=m.ReverseReplicationInputProperties(
                failover_direction="RecoveryToPrimary", provider_specific_details=details
            )
        )
        self.items.begin_reprotect(*self.item, wanted).result()
        self.until("Protected")

    def reprotect_home(self):
        self.reprotect(
            m.InMageReprotectInput(
                master_target_id="home-mt",
                process_server_id="recovery-ps",
                retention_drive="/retention",
                profile_id=self.vault_id(f"replicationPolicies/{POLICY}-failback"),
                datastore_name="store",
            )
        )
        return self.expect("Protected", "InMageReplicationDetails", "Primary")

    def reprotect_away(self):
        self.reprotect(
            m.InMageAzureV2ReprotectInput(
                master_target_id="recovery-mt",
                process_server_id="home-ps",
                policy_id=self.vault_id("replicationPolicies/" + POLICY),
            )
        )
        return self.expect("Protected", "InMageAzureV2ReplicationDetails", "Primary")

    def round(self):
        """Away and home again, and ready for the next time."""
        begin = self.show()
        point = self.points()[1]
        details = m.InMageAzureV2UnplannedFailoverInput(recovery_point_id=point.id)
        away = self.failover(details)
        assert away.failover_recovery_point_id == point.id
        assert set(away.allowed_operations) == {"ChangePit", "CancelFailover", "Commit"}
        newest = self.client.recovery_points.list_by_replication_protected_items(*self.item).__next__()
        wanted = m.ApplyRecoveryPointInput(
            properties=m.ApplyRecoveryPointInputProperties(
                recovery_point_id=newest.id,
                provider_specific_details=m.InMageAzureV2ApplyRecoveryPointInput(),
            )
        )
        changed = self.items.begin_apply_recovery_point(*self.item, wanted).result().properties
        assert changed.failover_recovery_point_id == newest.id
        assert refused(lambda: self.failover(m.InMageAzureV2UnplannedFailoverInput()))[0] == 409
        self.commit()
        away = self.expect("UnplannedFailoverCommitted", "InMageAzureV2ReplicationDetails", "Recovery")
        assert {"CompleteMigration", "DisableProtection", "SwitchProtection"} <= set(away.allowed_operations)
        home = self.reprotect_home()
        assert home.policy_friendly_name == POLICY + "-failback"
        assert home.protectable_item_id != begin.protectable_item_id
        self.failover(m.InMageUnplannedFailoverInput(recovery_point_type="LatestTime"))
        self.commit()
        self.expect("UnplannedFailoverCommitted", "InMageReplicationDetails", "Recovery")
        again = self.reprotect_away()
        assert again.protectable_item_id == begin.protectable_item_id
        assert again.policy_friendly_name == POLICY
        self.jobs()

    def jobs(self):
        jobs = self.client.replication_jobs
        scenarios = [job.properties.scenario_name for job in jobs.list(*self.vault)]
        assert scenarios.count("UnplannedFailover") == 2 and scenarios.count("CommitFailover") == 2, scenarios
        wanted = "JobName eq 'UnplannedFailover' and JobStatus eq 'Succeeded'"
        (newest, _) = jobs.list(*self.vault, filter=wanted)
        job = jobs.get(*self.vault, newest.name).properties
        assert isinstance(job.custom_details, m.FailoverJobDetails), job.custom_details
        assert job.tasks and all(task.state in ("Succeeded", "Other") for task in job.tasks)
        assert refused(lambda: jobs.begin_cancel(*self.vault, newest.name))[0] == 409
        assert refused(lambda: jobs.begin_export(*self.vault, m.JobQueryParameter()))[1] == "OperationNotSupported"
        events = list(self.client.replication_events.list(*self.vault))
        for event in events[:3]:
            assert self.client.replication_events.get(*self.vault, event.name).id == event.id

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
        deadline = time.monotonic() + PATIENCE
        while self.show().provider_specific_details.process_server_id != "other-ps":
            assert time.monotonic() < deadline, "it is still sent through home-ps"
            time.sleep(0.5)
        self.until("Protected")

    def rehearsal(self):
        """A test failover, its cleanup; a planned failover that is thought better of."""
        wanted = m.TestFailoverInput(
            properties=m.TestFailoverInputProperties(
                failover_direction="PrimaryToRecovery",
                network_type="NoNetworkAttachAsInput",
                provider_specific_details=m.InMageAzureV2TestFailoverInput(),
            )
        )
        shown = self.items.begin_test_failover(*self.item, wanted).result().properties
        assert shown.test_failover_state == "WaitingForCompletion"
        wanted = m.TestFailoverCleanupInput(properties=m.TestFailoverCleanupInputProperties(comments="fine"))
        shown = self.items.begin_test_failover_cleanup(*self.item, wanted).result().properties
        assert shown.last_successful_test_failover_time is not None
        wanted = m.PlannedFailoverInput(
            properties=m.PlannedFailoverInputProperties(failover_direction="PrimaryToRecovery")
        )
        shown = self.items.begin_planned_failover(*self.item, wanted).result().properties
        assert (shown.protection_state, shown.active_location) == ("UnplannedFailoverCommitRequired", "Recovery")
        self.items.begin_failover_cancel(*self.item).result()
        self.until("Protected")
        self.items.begin_repair_replication(*self.item).result()
        self.until("Protected")

    def make_plan(self):
        group = m.RecoveryPlanGroup(
            group_type="Boot",
            replication_protected_items=[
                m.RecoveryPlanProtectedItem(id=self.items.get(*self.item).id, virtual_machine_id=MACHINE)
            ],
            start_group_actions=[],
            end_group_actions=[],
        )
        wanted = m.CreateRecoveryPlanInput(
            properties=m.CreateRecoveryPlanInputProperties(
                primary_fabric_id=self.vault_id("replicationFabrics/" + HOME),
                recovery_fabric_id=AZURE,
                failover_deployment_model="ResourceManager",
                groups=[group],
            )
        )
        made = self.plans.begin_create(*self.vault, PLAN, wanted).result()
        assert "UnplannedFailover" in made.properties.allowed_operations
        return made

    def after_plan(self):
        """Somebody has taken the plan there and back."""
        self.expect("Protected", "InMageAzureV2ReplicationDetails", "Primary")
        filtered = self.client.replication_jobs.list(*self.vault, filter=f"targetObjectName eq '{PLAN}'")
        done = [(job.properties.scenario_name, job.properties.state) for job in filtered]
        assert done.count(("UnplannedFailover", "Succeeded")) == 2 and len(done) == 6, done

    def plan(self):
        """All versions of the above for a whole plan, which cannot be scripted with the service."""
        plan = (*self.vault, PLAN)
        made = self.make_plan()
        update = m.UpdateRecoveryPlanInput(
            properties=m.UpdateRecoveryPlanInputProperties(groups=made.properties.groups)
        )
        assert self.plans.begin_update(*plan, update).result().id == made.id
        assert [one.name for one in self.plans.list(*self.vault)] == [PLAN]
        self.plan_rehearsal(plan)
        self.plan_with_a_person(plan, made.properties.groups)
        self.plan_round(plan)
        self.plans.begin_delete(*plan).result()
        assert list(self.plans.list(*self.vault)) == []

    def plan_rehearsal(self, plan):
        wanted = m.RecoveryPlanTestFailoverInput(
            properties=m.RecoveryPlanTestFailoverInputProperties(
                failover_direction="PrimaryToRecovery",
                network_type="NoNetworkAttachAsInput",
                provider_specific_details=[m.RecoveryPlanInMageAzureV2FailoverInput(recovery_point_type="LatestProcessed")],
            )
        )
        self.plans.begin_test_failover(*plan, wanted).result()
        assert self.show().test_failover_state == "WaitingForCompletion"
        wanted = m.RecoveryPlanTestFailoverCleanupInput(
            properties=m.RecoveryPlanTestFailoverCleanupInputProperties(comments="fine")
        )
        self.plans.begin_test_failover_cleanup(*plan, wanted).result()

    def plan_failover(self, plan):
        away = m.RecoveryPlanInMageAzureV2FailoverInput(recovery_point_type="Latest", use_multi_vm_sync_point="true")
        wanted = m.RecoveryPlanUnplannedFailoverInput(
            properties=m.RecoveryPlanUnplannedFailoverInputProperties(
                failover_direction="PrimaryToRecovery",
                source_site_operations="Required",
                provider_specific_details=[away],
            )
        )
        return self.plans.begin_unplanned_failover(*plan, wanted)

    def plan_with_a_person(self, plan, groups):
        """A failover waits for somebody, who cancels it; and the next one, who lets it go on."""

        def update(actions):
            boot = groups[-1]
            boot.start_group_actions = actions
            properties = m.UpdateRecoveryPlanInputProperties(groups=[boot])
            self.plans.begin_update(*plan, m.UpdateRecoveryPlanInput(properties=properties)).result()

        def waiting():
            deadline = time.monotonic() + PATIENCE
            while not (jobs := list(self.client.replication_jobs.list(*self.vault, filter="jobStatus eq 'Suspended'"))):
                assert time.monotonic() < deadline, "no job waits"
                time.sleep(0.5)
            (job,) = jobs
            assert job.properties.allowed_actions == ["Resume", "Cancel"]
            return *self.vault, job.name

        action = m.RecoveryPlanAction(
            action_name="call",
            failover_types=["UnplannedFailover"],
            failover_directions=["PrimaryToRecovery"],
            custom_details=m.RecoveryPlanManualActionDetails(description="call the boss"),
        )
        update([action])
        failover = self.plan_failover(plan)
        cancelled = self.client.replication_jobs.begin_cancel(*waiting()).result()
        assert cancelled.properties.scenario_name == "UnplannedFailover"
        try:
            failover.result()
            raise AssertionError("a cancelled failover has succeeded")
        except HttpResponseError:
            assert failover.status() == "Canceled", failover.status()
        self.expect("Protected", "InMageAzureV2ReplicationDetails", "Primary")
        failover = self.plan_failover(plan)
        called = m.ResumeJobParams(properties=m.ResumeJobParamsProperties(comments="called"))
        self.client.replication_jobs.begin_resume(*waiting(), called).result()
        failover.result()
        self.plans.begin_failover_cancel(*plan).result()
        self.until("Protected")
        update([])

    def plan_round(self, plan):
        self.plan_failover(plan).result()
        self.plans.begin_failover_commit(*plan).result()
        self.plans.begin_reprotect(*plan).result()
        self.until("Protected")
        self.expect("Protected", "InMageReplicationDetails", "Primary")
        home = m.RecoveryPlanPlannedFailoverInput(
            properties=m.RecoveryPlanPlannedFailoverInputProperties(
                failover_direction="RecoveryToPrimary",
                provider_specific_details=[m.RecoveryPlanInMageFailoverInput(recovery_point_type="LatestTime")],
            )
        )
        self.plans.begin_planned_failover(*plan, home).result()
        self.plans.begin_failover_commit(*plan).result()
        self.plans.begin_reprotect(*plan).result()
        self.until("Protected")
        self.expect("Protected", "InMageAzureV2ReplicationDetails", "Primary")
        shown = self.plans.get(*plan).properties
        assert shown.replication_providers == ["InMageAzureV2"] and shown.current_scenario_status == "Succeeded"

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
        """The protection and its policy end."""
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


def refused(call):
    """Status and code of a refusal, as the SDK reads them."""
    try:
        answer = call()
        if hasattr(answer, "result"):
            answer = answer.result()
        elif hasattr(answer, "__next__") or hasattr(answer, "by_page"):
            answer = list(answer)
    except HttpResponseError as error:
        return error.status_code, error.error.code
    raise AssertionError(f"not refused: {answer}")


def main():
    url, api_version, authority, directory, *chapters = sys.argv[1:]
    run = Run(url, api_version, authority, directory)
    for chapter in chapters:
        begin = time.monotonic()
        getattr(run, chapter)()
        print(f"{chapter}: {time.monotonic() - begin:.1f} s", flush=True)
    print("done")


main()
