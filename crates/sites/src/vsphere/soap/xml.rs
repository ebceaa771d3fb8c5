//! XML, as far as vim25 needs it: everything that is written is escaped here, everything that is read is bounded here.

use std::fmt::{self, Display, Write as _};

use quick_xml::Reader;
use quick_xml::escape::{escape, unescape};
use quick_xml::events::{BytesStart, Event};

/// How deep an answer may be nested. Snapshots of snapshots are nested the deepest: 32 of them at most, each two elements.
const DEPTH_MAX: usize = 200;

/// A managed object: an id with its type. Ids are the server's; nothing is read from them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MoRef {
    /// `VirtualMachine`, `Datastore`, …
    pub kind: String,
    /// Its id: any text.
    pub id: String,
}

impl MoRef {
    /// An object of this type.
    #[must_use]
    pub fn new(kind: impl Into<String>, id: impl Into<String>) -> Self {
        Self { kind: kind.into(), id: id.into() }
    }
}

impl Display for MoRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.kind, self.id)
    }
}

/// Elements being written, in the order of the calls: vim25 servers want the order of the WSDL.
#[derive(Debug, Default)]
pub(in super::super) struct Xml(String);

impl Xml {
    pub(in super::super) fn new() -> Self {
        Self::default()
    }

    /// An element with a text.
    pub(in super::super) fn text(self, tag: &'static str, text: impl Display) -> Self {
        self.element(tag, "", &escape(text.to_string()))
    }

    /// Several elements of one name.
    pub(in super::super) fn texts<T: Display>(
        self,
        tag: &'static str,
        texts: impl IntoIterator<Item = T>,
    ) -> Self {
        texts.into_iter().fold(self, |xml, text| xml.text(tag, text))
    }

    /// An element with a text, if there is one.
    pub(in super::super) fn maybe(self, tag: &'static str, text: Option<impl Display>) -> Self {
        match text {
            Some(text) => self.text(tag, text),
            None => self,
        }
    }

    /// A value where any type is allowed.
    pub(in super::super) fn string_value(self, tag: &'static str, text: &str) -> Self {
        self.element(tag, " xsi:type=\"xsd:string\"", &escape(text))
    }

    /// A reference to an object.
    pub(in super::super) fn reference(self, tag: &'static str, object: &MoRef) -> Self {
        let kind = format!(" type=\"{}\"", escape(&object.kind));
        self.element(tag, &kind, &escape(&object.id))
    }

    /// References to objects.
    pub(in super::super) fn references<'a>(
        self,
        tag: &'static str,
        objects: impl IntoIterator<Item = &'a MoRef>,
    ) -> Self {
        objects.into_iter().fold(self, |xml, object| xml.reference(tag, object))
    }

    /// An element with elements in it.
    pub(in super::super) fn group(self, tag: &'static str, content: Xml) -> Self {
        self.element(tag, "", &content.0)
    }

    /// The same, of a type that is derived from the declared one.
    pub(in super::super) fn typed(self, tag: &'static str, kind: &'static str, content: Xml) -> Self {
        self.typed_by(tag, kind, content)
    }

    /// The same, of a type that the server told: a device that is changed keeps its type.
    pub(in super::super) fn typed_by(self, tag: &'static str, kind: &str, content: Xml) -> Self {
        let kind = format!(" xsi:type=\"{}\"", escape(kind));
        self.element(tag, &kind, &content.0)
    }

    /// More elements behind these.
    pub(in super::super) fn with(mut self, more: Xml) -> Self {
        self.0.push_str(&more.0);
        self
    }

    pub(in super::super) fn into_string(self) -> String {
        self.0
    }

    fn element(mut self, tag: &'static str, attributes: &str, content: &str) -> Self {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "<{tag}{attributes}>{content}</{tag}>");
        self
    }
}

