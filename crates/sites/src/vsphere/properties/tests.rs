//! Pages, with answers written by hand: odd ones, of which the simulator sends none.

use std::cell::RefCell;

use super::{PAGES_MAX, pages};
use crate::vsphere::VimError;
use crate::vsphere::soap::{MoRef, Node};

/// A page as a real server sends it, cut to what matters.
fn page(names: &[&str], token: Option<&str>) -> Vec<Node> {
    let objects: String = names
        .iter()
        .map(|name| {
            format!(
                "<objects><obj type=\"VirtualMachine\">vm-{name}</obj><propSet><name>name</name>\
                 <val xsi:type=\"xsd:string\">{name}</val></propSet></objects>"
            )
        })
        .collect();
    let token = token.map_or_else(String::new, |token| format!("<token>{token}</token>"));
    vec![Node::parse(&format!("<returnval>{token}{objects}</returnval>")).unwrap().children.remove(0)]
}

#[test]
fn all_pages_are_read_in_order() {
    let asked = RefCell::new(Vec::new());
    let objects = pages(page(&["a", "b"], Some("0&amp;1")), |token| {
        asked.borrow_mut().push(token.to_owned());
        Ok(match token {
            "0&1" => page(&["c"], Some("2")),
            "2" => page(&["d"], None),
            other => panic!("{other}"),
        })
    })
    .unwrap();
    assert_eq!(asked.into_inner(), ["0&1", "2"], "a token comes back as it was");
    let names: Vec<_> = objects.iter().map(|object| object.owned("name")).collect();
    assert_eq!(names, ["a", "b", "c", "d"]);
    assert_eq!(objects[3].reference, MoRef::new("VirtualMachine", "vm-d"));
}

#[test]
fn nothing_and_an_empty_page_are_an_end() {
    let never = |_: &str| -> Result<Vec<Node>, VimError> { panic!("there is no other page") };
    assert_eq!(pages(Vec::new(), never).unwrap(), []);
    assert_eq!(pages(page(&[], Some("")), never).unwrap(), []);
}

#[test]
fn a_failure_in_the_middle_is_a_failure_and_endless_pages_end() {
    let lost = |_: &str| {
        Err(VimError::fault(
            "ContinueRetrievePropertiesEx",
            "InvalidArgument".to_owned(),
            String::new(),
            None,
        ))
    };
    assert!(pages(page(&["a"], Some("1")), lost).unwrap_err().is("InvalidArgument"));
    let count = RefCell::new(0);
    let endless = pages(page(&[], Some("1")), |_| {
        *count.borrow_mut() += 1;
        Ok(page(&[], Some("1")))
    });
    assert!(endless.unwrap_err().to_string().contains("pages"));
    assert_eq!(count.into_inner(), PAGES_MAX);
}
