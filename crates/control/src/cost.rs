//! What a protected machine costs at Azure: per month while it is protected, per hour while it is failed over.
//!
//! What it never does: ask Azure for prices or bills. It is an estimate, by a table of prices that the user edits ([`prices`]); each line says of what it was computed, and
//! each answer which table it used.
//!
//! The path of one answer: the machine's disks, what its master target keeps, and what was replicated in the last day ([`measured`]) → quantities → lines with prices.

pub(crate) mod measured;
pub mod prices;
#[cfg(test)]
mod tests;

use std::sync::PoisonError;

use serde::{Deserialize, Serialize};
use switchback_identity::Role;
use switchback_model::azure::MachineSettings;
use switchback_model::component::HardwareFacts;
use switchback_model::{ObjectName, ProtectedItem, Side, SiteKind};
use switchback_store::Kind;

use crate::desired::Facts;
use crate::reports::StoredReport;
use crate::{Control, ControlError, ErrorKind};
use measured::{Look, Measured};
use prices::PriceTable;

const GIB: f64 = (1_u64 << 30) as f64;
/// Hours of a month, as Azure's pricing calculator counts (730).
const MONTH_HOURS: f64 = 730.0;
const HOUR_MS: f64 = 3_600_000.0;
/// Most that one write of pages, or one block, takes (`PUT Page`'s limit; and what the engine sends).
const REQUEST_BYTES: f64 = (4_u64 << 20) as f64;

/// What a machine costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Cost {
    /// The machine.
    pub machine: ObjectName,
    /// Of all amounts.
    pub currency: String,
    /// Which table: a file's path, or that it is the built-in one.
    pub prices: String,
    /// When its prices were looked up.
    pub prices_date: String,
    /// Where they are from.
    pub prices_source: String,
    /// While it is protected, per month.
    pub monthly: Vec<CostLine>,
    /// All of them together.
    pub monthly_total: f64,
    /// While it is failed over, per hour and beside the above.
    pub failed_over_hourly: Vec<CostLine>,
    /// All of them together; `None`: the table does not have all that it needs.
    pub failed_over_hourly_total: Option<f64>,
    /// What is not in it, and why.
    pub notes: Vec<String>,
}

/// One line of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CostLine {
    /// What is paid for.
    pub what: String,
    /// How much of it: of `unit`.
    pub quantity: f64,
    /// `GiB`, `10,000 requests`, a size.
    pub unit: String,
    /// Of one.
    pub price: f64,
    /// Both multiplied.
    pub amount: f64,
    /// What the quantity was computed from.
    pub basis: String,
}

impl CostLine {
    fn new(what: &str, (quantity, unit): (f64, &str), price: f64, basis: impl Into<String>) -> Self {
        let (what, unit, basis) = (what.into(), unit.into(), basis.into());
        Self { what, quantity, unit, price, amount: quantity * price, basis }
    }
}

/// What an estimate is computed from.
#[derive(Clone, Debug)]
struct Quantities<'a> {
    disks: &'a [u64],
    /// Bytes; `None`: its master target has not told.
    kept: Option<u64>,
    measured: Option<Measured>,
    hardware: Option<&'a HardwareFacts>,
    machines: &'a MachineSettings,
}

impl Control {
    /// What a machine costs whose recovery site is at Azure.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::IllegalState`] when its recovery site is none of Azure's; [`ErrorKind::Invalid`] when the table of prices cannot be read.
    pub fn cost(&self, name: &ObjectName) -> Result<Cost, ControlError> {
        let facts = self.facts()?;
        let item = facts.items.iter().find(|item| item.name == *name);
        let item = item.ok_or_else(|| ControlError::not_found("protected machine", name))?;
        self.cost_of(&facts, item, &self.prices()?)?.ok_or_else(|| {
            let message = format!("the recovery site of {name}, {}, is not at Azure", item.away.site);
            ControlError::new(ErrorKind::IllegalState, "cost.not-azure", message)
                .remedy("what it costs elsewhere is not known here")
        })
    }

