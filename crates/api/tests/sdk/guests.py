"""Chapters: machines that are guests. Between them somebody else looks at their disks (crates/lab/src/demo/sdk.rs)."""

from azure.mgmt.recoveryservicessiterecovery import models as m

from session import MACHINES, eventually

# Points of one moment, by the clocks of their machines. It is less than half of the time between two moments there.
SAME_MOMENT_S = 2


class Guests:
    def moment(self):
        """Points of all machines that were taken together, the newest ones: as the contract has it, multi-VM points of one time."""
        def shared():
            first, *others = [
                [point for point in self.points_of(machine) if is_multi_vm(point)] for machine in MACHINES
            ]
            for point in first:
                found = [point, *(next((one for one in of if is_same_moment(one, point)), None) for of in others)]
                if all(found):
                    return found
            return None

        return eventually(shared, lambda: "the machines share no recovery point")

    def leave(self):
        """All machines fail over, each by itself, to points of one moment."""
        points = dict(zip(MACHINES, self.moment(), strict=True))

        def begin(machine):
            return self.begin_failover(machine, m.InMageAzureV2UnplannedFailoverInput(recovery_point_id=points[machine].id))

        left = self.together(begin)
        assert [one.properties.failover_recovery_point_id for one in left] == [point.id for point in points.values()]
        self.expect("UnplannedFailoverCommitRequired", "InMageAzureV2ReplicationDetails", "Recovery")


def is_multi_vm(point):
    return point.properties.provider_specific_details.is_multi_vm_sync_point == "Yes"


def is_same_moment(one, other):
    apart = one.properties.recovery_point_time - other.properties.recovery_point_time
    return abs(apart.total_seconds()) < SAME_MOMENT_S
