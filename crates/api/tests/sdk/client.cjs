// Microsoft's SDK for Azure Site Recovery for JavaScript, unmodified, against a configuration server: there and home again.
//
// node client.cjs URL API-VERSION DIRECTORY CHAPTER...    the token is in the file SWITCHBACK_TOKEN_FILE, the authority in NODE_EXTRA_CA_CERTS
//
// Chapters: inventory, protect, round, end. The machine is SWITCHBACK_MACHINES, its policy SWITCHBACK_POLICY; without them those of the simulated world.
// Exchanges are recorded as recorder.py does it: see there.
"use strict";

const assert = require("node:assert/strict");
const fs = require("node:fs");
const path = require("node:path");
const { SiteRecoveryManagementClient } = require("@azure/arm-recoveryservices-siterecovery");

const [endpoint, apiVersion, directory, ...chapters] = process.argv.slice(2);
const VAULT = ["switchback", "switchback"], HOME = "home", RECOVERY = "recovery";
const MACHINE = process.env.SWITCHBACK_MACHINES ?? "web01", POLICY = process.env.SWITCHBACK_POLICY ?? "PG1";
// Milliseconds for anything that the sites do by themselves; guests are emulated.
const PATIENCE = 240_000;

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

// It goes on after those of an earlier client.
let count = fs.existsSync(directory) ? fs.readdirSync(directory, { recursive: true }).length : 0;
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

const container = async () => (await all(client.replicationProtectionContainers.listByReplicationFabrics(...VAULT, HOME)))[0].name;
const item = async () => [...VAULT, HOME, await container(), MACHINE];
const show = async () => (await items.get(...await item())).properties;

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

async function failover(details) {
    return items.beginUnplannedFailoverAndWait(...await item(), {
        properties: { failoverDirection: "PrimaryToRecovery", sourceSiteOperations: "Required", providerSpecificDetails: details },
    });
}

async function reprotect(details) {
    await items.beginReprotectAndWait(...await item(), {
        properties: { failoverDirection: "RecoveryToPrimary", providerSpecificDetails: details },
    });
    return until(details.instanceType);
}

const commit = async () => items.beginFailoverCommitAndWait(...await item());

const CHAPTERS = {
    async inventory() {
        const [home, recovery] = await all(client.replicationFabrics.list(...VAULT));
        assert.deepEqual([home.name, recovery.name], [HOME, RECOVERY]);
        assert.equal(home.properties.customDetails.instanceType, "VMware");
    },

    async protect() {
        const [machine] = await all(client.replicationProtectableItems.listByReplicationProtectionContainers(...VAULT, HOME, await container()));
        await items.beginCreateAndWait(...await item(), {
            properties: {
                policyId: policy(POLICY), protectableItemId: machine.id, providerSpecificDetails: { instanceType: "InMageAzureV2" },
            },
        });
        await until("InMageAzureV2");
    },

    async round() {
        const details = async (fabric) => (await client.replicationFabrics.get(...VAULT, fabric)).properties.customDetails;
        const [home, recovery] = [await details(HOME), await details(RECOVERY)];
        const [point] = await all(client.recoveryPoints.listByReplicationProtectedItems(...await item()));
        const away = await failover({ instanceType: "InMageAzureV2", recoveryPointId: point.id });
        assert.equal(away.properties.failoverRecoveryPointId, point.id);
        await commit();
        await reprotect({
            instanceType: "InMage", masterTargetId: home.masterTargetServers[0].id, processServerId: recovery.processServers[0].id,
            retentionDrive: "/retention", profileId: policy(`${POLICY}-failback`),
        });
        await failover({ instanceType: "InMage", recoveryPointType: "LatestTime" });
        await commit();
        await reprotect({ instanceType: "InMageAzureV2", policyId: policy(POLICY) });
        await assert.rejects(commit(), (error) => error.statusCode === 409 && error.code !== undefined);
    },

    async end() {
        const jobs = await all(client.replicationJobs.list(...VAULT, { filter: "JobName eq 'UnplannedFailover'" }));
        assert.equal(jobs.length, 2);
        assert.equal((await client.replicationJobs.get(...VAULT, jobs[0].name)).properties.state, "Succeeded");
        await items.beginDeleteAndWait(...await item(), { properties: { disableProtectionReason: "NotSpecified" } });
        assert.deepEqual(await all(items.list(...VAULT)), []);
    },
};

async function main() {
    for (const chapter of chapters) {
        const begin = Date.now();
        await CHAPTERS[chapter]();
        console.log(`${chapter}: ${((Date.now() - begin) / 1000).toFixed(1)} s`);
    }
    console.log("done");
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