    /// What all machines cost whose recovery sites are at Azure.
    ///
    /// # Errors
    /// As [`Control::cost`].
    pub fn costs(&self) -> Result<Vec<Cost>, ControlError> {
        let (facts, prices) = (self.facts()?, self.prices()?);
        let costs = facts.items.iter().map(|item| self.cost_of(&facts, item, &prices));
        costs.filter_map(Result::transpose).collect()
    }

    fn prices(&self) -> Result<(PriceTable, String), ControlError> {
        PriceTable::in_force(self.inner.home.get().map(|home| home.directory.as_path()))
    }

    fn cost_of(
        &self,
        facts: &Facts,
        item: &ProtectedItem,
        (table, origin): &(PriceTable, String),
    ) -> Result<Option<Cost>, ControlError> {
        let site = self.records().find::<switchback_model::Site>(Kind::Site, &item.away.site.key())?;
        let Some(SiteKind::Azure(azure)) = site.map(|site| site.value.kind) else { return Ok(None) };
        let agent = self.agent_report(&item.agent, &item.active().system_uuid)?;
        let quantities = Quantities {
            disks: &item.disk_sizes,
            kept: kept_bytes(facts, item),
            measured: self.traffic().measured(&item.name.key()),
            hardware: agent.as_ref().and_then(StoredReport::agent).map(|agent| &agent.hardware),
            machines: &azure.settings.machines,
        };
        Ok(Some(estimate(&item.name, &quantities, table, origin)))
    }

    fn traffic(&self) -> std::sync::MutexGuard<'_, measured::Traffic> {
        self.inner.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at what agents have sent so far.
    pub(crate) fn measure_traffic(&self, facts: &Facts) -> Result<(), ControlError> {
        for item in facts.items.iter().filter(|item| item.protection.active == Side::Home) {
            let agent = self.agent_report(&item.agent, &item.active().system_uuid)?;
            let Some(state) = agent.as_ref().and_then(StoredReport::agent) else { continue };
            let Some(replication) = &state.replication else { continue };
            let look = Look {
                time: self.now(),
                sent_bytes: replication.sent_bytes,
                seq: replication.received.map_or(0, |(seq, _)| seq.0),
            };
            self.traffic().add(item.name.key(), look);
        }
        self.traffic().retain(|key| facts.items.iter().any(|item| item.name.key() == key));
        Ok(())
    }
}

/// What the master target at Azure keeps of a machine, in bytes.
fn kept_bytes(facts: &Facts, item: &ProtectedItem) -> Option<u64> {
    let path = item.replication.as_ref().filter(|_| item.protection.active == Side::Home)?;
    let server = facts.servers.get(&format!("{}/{}", Role::Target, path.master_target))?;
    Some(server.replica(&path.replica)?.retention_bytes)
}

/// Whole numbers that are exact, or near enough for money.
#[expect(clippy::cast_precision_loss, reason = "an estimate: 53 bits of a quantity suffice")]
fn number(whole: u64) -> f64 {
    whole as f64
}

