//! Resources as tables: columns and fields are JSON pointers into what the API answered, so there is no second copy of its shapes.
//!
//! A pointer that leads nowhere shows `-`: the server may be older or newer than this program.

use serde_json::Value;

use super::output::{OutputFormat, format_table};
use crate::client::path;

/// A column of a table, or a line of a description.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    title: &'static str,
    /// The first of them that leads somewhere.
    pointers: &'static [&'static str],
    show: Show,
}

/// How a value is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Show {
    Plain,
    /// An id: its last name.
    Name,
    Time,
    Bytes,
    /// A time's length in milliseconds.
    Millis,
    Percent,
    /// How many elements.
    Count,
}

/// A value as it is.
pub(crate) const fn plain(title: &'static str, pointers: &'static [&'static str]) -> Field {
    Field { title, pointers, show: Show::Plain }
}

/// The last name of an id.
pub(crate) const fn name(title: &'static str, pointers: &'static [&'static str]) -> Field {
    Field { title, pointers, show: Show::Name }
}

/// A time, in seconds.
pub(crate) const fn time(title: &'static str, pointers: &'static [&'static str]) -> Field {
    Field { title, pointers, show: Show::Time }
}

/// A number of bytes.
pub(crate) const fn bytes(title: &'static str, pointers: &'static [&'static str]) -> Field {
    Field { title, pointers, show: Show::Bytes }
}

/// A number of milliseconds.
pub(crate) const fn millis(title: &'static str, pointers: &'static [&'static str]) -> Field {
    Field { title, pointers, show: Show::Millis }
}

/// A percentage.
pub(crate) const fn percent(title: &'static str, pointers: &'static [&'static str]) -> Field {
    Field { title, pointers, show: Show::Percent }
}

/// The length of a list.
pub(crate) const fn count(title: &'static str, pointers: &'static [&'static str]) -> Field {
    Field { title, pointers, show: Show::Count }
}

impl Field {
    /// The value of a resource as text.
    pub(crate) fn of(&self, resource: &Value) -> String {
        let found = self.pointers.iter().filter_map(|pointer| resource.pointer(pointer));
        let text = found.map(|value| self.show.text(value)).find(|text| !text.is_empty());
        text.unwrap_or_else(|| "-".into())
    }
}

impl Show {
    fn text(self, value: &Value) -> String {
        let number = || value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
        match (self, value) {
            (_, Value::Null) => String::new(),
            (Self::Count, Value::Array(elements)) => elements.len().to_string(),
            (Self::Name, Value::Array(_)) | (Self::Plain, Value::Array(_)) => {
                let texts = value.as_array().into_iter().flatten().map(|element| self.text(element));
                texts.collect::<Vec<_>>().join(",")
            }
            (Self::Name, Value::String(id)) => path::last_name(id),
            (Self::Time, Value::String(time)) => shown_time(time),
            (Self::Bytes, _) => {
                number().map(|bytes| switchback_model::ByteSize(bytes).to_string()).unwrap_or_default()
            }
            (Self::Millis, _) => number().map(shown_millis).unwrap_or_default(),
            (Self::Percent, _) => number().map(|percent| format!("{percent} %")).unwrap_or_default(),
            (_, Value::String(text)) => printable(text),
            (_, other) => other.to_string(),
        }
    }
}

/// Names and messages come from guests and sites: what could steer the terminal is not passed on.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}

/// `2026-11-23 11:20:22Z` of RFC 3339 with any fraction.
pub(crate) fn shown_time(time: &str) -> String {
    match time.split_once('T') {
        Some((day, clock)) if clock.ends_with('Z') => {
            format!("{day} {}Z", clock.trim_end_matches('Z').split('.').next().unwrap_or_default())
        }
        _ => printable(time),
    }
}

fn shown_seconds(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

fn shown_millis(millis: u64) -> String {
    if millis < 10_000 && !millis.is_multiple_of(1000) {
        format!("{millis} ms")
    } else {
        shown_seconds(millis / 1000)
    }
}

/// Resources, one a line.
pub(crate) fn table(fields: &[Field], resources: &[Value]) -> String {
    let header: Vec<_> = fields.iter().map(|field| field.title).collect();
    let row = |resource| fields.iter().map(|field| field.of(resource).replace('\n', " ")).collect::<Vec<_>>();
    format_table(&header, &resources.iter().map(row).collect::<Vec<_>>())
}

/// One resource, one field a line.
pub(crate) fn description(fields: &[Field], resource: &Value) -> String {
    let width = fields.iter().map(|field| field.title.chars().count()).max().unwrap_or(0) + 1;
    let line = |field: &Field| {
        let text = field.of(resource).replace('\n', &format!("\n{:width$} ", ""));
        format!("{:<width$} {text}\n", format!("{}:", sentence_case(field.title)))
    };
    fields.iter().map(line).collect()
}

/// A column's title as the title of a line: `RUNS AT` is `Runs at`.
fn sentence_case(title: &str) -> String {
    if title.chars().any(char::is_lowercase) {
        return title.to_owned();
    }
    let lower = title.to_lowercase();
    let mut letters = lower.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}

/// What a list command prints: a table, or the resources as they came, as an array.
pub(crate) fn list(format: OutputFormat, fields: &[Field], resources: &[Value]) -> String {
    match format {
        OutputFormat::Table => table(fields, resources),
        OutputFormat::Json => json(&Value::from(resources)),
    }
}

/// What a show command prints: a description, or the resource as it came.
pub(crate) fn show(format: OutputFormat, fields: &[Field], resource: &Value) -> String {
    match format {
        OutputFormat::Table => description(fields, resource),
        OutputFormat::Json => json(resource),
    }
}

/// JSON for programs.
pub(crate) fn json(value: &Value) -> String {
    // A tree of values always has a text.
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{
        OutputFormat, bytes, count, description, list, millis, name, percent, plain, show, table, time,
    };

    #[test]
    fn each_kind_of_value_is_shown_as_people_read_it() {
        let resource = json!({
            "id": "/vaults/v/replicationFabrics/VM%20site", "when": "2026-11-23T11:20:22.1234567Z",
            "size": 3 << 20, "text_size": "1024", "old": 7_300_000, "ms": 250, "rounded": 15_000, "done": 42,
            "list": ["a", "b"], "ids": ["/x/one", "/x/two"], "empty": "", "nothing": null, "flag": true, "bell": "a\u{7}\u{1b}[1mb",
        });
        let of = |field: super::Field| field.of(&resource);
        assert_eq!(of(name("", &["/id"])), "VM site");
        assert_eq!(of(name("", &["/ids"])), "one,two");
        assert_eq!(of(time("", &["/when"])), "2026-11-23 11:20:22Z");
        assert_eq!(of(bytes("", &["/size"])), switchback_model::ByteSize(3 << 20).to_string());
        assert_eq!(of(bytes("", &["/text_size"])), switchback_model::ByteSize(1024).to_string());
        assert_eq!(
            [of(millis("", &["/ms"])), of(millis("", &["/rounded"])), of(millis("", &["/old"]))],
            ["250 ms", "15 s", "2 h"]
        );
        assert_eq!(of(percent("", &["/done"])), "42 %");
        assert_eq!(of(count("", &["/list"])), "2");
        assert_eq!(of(plain("", &["/list"])), "a,b");
        assert_eq!(of(plain("", &["/flag"])), "true");
        assert_eq!(of(plain("", &["/empty", "/nothing", "/missing"])), "-");
        assert_eq!(of(plain("", &["/missing", "/done"])), "42");
        assert_eq!(of(plain("", &["/bell"])), "a\u{fffd}\u{fffd}[1mb", "a name must not steer the terminal");
    }

    #[test]
    fn a_table_is_aligned_and_a_description_indents_what_goes_on() {
        let fields = [plain("NAME", &["/name"]), plain("STATE", &["/state"])];
        let rows =
            [json!({"name": "web01", "state": "Protected"}), json!({"name": "a", "state": "two\nlines"})];
        assert_eq!(table(&fields, &rows), "NAME   STATE\nweb01  Protected\na      two lines\n");
        assert_eq!(description(&fields, &rows[1]), "Name:  a\nState: two\n       lines\n");
        assert_eq!(table(&fields, &[]), "NAME  STATE\n");
    }

    #[test]
    fn programs_get_what_the_api_said() {
        let fields = [plain("NAME", &["/name"])];
        let resource = json!({"name": "web01", "unknown": {"to": ["us"]}});
        let parse = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        assert_eq!(parse(show(OutputFormat::Json, &fields, &resource)), resource);
        assert_eq!(
            parse(list(OutputFormat::Json, &fields, std::slice::from_ref(&resource))),
            json!([resource])
        );
        assert_eq!(parse(list(OutputFormat::Json, &fields, &[])), json!([]));
    }
}
