//! Schemas of what the inventory shows: sites, machines, protected machines, their points, readiness and cost.

use serde_json::{Value, json};

use super::schema::{
    choice, count, count_within, decimal, flag, kinds, list, map_of, object, or_null, problem, text, time,
    titled,
};

pub(crate) fn health() -> Value {
    choice(&["Normal", "Warning", "Critical"])
}

/// A site's properties, taken and shown.
pub(crate) fn site() -> Value {
    let local = object([("kind", choice(&["local"])), ("directory", text())]);
    let vsphere = object([
        ("kind", choice(&["vsphere"])),
        ("url", text()),
        ("account", text()),
        ("fingerprint?", or_null(text())),
        ("authority?", or_null(text())),
        ("host?", or_null(text())),
        ("resourcePool?", or_null(text())),
        ("folder?", or_null(text())),
        ("datastoreDirectories?", map_of(text())),
    ]);
    let physical = object([("kind", choice(&["physical"])), ("comesHomeTo?", or_null(text()))]);
    let azure = object([
        ("kind", choice(&["azure"])),
        ("settings", azure_settings()),
        ("identity", azure_identity()),
        ("containerAccount?", or_null(text())),
    ]);
    titled("SwitchbackSiteKind", kinds(&[local, vsphere, physical, azure]))
}

fn azure_identity() -> Value {
    kinds(&[
        object([("kind", choice(&["service-principal"])), ("account", text())]),
        object([("kind", choice(&["managed-identity"])), ("client?", or_null(text()))]),
        object([
            ("kind", choice(&["workload-identity"])),
            ("tenant", text()),
            ("client", text()),
            ("tokenFile", text()),
        ]),
    ])
}

/// What is not spelt out here is in `docs/azure-site.md`.
fn azure_settings() -> Value {
    let open = || json!({ "type": "object" });
    object([
        ("subscription", text()),
        ("resourceGroup", text()),
        ("region", text()),
        ("container", text()),
        ("storageAccount", text()),
        ("storagePath?", open()),
        ("networks?", list(text())),
        ("machines?", open()),
        ("cloud?", open()),
        ("limits?", open()),
    ])
}

/// The properties of a machine that a site has.
pub(crate) fn machine() -> Value {
    let disk = object([("path", text()), ("sizeBytes", count()), ("serial", text())]);
    let nic = object([("mac", text()), ("network", or_null(text()))]);
    object([
        ("friendlyName", text()),
        ("systemUuid", text()),
        ("power", choice(&["on", "off"])),
        ("cpus", count()),
        ("memoryMib", count()),
        ("boot", choice(&["bios", "uefi", "kernel"])),
        ("disks", list(disk)),
        ("nics", list(nic)),
        ("snapshots", list(text())),
        ("protectedMachine", or_null(text())),
        ("hasAgent", flag()),
        ("obstacles", list(problem())),
    ])
}

pub(crate) fn network() -> Value {
    object([("description", text())])
}

pub(crate) fn datastore() -> Value {
    object([("capacityBytes", count()), ("freeBytes", count())])
}

fn consistency() -> Value {
    choice(&["fuzzy", "crash-consistent", "app-consistent"])
}

fn check_state() -> Value {
    choice(&["passed", "warning", "unknown", "failed"])
}