fn estimate(name: &ObjectName, quantities: &Quantities<'_>, table: &PriceTable, origin: &str) -> Cost {
    let mut notes = Vec::new();
    let mut monthly = vec![CostLine::new(
        "page blobs",
        (number(quantities.disks.iter().sum()) / GIB, "GiB"),
        table.storage.page_blobs.0,
        "the disks' whole sizes: how much of them is allocated is not known; Azure asks for that alone",
    )];
    match quantities.kept {
        Some(bytes) => monthly.push(CostLine::new(
            "snapshots and staged cycles",
            (number(bytes) / GIB, "GiB"),
            table.storage.kept.0,
            "as the master target reports now",
        )),
        None => notes
            .push("snapshots and staged cycles: no master target at Azure reports of this machine".into()),
    }
    match quantities.measured {
        Some(measured) => monthly.extend(transactions(measured, number(quantities.disks.len() as u64), table)),
        None => notes.push(
            "transactions: not measured yet; what is replicated must be watched for an hour, and is watched anew after a restart of the configuration server".into(),
        ),
    }
    let failed_over = failed_over(quantities, table, &mut notes);
    let total = |lines: &[CostLine]| lines.iter().map(|line| line.amount).sum();
    Cost {
        machine: name.clone(),
        currency: table.currency.clone(),
        prices: origin.to_owned(),
        prices_date: table.date.clone(),
        prices_source: table.source.clone(),
        monthly_total: total(&monthly),
        monthly,
        failed_over_hourly_total: failed_over.1.then(|| total(&failed_over.0)),
        failed_over_hourly: failed_over.0,
        notes,
    }
}

/// At least: each 4 MiB that were sent are one request, and each cycle is one more for each disk. Both are done twice: staged, then applied.
fn transactions(measured: Measured, disks: f64, table: &PriceTable) -> [CostLine; 2] {
    let months = number(measured.for_ms) / HOUR_MS / MONTH_HOURS;
    let requests = (number(measured.bytes) / REQUEST_BYTES).ceil() + number(measured.cycles) * disks;
    let basis = format!(
        "{} bytes in {} cycles, measured for {:.1} hours; at least",
        measured.bytes,
        measured.cycles,
        number(measured.for_ms) / HOUR_MS
    );
    let line = |what, price| {
        CostLine::new(what, (requests / months / 10_000.0, "10,000 requests"), price, basis.clone())
    };
    [
        line("block uploads", table.transactions.block_uploads.0),
        line("page writes", table.transactions.page_writes.0),
    ]
}

/// The machine and its managed disks, per hour; `true`: all that is needed has a price.
fn failed_over(
    quantities: &Quantities<'_>,
    table: &PriceTable,
    notes: &mut Vec<String>,
) -> (Vec<CostLine>, bool) {
    let (mut lines, noted) = (Vec::new(), notes.len());
    let settings = quantities.machines;
    match quantities.hardware.filter(|hardware| hardware.cpus > 0) {
        None => notes.push("virtual machine: its agent does not tell what the machine has".into()),
        Some(needed) => {
            let fits = |(size, price): &(&String, &prices::MachinePrice)| {
                settings.sizes.contains(*size)
                    && price.cores >= needed.cpus
                    && u64::from(price.memory_gib) << 10 >= u64::from(needed.memory_mib)
            };
            let chosen =
                table.machines.iter().filter(fits).min_by_key(|(_, price)| (price.cores, price.memory_gib));
            match chosen {
                Some((size, price)) => {
                    let basis = format!("{} processors and {} MiB", needed.cpus, needed.memory_mib);
                    lines.push(CostLine::new("virtual machine", (1.0, size), price.per_hour.0, basis));
                }
                None => notes.push(format!(
                    "virtual machine: no size that the site allows has a price and {} processors and {} MiB",
                    needed.cpus, needed.memory_mib
                )),
            }
        }
    }
    let kind = &settings.disk_kind;
    for (index, size) in quantities.disks.iter().enumerate() {
        let tiers = table.disks.get(kind).into_iter().flatten();
        let tier = tiers.filter(|tier| tier.gib.saturating_mul(1 << 30) >= *size).min_by_key(|tier| tier.gib);
        match tier {
            Some(tier) => {
                let (what, unit) = (format!("managed disk {index}"), format!("{kind} of {} GiB", tier.gib));
                let basis = format!("{size} bytes; a month has 730 hours");
                lines.push(CostLine::new(&what, (1.0, &unit), tier.per_month.0 / MONTH_HOURS, basis));
            }
            None => notes.push(format!("managed disk {index}: no {kind} of {size} bytes has a price")),
        }
    }
    (lines, notes.len() == noted)
}
