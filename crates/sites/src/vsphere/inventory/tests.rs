//! Names in both ways; who can write what.

use proptest::prelude::{ProptestConfig, any, proptest};

use super::{DatastoreInfo, decoded_name, encoded_name};
use crate::vsphere::properties::Object;
use crate::vsphere::soap::{MoRef, Node};

/// What a real server tells of a host that has lost a datastore; the simulator's hosts lose none.
#[test]
fn a_datastore_is_for_hosts_that_can_write_it_now() {
    let mount = |host: &str, facts: &str| {
        format!(
            "<DatastoreHostMount><key type=\"HostSystem\">{host}</key><mountInfo>{facts}</mountInfo></DatastoreHostMount>"
        )
    };
    let mounts = [
        mount(
            "good",
            "<accessMode>readWrite</accessMode><mounted>true</mounted><accessible>true</accessible>",
        ),
        mount("old", "<accessMode>readWrite</accessMode>"),
        mount(
            "lost",
            "<accessMode>readWrite</accessMode><mounted>true</mounted><accessible>false</accessible>",
        ),
        mount(
            "gone",
            "<accessMode>readWrite</accessMode><mounted>false</mounted><accessible>true</accessible>",
        ),
        mount(
            "reads",
            "<accessMode>readOnly</accessMode><mounted>true</mounted><accessible>true</accessible>",
        ),
    ];
    let hosts = Node::parse(&format!("<val>{}</val>", mounts.concat())).unwrap().children.remove(0);
    let properties = [("host".to_owned(), hosts)].into();
    let reference = MoRef::new("Datastore", "1");
    let datastore = DatastoreInfo::read(&Object { reference, properties, denied: [].into() });
    let hosts = ["good", "old", "lost", "gone", "reads", "stranger"];
    let can = hosts.into_iter().filter(|host| datastore.is_writable_by(&MoRef::new("HostSystem", *host)));
    assert_eq!(can.collect::<Vec<_>>(), ["good", "old"]);
}

#[test]
fn names_are_as_people_know_them() {
    assert_eq!(encoded_name("50% of a/b\\c"), "50%25 of a%2fb%5cc");
    assert_eq!(decoded_name("a%2Fb%5Cc %252f"), "a/b\\c %2f");
    assert_eq!(decoded_name("100%"), "100%", "an old name that nobody has escaped");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_name_survives(name in "[a%/\\\\25fcFC ]{0,12}", other in any::<String>()) {
        assert_eq!(decoded_name(&encoded_name(&name)), name);
        assert_eq!(decoded_name(&encoded_name(&other)), other);
    }
}
