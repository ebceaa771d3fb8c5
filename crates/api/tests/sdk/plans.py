"""Chapters: a recovery plan, and all that can be done with one machine done with a whole plan, which cannot be scripted with the service."""

from azure.core.exceptions import HttpResponseError
from azure.mgmt.recoveryservicessiterecovery import models as m

from session import AZURE, HOME, MACHINES, PLAN, eventually


class Plans:
    def make_plan(self):
        def item(machine):
            return m.RecoveryPlanProtectedItem(id=self.items.get(*self.of(machine)).id, virtual_machine_id=machine)

        group = m.RecoveryPlanGroup(
            group_type="Boot",
            replication_protected_items=[item(machine) for machine in MACHINES],
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

    @property
    def plan_path(self):
        return *self.vault, PLAN

    def plan(self):
        """All versions of the above for a whole plan, which cannot be scripted with the service."""
        plan = self.plan_path
        made = self.make_plan()
        update = m.UpdateRecoveryPlanInput(
            properties=m.UpdateRecoveryPlanInputProperties(groups=made.properties.groups)
        )
        assert self.plans.begin_update(*plan, update).result().id == made.id
        assert [one.name for one in self.plans.list(*self.vault)] == [PLAN]
        self.plan_test_failover()
        self.plan_with_a_person(made.properties.groups)
        self.plan_leave()
        self.plan_settle_away()
        self.plan_come_home()
        self.plan_settle_home()
        self.plans.begin_delete(*plan).result()
        assert list(self.plans.list(*self.vault)) == []

    def plan_test_failover(self):
        """Of all machines of the plan; and its clean-up."""
        wanted = m.RecoveryPlanTestFailoverInput(
            properties=m.RecoveryPlanTestFailoverInputProperties(
                failover_direction="PrimaryToRecovery",
                network_type="NoNetworkAttachAsInput",
                provider_specific_details=[m.RecoveryPlanInMageAzureV2FailoverInput(recovery_point_type="LatestProcessed")],
            )
        )
        self.plans.begin_test_failover(*self.plan_path, wanted).result()
        assert all(self.show(machine).test_failover_state == "WaitingForCompletion" for machine in MACHINES)
        wanted = m.RecoveryPlanTestFailoverCleanupInput(
            properties=m.RecoveryPlanTestFailoverCleanupInputProperties(comments="fine")
        )
        self.plans.begin_test_failover_cleanup(*self.plan_path, wanted).result()

    def plan_failover(self):
        away = m.RecoveryPlanInMageAzureV2FailoverInput(recovery_point_type="Latest", use_multi_vm_sync_point="true")
        wanted = m.RecoveryPlanUnplannedFailoverInput(
            properties=m.RecoveryPlanUnplannedFailoverInputProperties(
                failover_direction="PrimaryToRecovery",
                source_site_operations="Required",
                provider_specific_details=[away],
            )
        )
        return self.plans.begin_unplanned_failover(*self.plan_path, wanted)

    def plan_with_a_person(self, groups):
        """A failover waits for somebody, who cancels it; and the next one, who lets it go on."""

        def update(actions):
            boot = groups[-1]
            boot.start_group_actions = actions
            properties = m.UpdateRecoveryPlanInputProperties(groups=[boot])
            self.plans.begin_update(*self.plan_path, m.UpdateRecoveryPlanInput(properties=properties)).result()

        def waiting():
            (job,) = eventually(
                lambda: list(self.client.replication_jobs.list(*self.vault, filter="jobStatus eq 'Suspended'")),
                lambda: "no job waits",
            )
            assert job.properties.allowed_actions == ["Resume", "Cancel"]
            return *self.vault, job.name

        action = m.RecoveryPlanAction(
            action_name="call",
            failover_types=["UnplannedFailover"],
            failover_directions=["PrimaryToRecovery"],
            custom_details=m.RecoveryPlanManualActionDetails(description="call the boss"),
        )
        update([action])
        failover = self.plan_failover()
        cancelled = self.client.replication_jobs.begin_cancel(*waiting()).result()
        assert cancelled.properties.scenario_name == "UnplannedFailover"
        try:
            failover.result()
            raise AssertionError("a cancelled failover has succeeded")
        except HttpResponseError:
            assert failover.status() == "Canceled", failover.status()
        self.expect("Protected", "InMageAzureV2ReplicationDetails", "Primary")
        failover = self.plan_failover()
        called = m.ResumeJobParams(properties=m.ResumeJobParamsProperties(comments="called"))
        self.client.replication_jobs.begin_resume(*waiting(), called).result()
        failover.result()
        self.plans.begin_failover_cancel(*self.plan_path).result()
        self.until("Protected")
        update([])

    def plan_leave(self):
        self.plan_failover().result()
        self.expect("UnplannedFailoverCommitRequired", "InMageAzureV2ReplicationDetails", "Recovery")

    def plan_settle_away(self):
        """Work goes on there, and comes back as it is done."""
        self.plan_commit_and_reprotect()
        self.expect("Protected", "InMageReplicationDetails", "Primary")

    def plan_come_home(self):
        home = m.RecoveryPlanPlannedFailoverInput(
            properties=m.RecoveryPlanPlannedFailoverInputProperties(
                failover_direction="RecoveryToPrimary",
                provider_specific_details=[m.RecoveryPlanInMageFailoverInput(recovery_point_type="LatestTime")],
            )
        )
        self.plans.begin_planned_failover(*self.plan_path, home).result()

    def plan_settle_home(self):
        """As it was before all of it."""
        self.plan_commit_and_reprotect()
        self.expect("Protected", "InMageAzureV2ReplicationDetails", "Primary")
        shown = self.plans.get(*self.plan_path).properties
        assert shown.replication_providers == ["InMageAzureV2"] and shown.current_scenario_status == "Succeeded"

    def plan_commit_and_reprotect(self):
        self.plans.begin_failover_commit(*self.plan_path).result()
        self.plans.begin_reprotect(*self.plan_path).result()
        self.until("Protected")
