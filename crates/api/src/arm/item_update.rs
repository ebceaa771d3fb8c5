//! PATCH of a protected item: what the machine shall be at its recovery site, from its next failover on.
//!
//! At Azure that is its size, and its zone or availability set. Everything else that the contract has there is decided by the site's settings or
//! the network mapping: a request that says something of it is refused by that field's name, unless it says what is so, because clients send back what they were shown.

use serde::Deserialize;
use serde_json::{Map, Value};
use switchback_control::Control;
use switchback_model::SiteKind;

use super::answer::Answer;
use super::call::Call;
use super::error::ArmError;
use super::fabrics;
use super::protected_items::{self, Around};
use super::state;

#[derive(Deserialize)]
struct Patch {
    properties: Map<String, Value>,
}

/// Values that say nothing, or what is always so.
const AS_IT_IS: [(&str, &[&str]); 4] = [
    ("licenseType", &["NotSpecified", "NoLicenseType"]),
    ("sqlServerLicenseType", &["NotSpecified", "NoLicenseType"]),
    ("useManagedDisks", &["True", "true"]),
    ("enableRdpOnTargetOption", &["Never"]),
];

/// What a request wishes; `None`: nothing said, empty: none.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wishes {
    size: Option<String>,
    availability_set: Option<String>,
    zone: Option<String>,
}

pub(crate) fn update(control: &Control, call: &Call) -> Result<Answer, ArmError> {
    let view = protected_items::find(control, call)?;
    let wishes = read(call.json::<Patch>()?.properties, view.item.away.id.as_deref())?;
    let view = if wishes == Wishes::default() {
        view
    } else {
        let site = fabrics::by_name(control, &view.item.away.site)?;
        if !matches!(site.kind, SiteKind::Azure(_)) {
            return Err(ArmError::invalid(format!("nothing can be planned for a machine at {}", site.name))
                .cause("size, zone and availability set are for recovery sites at Azure; others give a machine what it has at home"));
        }
        let mut plan = view.item.plan.clone();
        let fields = [
            (wishes.size, &mut plan.size),
            (wishes.availability_set, &mut plan.availability_set),
            (wishes.zone, &mut plan.zone),
        ];
        for (wish, field) in fields {
            if let Some(wish) = wish {
                *field = Some(wish).filter(|wish| !wish.is_empty());
            }
        }
        control.change_plan(&view.item.name, &plan)?
    };
    Ok(Answer::Ok(protected_items::show(control, call, &Around::load(control)?, &view)?))
}

/// Reads a request; `away` is the id of the instance at the recovery site.
fn read(mut properties: Map<String, Value>, away: Option<&str>) -> Result<Wishes, ArmError> {
    if let Some(details) = properties.remove("providerSpecificDetails").filter(|details| !details.is_null()) {
        let Value::Object(mut details) = details else {
            return Err(ArmError::invalid("providerSpecificDetails is no object"));
        };
        let provider = details.remove("instanceType");
        if provider.as_ref().and_then(Value::as_str) != Some(state::AWAY) {
            return Err(ArmError::invalid(format!("instanceType must be {:?}", state::AWAY)));
        }
        properties.extend(details);
    }
    let mut wishes = Wishes::default();
    for (name, value) in properties {
        let text = value.as_str();
        match (name.as_str(), text) {
            ("recoveryAzureVMSize", Some(size)) => wishes.size = Some(size.into()),
            ("recoveryAvailabilitySetId", Some(set)) => wishes.availability_set = Some(set.into()),
            ("targetAvailabilityZone", Some(zone)) => wishes.zone = Some(zone.into()),
            ("recoveryAzureVMName", Some(name)) if Some(name) == away => {}
            _ if says_nothing(&value) => {}
            (name, Some(text)) if AS_IT_IS.iter().any(|(field, so)| *field == name && so.contains(&text)) => {
            }
            (name, _) => {
                return Err(ArmError::invalid(format!("{name} cannot be changed for a machine"))
                    .cause("size, zone and availability set of a machine at Azure can; the rest follows the site's settings and the network mapping")
                    .remedy("change the network mapping or the site (switchbackSites), and leave the field out"));
            }
        }
    }
    Ok(wishes)
}

fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(elements) => elements.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::{Wishes, read};

    fn wishes(properties: &Value) -> Result<Wishes, String> {
        let properties = properties.as_object().unwrap().clone();
        read(properties, Some("sb-web01")).map_err(|error| error.to_string())
    }

    #[test]
    fn what_can_be_planned_is_read_from_both_places() {
        let read = wishes(&json!({
            "recoveryAzureVMSize": "Standard_B2s", "recoveryAvailabilitySetId": "",
            "providerSpecificDetails": { "instanceType": "InMageAzureV2", "targetAvailabilityZone": "2" },
        }));
        let expected = Wishes {
            size: Some("Standard_B2s".into()),
            availability_set: Some(String::new()),
            zone: Some("2".into()),
        };
        assert_eq!(read, Ok(expected));
    }

    #[test]
    fn what_is_so_may_be_said_and_anything_else_is_refused_by_name() {
        let as_it_is = json!({ "recoveryAzureVMName": "sb-web01", "licenseType": "NoLicenseType", "vmNics": [], "selectedSourceNicId": null,
            "providerSpecificDetails": { "instanceType": "InMageAzureV2", "useManagedDisks": "True", "targetVmTags": {} } });
        assert_eq!(wishes(&as_it_is), Ok(Wishes::default()));
        for (field, other) in [
            ("recoveryAzureVMName", json!("other")),
            ("licenseType", json!("WindowsServer")),
            ("vmNics", json!([{ "nicId": "1" }])),
            ("selectedRecoveryAzureNetworkId", json!("/x")),
            ("recoveryAzureVMSize", json!(4)),
        ] {
            let mut properties = json!({});
            properties[field] = other;
            let refused = wishes(&properties).unwrap_err();
            assert!(refused.contains(field), "{refused}");
        }
        let provider = json!({ "providerSpecificDetails": { "instanceType": "A2A" } });
        assert!(wishes(&provider).unwrap_err().contains("InMageAzureV2"));
    }
}
