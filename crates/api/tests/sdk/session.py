"""What all chapters share: Microsoft's clients, unmodified but for a policy that records, names, and looking until something is so."""

import os
import time

import requests
from azure.core.credentials import AccessToken
from azure.core.exceptions import HttpResponseError
from azure.mgmt.recoveryservices import RecoveryServicesClient
from azure.mgmt.recoveryservicessiterecovery import SiteRecoveryManagementClient

from recorder import Recorder

SUBSCRIPTION, GROUP, VAULT = "00000000-0000-0000-0000-000000000000", "switchback", "switchback"
AZURE = "Microsoft Azure"
HOME, RECOVERY = "home", "recovery"
POLICY, MAPPING, PLAN = "PG2", "home-to-azure", "RP1"
# The machines that the chapters are about, causes first.
MACHINES = os.environ.get("SWITCHBACK_MACHINES", "web01").split()
# The one that is looked at closer.
MACHINE = MACHINES[0]
# Seconds for anything that the sites do by themselves; guests are emulated.
PATIENCE = 240


class Token:
    """The server's own bearer token, as the SDK wants a credential."""

    def get_token(self, *_scopes, **_kwargs):
        with open(os.environ["SWITCHBACK_TOKEN_FILE"]) as file:
            return AccessToken(file.read().strip(), int(time.time()) + 3600)


class Session:
    """The clients, and what their calls have in common."""

    def __init__(self, url, api_version, authority, directory):
        recorder = Recorder(directory)
        self.authority = authority
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

    def fetch(self, url):
        """What is no resource: as anybody would, with the same token."""
        headers = {"Authorization": f"Bearer {Token().get_token().token}"}
        response = requests.get(url, headers=headers, verify=self.authority, timeout=PATIENCE)
        response.raise_for_status()
        return response

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

    def of(self, machine):
        return *self.where, machine

    @property
    def item(self):
        return self.of(MACHINE)

    def servers_of(self, fabric):
        """The first process server and the first master target of a fabric, by their ids."""
        details = self.client.replication_fabrics.get(*self.vault, fabric).properties.custom_details
        return details.process_servers[0].id, details.master_target_servers[0].id

    def vault_id(self, rest):
        return f"/subscriptions/{SUBSCRIPTION}/resourceGroups/{GROUP}/providers/Microsoft.RecoveryServices/vaults/{VAULT}/{rest}"

    def show(self, machine=MACHINE):
        return self.items.get(*self.of(machine)).properties

    def expect(self, state, provider, location):
        """Of all machines; returns the first."""
        shown = [self.show(machine) for machine in MACHINES]
        for one in shown:
            seen = (one.protection_state, type(one.provider_specific_details).__name__, one.active_location)
            assert seen == (state, provider, location), seen
        return shown[0]

    def until(self, state):
        """Waits for what a job does not wait for: the end of all machines' initial replication."""
        for machine in MACHINES:
            eventually(
                lambda: self.show(machine).protection_state == state,
                lambda: f"{machine} stays {self.show(machine).protection_state}, and does not become {state}",
            )

    @staticmethod
    def together(begin):
        """Begins something with each machine, by its name; then waits for all of it. Returns what that came to."""
        return [poller.result() for poller in [begin(machine) for machine in MACHINES]]


def eventually(look, otherwise):
    """What is found when it is looked for long enough; `otherwise` says what is there instead."""
    deadline = time.monotonic() + PATIENCE
    while not (found := look()):
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.5)
    return found


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
