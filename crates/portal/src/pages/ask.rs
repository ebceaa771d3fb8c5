//! The page that asks: what is told before the button, the fields, the button. One for all forms that are a page of their own, so that all are alike.

use askama::Template;

use crate::failure::Failure;
use crate::layout::Frame;
use crate::pages::widgets::Notice;

/// A form that is sent to the page's own address.
#[derive(Debug, Template)]
#[template(path = "form.html")]
pub(crate) struct Form {
    frame: Frame,
    told: Vec<(String, String)>,
    notes: Vec<String>,
    fields: Vec<Field>,
    button: String,
    is_grave: bool,
    back: String,
}

/// A field of a form.
#[derive(Clone, Debug)]
pub(crate) struct Field {
    name: &'static str,
    label: String,
    hint: String,
    value: String,
    is_needed: bool,
    len_max: usize,
    kind: Kind,
}

/// Longest text of a field in bytes, unless it is a certificate.
const LEN_MAX: usize = 4000;
/// Longest certificate.
const PEM_LEN_MAX: usize = 64 << 10;

/// What came of something that is answered at once and leads nowhere: a page of its own.
#[derive(Debug, Template)]
#[template(path = "answer.html")]
pub(crate) struct Answer {
    pub(crate) frame: Frame,
    pub(crate) notices: Vec<Notice>,
    pub(crate) told: Vec<(&'static str, String)>,
    /// Where it was asked for.
    pub(crate) back: &'static str,
}

/// How a field is filled in.
#[derive(Clone, Debug)]
enum Kind {
    Hidden,
    Line,
    /// It is never shown, neither while it is typed nor afterwards.
    Secret,
    Text,
    Check,
    /// Values, and what people read.
    Choice(Vec<(String, String)>),
}

impl Form {
    /// A form with its button, and where whoever leaves it goes.
    pub(crate) fn new(frame: Frame, button: impl Into<String>, back: impl Into<String>) -> Self {
        let (button, back) = (button.into(), back.into());
        Self { frame, told: Vec::new(), notes: Vec::new(), fields: Vec::new(), button, is_grave: false, back }
    }

    /// It stops something, or something is lost.
    pub(crate) fn grave(mut self) -> Self {
        self.is_grave = true;
        self
    }

    /// A line of what there is to know.
    pub(crate) fn told(mut self, what: impl Into<String>, text: impl Into<String>) -> Self {
        self.told.push((what.into(), text.into()));
        self
    }

    /// A sentence before the fields.
    pub(crate) fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    pub(crate) fn field(mut self, field: Field) -> Self {
        self.fields.push(field);
        self
    }

    pub(crate) fn show(&self) -> Result<String, Failure> {
        Ok(self.render()?)
    }
}

impl Field {
    fn new(name: &'static str, label: impl Into<String>, kind: Kind) -> Self {
        let (hint, value) = (String::new(), String::new());
        Self { name, label: label.into(), hint, value, is_needed: true, len_max: LEN_MAX, kind }
    }

    /// What comes back as it was sent.
    pub(crate) fn hidden(name: &'static str, value: impl Into<String>) -> Self {
        Self::new(name, "", Kind::Hidden).value(value)
    }

    /// A line of text.
    pub(crate) fn line(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(name, label, Kind::Line)
    }

    /// A secret, which goes in and never comes out.
    pub(crate) fn secret(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(name, label, Kind::Secret)
    }

    /// Certificates, which may be left out: this host's authorities count then.
    pub(crate) fn authority(before: Option<&String>) -> Self {
        let field = Self::text("authority", "Authority of its certificate (PEM)").optional();
        let field = field
            .value(before.cloned().unwrap_or_default())
            .hint("Empty: those that this server's host knows.");
        Self { len_max: PEM_LEN_MAX, ..field }
    }

    /// Several lines of text.
    pub(crate) fn text(name: &'static str, label: impl Into<String>) -> Self {
        Self::new(name, label, Kind::Text)
    }

    /// Yes or no; sent as `yes`, or not at all.
    pub(crate) fn check(name: &'static str, label: impl Into<String>, is_checked: bool) -> Self {
        Self::new(name, label, Kind::Check).value(if is_checked { "yes" } else { "" })
    }

    /// One of several: values, and what people read.
    pub(crate) fn choice(
        name: &'static str,
        label: impl Into<String>,
        choices: impl IntoIterator<Item = (impl Into<String>, impl Into<String>)>,
    ) -> Self {
        let choices = choices.into_iter().map(|(value, text)| (value.into(), text.into())).collect();
        Self::new(name, label, Kind::Choice(choices))
    }

    pub(crate) fn value(mut self, value: impl Into<String>) -> Self {
        self.value = value.into();
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// It may stay empty.
    pub(crate) fn optional(mut self) -> Self {
        self.is_needed = false;
        self
    }
}
