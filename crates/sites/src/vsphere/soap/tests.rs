//! Escaping, reading, faults: with texts that people and servers may come upon.

use proptest::prelude::{ProptestConfig, proptest};

use super::fault::advice;
use super::{Answer, MoRef, Node, VimError, Xml, envelope, results};

fn answer(body: &str) -> Answer {
    Answer { status: 500, cookie: None, body: wrapped(body) }
}

fn wrapped(body: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?><soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\"><soapenv:Body>{body}</soapenv:Body></soapenv:Envelope>"
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    /// Whatever people call things, and whatever servers call ids, arrives as it is. Control characters are not in XML, a return is a line's end.
    #[test]
    fn what_is_written_is_read(text in "[^\\p{C}]{0,40}|[<>&'\"\\]\\[%;äß€𝄞 a]{0,20}", id in "[^\\p{C}]{1,20}") {
        let this = MoRef::new("VirtualMachine", id);
        let spec = Xml::new().text("name", &text).string_value("value", &text).reference("host", &this);
        let written = envelope(&this, "Rename_Task", Xml::new().group("spec", spec));
        let root = Node::parse(&written).unwrap();
        let call = root.at("Envelope.Body.Rename_Task").unwrap();
        assert_eq!(call.reference_at("_this"), Some(this.clone()));
        assert_eq!(call.text_at("spec.name"), Some(text.as_str()));
        assert_eq!(call.at("spec.value").map(|value| value.xsi_type.as_str()), Some("string"));
        assert_eq!(call.text_at("spec.value"), Some(text.as_str()));
        assert_eq!(call.reference_at("spec.host"), Some(this));
    }

    /// Nothing that a server sends makes the reader fail in another way than by saying so.
    #[test]
    fn garbage_is_refused_or_read(garbage in ".{0,200}|(<[a-c]?/?>|<a x=\"|&[a-z]?;|\\]\\]>|<!\\[CDATA\\[|t){0,30}") {
        let _ = Node::parse(&garbage);
        let _ = results("Login", &answer(&garbage));
    }
}

#[test]
fn a_fault_has_the_kind_of_its_detail() {
    let typed = answer(
        "<soapenv:Fault><faultcode>ServerFaultCode</faultcode><faultstring>Permission denied</faultstring><detail>\
         <NoPermissionFault xmlns=\"urn:vim25\" xsi:type=\"vim:NoPermission\"><object type=\"Datastore\">datastore-1</object>\
         <privilegeId>Datastore.Browse</privilegeId></NoPermissionFault></detail></soapenv:Fault>",
    );
    let error = results("MakeDirectory", &typed).unwrap_err();
    assert!(error.is("NoPermission") && !error.is_passing());
    let text = error.to_string();
    for told in
        ["MakeDirectory", "Permission denied", "Datastore.Browse", "role", "[vsphere-fault-NoPermission]"]
    {
        assert!(text.contains(told), "{told:?} is missing in {text}");
    }
    let untyped = answer(
        "<soapenv:Fault><faultstring/><detail><FileLockedFault xmlns=\"urn:vim25\"/></detail></soapenv:Fault>",
    );
    let error = results("ReconfigVM_Task", &untyped).unwrap_err();
    assert!(error.is("FileLocked") && error.is_passing(), "{error}");
    let bare = answer("<soapenv:Fault><faultstring>no such operation</faultstring></soapenv:Fault>");
    assert_eq!(results("Login", &bare).unwrap_err().kind(), Some(""));
}

#[test]
fn what_is_no_answer_is_said_to_be_none() {
    for body in ["", "<html>502", "<a/>", "<!DOCTYPE a [<!ENTITY b \"c\">]><a>&b;</a>", "</a>", "<a><b></a>"]
    {
        let answer = Answer { status: 404, cookie: None, body: body.to_owned() };
        let error = results("Login", &answer).unwrap_err();
        assert!(matches!(error, VimError::Protocol { .. }), "{body}: {error}");
        assert!(error.to_string().contains("404"), "{error}");
    }
    let deep = format!("{}{}", "<a>".repeat(100_000), "</a>".repeat(100_000));
    assert!(Node::parse(&deep).unwrap_err().contains("deeper"));
}

#[test]
fn nothing_returned_is_nothing() {
    assert_eq!(results("Logout", &answer("<LogoutResponse xmlns=\"urn:vim25\"/>")).unwrap(), []);
    assert!(advice("InvalidLogin").is_some() && advice("").is_none());
}