/// One element of an answer. Of its attributes the type of a reference and the type of a value are kept.
#[derive(Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Node {
    /// Without a prefix.
    pub(in super::super) name: String,
    /// `type`: of the object this refers to.
    pub(in super::super) object_kind: String,
    /// `xsi:type` without a prefix.
    pub(in super::super) xsi_type: String,
    pub(in super::super) text: String,
    pub(in super::super) children: Vec<Node>,
}

/// Pages of elements help nobody.
impl fmt::Debug for Node {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "<{} {}>{:?}", self.name, self.xsi_type, self.text)
    }
}

impl Node {
    /// Reads a document. The result has its root element as its only child.
    pub(in super::super) fn parse(xml: &str) -> Result<Self, String> {
        let mut reader = Reader::from_str(xml);
        let mut open = vec![Self::default()];
        loop {
            let event = reader.read_event().map_err(|error| error.to_string())?;
            let inside = open.last_mut().ok_or("an element ends that did not begin")?;
            match event {
                Event::Start(start) => {
                    if open.len() > DEPTH_MAX {
                        return Err(format!("elements are nested deeper than {DEPTH_MAX}"));
                    }
                    open.push(Self::begin(&start)?);
                }
                Event::Empty(start) => inside.children.push(Self::begin(&start)?),
                Event::End(_) => {
                    let ended = open.pop().unwrap_or_default();
                    open.last_mut().ok_or("an element ends that did not begin")?.children.push(ended);
                }
                Event::Text(text) => {
                    inside.text.push_str(&text.xml10_content().map_err(|error| error.to_string())?);
                }
                Event::CData(text) => {
                    inside.text.push_str(&text.decode().map_err(|error| error.to_string())?);
                }
                Event::GeneralRef(reference) => {
                    let name = reference.decode().map_err(|error| error.to_string())?;
                    let text =
                        unescape(&format!("&{name};")).map_err(|error| error.to_string())?.into_owned();
                    inside.text.push_str(&text);
                }
                Event::DocType(_) => return Err("it has a document type, SOAP has none".to_owned()),
                Event::Eof => break,
                Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            }
        }
        match (open.pop(), open.is_empty()) {
            (Some(root), true) => Ok(root),
            _ => Err("it ends in the middle of an element".to_owned()),
        }
    }

    fn begin(start: &BytesStart<'_>) -> Result<Self, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut node = Self { name: text(start.local_name().as_ref()), ..Self::default() };
        for attribute in start.attributes() {
            let attribute = attribute.map_err(|error| error.to_string())?;
            let value = || {
                unescape(&text(&attribute.value))
                    .map(|value| value.into_owned())
                    .map_err(|error| error.to_string())
            };
            match attribute.key.as_ref() {
                b"type" => node.object_kind = value()?,
                key if key.ends_with(b":type") => {
                    let value = value()?;
                    node.xsi_type = value.rsplit(':').next().unwrap_or_default().to_owned();
                }
                _ => {}
            }
        }
        Ok(node)
    }

    /// The first element at the end of a dotted path.
    pub(in super::super) fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, name| node.children.iter().find(|child| child.name == name))
    }

    /// All direct children of a name.
    pub(in super::super) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Self> {
        self.children.iter().filter(move |child| child.name == name)
    }

    pub(in super::super) fn text_at(&self, path: &str) -> Option<&str> {
        self.at(path).map(|node| node.text.as_str())
    }

    pub(in super::super) fn owned_at(&self, path: &str) -> String {
        self.text_at(path).unwrap_or_default().to_owned()
    }

    pub(in super::super) fn number_at<T: std::str::FromStr>(&self, path: &str) -> Option<T> {
        self.text_at(path)?.trim().parse().ok()
    }

    pub(in super::super) fn is_true_at(&self, path: &str) -> bool {
        self.text_at(path).is_some_and(|text| matches!(text.trim(), "true" | "1"))
    }

    pub(in super::super) fn reference_at(&self, path: &str) -> Option<MoRef> {
        self.at(path).map(Self::reference)
    }

    /// What it refers to.
    pub(in super::super) fn reference(&self) -> MoRef {
        MoRef::new(self.object_kind.clone(), self.text.clone())
    }
}
