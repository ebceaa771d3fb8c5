"""Chapters: one machine, away and home again; and what is rehearsed before."""

from azure.mgmt.recoveryservicessiterecovery import models as m

from session import HOME, MACHINE, POLICY, RECOVERY, eventually, refused


class Rounds:
    def points_of(self, machine):
        return list(self.client.recovery_points.list_by_replication_protected_items(*self.of(machine)))

    def points(self):
        # More than a page of the server, which has five: so the SDK follows nextLink.
        points = eventually(
            lambda: len(points := self.points_of(MACHINE)) > 5 and points,
            lambda: f"{len(self.points_of(MACHINE))} recovery points",
        )
        assert self.client.recovery_points.get(*self.item, points[0].name).id == points[0].id
        return points

    def begin_failover(self, machine, details):
        wanted = m.UnplannedFailoverInput(
            properties=m.UnplannedFailoverInputProperties(
                failover_direction="PrimaryToRecovery",
                source_site_operations="Required",
                provider_specific_details=details,
            )
        )
        return self.items.begin_unplanned_failover(*self.of(machine), wanted)

    def failover(self, details):
        return self.begin_failover(MACHINE, details).result().properties

    def planned_failover(self):
        """Of all machines, in the direction they are replicated in."""
        wanted = m.PlannedFailoverInput(
            properties=m.PlannedFailoverInputProperties(failover_direction="PrimaryToRecovery")
        )
        self.together(lambda machine: self.items.begin_planned_failover(*self.of(machine), wanted))

    def commit(self):
        self.together(lambda machine: self.items.begin_failover_commit(*self.of(machine)))

    def reprotect(self, details):
        wanted = m.ReverseReplicationInput(
            properties=m.ReverseReplicationInputProperties(
                failover_direction="RecoveryToPrimary", provider_specific_details=details
            )
        )
        self.together(lambda machine: self.items.begin_reprotect(*self.of(machine), wanted))
        self.until("Protected")

    def reprotect_home(self):
        (process_server, _), (_, master_target) = self.servers_of(RECOVERY), self.servers_of(HOME)
        self.reprotect(
            m.InMageReprotectInput(
                master_target_id=master_target,
                process_server_id=process_server,
                retention_drive="/retention",
                profile_id=self.vault_id(f"replicationPolicies/{POLICY}-failback"),
                datastore_name="store",
            )
        )
        return self.expect("Protected", "InMageReplicationDetails", "Primary")

    def reprotect_away(self):
        (process_server, _), (_, master_target) = self.servers_of(HOME), self.servers_of(RECOVERY)
        self.reprotect(
            m.InMageAzureV2ReprotectInput(
                master_target_id=master_target,
                process_server_id=process_server,
                policy_id=self.vault_id("replicationPolicies/" + POLICY),
            )
        )
        return self.expect("Protected", "InMageAzureV2ReplicationDetails", "Primary")

    def test_failover(self):
        """A test failover, and its clean-up."""
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
        self.exported_jobs(len(scenarios))
        events = list(self.client.replication_events.list(*self.vault))
        for event in events[:3]:
            assert self.client.replication_events.get(*self.vault, event.name).id == event.id

    def exported_jobs(self, count):
        """All of them as JSON; some as values for a spreadsheet; nothing that is not understood."""
        jobs = self.client.replication_jobs

        def exported(**wanted):
            job = jobs.begin_export(*self.vault, m.JobQueryParameter(**wanted)).result()
            details = job.properties.custom_details
            assert (job.properties.state, details.instance_type) == ("Succeeded", "ExportJobDetails")
            return self.fetch(details.blob_uri + details.sas_token)

        everything = exported().json()
        assert everything["isWhole"] and len(everything["value"]) == count, everything
        wanted = {"job_output_type": "Excel", "job_name": "UnplannedFailover", "fabric_id": self.vault_id("replicationFabrics/" + HOME)}
        lines = exported(**wanted).text.splitlines()
        assert len(lines) == 3 and lines[0].startswith('"Id","Name","Status"'), lines
        assert all('"Failover","Succeeded","ProtectionEntity","web01"' in line for line in lines[1:]), lines
        nowhere = exported(fabric_id=self.vault_id("replicationFabrics/" + RECOVERY)).json()
        assert nowhere["value"] == [], nowhere
        for bad in ({"job_output_type": "Xml"}, {"job_status": "Nearly"}, {"start_time": "soon"}):
            assert refused(lambda: jobs.begin_export(*self.vault, m.JobQueryParameter(**bad)))[0] == 400, bad

    def rehearsal(self):
        """A test failover; a planned failover that is thought better of."""
        self.test_failover()
        self.planned_failover()
        self.expect("UnplannedFailoverCommitRequired", "InMageAzureV2ReplicationDetails", "Recovery")
        self.items.begin_failover_cancel(*self.item).result()
        self.until("Protected")
        self.items.begin_repair_replication(*self.item).result()
        self.until("Protected")
