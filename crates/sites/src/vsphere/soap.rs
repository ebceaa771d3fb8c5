//! The vim25 protocol: SOAP 1.1 over HTTPS, as vCenter and ESXi have spoken it since 6.5.
//!
//! What it is: requests written element by element ([`Xml`]), answers read into trees of elements ([`Node`]), faults told apart by their kind
//! ([`VimError::Fault`]), one exchange with limits ([`Http`]). What it never does: know what a method means; log in; try again (both are
//! [`session`](super::session)'s); take an element's name from data; take an id apart.
//!
//! One call: [`envelope`] → [`Http::post`] → [`results`]: the `returnval` elements, or the fault.
//!
//! Sources: *vSphere Web Services SDK Programming Guide*; the WSDL `vimService.wsdl` of 6.5 for names and the order of elements.

mod fault;
mod http;
mod trust;
mod xml;

pub use fault::VimError;
pub(super) use http::{Answer, Http};
pub use trust::{Fingerprint, Trust};
pub use xml::MoRef;
pub(super) use xml::{Node, Xml};

/// The version of the API that requests are made in: the oldest that is supported, so that answers look the same everywhere.
pub(super) const ACTION: &str = "urn:vim25/6.5";

/// The request that calls a method of an object.
pub(super) fn envelope(this: &MoRef, method: &'static str, arguments: Xml) -> String {
    let call = Xml::new().reference("_this", this).with(arguments).into_string();
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <soapenv:Envelope xmlns:soapenv=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\">\
         <soapenv:Body><{method} xmlns=\"urn:vim25\">{call}</{method}></soapenv:Body></soapenv:Envelope>"
    )
}

/// What a method gave back.
///
/// # Errors
/// [`VimError::Fault`]; [`VimError::Protocol`] when the answer is no SOAP message.
pub(super) fn results(method: &'static str, answer: &Answer) -> Result<Vec<Node>, VimError> {
    let strange = |detail: String| VimError::Protocol { method, detail };
    let status = answer.status;
    let root = Node::parse(&answer.body)
        .map_err(|error| strange(format!("HTTP status {status}, and the answer is no XML: {error}")))?;
    let content = root
        .at("Envelope.Body")
        .and_then(|body| body.children.first())
        .ok_or_else(|| strange(format!("HTTP status {status}, and the answer has no SOAP body")))?;
    if content.name != "Fault" {
        return Ok(content.all("returnval").cloned().collect());
    }
    let detail = content.at("detail").and_then(|detail| detail.children.first());
    let kind = detail.map_or_else(String::new, |detail| match detail.xsi_type.as_str() {
        // Without a type, the element is called like the fault.
        "" => detail.name.strip_suffix("Fault").unwrap_or(&detail.name).to_owned(),
        kind => kind.to_owned(),
    });
    let message = content.text_at("faultstring").unwrap_or_default().to_owned();
    Err(VimError::fault(method, kind, message, detail))
}

#[cfg(test)]
mod tests;
