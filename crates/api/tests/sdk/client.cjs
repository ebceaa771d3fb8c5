// Microsoft's SDK for Azure Site Recovery for JavaScript, unmodified, against a configuration server: there and home again.
//
// node client.cjs URL API-VERSION DIRECTORY        the token is in the file SWITCHBACK_TOKEN_FILE, the authority in NODE_EXTRA_CA_CERTS
//
// Exchanges are recorded as recorder.py does it: see there.
"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { SiteRecoveryManagementClient } = require("@azure/arm-recoveryservices-siterecovery");

const [endpoint, apiVersion, directory] = process.argv.slice(2);
const VAULT = ["switchback", "switchback"], HOME = "home", MACHINE = "web01", POLICY = "PG1";
// Milliseconds for anything that the simulated sites do by themselves.
const PATIENCE = 60_000;

const credential = {
    getToken: async () => ({
        token: fs.readFileSync(process.env.SWITCHBACK_TOKEN_FILE, "utf8"),
        expiresOnTimestamp: Date.now() + 3_600_000,
    }),
};
const client = new SiteRecoveryManagementClient(
    credential, "00000000-0000-0000-0000-000000000000",
    { endpoint, apiVersion, credentialScopes: [`${endpoint}/.default`] },
);
const items = client.replicationProtectedItems;
const policy = (name) => `/subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/switchback/providers/Microsoft.RecoveryServices/vaults/switchback/replicationPolicies/${name}`;

let count = 0;
client.pipeline.addPolicy({
    name: "recorder",
    async sendRequest(request, next) {
        const response = await next(request);
        const without = (headers) => Object.fromEntries(Object.entries(headers.toJSON()).filter(([name]) => name !== "authorization"));
        const live = {
            liveRequest: { headers: without(request.headers), method: request.method, url: request.url },
            liveResponse: { statusCode: String(response.status), headers: without(response.headers) },
        };
        if (request.body) live.liveRequest.body = JSON.parse(request.body);
        if (response.bodyAsText) live.liveResponse.body = JSON.parse(response.bodyAsText);
        const isPoll = /\/(operationresults|replicationOperationStatus)\//i.test(request.url);
        const kind = response.status >= 400 ? "refusals" : isPoll ? "polls" : "contract";
        fs.mkdirSync(path.join(directory, kind), { recursive: true });
        count += 1;
        fs.writeFileSync(path.join(directory, kind, `${String(count).padStart(4, "0")}.json`), JSON.stringify(live, null, 1));
        return response;
    },
}, { afterPhase: "Retry" });

async function all(pages) {
    const found = [];
    for await (const one of pages) found.push(one);
    return found;
}

async function main() {
    const [home, recovery] = await all(client.replicationFabrics.list(...VAULT));
    assert.deepEqual([home.name, recovery.name], [HOME, "recovery"]);
    assert.equal(home.properties.customDetails.instanceType, "VMware");
    const [container] = await all(client.replicationProtectionContainers.listByReplicationFabrics(...VAULT, HOME));
    const item = [...VAULT, HOME, container.name, MACHINE];
    const [machine] = await all(client.replicationProtectableItems.listByReplicationProtectionContainers(...VAULT, HOME, container.name));

    const show = async () => (await items.get(...item)).properties;
    async function until(provider) {
        for (const begin = Date.now(); ; await new Promise((later) => setTimeout(later, 500))) {
            const shown = await show();
            if (shown.protectionState === "Protected") {
                assert.equal(shown.providerSpecificDetails.instanceType, provider);
                return shown;
            }
            assert(Date.now() - begin < PATIENCE, `it stays ${shown.protectionState}`);
        }
    }
    const failover = (details) => items.beginUnplannedFailoverAndWait(...item, {
        properties: { failoverDirection: "PrimaryToRecovery", sourceSiteOperations: "Required", providerSpecificDetails: details },
    });
    const reprotect = (details) => items.beginReprotectAndWait(...item, {
        properties: { failoverDirection: "RecoveryToPrimary", providerSpecificDetails: details },
    });

    await items.beginCreateAndWait(...item, {
        properties: {
            policyId: policy(POLICY), protectableItemId: machine.id, providerSpecificDetails: { instanceType: "InMageAzureV2" },
        },
    });
    await until("InMageAzureV2");
    const [point] = await all(client.recoveryPoints.listByReplicationProtectedItems(...item));
    const away = await failover({ instanceType: "InMageAzureV2", recoveryPointId: point.id });
    assert.equal(away.properties.failoverRecoveryPointId, point.id);
    await items.beginFailoverCommitAndWait(...item);
    await reprotect({
        instanceType: "InMage", masterTargetId: "home-mt", processServerId: "recovery-ps", retentionDrive: "/retention",
        profileId: policy(`${POLICY}-failback`),
    });
    await until("InMage");
    await failover({ instanceType: "InMage", recoveryPointType: "LatestTime" });
    await items.beginFailoverCommitAndWait(...item);
    await reprotect({ instanceType: "InMageAzureV2", policyId: policy(POLICY) });
    await until("InMageAzureV2");

    const jobs = await all(client.replicationJobs.list(...VAULT, { filter: "JobName eq 'UnplannedFailover'" }));
    assert.equal(jobs.length, 2);
    assert.equal((await client.replicationJobs.get(...VAULT, jobs[0].name)).properties.state, "Succeeded");
    await assert.rejects(items.beginFailoverCommitAndWait(...item), (error) => error.statusCode === 409 && error.code !== undefined);
    await items.beginDeleteAndWait(...item, { properties: { disableProtectionReason: "NotSpecified" } });
    assert.deepEqual(await all(items.list(...VAULT)), []);
    console.log("done");
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
