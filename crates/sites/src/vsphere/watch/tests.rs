//! Updates, with answers written by hand: the simulator sends whole values only.

use super::{changes, is_kind};
use crate::vsphere::inventory::KINDS;
use crate::vsphere::soap::{MoRef, Node};

fn update(changes: &str) -> Node {
    let text =
        format!("<objectSet><kind>modify</kind><obj type=\"VirtualMachine\">vm-1</obj>{changes}</objectSet>");
    Node::parse(&text).unwrap().children.remove(0)
}

#[test]
fn whole_values_are_taken_and_parts_are_not() {
    let power = "<changeSet><name>runtime.powerState</name><op>assign</op><val xsi:type=\"VirtualMachinePowerState\">poweredOn</val></changeSet>";
    let (values, is_whole) = changes(&update(power));
    assert!(is_whole);
    assert_eq!(values["runtime.powerState"].text, "poweredOn");
    for part in [
        "<changeSet><name>config.hardware.device[2000].backing</name><op>assign</op><val/></changeSet>",
        "<changeSet><name>config.extraConfig[\"a\"]</name><op>add</op><val/></changeSet>",
        "<changeSet><name>snapshot</name><op>assign</op></changeSet>",
        "<changeSet><name>snapshot</name><op>indirectRemove</op></changeSet>",
        "<missingSet><path>config.files</path><fault/></missingSet>",
    ] {
        let (_, is_whole) = changes(&update(&format!("{power}{part}")));
        assert!(!is_whole, "{part}");
    }
}

#[test]
fn an_object_is_read_by_every_kind_it_is_of() {
    let group = MoRef::new("DistributedVirtualPortgroup", "1");
    let kinds: Vec<_> = KINDS.iter().filter(|kind| is_kind(&group, kind)).map(|kind| kind.name).collect();
    assert_eq!(kinds, ["Network", "DistributedVirtualPortgroup"]);
}
