"""Chapters: jobs that are taken in hand, and what is refused because it has no meaning here."""

import os

from azure.core.exceptions import HttpResponseError
from azure.mgmt.recoveryservicessiterecovery import models as m

from session import PLAN, eventually, refused

SCRIPT = "call-the-boss"


class Operations:
    def operations(self):
        """What few clients ask for."""
        self.no_meaning()
        self.checked_again()
        self.disks()
        self.updated_agent()
        self.restarted_job()

    def no_meaning(self):
        """Each is refused in words that say what to do instead, and nothing of the machine has changed."""
        before = self.items.get(*self.item)
        wanted = m.SwitchProviderInput(properties=m.SwitchProviderInputProperties(target_instance_type="InMageRcm"))
        begin = self.items.begin_switch_provider
        assert refused(lambda: begin(*self.item, wanted)) == (400, "OperationNotSupported")
        assert "nothing has to be switched" in said(lambda: begin(*self.item, wanted))
        after = self.items.get(*self.item)
        assert after.properties.current_scenario == before.properties.current_scenario
        assert after.properties.allowed_operations == before.properties.allowed_operations

    def checked_again(self):
        """All health errors are looked at again; one that the machine has not is refused."""

        def resolve(*ids):
            errors = [m.ResolveHealthError(health_error_id=id) for id in ids]
            wanted = m.ResolveHealthInput(properties=m.ResolveHealthInputProperties(health_errors=errors))
            return self.items.begin_resolve_health_errors(*self.item, wanted)

        assert refused(lambda: resolve("3:8020")) == (400, "InvalidRequestContent")
        item = resolve().result()
        assert item.properties.health_errors == [] and item.properties.replication_health == "Normal"
        newest = next(iter(self.client.replication_jobs.list(*self.vault)))
        assert (newest.properties.scenario_name, newest.properties.state) == ("ResolveHealthErrors", "Succeeded")

    def disks(self):
        """The second disk leaves the protection, and comes to it again, as the contract's types of other providers say it."""
        (first, second) = self.items.get(*self.item).properties.provider_specific_details.protected_disks
        details = m.A2ARemoveDisksInput(vm_managed_disks_ids=[second.disk_id])
        wanted = m.RemoveDisksInput(properties=m.RemoveDisksInputProperties(provider_specific_details=details))
        item = self.items.begin_remove_disks(*self.item, wanted).result()
        (left,) = item.properties.provider_specific_details.protected_disks
        assert left.disk_id == first.disk_id
        details = m.InMageRcmAddDisksInput(
            disks=[m.InMageRcmDiskInput(disk_id="d1", log_storage_account_id="none", disk_type="Standard_LRS")]
        )
        wanted = m.AddDisksInput(properties=m.AddDisksInputProperties(provider_specific_details=details))
        item = self.items.begin_add_disks(*self.item, wanted).result()
        assert len(item.properties.provider_specific_details.protected_disks) == 2
        newest = next(iter(self.client.replication_jobs.list(*self.vault)))
        assert (newest.properties.scenario_name, newest.properties.state) == ("AddDisks", "Succeeded")

    def updated_agent(self):
        """The agent goes on as the configuration server's version; nothing else of the machine changes."""
        properties = m.UpdateMobilityServiceRequestProperties(run_as_account_id="1")
        request = m.UpdateMobilityServiceRequest(properties=properties)
        before = self.items.get(*self.item).properties.protection_state
        item = self.items.begin_update_mobility_service(*self.item, request).result()
        assert item.properties.protection_state == before
        newest = next(iter(self.client.replication_jobs.list(*self.vault)))
        assert (newest.properties.scenario_name, newest.properties.state) == ("UpdateMobilityService", "Succeeded")

    def restarted_job(self):
        """A plan's job fails for want of a script; restarted without it, it fails again; with it, it goes on where it had failed."""
        made = self.make_plan()
        (boot,) = made.properties.groups[-1:]
        boot.start_group_actions = [
            m.RecoveryPlanAction(
                action_name="call",
                failover_types=["UnplannedFailover"],
                failover_directions=["PrimaryToRecovery"],
                custom_details=m.RecoveryPlanScriptActionDetails(path=SCRIPT, timeout="00:01:00", fabric_location="Primary"),
            )
        ]
        properties = m.UpdateRecoveryPlanInputProperties(groups=[boot])
        self.plans.begin_update(*self.plan_path, m.UpdateRecoveryPlanInput(properties=properties)).result()
        failover = self.plan_failover()
        try:
            failover.result()
            raise AssertionError("a plan without its script has succeeded")
        except HttpResponseError:
            assert failover.status() == "Failed", failover.status()
        jobs = self.client.replication_jobs
        failed = f"jobStatus eq 'Failed' and targetObjectName eq '{PLAN}'"
        (job,) = jobs.list(*self.vault, filter=failed)
        job = *self.vault, job.name
        shown = jobs.get(*job).properties
        assert shown.allowed_actions == ["Restart"] and SCRIPT in shown.errors[0].service_error_details.message, shown.errors
        assert jobs.begin_restart(*job).result().name == job[-1]
        self.job_ends(job, "Failed")
        self.expect("Protected", "InMageAzureV2ReplicationDetails", "Primary")
        self.write_script()
        assert jobs.begin_restart(*job).result().properties.scenario_name == "UnplannedFailover"
        self.job_ends(job, "Succeeded")
        assert refused(lambda: jobs.begin_restart(*job))[0] == 409
        assert refused(lambda: jobs.begin_resume(*job, m.ResumeJobParams()))[0] == 409
        self.expect("UnplannedFailoverCommitRequired", "InMageAzureV2ReplicationDetails", "Recovery")
        self.plans.begin_failover_cancel(*self.plan_path).result()
        self.until("Protected")
        self.plans.begin_delete(*self.plan_path).result()

    def job_ends(self, job, state):
        def shown():
            return self.client.replication_jobs.get(*job).properties.state

        eventually(lambda: shown() not in ("NotStarted", "InProgress"), lambda: f"the job stays {shown()}")
        assert shown() == state, shown()

    @staticmethod
    def write_script():
        """On the configuration server, as its administrator does."""
        directory = os.environ["SWITCHBACK_SCRIPTS"]
        os.makedirs(directory, exist_ok=True)
        path = os.path.join(directory, SCRIPT)
        with open(path, "w") as file:
            file.write("#!/bin/sh\necho called\n")
        os.chmod(path, 0o755)


def said(call):
    """The words of a refusal, as the SDK shows them."""
    try:
        call()
    except HttpResponseError as error:
        return error.message
    raise AssertionError("not refused")
