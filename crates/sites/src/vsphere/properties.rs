//! Properties of objects: read in pages with `RetrievePropertiesEx`, found by container views.

use std::collections::{BTreeMap, BTreeSet};

use super::session::Session;
use super::soap::{MoRef, Node, VimError, Xml};

/// Most pages of one answer: a server that sends the same token forever is left.
const PAGES_MAX: usize = 10_000;

/// An object with those of the properties asked for that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) reference: MoRef,
    pub(super) properties: BTreeMap<String, Node>,
    /// Properties that the server would not tell, most likely because the account may not read them.
    pub(super) denied: BTreeSet<String>,
}

impl Object {
    pub(super) fn get(&self, path: &str) -> Option<&Node> {
        self.properties.get(path)
    }

    pub(super) fn text(&self, path: &str) -> Option<&str> {
        self.get(path).map(|node| node.text.as_str())
    }

    pub(super) fn owned(&self, path: &str) -> String {
        self.text(path).unwrap_or_default().to_owned()
    }

    pub(super) fn number<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.trim().parse().ok()
    }

    pub(super) fn is_true(&self, path: &str) -> bool {
        self.text(path).is_some_and(|text| matches!(text.trim(), "true" | "1"))
    }

    pub(super) fn reference_at(&self, path: &str) -> Option<MoRef> {
        self.get(path).map(Node::reference)
    }

    /// The elements of a property that is a list.
    pub(super) fn list(&self, path: &str) -> impl Iterator<Item = &Node> {
        self.get(path).into_iter().flat_map(|node| node.children.iter())
    }

    /// `ObjectContent`.
    pub(super) fn read(content: &Node) -> Option<Self> {
        let properties =
            content.all("propSet").filter_map(|one| Some((one.owned_at("name"), one.at("val")?.clone())));
        Some(Self {
            reference: content.reference_at("obj")?,
            properties: properties.collect(),
            denied: content.all("missingSet").map(|one| one.owned_at("path")).collect(),
        })
    }
}

/// `PropertySpec`.
pub(super) fn property_set(kind: &str, paths: &[&str]) -> Xml {
    Xml::new().text("type", kind).text("all", false).texts("pathSet", paths)
}

/// `ObjectSpec` of all objects in a view.
pub(super) fn objects_in(view: &MoRef) -> Xml {
    let members = Xml::new()
        .text("name", "view")
        .text("type", "ContainerView")
        .text("path", "view")
        .text("skip", false);
    Xml::new().reference("obj", view).text("skip", true).typed("selectSet", "TraversalSpec", members)
}

impl Session {
    /// The properties of one object.
    ///
    /// # Errors
    /// `ManagedObjectNotFound` when it is gone.
    pub(super) fn object(&self, object: &MoRef, paths: &[&str]) -> Result<Object, VimError> {
        let which = Xml::new().reference("obj", object).text("skip", false);
        let found = self.retrieve(&object.kind, paths, which)?.pop();
        // A server may leave it out instead of refusing.
        found.ok_or_else(|| {
            let message = format!("the object {object} has no properties that can be read");
            VimError::fault("RetrievePropertiesEx", "ManagedObjectNotFound".to_owned(), message, None)
        })
    }

    /// All objects of a type, with those of the properties that they have.
    pub(super) fn list(&self, kind: &'static str, paths: &[&str]) -> Result<Vec<Object>, VimError> {
        match self.list_once(kind, paths) {
            // The session was renewed in the middle: its view, or the rest of the pages, went with the old one.
            Err(error) if ["ManagedObjectNotFound", "InvalidArgument"].map(Some).contains(&error.kind()) => {
                self.list_once(kind, paths)
            }
            result => result,
        }
    }

    fn list_once(&self, kind: &'static str, paths: &[&str]) -> Result<Vec<Object>, VimError> {
        let view = self.view(kind)?;
        let found = self.retrieve(kind, paths, objects_in(&view));
        if let Err(error) = self.change(&view, "DestroyView", Xml::new()) {
            tracing::debug!(%error, "a view is left to end with its session");
        }
        found
    }

    /// A view of all objects of a type. It ends with the session, or with `DestroyView`.
    pub(super) fn view(&self, kind: &'static str) -> Result<MoRef, VimError> {
        const METHOD: &str = "CreateContainerView";
        let login = self.login()?;
        let what = Xml::new()
            .reference("container", &login.manager("rootFolder")?)
            .text("type", kind)
            .text("recursive", true);
        let views = self.read(&login.manager("viewManager")?, METHOD, what)?;
        views
            .first()
            .map(Node::reference)
            .ok_or_else(|| VimError::Protocol { method: METHOD, detail: "no view was made".to_owned() })
    }

    fn retrieve(&self, kind: &str, paths: &[&str], objects: Xml) -> Result<Vec<Object>, VimError> {
        let collector = self.manager("propertyCollector")?;
        let which = Xml::new().group("propSet", property_set(kind, paths)).group("objectSet", objects);
        let page = Xml::new().text("maxObjects", self.limits().page_objects_max);
        let first = Xml::new().group("specSet", which).group("options", page);
        pages(self.read(&collector, "RetrievePropertiesEx", first)?, |token| {
            self.read(&collector, "ContinueRetrievePropertiesEx", Xml::new().text("token", token))
        })
    }
}

/// Follows the tokens of `RetrieveResult` to the last page.
fn pages(
    first: Vec<Node>,
    next: impl Fn(&str) -> Result<Vec<Node>, VimError>,
) -> Result<Vec<Object>, VimError> {
    let mut page = first;
    let mut objects = Vec::new();
    for _ in 0..PAGES_MAX {
        // Nothing at all is the answer when no object has any of the properties.
        let Some(content) = page.first() else { return Ok(objects) };
        objects.extend(content.all("objects").filter_map(Object::read));
        match content.text_at("token") {
            Some(token) if !token.is_empty() => page = next(token)?,
            _ => return Ok(objects),
        }
    }
    let detail = format!("its inventory has more than {PAGES_MAX} pages");
    Err(VimError::Protocol { method: "ContinueRetrievePropertiesEx", detail })
}

#[cfg(test)]
mod tests;
