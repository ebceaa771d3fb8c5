//! `switchback machine cost`: what protected machines cost at Azure.

use std::process::ExitCode;

use clap::Args;
use serde_json::Value;

use super::super::output::format_table;
use super::super::render;
use super::super::session::Session;
use crate::client::path::{self, text_at};

#[derive(Debug, Args)]
pub(super) struct CostArgs {
    /// The protected machine [default: all whose recovery site is at Azure]
    machine: Option<String>,
}

pub(super) async fn run(session: &Session, args: &CostArgs) -> anyhow::Result<ExitCode> {
    let client = &session.client;
    let Some(machine) = &args.machine else {
        let costs = client.list(&client.id(path::COSTS), &[], None).await?;
        if session.is_for_people() {
            print!("{}", all(&costs));
        } else {
            print!("{}", render::json(&Value::from(costs)));
        }
        return Ok(ExitCode::SUCCESS);
    };
    let cost = client.get(&client.id(&format!("{}/{}/cost", path::MACHINES, path::encode(machine)))).await?;
    if session.is_for_people() {
        print!("{}", one(&cost));
    } else {
        print!("{}", render::json(&cost));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whose prices, as a last line.
fn origin(cost: &Value) -> String {
    let text = |key: &str| text_at(cost, &format!("/properties/{key}"));
    format!(
        "prices of {} in {}: {} ({})\n",
        text("pricesDate"),
        text("currency"),
        text("prices"),
        text("pricesSource")
    )
}

fn amount(value: Option<&Value>) -> String {
    value.and_then(Value::as_f64).map_or_else(|| "-".into(), |amount| format!("{amount:.2}"))
}

fn all(costs: &[Value]) -> String {
    let row = |cost: &Value| {
        let notes = cost.pointer("/properties/notes").and_then(Value::as_array).map_or(0, Vec::len);
        vec![
            text_at(cost, "/name").to_owned(),
            amount(cost.pointer("/properties/monthlyTotal")),
            // By the hour, cents are too coarse.
            hourly(cost.pointer("/properties/failedOverHourlyTotal")),
            text_at(cost, "/properties/currency").to_owned(),
            if notes == 0 { "-".into() } else { format!("{notes} (see `machine cost NAME`)") },
        ]
    };
    let header = ["NAME", "PER MONTH", "FAILED OVER, PER HOUR", "CURRENCY", "NOT IN IT"];
    let table = format_table(&header, &costs.iter().map(row).collect::<Vec<_>>());
    costs.first().map_or_else(|| table.clone(), |first| format!("{table}\n{}", origin(first)))
}

fn hourly(value: Option<&Value>) -> String {
    value.and_then(Value::as_f64).map_or_else(|| "-".into(), |amount| format!("{amount:.4}"))
}

fn one(cost: &Value) -> String {
    let lines = |key: &str| {
        let lines = cost.pointer(&format!("/properties/{key}")).and_then(Value::as_array);
        lines.map_or(&[][..], Vec::as_slice)
    };
    let row = |line: &Value| {
        let number = |key: &str| line.get(key).and_then(Value::as_f64).unwrap_or_default();
        vec![
            text_at(line, "/what").to_owned(),
            format!("{:.2} {}", number("quantity"), text_at(line, "/unit")),
            format!("{:.4}", number("price")),
            format!("{:.4}", number("amount")),
            text_at(line, "/basis").to_owned(),
        ]
    };
    let table = |key: &str| {
        let header = ["FOR", "HOW MUCH", "PRICE OF ONE", "AMOUNT", "COMPUTED FROM"];
        format_table(&header, &lines(key).iter().map(row).collect::<Vec<_>>())
    };
    let mut text = format!(
        "Protected, per month: {}\n{}\nFailed over, per hour and beside that: {}\n{}\n",
        amount(cost.pointer("/properties/monthlyTotal")),
        table("monthly"),
        hourly(cost.pointer("/properties/failedOverHourlyTotal")),
        table("failedOverHourly"),
    );
    for note in lines("notes").iter().filter_map(Value::as_str) {
        text += &format!("not in it: {note}\n");
    }
    text + &origin(cost)
}