/// The properties of a protected machine.
pub(crate) fn protected_machine() -> Value {
    let instance = || object([("site", text()), ("id", or_null(text())), ("createdByUs", flag())]);
    let path = object([
        ("replica", text()),
        ("processServer", text()),
        ("masterTarget", text()),
        ("epoch", count()),
    ]);
    let held = kinds(&[
        object([("kind", choice(&["unconfirmed"])), ("since", count())]),
        object([("kind", choice(&["behind"])), ("evidence", text())]),
    ]);
    object([
        ("contractId", text()),
        ("group", text()),
        ("state", text()),
        ("phase", choice(&["enabling", "protected", "failed-over", "committed", "reprotecting"])),
        ("active", choice(&["home", "away"])),
        ("epoch", count()),
        ("testing", flag()),
        ("allowed", list(text())),
        ("home", instance()),
        ("away", instance()),
        ("diskSizesBytes", list(count())),
        ("disks", list(protected_disk())),
        ("replication", or_null(path)),
        ("failover", or_null(failover())),
        ("staleSeen", or_null(time())),
        ("lastFailover", or_null(time())),
        ("lastTestFailover", or_null(time())),
        ("lastProof", or_null(proof_outcome())),
        ("job", or_null(text())),
        ("held", or_null(held)),
        ("health", health()),
        ("readiness", or_null(object([("failover", check_state()), ("failback", check_state())]))),
        ("reasons", list(problem())),
        ("rpoMs", or_null(count())),
        ("resyncPercent", or_null(count_within(0, 100))),
        ("sentBytes", count()),
        ("resyncSentBytes", count()),
        ("changedBytes", count()),
        ("transferredBytes", count()),
        ("recoveryPoints", count()),
        ("agentSeen", or_null(time())),
        ("agentBuild", text()),
        ("system", text()),
        ("addresses", list(text())),
    ])
}

fn failover() -> Value {
    object([
        ("seq", count()),
        ("time", time()),
        ("consistency", consistency()),
        ("multiVmTag", or_null(text())),
        ("planned", flag()),
        ("lacks", list(count())),
    ])
}

fn protected_disk() -> Value {
    object([
        ("disk", count()),
        ("serial", or_null(text())),
        ("sizeBytes", count()),
        ("resyncPercent", or_null(count_within(0, 100))),
        ("standing", choice(&["protected", "preparing", "adding"])),
    ])
}

pub(crate) fn recovery_point() -> Value {
    object([
        ("seq", count()),
        ("time", time()),
        ("consistency", consistency()),
        ("multiVmTag", or_null(text())),
        ("lacks", list(count())),
        ("proof", or_null(object([("id", text()), ("verdict", verdict())]))),
    ])
}

fn verdict() -> Value {
    choice(&["passed", "failed", "inconclusive"])
}

fn proof_outcome() -> Value {
    let outcome = object([
        ("id", text()),
        ("seq", count()),
        ("pointTime", time()),
        ("started", time()),
        ("ended", time()),
        ("verdict", verdict()),
        ("seen", text()),
    ]);
    titled("SwitchbackProofOutcome", outcome)
}

/// What is looked for; without a pattern, a login prompt.
pub(crate) fn probe() -> Value {
    titled("SwitchbackProbe", object([("pattern?", or_null(text())), ("limitMs?", count())]))
}

/// The properties of a proof.
pub(crate) fn proof() -> Value {
    object([
        ("outcome", proof_outcome()),
        ("replica", text()),
        ("probe", probe()),
        ("console", text()),
        ("pictureBytes", count()),
    ])
}

/// How a machine's points are proved.
pub(crate) fn proving() -> Value {
    object([("probe", probe()), ("everyMs", count()), ("begun", or_null(time())), ("job", or_null(text()))])
}

pub(crate) fn readiness() -> Value {
    let check = object([
        ("code", text()),
        ("title", text()),
        ("state", check_state()),
        ("facts", text()),
        ("cause", text()),
        ("remedy", text()),
    ]);
    let check = titled("SwitchbackReadinessCheck", check);
    let direction = || object([("state", check_state()), ("checks", list(check.clone()))]);
    object([("checked", time()), ("failover", direction()), ("failback", direction())])
}

pub(crate) fn cost() -> Value {
    let line = object([
        ("what", text()),
        ("quantity", decimal()),
        ("unit", text()),
        ("price", decimal()),
        ("amount", decimal()),
        ("basis", text()),
    ]);
    let line = titled("SwitchbackCostLine", line);
    object([
        ("machine", text()),
        ("currency", text()),
        ("prices", text()),
        ("pricesDate", text()),
        ("pricesSource", text()),
        ("monthly", list(line.clone())),
        ("monthlyTotal", decimal()),
        ("failedOverHourly", list(line)),
        ("failedOverHourlyTotal", or_null(decimal())),
        ("notes", list(text())),
    ])
}
